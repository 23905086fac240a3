"""Operators of ONNX that are products with constant weights, as layers.

Operator semantics: the ONNX operator reference, opset 7 and later.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.constants import (
    Constants,
    Integers,
    Reject,
    attributes,
    operand,
)
from zeroskip.sw.graph.network import Conv2d, Layer, Linear
from zeroskip.sw.graph.types import TensorType

LARGEST = 1 << 27
"""Most weights of a grouped convolution with zeros between its groups."""


@dataclass(frozen=True, eq=False)
class Product:
    """What a node computes.

    Attributes
    ----------
    layer : Layer
        Without an activation.
    integers : Integers or None
        What its weights were dequantised from.
    grids : pair of TensorType, or None
        How input and output are quantised, where the node itself says so.
    bias : float64 array [out]
        As precise as the model has it.
    """

    layer: Layer
    integers: Integers | None = None
    grids: tuple[TensorType, TensorType] | None = None
    bias: np.ndarray | None = None


@dataclass(frozen=True)
class Known:
    """What is known around a node.

    Attributes
    ----------
    constants : Constants
    shapes, dtypes : functions of a value's name
    grid : TensorType or None
        How the node's first operand is quantised.
    """

    constants: Constants
    shape: Callable[[str], tuple[int, ...]]
    dtype: Callable[[str], np.dtype]
    grid: TensorType | None


def product(node: onnx.NodeProto, name: str, known: Known) -> Product:
    """The layer of a node of :data:`PRODUCTS`; :class:`Reject` with the reason where it is
    none."""
    return PRODUCTS[node.op_type](node, name, known)


def _gemm(node, name, known):
    given = attributes(node)
    if given.get("transA", 0):
        raise Reject("transA = 1 takes columns for rows")
    transposed = given.get("transB", 0)
    weight, integers = _weight(node, known, 1, 0 if transposed else 1)
    alpha, beta = (np.float32(given.get(key, 1)) for key in ("alpha", "beta"))
    if integers and alpha != 1:
        raise Reject(f"alpha is {alpha}: set it to 1 in a quantised layer")
    weight = weight if transposed else weight.T
    if alpha != 1:
        with np.errstate(over="ignore"):    # is refused
            weight = alpha * weight
    bias = None
    if operand(node, 2):
        bias = beta * bias_of(node, 2, known, integers)
    return _linear(node, name, known, weight, bias, integers)


def _matmul(node, name, known):
    weight, integers = _weight(node, known, 1, 1)
    return _linear(node, name, known, weight.T, None, integers)


def _conv(node, name, known):
    weight, integers = _weight(node, known, 1, 0)
    bias = bias_of(node, 2, known, integers) if operand(node, 2) else None
    return _convolution(node, name, known, weight, bias, integers)


def _qlinearconv(node, name, known):
    before = known.constants.grid(node, 1, 2, known.dtype(node.input[0]))
    after = known.constants.grid(node, 6, 7, known.dtype(node.output[0]))
    stored = known.constants.integers(node, 3, 4, 5, 0)
    integers, bias = stored.integers(node.input[3], 0), known.constants.optional(node, 8)
    if bias is not None:
        if bias.dtype != np.int32 or bias.shape != integers.scale.shape:
            raise Reject(f"its bias is {bias.dtype} {list(bias.shape)}, not int32 "
                         f"[{integers.scale.size}]")
        bias = bias * (before.scale * integers.scale)
    return _convolution(node, name, known, stored.real, bias, integers, (before, after))


def _qlinearmatmul(node, name, known):
    before = known.constants.grid(node, 1, 2, known.dtype(node.input[0]))
    after = known.constants.grid(node, 6, 7, known.dtype(node.output[0]))
    stored = known.constants.integers(node, 3, 4, 5, 1)
    return _linear(node, name, known, stored.real.T, None, stored.integers(node.input[3], 1),
                   (before, after))


def _convinteger(node, name, known):
    stored = known.constants.integers(node, 1, None, 3, 0)
    return _convolution(node, name, known, stored.real, None, stored.integers(node.input[1], 0),
                        _unscaled(node, known))


def _matmulinteger(node, name, known):
    stored = known.constants.integers(node, 1, None, 3, 1)
    return _linear(node, name, known, stored.real.T, None, stored.integers(node.input[1], 1),
                   _unscaled(node, known))


PRODUCTS = {
    "Gemm": _gemm, "MatMul": _matmul, "Conv": _conv, "QLinearConv": _qlinearconv,
    "QLinearMatMul": _qlinearmatmul, "ConvInteger": _convinteger, "MatMulInteger": _matmulinteger}
"""The operators that can be layers."""


def _unscaled(node, known) -> tuple[TensorType, TensorType]:
    """The grids of an operator that knows no scale: 1, and int32 sums."""
    zero_points = known.constants.optional(node, 2)
    if zero_points is not None and zero_points.size != 1:
        raise Reject("it has several zero points: quantise activations per tensor")
    value = 0 if zero_points is None else int(zero_points.reshape(-1)[0])
    dtype = known.dtype(node.input[0])
    scale = known.grid.scale if known.grid else 1.0
    return (TensorType((), np.dtype(dtype), scale, value),
            TensorType((), np.dtype(np.int32), 1.0, 0))


def _weight(node, known, index, out):
    """The weights, and the integers behind them where the input is quantised too."""
    weight, name = known.constants.real(node, index), node.input[index]
    if not known.constants.stored(name) or known.grid is None or weight.ndim <= out:
        return weight, None
    return weight, known.constants.dequantised(name).integers(name, out)


def bias_of(node: onnx.NodeProto, index: int, known: Known,
            integers: Integers | None) -> np.ndarray:
    """A constant float operand that adds to sums.

    Tools round the units of a bias that is integers to float32 for its scale; the integers mean
    the units of the sums themselves.
    """
    real, name = known.constants.real(node, index), node.input[index]
    if integers is None or known.grid is None or not known.constants.stored(name):
        return real
    bias, unit = known.constants.dequantised(name), known.grid.scale * integers.scale
    if bias.scale.size == 1 and (unit == unit[0]).all():
        unit = unit[:1]
    if not np.array_equal(bias.scale, unit.astype(np.float32)):
        return real
    shape = [1] * real.ndim
    shape[bias.axis] = -1
    return bias.values * unit.reshape(shape if unit.size > 1 else [1] * real.ndim)


def _linear(node, name, known, weight, bias, integers, grids=None):
    if weight.ndim != 2 or 0 in weight.shape:
        raise Reject(f"its weight has shape {list(weight.T.shape)}, not two dimensions")
    shape = known.shape(node.input[0])
    if not shape or shape[-1] != weight.shape[1]:
        raise Reject(f"it takes {weight.shape[1]} inputs, but {shape[-1:] or 'a scalar'} reach it")
    rows = len(weight)
    bias = np.zeros(rows) if bias is None else as_bias(bias, known.shape(node.output[0]), -1)
    layer = Linear(name, _float32(weight), _float32(bias), "none")
    return Product(layer, integers, grids, bias.astype(np.float64))


def _convolution(node, name, known, weight, bias, integers, grids=None):
    given, shape = attributes(node), known.shape(node.input[0])
    if weight.ndim not in (3, 4) or len(shape) != weight.ndim or 0 in weight.shape:
        raise Reject(f"its weight has shape {list(weight.shape)}: convolutions over one or two "
                     "dimensions can run")
    axes = weight.ndim - 2
    kernel = given.get("kernel_shape", weight.shape[2:])
    if tuple(kernel) != weight.shape[2:]:
        raise Reject(f"its kernel_shape is {list(kernel)}, but its weight has shape "
                     f"{list(weight.shape)}")
    groups = given.get("group", 1)
    stride = given.get("strides", [1] * axes)
    dilation = given.get("dilations", [1] * axes)
    automatic = given.get("auto_pad", b"NOTSET").decode(errors="replace")
    padding = given.get("pads", [0] * (2 * axes)) if automatic == "NOTSET" else _padding(
        automatic, shape[2:], kernel, stride, dilation)
    if axes == 1:   # an image of one row
        weight, shape = weight[:, :, None], (*shape[:2], 1, shape[2])
        stride, dilation = [1, *stride], [1, *dilation]
        padding = [0, padding[0], 0, padding[1]]
    if groups < 1 or len(weight) % groups or shape[1] != groups * weight.shape[1]:
        raise Reject(f"it takes {weight.shape[1]} channels in each of {groups} groups, but "
                     f"{shape[1]} reach it")
    if groups > 1:
        integers = integers and Integers(ungrouped(integers.weight.reshape(weight.shape), groups),
                                         integers.scale)
        weight = ungrouped(weight, groups)
    out = len(weight)
    bias = np.zeros(out) if bias is None else as_bias(bias, (out,), 0)
    try:
        layer = Conv2d(name, _float32(weight), _float32(bias), "none", tuple(shape[1:]),
                       tuple(stride), tuple(padding), tuple(dilation))
    except BadInput as error:
        raise Reject(str(error)) from None
    return Product(layer, integers, grids, bias.astype(np.float64))


def ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """The weights of one group, with zeros between what the groups were."""
    out, channels = len(weight), weight.shape[1]
    if weight.size * groups > LARGEST:
        raise Reject(f"its {groups} groups would take {weight.size * groups:,} weights as one, at "
                     f"most {LARGEST:,} are possible")
    whole = np.zeros((out, channels * groups, *weight.shape[2:]), weight.dtype)
    rows = out // groups
    for group in range(groups):
        own = slice(group * rows, (group + 1) * rows)
        whole[own, group * channels:(group + 1) * channels] = weight[own]
    return whole


def as_bias(values: np.ndarray, shape: Sequence[int], axis: int) -> np.ndarray:
    """A constant that is added to outputs of ``shape``, as a value for each place of ``axis``."""
    rows = shape[axis]
    try:
        full = np.moveaxis(np.broadcast_to(values, shape), axis, 0).reshape(rows, -1)
    except ValueError:
        full = None
    if full is None or (full[:, 1:] != full[:, :1]).any():
        raise Reject(f"its bias has shape {list(values.shape)}, which is not [{rows}], one "
                     "value per output")
    return full[:, 0].copy()


def _float32(values):
    return np.ascontiguousarray(values, np.float32)


def _padding(name, image, kernel, stride, dilation):
    """What ONNX's ``auto_pad`` puts before and behind each axis: there are ceil(size / stride)
    outputs."""
    axes = len(image)
    if name == "VALID":
        return [0] * (2 * axes)
    if name not in ("SAME_UPPER", "SAME_LOWER"):
        raise Reject(f"its padding is {name!r}, not VALID, SAME_UPPER or SAME_LOWER")
    if not len(stride) == len(dilation) == axes or min(stride) < 1:
        raise Reject(f"its stride is {list(stride)} and its dilation {list(dilation)}")
    total = [max((-(-size // step) - 1) * step + (k - 1) * d + 1 - size, 0)
             for size, k, step, d in zip(image, kernel, stride, dilation, strict=True)]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*less, *more] if name == "SAME_UPPER" else [*more, *less]
