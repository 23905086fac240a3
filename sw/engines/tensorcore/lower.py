"""From quantised layers to what a tensor core of one configuration multiplies."""

import numpy as np

from zeroskip.hw.tensorcore.config import GROUP, SPEEDUP, TensorCoreConfig
from zeroskip.sw.engines.tensorcore.part import TensorCoreLayer, TensorCorePart
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.formats.nm import compress


def compile_layers(layers: tuple[Int8Layer, ...], config: TensorCoreConfig) -> TensorCorePart:
    """Packs the layers, each in the fastest pattern that its zeros and the machine allow.

    ``BadInput`` where a layer, for one sample, is more than one command of the machine, or would
    take more memory or time than there is.
    """
    packed = tuple(compile_layer(layer, fastest(layer.weight, config)) for layer in layers)
    for layer in packed:
        layer.check_size(config)
    return TensorCorePart(config, packed)


def fastest(weight: np.ndarray, config: TensorCoreConfig) -> str:
    """The pattern with the greatest speed-up that ``weight`` [out, K] has and ``config`` knows.

    A last group that K does not fill counts as filled with zeros.
    """
    most = np.count_nonzero(_whole_groups(weight).reshape(-1, GROUP), axis=1).max()
    return next(pattern for pattern in reversed(config.patterns)
                if most <= GROUP // SPEEDUP[pattern])


def compile_layer(layer: Int8Layer, pattern: str) -> TensorCoreLayer:
    """Packs one layer; raises ``BadInput`` where its weights are not of this pattern."""
    values, indices = layer.weight, np.zeros((len(layer.weight), 0), np.uint8)
    if pattern != "dense":
        packed = compress(_whole_groups(layer.weight), pattern)
        values, indices = packed.values, packed.indices
    return TensorCoreLayer(
        layer.name, pattern, layer.activation, layer.geometry, layer.inputs, layer.outputs,
        layer.input_scale, layer.input_zero_point, layer.output_scale, layer.output_zero_point,
        layer.raw, values, indices, layer.bias.astype(np.int32), layer.multiplier, layer.shift,
        layer.ties)


def _whole_groups(weight: np.ndarray) -> np.ndarray:
    """``weight`` [out, K] with columns of zeros up to whole groups."""
    return np.pad(weight, ((0, 0), (0, -weight.shape[1] % GROUP)))
