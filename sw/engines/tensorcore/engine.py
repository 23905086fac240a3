"""The tensor core as an engine."""

from collections.abc import Callable, Sequence

import numpy as np

from zeroskip.hw.tensorcore.config import CONFIGS, TensorCoreConfig
from zeroskip.sw.engines.base import (
    DENSE,
    Deviation,
    Device,
    Engine,
    Estimate,
    Offer,
    Progress,
    Result,
)
from zeroskip.sw.engines.tensorcore import golden, quantize
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.packed import TensorCoreLayer
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer, LayerReport8
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Conv2d, Layer, Linear, Network
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.calibration import Range

PATTERNS = {
    "1:4": (1, "It runs in sparse mode: 1:4 skips 3 of 4 weights on a configuration that has "
                    "it, as tc-64-all, and 2 of 4 elsewhere."),
    "2:4": (2, "It runs in sparse mode: 2:4 skips 2 of 4 weights."),
}
"""Weights that are kept of each group of four, and what is said of it."""


class TensorCoreEngine(Engine):
    """Fully-connected layers and convolutions, 8 bits, zeros skipped in a pattern."""

    name = "tensorcore"
    configs = CONFIGS
    image = TensorCoreImage
    layer = Int8Layer
    sums = True
    shown = {"name": "layer", "inputs": "in", "outputs": "out", "pattern": "pattern",    # noqa: RUF012
             "weights": "weights", "kept": "kept", "rms": "weight error (RMS)",
             "outputs_saturated": "saturated", "accumulator_bits": "accumulator bits"}

    def accepts(self, layer: Layer) -> Offer:
        """Any fully-connected layer or convolution."""
        if not isinstance(layer, Linear | Conv2d):
            raise BadInput(f"layer {layer.name} is neither fully connected nor a convolution, and "
                           "the tensor core takes nothing else: choose another engine")
        if layer.geometry and layer.geometry.groups > 1:
            return Offer("dense", f"Its {layer.geometry.groups} groups run as many side by "
                         "side as fill the rows of the tile; of groups of few channels most "
                         "multipliers see zeros.")
        nonzero = layer.matrix != 0
        if nonzero.mean() > DENSE:
            return Offer("dense", "It runs in dense mode: few weights are zero; prune it to "
                         "skip work.")
        groups = np.add.reduceat(nonzero, np.arange(0, nonzero.shape[1], 4), axis=1,
                                 dtype=np.int64)
        for pattern, (kept, reason) in PATTERNS.items():
            if groups.max() <= kept:
                return Offer(pattern, reason)
        what = ("a quantised layer" if layer.quantised else
                "a convolution" if isinstance(layer, Conv2d) else "a layer")
        return Offer("unstructured", f"It runs in dense mode, zeros and all: {what} skips "
                     "them only in a pattern; prune it to 2:4.")

    def estimate(self, layer: Layer, config: TensorCoreConfig,
                 batch: int | None = None) -> Estimate:
        """See :func:`zeroskip.sw.engines.tensorcore.cost.estimate`."""
        from zeroskip.sw.engines.tensorcore.cost import estimate
        return estimate(layer, self.accepts(layer).pattern, config, batch)

    def holds(self, layers: Sequence[Layer], config: TensorCoreConfig) -> bool:
        """See :func:`zeroskip.sw.engines.tensorcore.cost.holds`."""
        from zeroskip.sw.engines.tensorcore.cost import holds
        return holds([(layer, self.accepts(layer).pattern) for layer in layers], config)

    def grid(self, low: float, high: float) -> TensorType:
        """See :func:`zeroskip.sw.engines.tensorcore.quantize.grid`."""
        return TensorType.of(1, np.int8, *quantize.grid(low, high))

    def quantise(self, section: Network, x: np.ndarray | None, ranges: Sequence[Range] | None,
                 config: TensorCoreConfig, before: TensorType | None = None, raw: bool = False
                 ) -> tuple[tuple[Int8Layer, ...], tuple[LayerReport8, ...]]:
        """See :func:`zeroskip.sw.engines.tensorcore.quantize.quantize`."""
        return quantize.quantize(section, x, ranges, before, raw)

    def lower(self, layers: Sequence[Int8Layer], config: TensorCoreConfig,
              batch: int | None = None) -> TensorCoreImage:
        """See :func:`zeroskip.sw.engines.tensorcore.lower.compile_layers`."""
        from zeroskip.sw.engines.tensorcore.lower import compile_layers
        return compile_layers(tuple(layers), config, batch)

    def c_source(self, image: TensorCoreImage, name: str, addresses: dict[str, int]) -> str:
        """See :func:`zeroskip.sw.engines.tensorcore.export.c_source`."""
        from zeroskip.sw.engines.tensorcore.export import c_source
        return c_source(image, name, addresses)

    def golden(self, layer: Int8Layer, x: np.ndarray) -> tuple[np.ndarray, int]:
        """See :func:`zeroskip.sw.engines.tensorcore.golden.layer`."""
        return golden.layer(x, layer)

    def run(self, device: Device, image: TensorCoreImage, x: np.ndarray,
            progress: Progress | None = None) -> Result:
        """See :func:`zeroskip.sw.engines.tensorcore.host.run`."""
        from zeroskip.sw.engines.tensorcore import host
        return host.run(device, image, x, progress)

    def describe(self, layer: TensorCoreLayer, report: LayerReport8) -> dict:
        """Sizes, pattern, and what quantisation did."""
        return {"name": layer.name, "inputs": layer.inputs, "outputs": layer.outputs,
                "activation": layer.activation, "pattern": layer.pattern,
                "weights": layer.rows * layer.weights_of_row, "kept": layer.kept,
                "rms": report.rms, "outputs_saturated": report.saturated,
                "accumulator_bits": report.accumulator_bits}

    def deviation(self, layer: Int8Layer, own: Layer,
                  units: np.ndarray | None = None) -> Callable[[slice], Deviation]:
        """Half of a weight's scale; nothing where the model is quantised."""
        if units is None:
            units = layer.output.scale * np.ldexp(layer.multiplier.astype(np.float64), -layer.shift)

        def of(rows: slice) -> Deviation:
            unit = units[rows]
            scale = unit[:, None] / layer.input.scale
            # the input's zero point is folded in
            bias = layer.bias[rows] + layer.input.zero_point * layer.weight[rows].sum(
                axis=1, dtype=np.int64)
            return Deviation(unit, layer.weight[rows] * scale,
                             scale * (0 if own.quantised else 0.5), bias * unit)
        return of
