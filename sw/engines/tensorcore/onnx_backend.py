"""The integer products of ONNX on a tensor core: both operands and all scales come at run time.

MatMulInteger, QLinearMatMul, ConvInteger and QLinearConv as the ONNX operator specification has
them, through :class:`onnx.backend.base.Backend`. A model whose weights are constant is compiled
instead (:mod:`zeroskip.sw.compiler`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.engines.tensorcore import golden
from zeroskip.sw.engines.tensorcore.host import multiply
from zeroskip.sw.engines.tensorcore.product import ProductImage
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.im2col import Geometry, columns, fold
from zeroskip.sw.quantize.requantise import multiplier_and_shift

UNSIGNED = 128
"""What is subtracted from uint8 values and zero points to make them int8."""


@dataclass(frozen=True)
class Product:
    """One product for the core: ``weights`` int8 [m, k], ``x`` int8 [n, k], ``bias`` int32
    [m]; multiplier and shift int32 [m] or None, and the output's zero point."""

    weights: np.ndarray
    x: np.ndarray
    bias: np.ndarray
    scale: tuple[np.ndarray, np.ndarray] | None = None
    zero_point: int = 0


Compute = Callable[[Product], np.ndarray]
"""Computes a :class:`Product`: int8 [n, m], or int32 without a scale."""


def reference(product: Product) -> np.ndarray:
    """Golden: the integer reference."""
    sums = golden.gemm(product.weights, product.x.T).T + product.bias
    if product.scale is None:
        return sums
    return golden.requantise(sums, *product.scale, product.zero_point, relu=False)[0]


def core(model, config: TensorCoreConfig) -> Compute:
    """What ``model``, a core in any simulator, computes."""
    def run(product: Product) -> np.ndarray:
        m, k = product.weights.shape
        image = ProductImage.of(config, m, k, len(product.x), scale=product.scale,
                                zero_point=product.zero_point)
        found = multiply(model, image, product.weights, product.x, product.bias).values.T
        return found if product.scale is None else found.astype(np.int8)
    return run


def backend(compute: Compute) -> type[Backend]:
    """An ONNX backend for models of one node, computing by ``compute``."""
    class TensorCoreBackend(Backend):
        @classmethod
        def prepare(cls, model: onnx.ModelProto, *_device, **_options) -> BackendRep:
            return Node(model.graph, compute)

        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device == "CPU"
    return TensorCoreBackend


class Node(BackendRep):
    """A graph of one node; raises :class:`BadInput` for any other graph or operator."""

    def __init__(self, graph: onnx.GraphProto, compute: Compute):
        operators = {"MatMulInteger": _matmul_integer, "QLinearMatMul": _qlinear_matmul,
                     "ConvInteger": _conv_integer, "QLinearConv": _qlinear_conv}
        if len(graph.node) != 1 or graph.node[0].op_type not in operators:
            raise BadInput(f"the model has the nodes {', '.join(n.op_type for n in graph.node)}; "
                           f"only one of {', '.join(operators)} runs alone")
        self._node, self._compute = graph.node[0], compute
        self._names = [value.name for value in graph.input]
        self._operator = operators[self._node.op_type]

    def run(self, inputs: Sequence[np.ndarray], **_options) -> tuple[np.ndarray]:
        """The node's one output."""
        given = dict(zip(self._names, inputs, strict=True))
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in self._node.attribute}
        operands = [given.get(name) for name in self._node.input]
        return (self._operator(self._compute, attributes, *operands),)


def _matmul_integer(compute, _attributes, a, b, a_zero=None, b_zero=None):
    return _matmul(compute, a, _zero(a_zero, a), b, _zero(b_zero, b))


def _qlinear_matmul(compute, _attributes, a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    output = _Output(a_scale, b_scale, y_scale, y_zero)
    return output.values(_matmul(compute, a, a_zero, b, b_zero, output))


def _conv_integer(compute, attributes, x, w, x_zero=None, w_zero=None):
    return _conv(compute, attributes, x, _zero(x_zero, x), w, _zero(w_zero, w))


def _qlinear_conv(compute, attributes, x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero,
                  bias=None):
    output = _Output(x_scale, w_scale, y_scale, y_zero)
    return output.values(_conv(compute, attributes, x, x_zero, w, w_zero, output, bias))


class _Output:
    """How a quantised operator's sums become its outputs."""

    def __init__(self, x_scale, weight_scale, y_scale, y_zero):
        ratio = float(_scalar(x_scale, "first operand")) / float(_scalar(y_scale, "output"))
        self._real = np.ravel(weight_scale).astype(np.float64) * ratio
        self._dtype = y_zero.dtype
        self.zero_point = (int(_scalar(y_zero, "output"))
                           - (UNSIGNED if y_zero.dtype == np.uint8 else 0))

    def scale(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = [multiplier_and_shift(float(s)) for s in np.broadcast_to(self._real, m)]
        return tuple(np.array(pairs, np.int32).T)

    def values(self, y: np.ndarray) -> np.ndarray:
        return (y.astype(np.int16) + UNSIGNED * (self._dtype == np.uint8)).astype(self._dtype)


def _matmul(compute, a, a_zero, b, b_zero, output=None):
    """``a`` [..., m, k] times ``b`` [..., k, n]; its columns are the core's weights."""
    a, a_zero = _int8(a, int(_scalar(a_zero, "first operand")))
    stacks = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    y = np.empty((*stacks, a.shape[-2], b.shape[-1]), np.int32)
    left = np.broadcast_to(a, (*stacks, *a.shape[-2:]))
    right = np.broadcast_to(b, (*stacks, *b.shape[-2:]))
    for at in np.ndindex(stacks):
        weights = right[at].T.astype(np.int16) - np.reshape(b_zero, (-1, 1))
        y[at] = compute(_product(weights, left[at], a_zero, output))
    return y


def _conv(compute, attributes, x, x_zero, w, w_zero, output=None, bias=None):
    if attributes.get("group", 1) != 1 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise BadInput("only a convolution of one group with explicit padding runs; "
                       "write the pads into the model")
    x, x_zero = _int8(x, int(_scalar(x_zero, "first operand")))
    geometry = Geometry(
        tuple(x.shape[1:]), tuple(w.shape[2:]), tuple(attributes.get("strides", (1, 1))),
        tuple(attributes.get("pads", (0, 0, 0, 0))), tuple(attributes.get("dilations", (1, 1))))
    weights = w.reshape(len(w), -1).astype(np.int16) - np.reshape(w_zero, (-1, 1))
    patches = columns(x.reshape(len(x), -1), geometry, x_zero)
    y = fold(compute(_product(weights, patches, x_zero, output, bias)), geometry)
    return y.reshape(len(x), len(w), *geometry.output_size)


def _product(weights, x, x_zero, output, bias=None) -> Product:
    """Weights int16 [m, k] without their zero point may need nine bits: then K is repeated,
    for what int8 could not hold of them."""
    parts, rest = [], weights
    while not parts or rest.any():
        parts.append(np.clip(rest, -128, 127))
        rest = rest - parts[-1]
    weights, x = np.concatenate(parts, axis=1), np.tile(x, len(parts))
    sums = -x_zero * weights.sum(axis=1, dtype=np.int64) + (0 if bias is None else bias)
    scale = output and output.scale(len(weights))
    return Product(weights.astype(np.int8), x, sums.astype(np.int32), scale,
                   output.zero_point if output else 0)


def _int8(values, zero) -> tuple[np.ndarray, int]:
    """Values and zero point with uint8 moved into int8."""
    offset = UNSIGNED if values.dtype == np.uint8 else 0
    return (values.astype(np.int16) - offset).astype(np.int8), zero - offset


def _zero(zero, operand) -> np.ndarray:
    """An optional zero point: left out, it is 0."""
    return np.zeros((), operand.dtype) if zero is None else zero


def _scalar(value, which: str):
    """A scale or zero point that the core has only once."""
    if np.size(value) != 1:
        raise BadInput(f"the {which} has {np.size(value)} scales or zero points, one a row; "
                       "quantise it with one")
    return np.ravel(value)[0]
