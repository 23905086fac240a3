"""From quantised layers to what a tensor core of one configuration multiplies."""

import numpy as np

from zeroskip.hw.tensorcore.config import GROUP, SPEEDUP, TensorCoreConfig
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.packed import side_by_side, spread, whole_groups
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer


def compile_layers(layers: tuple[Int8Layer, ...], config: TensorCoreConfig,
                   batch: int | None = None) -> TensorCoreImage:
    """Packs the layers, each in the fastest pattern that its zeros and the core allow, for
    ``batch`` samples; for the default see :meth:`TensorCoreImage.packed`.

    ``BadInput`` where a layer, for one batch, is more than one command of the core, or would
    take more memory or time than there is.
    """
    return TensorCoreImage.packed(
        config, *((layer, fastest(spread(layer, side_by_side(layer, config)), config))
                  for layer in layers), batch=batch)


def fastest(weight: np.ndarray, config: TensorCoreConfig) -> str:
    """The pattern with the greatest speed-up that ``weight`` [out, K] has and ``config`` knows.

    A last group that K does not fill counts as filled with zeros.
    """
    most = np.count_nonzero(whole_groups(weight).reshape(-1, GROUP), axis=1).max()
    return next(pattern for pattern in reversed(config.patterns)
                if most <= GROUP // SPEEDUP[pattern])
