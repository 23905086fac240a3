"""From float layers to the integers of the EIE array, with a proof that no sum overflows.

An activation is an int16 times its scale; a weight is an int16 of the layer's codebook times the
weight scale; an accumulator counts in weight scale x input scale, an output in 2^shift of that.
Source: Han et al., ISCA 2016, section III (shared weights) and IV (16-bit fixed point). The paper
has no rule for overflow; here an accumulator that could overflow is refused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor, log2

import numpy as np

from zeroskip.sw.engines.eie.layer import FixedLayer, look_up
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Conv2d, Layer, Linear, Network
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.calibration import Range, check_weights, effective_bias, ranges, samples
from zeroskip.sw.quantize.kmeans import Shared, share

LOWEST, HIGHEST = -1 << 15, (1 << 15) - 1
CENTROIDS = 15
MAX_SHIFT = 31
PART = 1 << 22
"""Weights of a layer that are copied at a time."""
HEADROOM = 1.1
"""Output range over calibrated maximum: room for inputs unlike the calibration set's and for the
error of the shared weights, at 0.14 bit."""


@dataclass(frozen=True)
class LayerReport:
    """What quantisation did to one layer.

    Attributes
    ----------
    name : str
    rms : float
        Error of the shared float weights, relative to their RMS.
    vanished : int
        Weights that are not zero and whose integer is.
    bound : float
        Greatest proven accumulator magnitude over the accumulator's range.
    shift : int
    weight_scale : float
    """

    name: str
    rms: float
    vanished: int
    bound: float
    shift: int
    weight_scale: float


def bound(weight: np.ndarray, bias: np.ndarray, shift: int, low: int,
          high: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value that each row's accumulator can take, int64 [out] each.

    ``weight`` is int16 [out, in], ``bias`` int64 [out]; inputs are anything in [low, high], which
    contains 0. The accumulator starts at 0, takes the products in any order, then bias and
    rounding constant in one addition. Both ends are reached.
    """
    if not LOWEST <= low <= 0 <= high <= HIGHEST:
        raise BadInput(f"the input range must be int16 and contain 0, not [{low}, {high}]")
    if np.any((bias > 1 << 62) | (bias < -1 << 62)):
        raise BadInput("bias must be within 2^62: use a larger weight scale")
    positive, negative = (
        np.concatenate([limit(part, 0).sum(axis=1, dtype=np.int64) for part in _parts(weight)])
        for limit in (np.maximum, np.minimum))
    lowest, highest = positive * low + negative * high, positive * high + negative * low
    last = bias + (1 << shift >> 1)
    return np.minimum(lowest, lowest + last), np.maximum(highest, highest + last)


def _parts(matrix: np.ndarray) -> Iterator[np.ndarray]:
    """Its rows, some at a time: what is made of them takes little memory beside the matrix."""
    step = max(1, PART // matrix.shape[1])
    return (matrix[at:at + step] for at in range(0, len(matrix), step))


def prove(name: str, weight: np.ndarray, bias: np.ndarray, shift: int, low: int, high: int,
          width: int) -> None:
    """Raise :class:`BadInput` if a signed accumulator of ``width`` bits can overflow.

    Arguments as for :func:`bound`; ``name`` is the layer's, for the message.
    """
    lowest, highest = bound(weight, bias, shift, low, high)
    least, greatest = -1 << width - 1, (1 << width - 1) - 1
    rows = np.flatnonzero((lowest < least) | (highest > greatest))
    if rows.size:
        row = rows[0]
        reached = highest[row] if highest[row] > greatest else lowest[row]
        raise BadInput(f"layer {name}, row {row}: a sum can reach {reached}, which a {width}-bit "
                       "accumulator does not hold; use smaller weights or a wider accumulator")


def check_layer(layer: Layer) -> None:
    """Raises :class:`BadInput` where the array cannot take a layer."""
    if not isinstance(layer, Linear | Conv2d):
        raise BadInput(f"layer {layer.name} is not fully connected, and the EIE array takes no "
                       "other layer but convolutions: choose another engine")
    if layer.geometry is not None and layer.geometry.groups > 1:
        raise BadInput(f"layer {layer.name} is a convolution in groups, and the EIE array takes "
                       "patches of all channels: choose a tensor core as its target")
    if layer.quantised:
        raise BadInput(f"layer {layer.name} is quantised to int8, and the EIE array takes "
                       "16-bit activations: choose a tensor core as its target")


def quantize(network: Network, calibration: np.ndarray, width: int = 32,
             given: Sequence[Range] | None = None, before: TensorType | None = None
             ) -> tuple[tuple[FixedLayer, ...], tuple[LayerReport, ...]]:
    """Integers for every layer of ``network``, proven for accumulators of ``width`` bits, and a
    report per layer.

    ``calibration`` is a float array, batch first; its values and the activations that it causes
    set the scales, or the ranges ``given`` of the input and of every output, or ``before``, the
    type of the input's integers, if they are int16 and zero is zero. Weights are shared among 15
    centroids. Raises :class:`BadInput` for a NaN or an infinity, and where no scale keeps
    a layer from overflowing without losing its weights.
    """
    if not 2 <= width <= 62:
        raise BadInput(f"the accumulator width must be 2 to 62 bits, not {width}")
    for layer in network.layers:
        check_layer(layer)
        if isinstance(layer, Conv2d):
            raise BadInput(f"layer {layer.name} is a convolution; the EIE array takes "
                           "fully-connected layers only: choose a tensor core as its target")
    calibration = samples(network, calibration)
    check_weights(network)
    peaks = [max(-low, high) for low, high in given or ranges(network, calibration)]

    scale = peaks[0] / HIGHEST
    if before is not None and (before.dtype, before.zero_point) == (np.int16, 0):
        scale = before.scale
    low, layers, report = LOWEST, [], []
    for layer, peak in zip(network.layers, peaks[1:], strict=True):
        fixed, entry = _quantize_layer(layer, peak, scale, low, width)
        layers.append(fixed)
        report.append(entry)
        scale, low = fixed.output.scale, 0 if layer.activation == "relu" else LOWEST
    return tuple(layers), tuple(report)


def _quantize_layer(layer: Linear, peak: float, input_scale: float, low: int,
                    width: int) -> tuple[FixedLayer, LayerReport]:
    """One layer, with the smallest weight scale that codebook and accumulator hold."""
    shared = share(layer.weight, CENTROIDS)
    levels, reach = np.abs(shared.codebook), -LOWEST * input_scale
    sums = np.concatenate([levels[part].sum(axis=1, dtype=np.float64)
                           for part in _parts(shared.indices)])
    bias = effective_bias(layer, sums[:, None], reach)      # as if each row had a single weight
    target = peak * HEADROOM / HIGHEST
    weight_scale = max(float(np.abs(shared.codebook).max()) / HIGHEST,
                       float(np.abs(bias).max()) / input_scale / 2 ** (width - 1))
    weight_scale = weight_scale or target / input_scale
    # Rounding makes the bound deviate from inverse proportion; a few steps settle it.
    for _ in range(100):
        shift, weight_scale = _stretch(weight_scale, input_scale, target)
        fixed = _round(layer, shared, bias, shift, weight_scale, input_scale)
        fill = _fill(fixed, low, width)
        if fill <= 1:
            break
        weight_scale *= max(fill, 1.01)
    prove(layer.name, fixed.weight, fixed.bias, shift, low, HIGHEST, width)

    vanished = int(np.count_nonzero(shared.indices) - np.count_nonzero(fixed.indices))
    lost = float(sums.max()) * reach
    if not fixed.codebook.any() and lost > fixed.output.scale / 2:
        raise BadInput(f"layer {layer.name}: every weight becomes 0 at the scale that a "
                       f"{width}-bit accumulator and shifts up to {MAX_SHIFT} allow; use a wider "
                       "accumulator or a smaller bias")
    return fixed, LayerReport(layer.name, shared.rms, vanished, fill, shift, weight_scale)


def _stretch(weight_scale: float, input_scale: float, target: float) -> tuple[int, float]:
    """Shift, and weight scale at or above the given one, that make the output scale ``target``.

    Where even shift 0 has outputs coarser than ``target``, the weight scale stays.
    """
    ratio = target / (weight_scale * input_scale)
    shift = min(max(floor(log2(ratio)), 0), MAX_SHIFT)
    return shift, max(weight_scale, target / input_scale / 2**shift)


def _round(layer: Linear, shared: Shared, bias: np.ndarray, shift: int, weight_scale: float,
           input_scale: float) -> FixedLayer:
    unit = weight_scale * input_scale
    codebook = np.rint(shared.codebook / np.float64(weight_scale)).astype(np.int16)
    stored = np.arange(len(codebook), dtype=np.uint8) * (codebook != 0)
    return FixedLayer(
        name=layer.name,
        # A weight whose integer is zero is not stored.
        indices=look_up(stored, shared.indices),
        codebook=codebook,
        bias=np.rint(bias / np.float64(unit)).astype(np.int64),
        shift=shift,
        activation=layer.activation,
        input=TensorType.of(layer.inputs, np.int16, input_scale),
        output=TensorType.of(layer.outputs, np.int16, unit * 2**shift),
    )


def _fill(fixed: FixedLayer, low: int, width: int) -> float:
    """Greatest proven magnitude in an accumulator over the greatest that fits."""
    lowest, highest = bound(fixed.weight, fixed.bias, fixed.shift, low, HIGHEST)
    greatest = (1 << width - 1) - 1
    return max(int(highest.max()) / greatest, -int(lowest.min()) / (greatest + 1))
