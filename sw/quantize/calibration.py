"""The samples that set a network's scales, and the ranges of the activations that they cause.

A range reaches from the least to the greatest value, or is cut on both sides at a magnitude, so
that a few outliers do not make the steps of all others coarse.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Layer, Network
from zeroskip.sw.graph.types import TensorType, refuse_nonfinite

Range = tuple[float, float]
"""Least and greatest real value of a tensor."""

Grid = Callable[[float, float], TensorType]
"""The integers that an engine has for values of a range."""

PERCENTILE = 99.99
"""Per cent of the magnitudes, those of zeros not counted, that ``percentile`` keeps."""

FACTORS = tuple(2.0 ** (-step / 8) for step in range(33))
"""Of the greatest magnitude, where ``mse`` tries to cut: down to 1/16 of it."""

BLOCK = 1 << 20
"""Values that ``mse`` rounds at a time."""


def samples(network: Network, calibration: np.ndarray) -> np.ndarray:
    """The calibration set, batch first, as float32 [batch, inputs].

    Raises :class:`BadInput` where it does not fit the network or is not finite.
    """
    shape = np.shape(calibration)
    if len(shape) < 2 or not shape[0] or np.prod(shape[1:]) != network.inputs:
        raise BadInput(f"calibration must be batch first with {network.inputs} values a sample, "
                       f"not {list(shape)}")
    with np.errstate(over="ignore"):    # becomes infinite, and is refused
        flat = np.asarray(calibration, np.float32).reshape(shape[0], -1)
    refuse_nonfinite("calibration", flat)
    return flat


def check_weights(network: Network) -> None:
    """Raises :class:`BadInput` for a weight or a bias that is not finite."""
    for layer in network.layers:
        refuse_nonfinite(f"layer {layer.name}: weight", layer.weight)
        refuse_nonfinite(f"layer {layer.name}: bias", layer.bias)


def min_max(values: np.ndarray, grid: Grid | None) -> Range:     # noqa: ARG001 - as the others
    """Least and greatest value, with 0."""
    return min(float(values.min()), 0.0), max(float(values.max()), 0.0)


def percentile(values: np.ndarray, grid: Grid | None) -> Range:
    """Cut at the least magnitude that :data:`PERCENTILE` of all are not above."""
    live = np.abs(values[values != 0])
    peak = float(np.percentile(live, PERCENTILE, method="inverted_cdf")) if live.size else 0.0
    return _cut(min_max(values, grid), peak)


def mse(values: np.ndarray, grid: Grid) -> Range:
    """Cut at that one of :data:`FACTORS` times the greatest magnitude whose integers have the
    least squared error; of equals the greatest."""
    whole = min_max(values, grid)
    peak = max(-whole[0], whole[1])
    if not peak:
        return whole
    return min((_cut(whole, factor * peak) for factor in FACTORS),
               key=lambda span: _squared_error(values, grid(*span)))


METHODS: dict[str, Callable[[np.ndarray, Grid], Range]] = {
    "min-max": min_max, "percentile": percentile, "mse": mse}
"""By name, what makes a range of a tensor's values on all samples."""


def check_method(name: str) -> None:
    """Raises :class:`BadInput` for a method that is not there."""
    if name not in METHODS:
        raise BadInput(f"there is no calibration method '{name}'; choose one of "
                       f"{', '.join(METHODS)}")


def ranges(network: Network, x: np.ndarray, method: str = "min-max",
           grids: Sequence[Grid | None] | None = None) -> list[Range]:
    """The range of the input and of every layer's output, by one of :data:`METHODS`; 0 counts, and
    its ends differ. ``grids`` has those of the same tensors, for a method that rounds to them.

    A tensor that is 0 on all samples, as pruning leaves some, takes its range from what is beside
    it: from the sums before ReLU, and from the next layer's output, of which it is to reach no
    more than all; the smaller of these, or else what the layer makes of its input. An input of
    which nothing speaks is taken to be within [-1, 1]. Raises :class:`BadInput` for an output, or
    such a sum, that is not finite.
    """
    tensors = [x, *_activations(network, x)]
    ends = [METHODS[method](each, grid) for each, grid in
            zip(tensors, grids or [None] * len(tensors), strict=True)]
    peaks = _peaks(network, tensors, [max(-low, high) for low, high in ends])
    signs = [-1.0, *(0.0 if layer.activation == "relu" else -1.0 for layer in network.layers)]
    return [each if any(each) else (sign * peak, peak)
            for each, sign, peak in zip(ends, signs, peaks, strict=True)]


def effective_bias(layer: Layer, weight: np.ndarray, reach: float) -> np.ndarray:
    """The layer's bias, float64 [out]; where ReLU follows and no input can outweigh it, no lower
    than that takes.

    So a bias that only switches an output off needs no coarser scale than the others. ``weight``
    [out, K] is what is rounded to integers, which at most doubles it, and ``reach`` the greatest
    magnitude of an input.
    """
    bias = layer.bias.astype(np.float64)
    if layer.activation != "relu":
        return bias
    return np.maximum(bias, -2 * reach * np.abs(weight).sum(axis=1, dtype=np.float64))


def _cut(span: Range, peak: float) -> Range:
    return max(span[0], -peak), min(span[1], peak)


def _squared_error(values: np.ndarray, grid: TensorType) -> float:
    """Of the integers of some values, in all."""
    flat, total = values.reshape(-1), 0.0
    for start in range(0, flat.size, BLOCK):
        block = flat[start:start + BLOCK]
        total += float(np.square(grid.to_float(grid.to_integer(block)[0]) - block).sum())
    return total


def _activations(network: Network, x: np.ndarray) -> list[np.ndarray]:
    """Float outputs of every layer; raises :class:`BadInput` for one that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = network.forward(x)
    for layer, y in zip(network.layers, outputs, strict=True):
        refuse_nonfinite(f"layer {layer.name}: output", y)
    return outputs


def _peaks(network: Network, tensors: list[np.ndarray], peaks: list[float]) -> list[float]:
    """``peaks`` with others in place of zeros, as :func:`ranges` says."""
    peaks, layers = peaks.copy(), network.layers
    # a layer without weights hands on what it is given
    gains = [float(np.abs(layer.matrix).sum(axis=1, dtype=np.float64).max()) or 1.0
             for layer in layers]
    for i in reversed(range(len(peaks))):
        if not peaks[i]:
            hints = [_before_relu(layers[i - 1], tensors[i - 1])] if i else []
            hints += [peaks[i + 1] / gains[i]] if i < len(layers) else []
            peaks[i] = _normal(min((hint for hint in hints if hint), default=0.0))
    peaks[0] = peaks[0] or 1.0
    for i, gain in enumerate(gains):
        peaks[i + 1] = peaks[i + 1] or _normal(peaks[i] * gain)
    return peaks


def _before_relu(layer: Layer, x: np.ndarray) -> float:
    """Greatest magnitude of a sum."""
    sums, = _activations(Network((replace(layer, activation="none"),)), x)
    return float(np.abs(sums).max())


def _normal(peak: float) -> float:
    """A peak that a chain of layers leads to: as float32 has them, or 0."""
    return peak and float(np.clip(peak, np.finfo(np.float32).tiny, np.finfo(np.float32).max))
