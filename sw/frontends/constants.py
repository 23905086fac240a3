"""Constant operands of ONNX nodes: floats, and integers with their scales.

They are worked out where they are used, and not kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.reference
from onnx import helper

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.clean import Clean, array
from zeroskip.sw.graph.types import TensorType


class Reject(Exception):
    """No engine takes this node; the text says why."""


@dataclass(frozen=True, eq=False)
class Integers:
    """The int8 weights of a layer, zero point removed, and their float64 scales ``[out]``."""

    weight: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class Dequantised:
    """Constant integers, zero point removed, and their scales, along an axis if several."""

    values: np.ndarray      # int64
    scale: np.ndarray       # float64, one or one per place of the axis
    axis: int

    @property
    def real(self) -> np.ndarray:
        """The float64 values that they stand for."""
        return self.values * _along(self.scale, self.axis, self.values)

    def transposed(self, order: Sequence[int] | None) -> "Dequantised":
        """With its axes in another order; by default, the reverse."""
        order = list(order or reversed(range(self.values.ndim)))
        along = order.index(self.axis) if self.axis in order else self.axis
        return Dequantised(self.values.transpose(order), self.scale, along)

    def integers(self, name: str, out: int) -> Integers:
        """As the weights of a layer whose output channels are the axis ``out``."""
        if self.values.ndim <= out or not self.values.size:
            raise Reject(f"its weight {name!r} has shape {list(self.values.shape)}")
        least, greatest = self.values.min(), self.values.max()
        if least < -128 or greatest > 127:
            raise Reject(f"its weight {name!r} less its zero point is {least} to {greatest}, not "
                         "int8: quantise the weights symmetrically")
        if self.scale.size > 1 and self.axis != out:
            raise Reject(f"its weight {name!r} has scales along axis {self.axis}: quantise the "
                         "weights per tensor or per output channel")
        weight = np.moveaxis(self.values, out, 0).astype(np.int8)
        return Integers(np.ascontiguousarray(weight),
                        np.broadcast_to(self.scale, weight.shape[:1]).copy())


class Constants:
    """The constants of a model by name: tensors, and what operators make of tensors."""

    def __init__(self, clean: Clean, nodes: Mapping[str, onnx.NodeProto], source: str):
        self._tensors = {each.name: each for each in clean.model.graph.initializer}
        self._weights, self.nodes = clean.weights, nodes
        self._source, self._opsets = source, clean.model.opset_import

    def __contains__(self, name: str) -> bool:
        return name in self._tensors or name in self._weights or name in self.nodes

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """A constant that no operator makes; None where one does, or it is none."""
        if name in self._weights:
            return onnx.numpy_helper.from_array(self._weights[name], name)
        return self._tensors.get(name)

    def array(self, name: str) -> np.ndarray:
        """A plain constant; BadInput where the file's data do not fit its shape."""
        if name in self._weights:
            return self._weights[name]
        if name in self._tensors:
            return array(self._tensors[name], self._source)
        if name not in self.nodes:
            raise Reject(f"its input {name!r} is not a constant")
        node = self.nodes[name]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise Reject(f"its input {name!r} is quantised")
        return self._computed(node)[list(node.output).index(name)]

    def _computed(self, node: onnx.NodeProto) -> list[np.ndarray]:
        """What an operator makes of constants."""
        given = {name: self._value(name) for name in node.input if name}
        graph = onnx.helper.make_graph(
            [node], "constant", [onnx.ValueInfoProto(name=name) for name in given],
            [onnx.ValueInfoProto(name=name) for name in node.output if name])
        model = onnx.helper.make_model(graph, opset_imports=self._opsets)
        found = iter(onnx.reference.ReferenceEvaluator(model).run(None, given))
        return [next(found) if name else np.zeros(0) for name in node.output]

    def _value(self, name: str) -> np.ndarray:
        return self.dequantised(name).real if self.stored(name) else self.array(name)

    def optional(self, node: onnx.NodeProto, index: int | None) -> np.ndarray | None:
        """A plain constant operand; None where the node does not have it."""
        name = operand(node, index)
        return None if name is None else self.array(name)

    def real(self, node: onnx.NodeProto, index: int) -> np.ndarray:
        """A float operand, float32, or float64 of integers times a scale."""
        name = node.input[index]
        if name not in self:
            raise Reject("its second operand is computed, not weights"
                         if index else "its weights are its first operand")
        return self.dequantised(name).real if self.stored(name) else float32(
            self.array(name), name)

    def stored(self, name: str) -> bool:
        """Whether a constant comes from integers."""
        while name in self.nodes and self.nodes[name].op_type == "Transpose":
            name = self.nodes[name].input[0]
        return name in self.nodes and self.nodes[name].op_type in (
            "QuantizeLinear", "DequantizeLinear")

    def dequantised(self, name: str) -> Dequantised:
        """The integers behind a float constant."""
        node = self.nodes[name]
        if node.op_type == "Transpose":
            return self.dequantised(node.input[0]).transposed(attributes(node).get("perm"))
        if node.op_type != "DequantizeLinear":
            raise Reject(f"{name!r} is quantised, and nothing makes it float again")
        return self.integers(node, 0, 1, 2, axis(node))

    def integers(self, node: onnx.NodeProto, index: int, scale: int | None,
                 zero_point: int | None, along: int) -> Dequantised:
        """A constant operand that is integers; ``scale`` and ``zero_point`` are the indices of
        further operands."""
        name = node.input[index]
        if name not in self:
            raise Reject(f"its weight {name!r} is not a constant")
        rounded = name in self.nodes and self.nodes[name].op_type == "QuantizeLinear"
        stored = self._rounded(self.nodes[name]) if rounded else self.array(name)
        if stored.dtype not in (np.int8, np.uint8, np.int32):
            raise Reject(f"{name!r} is {stored.dtype}: only int8 and uint8 can run")
        scales = np.ones(1) if scale is None else self.scales(node, scale)
        zero_points = self.optional(node, zero_point)
        if zero_points is None:
            zero_points = np.zeros(1, stored.dtype)
        if zero_points.dtype != stored.dtype:
            raise Reject(f"{name!r} is {stored.dtype}, but its zero point is {zero_points.dtype}")
        zero_points = _along(zero_points.reshape(-1).astype(np.int64), along, stored)
        _along(scales, along, stored)    # checks that they fit
        return Dequantised(stored.astype(np.int64) - zero_points, scales,
                           along % max(stored.ndim, 1))

    def scales(self, node: onnx.NodeProto, index: int) -> np.ndarray:
        """Scales, float64 [n]."""
        values = self.optional(node, index)
        if values is None:
            raise Reject("it has no scale")
        scales = float32(values, node.input[index]).reshape(-1)
        if not scales.size or not (np.isfinite(scales) & (scales > 0)).all():
            raise Reject(f"its scale {node.input[index]!r} is not a number above 0")
        return scales.astype(np.float64)

    def grid(self, node: onnx.NodeProto, scale: int, zero_point: int,
             dtype: np.dtype) -> TensorType:
        """How a tensor of type ``dtype`` is quantised, for the whole of it."""
        scales, zero_points = self.scales(node, scale), self.optional(node, zero_point)
        if scales.size != 1 or (zero_points is not None and zero_points.size != 1):
            raise Reject("it has several scales: quantise activations per tensor")
        if dtype not in (np.int8, np.uint8):
            raise Reject(f"it is quantised to {dtype}: only int8 and uint8 can run")
        if zero_points is not None and zero_points.dtype != dtype:
            raise Reject(f"it is quantised to {dtype}, but its zero point is {zero_points.dtype}")
        axis(node)
        return TensorType((), np.dtype(dtype), float(scales[0]),
                          0 if zero_points is None else int(zero_points.reshape(-1)[0]))

    def _rounded(self, node: onnx.NodeProto) -> np.ndarray:
        """The integers of a QuantizeLinear of constants."""
        values = self.real(node, 0)
        if not np.isfinite(values).all():
            raise Reject(f"{node.input[0]!r} holds a value that is not finite")
        scales, zero_points = self.scales(node, 1), self.optional(node, 2)
        dtype = zero_points.dtype if zero_points is not None else helper.tensor_dtype_to_np_dtype(
            attributes(node).get("output_dtype", 0) or onnx.TensorProto.UINT8)
        if dtype not in (np.int8, np.uint8):
            raise Reject(f"it quantises to {dtype}: only int8 and uint8 can run")
        zero_points = np.zeros(1) if zero_points is None else zero_points.reshape(-1)
        along, limits = axis(node), np.iinfo(dtype)
        # the quotient is float32, as the operator defines it
        quotients = values / _along(scales.astype(np.float32), along, values)
        return np.clip(np.rint(quotients) + _along(zero_points, along, values),
                       limits.min, limits.max).astype(dtype)


def attributes(node: onnx.NodeProto) -> dict:
    """A node's attributes by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def operand(node: onnx.NodeProto, index: int | None) -> str | None:
    """The name of an input; None where it is left out."""
    given = index is not None and index < len(node.input)
    return (node.input[index] or None) if given else None


def axis(node: onnx.NodeProto) -> int:
    """The axis of the scales of QuantizeLinear and DequantizeLinear."""
    known = attributes(node)
    if known.get("block_size", 0):
        raise Reject("it has a scale per block: quantise per tensor or per output channel")
    return known.get("axis", 1)


def float32(values: np.ndarray, name: str) -> np.ndarray:
    """``values`` as float32, exactly.

    Rejects what is no float; raises BadInput at the first double that would be rounded.
    """
    if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
        raise Reject(f"{name!r} is {values.dtype}: its weights are no floats")
    with np.errstate(over="ignore"):    # is refused
        single = values.astype(np.float32, copy=False)
    if single is values:
        return values
    rounded = np.argwhere((single != values) & ~np.isnan(values))
    if len(rounded):
        raise BadInput(f"{name!r} holds a double at {rounded[0].tolist()} that float32 cannot "
                       "represent; convert the model to float32 before exporting it.")
    return single


def _along(vector: np.ndarray, axis: int, values: np.ndarray) -> np.ndarray:
    """A vector ``[1]`` or ``[size of the axis]`` in a shape that broadcasts along the axis."""
    if vector.size == 1:
        return vector.reshape([1] * values.ndim)
    if not -values.ndim <= axis < values.ndim or vector.size != values.shape[axis]:
        raise Reject(f"its {vector.size} scales or zero points do not fit axis {axis} of a tensor "
                     f"of shape {list(values.shape)}")
    shape = [1] * values.ndim
    shape[axis] = -1
    return vector.reshape(shape)
