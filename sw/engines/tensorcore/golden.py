"""Integer reference of a tensor-core layer.

acc = A.B + bias, exact modulo 2^32; of a convolution
acc[o, r, s] = bias[o] + sum over c, i, j of weight[o, c, i, j] * x[c, r', s'], where
r' = r * stride + i * dilation - padding, s' likewise, x is the input's zero point outside of the
image, and c runs over the channels of o's group. Outputs are flat, channel by channel, each row by
row. Then, unless the int32 itself is the output, q is the integer nearest to
acc * multiplier / 2^shift, of two the even one, and y = clip(q + zero_point, low, 127), where low
is -128, or the zero point with ReLU.
Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 2.2 (a multiplier and a shift in place of
the real scale), with the rounding of ONNX's QuantizeLinear; the widths are this project's.
"""

from math import prod

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.convolution import convolve

FLOAT64_TERMS = (1 << 39) - 1
"""Up to here a sum of int8 products stays below 2^53, where float64 is exact."""
BLOCK = 1 << 24
"""Activations, or values that a convolution reads or gives, that are widened to 64 bits at a
time."""
SHIFTS = (24, 55)
"""Least and greatest shift."""


def gemm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a @ b`` of int8 [m, k] and int8 [k, n] as int32 [m, n], exact modulo 2^32."""
    _check_array("a", a, np.int8, 2)
    _check_array("b", b, np.int8, 2)
    if a.shape[1] != len(b) or not len(b):
        raise BadInput(f"a and b must be [m, k] and [k, n], not {list(a.shape)} and "
                       f"{list(b.shape)}")
    exact = np.float64 if len(b) <= FLOAT64_TERMS else np.int64
    wide = a.astype(exact)
    product = np.empty((len(a), b.shape[1]), np.int32)
    step = max(1, BLOCK // len(b))
    for start in range(0, b.shape[1], step):
        part = slice(start, start + step)
        product[:, part] = (wide @ b[:, part].astype(exact)).astype(np.int64).astype(np.int32)
    return product


def requantise(acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, zero_point: int,
               relu: bool) -> tuple[np.ndarray, int]:
    """Sums as int8.

    Parameters
    ----------
    acc : int32 array [..., m]
    multiplier : int32 array [m]
        Not negative.
    shift : int32 array [m]
        24 to 55.
    zero_point : int
        -128 to 127.
    relu : bool

    Returns
    -------
    y : int8 array [..., m]
    saturated : int
        Number of outputs above int8, or below it where no ReLU takes them up.
    """
    _check_requantiser(multiplier, shift, zero_point)
    if acc.dtype != np.int32 or acc.shape[-1:] != multiplier.shape:
        raise BadInput(f"acc must be int32 [..., {len(multiplier)}], not {acc.dtype} "
                       f"{list(acc.shape)}")
    product, wide = acc.astype(np.int64) * multiplier, shift.astype(np.int64)
    below, half = product >> wide, np.int64(1) << wide - 1
    rest = product - (below << wide)
    y = below + ((rest > half) | ((rest == half) & (below % 2 == 1))) + zero_point
    saturated = np.count_nonzero((y > 127) | ((y < -128) & (not relu)))
    return np.clip(y, zero_point if relu else -128, 127).astype(np.int8), saturated


def layer(x: np.ndarray, layer) -> tuple[np.ndarray, int]:
    """One layer on a batch.

    Parameters
    ----------
    x : int8 array [batch, inputs]
    layer : zeroskip.sw.engines.tensorcore.quantize.Int8Layer, or what has its attributes

    Returns
    -------
    y : int8 array [batch, outputs], int32 where the layer is ``raw``
    saturated : int
        Number of outputs above int8, or below it where no ReLU takes them up.
    """
    _check_layer(x, layer)
    sums = gemm(layer.weight, x.T).T if layer.geometry is None else _convolution(x, layer)
    positions = sums.shape[1] // len(layer.weight)
    acc = sums + np.repeat(layer.bias.astype(np.int32), positions)
    if layer.raw:
        return acc, 0
    return requantise(acc, np.repeat(layer.multiplier, positions),
                      np.repeat(layer.shift, positions), layer.output.zero_point,
                      layer.activation == "relu")


def _convolution(x, layer) -> np.ndarray:
    """Sums of a convolution, int32 [batch, outputs], exact modulo 2^32."""
    channels = max(layer.geometry.input_shape[0], len(layer.weight))
    step = max(1, BLOCK // (channels * layer.geometry.positions))
    parts = [x[start:start + step] for start in range(0, max(1, len(x)), step)]
    return np.concatenate([
        convolve(part, layer.weight, layer.geometry, layer.input.zero_point)
        .astype(np.int64).astype(np.int32) for part in parts])


def _check_layer(x, layer) -> None:
    _check_array("x", x, np.int8, 2)
    _check_array("weight", layer.weight, np.int8, 2)
    _check_array("bias", layer.bias, np.int64, 1)
    if x.shape[1] != layer.inputs or len(layer.bias) != len(layer.weight):
        raise BadInput(f"x and bias must be [batch, {layer.inputs}] and [{len(layer.weight)}], "
                       f"not {list(x.shape)} and {list(layer.bias.shape)}")
    if layer.geometry is not None:
        _check_convolution(layer)
    large = np.flatnonzero(layer.bias != layer.bias.astype(np.int32))
    if large.size:
        raise BadInput(f"bias[{large[0]}] is {layer.bias[large[0]]}: it must be an int32")
    if layer.activation not in ("none", "relu"):
        raise BadInput(f"activation must be 'none' or 'relu', not {layer.activation!r}")
    if layer.ties != "even":
        raise BadInput(f"ties must be 'even', not {layer.ties!r}; compile the model again")
    if layer.raw and layer.activation == "relu":
        raise BadInput("an int32 output takes no activation; set it to 'none'")
    _check_zero_point("input", layer.input.zero_point)


def _check_convolution(layer) -> None:
    shape = [len(layer.weight), layer.geometry.patch]
    if len(layer.weight) % layer.geometry.groups:
        raise BadInput(f"the {len(layer.weight)} outputs must be a multiple of the "
                       f"{layer.geometry.groups} groups")
    if list(layer.weight.shape) != shape or layer.inputs != prod(layer.geometry.input_shape):
        raise BadInput(f"weight and x must be {shape} and [batch, "
                       f"{prod(layer.geometry.input_shape)}] for an image of "
                       f"{list(layer.geometry.input_shape)}, not {list(layer.weight.shape)} and "
                       f"[batch, {layer.inputs}]")


def _check_requantiser(multiplier, shift, zero_point) -> None:
    _check_array("multiplier", multiplier, np.int32, 1)
    _check_array("shift", shift, np.int32, 1)
    if shift.shape != multiplier.shape:
        raise BadInput(f"multiplier and shift must be of one length, not {len(multiplier)} and "
                       f"{len(shift)}")
    wrong = np.flatnonzero(multiplier < 0)
    if wrong.size:
        raise BadInput(f"multiplier[{wrong[0]}] is {multiplier[wrong[0]]}: it must not be negative")
    wrong = np.flatnonzero((shift < SHIFTS[0]) | (shift > SHIFTS[1]))
    if wrong.size:
        raise BadInput(f"shift[{wrong[0]}] is {shift[wrong[0]]}: it must be {SHIFTS[0]} to "
                       f"{SHIFTS[1]}")
    _check_zero_point("output", zero_point)


def _check_zero_point(which, value) -> None:
    if not -128 <= value <= 127:
        raise BadInput(f"the {which}'s zero point must be -128 to 127, not {value}")


def _check_array(name, array, dtype, ndim) -> None:
    if array.dtype != dtype or array.ndim != ndim:
        raise BadInput(f"{name} must be {np.dtype(dtype)} with {ndim} dimensions, "
                       f"not {array.dtype} {list(array.shape)}")
