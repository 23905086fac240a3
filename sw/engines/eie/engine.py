"""The EIE array as an engine."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from zeroskip.hw.eie.config import CONFIGS, EIEConfig
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
from zeroskip.sw.engines.eie import golden, quantize
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.layer import EIELayer, FixedLayer
from zeroskip.sw.engines.eie.loads import EIELoads, Grid
from zeroskip.sw.engines.eie.quantize import LayerReport
from zeroskip.sw.engines.eie.schedule import LayerInfo
from zeroskip.sw.graph.network import Layer, Network
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.calibration import Range


class EIEEngine(Engine):
    """Fully-connected layers, 16 bits, every zero weight and zero activation skipped; of a
    convolution the patches, as rows of one."""

    name = "eie"
    configs = CONFIGS
    image = EIEImage
    layer = EIELayer
    patches = True
    shown = {"name": "layer", "inputs": "in", "outputs": "out", "nonzeros": "weights",    # noqa: RUF012
             "entries": "entries", "padding": "padding", "rms": "codebook error (RMS)",
             "vanished": "weights lost", "bound": "accumulator used", "shift": "shift"}

    @property
    def costs(self):
        """See :mod:`zeroskip.sw.engines.eie.cost`."""
        from zeroskip.sw.engines.eie import cost
        return {"cycles": cost.cycles, "bytes": cost.packed_bytes}

    def accepts(self, layer: Layer) -> Offer:
        """Fully-connected layers, and convolutions not in groups, that are not quantised."""
        quantize.check_layer(layer)
        how = "It runs" if layer.geometry is None else "It runs patch by patch"
        if np.mean(layer.matrix != 0) > DENSE:
            return Offer("dense", f"{how}, and the few zero weights are skipped.")
        return Offer("unstructured", f"{how}, and every zero weight is skipped.")

    def estimate(self, layer: Layer, config: EIEConfig, batch: int | None = None) -> Estimate:
        """See :func:`zeroskip.sw.engines.eie.cost.estimate`."""
        from zeroskip.sw.engines.eie.cost import estimate
        return estimate(layer, config, batch)

    def holds(self, layers: Sequence[Layer], config: EIEConfig) -> bool:
        """See :func:`zeroskip.sw.engines.eie.cost.holds`."""
        from zeroskip.sw.engines.eie.cost import holds
        return holds(layers, config)

    def grid(self, low: float, high: float) -> TensorType:
        """Symmetric; outputs get some headroom beyond it."""
        return TensorType.of(1, np.int16, max(-low, high) / quantize.HIGHEST)

    def quantise(self, section: Network, x: np.ndarray, ranges: Sequence[Range],
                 config: EIEConfig, before: TensorType | None = None,
                 raw: bool = False,
                 ) -> tuple[tuple[FixedLayer, ...], tuple[LayerReport, ...]]:
        """See :func:`zeroskip.sw.engines.eie.quantize.quantize`."""
        return quantize.quantize(section, x, config.acc_width, ranges, before)

    def lower(self, layers: Sequence[FixedLayer], config: EIEConfig,
              batch: int | None = None) -> EIEImage | EIELoads:
        """See :func:`zeroskip.sw.engines.eie.blocks.lower`."""
        from zeroskip.sw.engines.eie.blocks import lower
        return lower(tuple(layers), config, batch)

    def c_source(self, image: EIEImage | EIELoads, name: str, addresses: dict[str, int]) -> str:
        """See :func:`zeroskip.sw.engines.eie.export.c_source`."""
        from zeroskip.sw.engines.eie.export import c_source
        return c_source(image, name, addresses)

    def golden(self, layer: EIELayer, x: np.ndarray) -> tuple[np.ndarray, int]:
        """See :func:`zeroskip.sw.engines.eie.golden.layer`."""
        return golden.layer(x, layer.weight, layer.bias, layer.shift, layer.activation)

    def run(self, device: Device, image: EIEImage | EIELoads, x: np.ndarray,
            progress: Progress | None = None) -> Result:
        """See :func:`zeroskip.sw.engines.eie.host.run`."""
        from zeroskip.sw.engines.eie import host
        return host.run(device, image, x, progress)

    def describe(self, layer: LayerInfo | Grid, report: LayerReport) -> dict:
        """All that is known of both, and what is loaded for a batch."""
        return {**layer.facts(), "input_scale": layer.input.scale, **asdict(report)}

    def deviation(self, layer: EIELayer, own: Layer,
                  units: np.ndarray | None = None,
                  ) -> Callable[[slice], Deviation]:
        """A weight may be as far from its own as the nearest shared one is, and that, like the
        chosen one, is rounded to the weights' scale."""
        unit = layer.output.scale / 2**layer.shift
        scale = unit / layer.input.scale
        integers = np.unique(layer.weight)
        levels = integers[integers != 0] * scale

        def of(rows: slice) -> Deviation:
            most = _distance(own.matrix[rows].astype(np.float64), levels) + 1.01 * scale
            return Deviation(np.full(len(most), unit), layer.weight[rows] * scale, most,
                             layer.bias[rows] * unit)
        return of


def _distance(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """From each value to the nearest of ascending ``levels``; 0 where there are none."""
    if not levels.size:
        return np.zeros(values.shape)
    above = np.searchsorted(levels, values)
    near = levels[np.maximum(above - 1, 0)], levels[np.minimum(above, len(levels) - 1)]
    return np.minimum(*(np.abs(values - each) for each in near))
