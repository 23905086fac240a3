"""Operators of ONNX as functions of torch: what an ONNX file is trained by.

A function gets a node's attributes and its inputs, None for those that are left out. ``opset`` is
among the attributes, for operators whose meaning changed. Semantics: the ONNX operator reference.
"""

from collections.abc import Callable
from functools import reduce
from math import prod

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

DTYPES = {TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64,
          TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16,
          TensorProto.INT8: torch.int8, TensorProto.UINT8: torch.uint8,
          TensorProto.INT16: torch.int16, TensorProto.INT32: torch.int32,
          TensorProto.INT64: torch.int64, TensorProto.BOOL: torch.bool}


class Unknown(Exception):
    """An operator or a use of one that is not here; the text names it."""


def plain(function: Callable) -> Callable:
    """An operator without attributes."""
    return lambda _given, *x: function(*x)


def many(function: Callable) -> Callable:
    """An operator of any number of inputs."""
    return lambda _given, *x: reduce(function, x)


def sizes(x: Tensor) -> list[int]:
    """Integers that a model works out."""
    return [int(each) for each in x.reshape(-1)]


def axes_of(given: dict, x: Tensor | None) -> list[int] | None:
    """The axes of an operator: an attribute once, an input since."""
    return given.get("axes") if x is None else sizes(x)


def gemm(given, a, b, c=None):
    a = a.T if given.get("transA") else a
    b = b.T if given.get("transB") else b
    y = given.get("alpha", 1.0) * (a @ b)
    return y if c is None else y + given.get("beta", 1.0) * c


def padding(given: dict, x: Tensor, kernel) -> list[int]:
    """What is put before and behind each axis: before all, then behind all."""
    axes = x.ndim - 2
    automatic = given.get("auto_pad", b"NOTSET").decode()
    if automatic == "NOTSET":
        return list(given.get("pads", [0] * 2 * axes))
    if automatic == "VALID":
        return [0] * 2 * axes
    stride, dilation = (given.get(key, [1] * axes) for key in ("strides", "dilations"))
    total = [max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
             for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*less, *more] if automatic == "SAME_UPPER" else [*more, *less]


def padded(x: Tensor, pads: list[int], value: float = 0.0, mode: str = "constant") -> Tensor:
    """``x`` with ``pads`` around its last axes, as ONNX lists them."""
    if not any(pads):
        return x
    axes = len(pads) // 2
    turned = [pads[side * axes + axis] for axis in reversed(range(axes)) for side in (0, 1)]
    return functional.pad(x, turned, mode, value if mode == "constant" else None)


def conv(given, x, w, b=None):
    x = padded(x, padding(given, x, w.shape[2:]))
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[w.ndim - 3]
    axes = w.ndim - 2
    return function(x, w, b, given.get("strides", [1] * axes), 0,
                    given.get("dilations", [1] * axes), given.get("group", 1))


def conv_transpose(given, x, w, b=None):
    if "output_shape" in given or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Unknown("ConvTranspose with output_shape or auto_pad")
    axes = w.ndim - 2
    function = (functional.conv_transpose1d, functional.conv_transpose2d,
                functional.conv_transpose3d)[axes - 1]
    pads = given.get("pads", [0] * 2 * axes)
    extra = given.get("output_padding", [0] * axes)
    stride, dilation = (given.get(key, [1] * axes) for key in ("strides", "dilations"))
    y = function(x, w, b, stride, 0, 0, given.get("group", 1), dilation)
    # what lies behind the last full step is zero and the bias
    grown = padded(y, [0] * axes + list(extra))
    if b is not None and any(extra):
        grown = padded(y - b.reshape(-1, *[1] * axes), [0] * axes + list(extra)) \
            + b.reshape(-1, *[1] * axes)
    for axis in range(axes):
        size = grown.shape[2 + axis] - pads[axis] - pads[axes + axis]
        grown = grown.narrow(2 + axis, pads[axis], size)
    return grown


def batch_norm(given, x, scale, shift, mean, variance):
    if given.get("training_mode") or given.get("is_test", 1) == 0:
        raise Unknown("BatchNormalization in training mode")
    return functional.batch_norm(x, mean, variance, scale, shift, False, 0.0,
                                 given.get("epsilon", 1e-5))


def layer_norm(given, x, scale, shift=None):
    return functional.layer_norm(x, x.shape[given.get("axis", -1):], scale, shift,
                                 given.get("epsilon", 1e-5))


def pool(kind: str) -> Callable:
    """MaxPool or AveragePool."""
    def function(given, x):
        kernel = given["kernel_shape"]
        axes = len(kernel)
        stride, dilation = (given.get(key, [1] * axes) for key in ("strides", "dilations"))
        if given.get("ceil_mode") or given.get("storage_order") or axes > 3:
            raise Unknown(f"{kind} with ceil_mode or storage_order")
        pads = padding(given, x, kernel)
        if kind == "MaxPool":
            call = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[axes - 1]
            return call(padded(x, pads, -torch.inf), kernel, stride, 0, dilation)
        if any(each != 1 for each in dilation):
            raise Unknown("AveragePool with dilations")
        call = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[axes - 1]
        y = call(padded(x, pads), kernel, stride)
        if any(pads) and not given.get("count_include_pad"):
            y = y / call(padded(torch.ones_like(x), pads), kernel, stride)
        return y
    return function


def over_space(function: Callable) -> Callable:
    """A global pool."""
    return lambda _given, x: function(x, tuple(range(2, x.ndim)), keepdim=True)


def softmax(function: Callable) -> Callable:
    """Along an axis; before opset 13 along all from it."""
    def call(given, x):
        if given["opset"] >= 13:
            return function(x, given.get("axis", -1))
        axis = given.get("axis", 1) % max(x.ndim, 1)
        return function(x.reshape(prod(x.shape[:axis]), -1), 1).reshape(x.shape)
    return call


def reduced(function: Callable) -> Callable:
    """Along axes, or all of them."""
    def call(given, x, axes=None):
        chosen = axes_of(given, axes)
        if not chosen:
            if given.get("noop_with_empty_axes"):
                return x
            chosen = list(range(x.ndim))
        return function(x, chosen, bool(given.get("keepdims", 1)))
    return call


def reshape(given, x, shape):
    wanted = sizes(shape)
    if not given.get("allowzero"):
        wanted = [x.shape[at] if size == 0 else size for at, size in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(given, x):
    axis = given.get("axis", 1)
    axis += x.ndim * (axis < 0)
    return x.reshape(prod(x.shape[:axis]), -1) if axis != 1 else x.flatten(1)


def squeeze(given, x, axes=None):
    chosen = axes_of(given, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def unsqueeze(given, x, axes=None):
    chosen = axes_of(given, axes) or []
    for axis in sorted(each % (x.ndim + len(chosen)) for each in chosen):
        x = x.unsqueeze(axis)
    return x


def transpose(given, x):
    return x.permute(given.get("perm", list(reversed(range(x.ndim)))))


def split(given, x, lengths=None):
    axis = given.get("axis", 0)
    wanted = given.get("split") if lengths is None else sizes(lengths)
    if wanted is None:
        wanted = -(-x.shape[axis] // given["outputs"])
    return x.split(wanted, axis)


def slices(given, x, starts=None, ends=None, axes=None, steps=None):
    starts = given["starts"] if starts is None else sizes(starts)
    ends = given["ends"] if ends is None else sizes(ends)
    chosen = axes_of(given, axes) or list(range(len(starts)))
    for axis, start, end, step in zip(chosen, starts, ends, [1] * len(starts) if steps is None
                                      else sizes(steps), strict=True):
        rows = range(x.shape[axis])[start:end:step]
        x = x.index_select(axis, torch.tensor(rows, dtype=torch.int64))
    return x


def gather(given, x, places):
    axis = given.get("axis", 0) % x.ndim
    rows = torch.where(places < 0, places + x.shape[axis], places)
    return x.index_select(axis, rows.reshape(-1).long()).reshape(
        *x.shape[:axis], *places.shape, *x.shape[axis + 1:])


def gather_elements(given, x, places):
    axis = given.get("axis", 0)
    return x.gather(axis, torch.where(places < 0, places + x.shape[axis], places).long())


def pad(given, x, pads=None, value=None, axes=None):
    mode = given.get("mode", b"constant").decode()
    if axes is not None:
        raise Unknown("Pad of some axes")
    wanted = list(given["pads"] if pads is None else sizes(pads))
    if mode == "constant":
        return padded(x, wanted, given.get("value", 0.0) if value is None else float(value))
    inner = wanted[2:x.ndim] + wanted[x.ndim + 2:]      # torch has these of images alone
    if any(wanted[:2] + wanted[x.ndim:x.ndim + 2]) or not 3 <= x.ndim <= 5:
        raise Unknown(f"Pad of mode {mode} of samples or channels")
    return padded(x, inner, mode={"edge": "replicate", "wrap": "circular"}.get(mode, mode))


def resize(given, x, *others):
    mode, scale = given.get("mode", b"nearest"), others[-1] if others else None
    if mode != b"nearest" or scale is None or given.get("nearest_mode", b"x") not in (
            b"floor", b"x") or given.get("coordinate_transformation_mode") not in (
            b"asymmetric", None):
        raise Unknown("Resize but by whole factors, asymmetric, to the nearest below")
    is_sizes = len(others) == 3
    factors = [(b / a) for a, b in zip(x.shape, scale.tolist(), strict=True)] if is_sizes \
        else scale.tolist()
    if any(each != int(each) for each in factors):
        raise Unknown("Resize by a fraction")
    for axis, each in enumerate(factors):
        x = x.repeat_interleave(int(each), axis) if each != 1 else x
    return x


def depth_to_space(given, x):
    n, c, h, w = x.shape
    b = given["blocksize"]
    if given.get("mode", b"DCR") == b"CRD":
        return functional.pixel_shuffle(x, b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(
        n, c // b**2, h * b, w * b)


def clip(given, x, low=None, high=None):
    low = given.get("min") if low is None else low
    high = given.get("max") if high is None else high
    return x if low is None and high is None else torch.clamp(x, low, high)


def div(given, a, b):   # noqa: ARG001 - as the others
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def prelu(given, x, slope):     # noqa: ARG001 - as the others
    return torch.where(x < 0, slope * x, x)


def gelu(given, x):
    return functional.gelu(x, approximate=given.get("approximate", b"none").decode())


def dropout(given, x, ratio=None, training=None):   # noqa: ARG001 - as the others
    if training is not None and bool(training.any()):
        raise Unknown("Dropout in training mode")
    return x


def expand(given, x, shape):    # noqa: ARG001 - as the others
    return x.expand(torch.broadcast_shapes(x.shape, sizes(shape)))


def shape_of(given, x):
    return torch.tensor(x.shape)[given.get("start", 0):given.get("end", x.ndim)]


def cast(given, x):
    return x.to(DTYPES[given["to"]])


def triangle(given, x, k=None):
    return (torch.triu if given.get("upper", 1) else torch.tril)(x, 0 if k is None else int(k))


def argument(function: Callable) -> Callable:
    """ArgMax or ArgMin."""
    def call(given, x):
        if given.get("select_last_index"):
            raise Unknown("ArgMax of the last index")
        return function(x, given.get("axis", 0), bool(given.get("keepdims", 1)))
    return call


TABLE: dict[str, Callable] = {
    **{name: plain(function) for name, function in {
        "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf,
        "Exp": torch.exp, "Floor": torch.floor, "HardSwish": functional.hardswish,
        "Identity": lambda x: x, "Log": torch.log, "MatMul": torch.matmul,
        "Mish": functional.mish, "Neg": torch.neg, "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
        "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
        "Softplus": functional.softplus, "Softsign": functional.softsign, "Sqrt": torch.sqrt,
        "Tanh": torch.tanh, "Add": torch.add, "And": torch.logical_and, "Equal": torch.eq,
        "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
        "LessOrEqual": torch.le, "Mul": torch.mul, "Or": torch.logical_or, "Pow": torch.pow,
        "Sub": torch.sub, "Where": torch.where, "Tile": lambda x, n: x.repeat(sizes(n)),
        "Range": lambda a, b, step: torch.arange(a.item(), b.item(), step.item(), dtype=a.dtype),
        "Size": lambda x: torch.tensor(x.numel()),
    }.items()},
    **{name: many(function) for name, function in {
        "Sum": torch.add, "Max": torch.maximum, "Min": torch.minimum}.items()},
    **{name: reduced(function) for name, function in {
        "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax,
        "ReduceMin": torch.amin, "ReduceLogSumExp": torch.logsumexp,
        "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
        "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
        "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep)}.items()},
    "ArgMax": argument(torch.argmax), "ArgMin": argument(torch.argmin),
    "AveragePool": pool("AveragePool"), "BatchNormalization": batch_norm, "Cast": cast,
    "Clip": clip, "Concat": lambda given, *x: torch.cat(x, given["axis"]),
    "ConstantOfShape": lambda given, shape: torch.full(
        sizes(shape), given["value"].item(), dtype=given["value"].dtype) if "value" in given
        else torch.zeros(sizes(shape)),
    "Conv": conv, "ConvTranspose": conv_transpose, "DepthToSpace": depth_to_space, "Div": div,
    "Dropout": dropout,
    "Einsum": lambda given, *x: torch.einsum(given["equation"].decode(), *x),
    "Elu": lambda given, x: functional.elu(x, given.get("alpha", 1.0)),
    "Expand": expand, "Flatten": flatten, "Gather": gather, "GatherElements": gather_elements,
    "Gelu": gelu, "Gemm": gemm, "GlobalAveragePool": over_space(torch.mean),
    "GlobalMaxPool": over_space(torch.amax),
    "HardSigmoid": lambda given, x: torch.clamp(
        given.get("alpha", 0.2) * x + given.get("beta", 0.5), 0, 1),
    "InstanceNormalization": lambda given, x, scale, shift: functional.instance_norm(
        x, weight=scale, bias=shift, eps=given.get("epsilon", 1e-5)),
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda given, x: functional.leaky_relu(x, given.get("alpha", 0.01)),
    "LogSoftmax": softmax(torch.log_softmax), "MaxPool": pool("MaxPool"), "PRelu": prelu,
    "Pad": pad, "Reshape": reshape, "Resize": resize, "Selu": plain(functional.selu),
    "Shape": shape_of, "Slice": slices, "Softmax": softmax(torch.softmax), "Split": split,
    "Squeeze": squeeze, "Swish": lambda given, x: x * torch.sigmoid(given.get("alpha", 1.0) * x),
    "Transpose": transpose, "Trilu": triangle, "Unsqueeze": unsqueeze,
}
"""By operator: the function."""
