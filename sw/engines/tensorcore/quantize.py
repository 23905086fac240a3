"""From float layers to the int8 of the tensor core, with a proof that no int32 sum wraps.

A real value is scale * (integer - zero point): weights have one scale per output channel and no
zero point, activations one scale and zero point per tensor. A sum counts in input scale * weight
scale; a multiplier and a shift per channel take it to the output's units. Source: Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, section 2.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import ClassVar

import numpy as np

from zeroskip.sw.engines.tensorcore import golden as tensorcore
from zeroskip.sw.engines.tensorcore.layer import LayerKind, types
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.network import Conv2d, Linear, Network, Quantised
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.calibration import Range, check_weights, effective_bias, ranges, samples
from zeroskip.sw.quantize.requantise import FINEST, LEAST_SHIFT, multiplier_and_shift

LOWEST, HIGHEST = -128, 127
WEIGHT_PEAK = 127
BIAS_PEAK = 1 << 30
"""Greatest bias of a float layer: half of int32, so that as much is left to the products."""
ROUNDED = 2.0**-21
"""Relative error of a multiple of a scale after some steps in float32, at most."""
BATCH = 64
"""Samples of the calibration set that run at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Int8Layer(LayerKind):
    """One layer in integers, as ``zeroskip.sw.engines.tensorcore.golden.layer`` takes it.

    Attributes
    ----------
    weight : int8 array [out, K]
    bias : int64 array [out]
        In accumulator units, the input's zero point folded in; an int32.
    multiplier : int32 array [out]
        0 to 2^31 - 1; zeros where ``raw``.
    shift : int32 array [out]
        24 to 55; 24 where ``raw``.
    """

    engine: ClassVar[str] = "tensorcore"
    TENSORS: ClassVar[dict[str, type]] = {
        "weight": np.int8, "bias": np.int64, "multiplier": np.int32, "shift": np.int32}

    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray

    def header(self) -> dict:
        """Whether it is raw, how it rounds, and the geometry of a convolution."""
        own = {"raw": self.raw, "ties": self.ties}
        return own | (asdict(self.geometry) if self.geometry else {})

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "Int8Layer":
        """See :class:`zeroskip.sw.engines.base.ReferenceLayer`."""
        geometry = None
        outputs, inputs = tensors["weight"].shape
        if "kernel" in header:
            geometry = Geometry.from_json({field.name: header[field.name]
                                           for field in fields(Geometry)})
            inputs, outputs = prod(geometry.input_shape), outputs * geometry.positions
        return cls(**tensors, geometry=geometry, **types(header, inputs, outputs), **{
            name: header[name] for name in ("name", "activation", "ties")})


@dataclass(frozen=True)
class LayerReport8:
    """What quantisation did to one layer.

    Attributes
    ----------
    name : str
    rms : float
        Error of the weights, relative to their RMS; 0 where the model was quantised already.
    saturated : float or None
        Share of the layer's outputs on the calibration set that left int8, without the negative
        ones that ReLU takes away; None without a set.
    accumulator_bits : int
        Width that holds every sum, proven for all inputs; at most 32.
    units : tuple of float, or None
        What the sums of each channel count in, where they are the outputs of a float layer.
    """

    name: str
    rms: float
    saturated: float | None
    accumulator_bits: int
    units: tuple[float, ...] | None = None


def quantize(network: Network, calibration: np.ndarray | None,
             given: Sequence[Range] | None = None, before: TensorType | None = None,
             raw: bool = False) -> tuple[tuple[Int8Layer, ...], tuple[LayerReport8, ...]]:
    """Integers for every layer of ``network``, and a report per layer.

    Parameters
    ----------
    network : Network
        A layer that is quantised already keeps its numbers.
    calibration : float array, batch first, or None
        Its values and the activations that it causes set the scales; None where every layer is
        quantised already.
    given : sequence of ranges, optional
        Of the input and of every output: they set the scales then.
    before : TensorType, optional
        What the input's integers stand for already; what is not int8 does not count.
    raw : bool
        Whether the last layer, which is not quantised yet, is to give its sums.

    Raises
    ------
    BadInput
        For a NaN or an infinity, a sum that could leave int32, scales that no multiplier
        expresses, and neighbours that do not agree on the tensor between them.
    """
    check_weights(network)
    x = None if calibration is None else samples(network, calibration)
    grids = _grids(network, x, given, before)
    last = network.layers[-1] if raw else None
    layers, errors, units = zip(*(_layer(*each, each[0] is last) for each in
                                  zip(network.layers, grids, grids[1:], strict=False)),
                                strict=True)
    bits = [prove(layer) for layer in layers]
    shares = [None] * len(layers) if x is None else _saturated(layers, x)
    return layers, tuple(LayerReport8(layer.name, *each) for layer, *each in
                         zip(layers, errors, shares, bits, units, strict=True))


def grid(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of an activation's range, which holds 0."""
    scale = (high - low) / (HIGHEST - LOWEST)
    return scale, LOWEST + round(-low / scale)


def _grids(network: Network, x: np.ndarray | None, given: Sequence[Range] | None,
           reaching: TensorType | None) -> list[tuple[float, int]]:
    """Scale and zero point of the input and of every layer's output."""
    grids: list[tuple[float, int] | None] = [None] * (len(network.layers) + 1)
    if reaching is not None and reaching.dtype == np.int8 and not network.layers[0].quantised:
        grids[0] = reaching.scale, reaching.zero_point
    for i, layer in enumerate(network.layers):
        if layer.quantised is None:
            continue
        own = layer.quantised
        if own.raw and i + 1 < len(network.layers):
            raise BadInput(f"layer {layer.name}: an int32 output can only be the network's last; "
                           "requantise it to int8")
        before, grids[i] = grids[i], (own.input.scale, own.input.zero_point)
        if before not in (None, grids[i]):
            raise BadInput(f"layer {layer.name} takes scale and zero point {grids[i]}, but "
                           f"{before} reach it; quantise the model again")
        grids[i + 1] = own.output.scale, own.output.zero_point
    if None in grids:
        if x is None:
            raise BadInput("the network holds layers that are not quantised; give samples to "
                           "calibrate them with")
        for i, (low, high) in enumerate(given or ranges(network, x)):
            if grids[i] is None:
                scale, zero_point = grid(low, high)
                if i:
                    before, _ = grids[i - 1]
                    unit = before * _weight_scale(network.layers[i - 1], before, scale).max()
                    scale = max(scale, float(unit) / FINEST)
                grids[i] = scale, zero_point
    return grids


def _layer(layer: Linear | Conv2d, input_grid: tuple[float, int], output_grid: tuple[float, int],
           raw: bool) -> tuple[Int8Layer, float, tuple[float, ...] | None]:
    """One layer in integers, the relative error of its weights, and what its sums count in where
    they are wanted."""
    own = layer.quantised or _from_float(layer, input_grid, output_grid, raw)
    weight = own.weight.astype(np.int64)
    multiplier, shift = _requantiser(layer.name, own)
    integers = Int8Layer(
        name=layer.name, weight=own.weight,
        bias=own.bias - own.input.zero_point * weight.sum(axis=1),
        multiplier=multiplier, shift=shift, activation="none" if raw else layer.activation,
        geometry=layer.geometry, input=own.input.flat, output=own.output.flat)
    if layer.quantised:
        return integers, 0.0, None
    exact = layer.matrix.astype(np.float64)
    error = weight * own.weight_scale[:, None] - exact
    rms = np.sqrt(np.mean(error**2) / np.mean(exact**2)) if exact.any() else 0.0
    units = tuple((own.input.scale * own.weight_scale).tolist()) if raw else None
    return integers, float(rms), units


def _from_float(layer: Linear | Conv2d, input_grid: tuple[float, int],
                output_grid: tuple[float, int], raw: bool) -> Quantised:
    """Symmetric int8 weights, a scale per output channel; zero stays zero."""
    scale = _weight_scale(layer, input_grid[0], output_grid[0])
    return Quantised(
        weight=np.rint(layer.matrix / scale[:, None]).astype(np.int8), weight_scale=scale,
        bias=np.rint(_bias(layer, input_grid[0]) / (input_grid[0] * scale)).astype(np.int64),
        input=TensorType.of(layer.inputs, np.int8, *input_grid),
        output=TensorType.of(layer.outputs, np.int32, 1.0) if raw else
        TensorType.of(layer.outputs, np.int8, *output_grid))


def _weight_scale(layer: Linear | Conv2d, input_scale: float, output_scale: float) -> np.ndarray:
    """Scale of each output channel's weights, float64 [out]."""
    greatest = np.abs(layer.matrix).max(axis=1).astype(np.float64)
    scale = greatest / [_levels(row) for row in layer.matrix]
    # Without weights a sum is the bias: it counts in units of the output.
    scale[scale == 0] = output_scale / input_scale
    # Weights far below the bias take a coarser scale, so that the bias is an int32.
    return np.maximum(scale, np.abs(_bias(layer, input_scale)) / (input_scale * BIAS_PEAK))


def _bias(layer: Linear | Conv2d, input_scale: float) -> np.ndarray:
    return effective_bias(layer, layer.matrix, (HIGHEST - LOWEST) * input_scale)


def _levels(row: np.ndarray) -> int:
    """The integer that the greatest of a row of float32 weights becomes.

    Weights that are integers times a scale, as pruning to few bits leaves them, stay these
    integers, times the greatest factor that int8 holds: it makes the unit of the bias fine.
    """
    values = np.unique(np.abs(row[row != 0])).astype(np.float64)
    if not 0 < len(values) <= WEIGHT_PEAK:
        return WEIGHT_PEAK
    levels = np.arange(1, WEIGHT_PEAK + 1)
    multiples = values / values[-1] * levels[:, None]
    exact = np.all(np.abs(multiples - np.rint(multiples)) <= multiples * ROUNDED, axis=1)
    return int(WEIGHT_PEAK // levels[exact][0] * levels[exact][0]) if exact.any() else WEIGHT_PEAK


def _requantiser(name: str, own: Quantised) -> tuple[np.ndarray, np.ndarray]:
    """Multiplier and shift of every channel, int32 [out] each."""
    if own.raw:
        return np.zeros(len(own.bias), np.int32), np.full(len(own.bias), LEAST_SHIFT, np.int32)
    pairs = []
    for channel, scale in enumerate(own.input.scale * own.weight_scale / own.output.scale):
        try:
            pairs.append(multiplier_and_shift(float(scale)))
        except BadInput as error:
            raise BadInput(f"layer {name}, channel {channel}: {error}") from None
    multiplier, shift = np.array(pairs, np.int32).T
    return np.ascontiguousarray(multiplier), np.ascontiguousarray(shift)


def prove(layer: Int8Layer) -> int:
    """Bits that hold every sum for every input; raises :class:`BadInput` above 32.

    Only the end result counts: sums on the way may wrap, because int32 adds modulo 2^32.
    """
    weight = layer.weight.astype(np.int64)
    positive = np.maximum(weight, 0).sum(axis=1)
    negative = np.minimum(weight, 0).sum(axis=1)
    highest = positive * HIGHEST + negative * LOWEST + layer.bias
    lowest = positive * LOWEST + negative * HIGHEST + layer.bias
    # -1 - x has the magnitude bits of a negative x
    reach = np.maximum(highest, -1 - lowest)
    row = int(reach.argmax())
    bits = int(reach[row]).bit_length() + 1
    if bits > 32:
        reached = highest[row] if highest[row] == reach[row] else lowest[row]
        raise BadInput(f"layer {layer.name}, row {row}: a sum can reach {reached}, which int32 "
                       "does not hold; use smaller weights, a smaller bias or fewer inputs")
    return bits


def _saturated(layers: tuple[Int8Layer, ...], x: np.ndarray) -> list[float]:
    """Share of each layer's outputs that leave int8 on float samples [batch, inputs]."""
    counts = np.zeros(len(layers), np.int64)
    for start in range(0, len(x), BATCH):
        y, _ = layers[0].input.to_integer(x[start:start + BATCH])
        for i, layer in enumerate(layers):
            y, saturated = tensorcore.layer(y, layer)
            counts[i] += saturated
    return [int(count) / (len(x) * layer.outputs)
            for count, layer in zip(counts, layers, strict=True)]
