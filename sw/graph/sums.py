"""Sums of a layer as an ONNX model of the host takes them: it begins by making real values of
them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

INTEGERS, FLOAT, UNITS, REAL = ":sums", ":float", ":units", ":real"
"""Behind the name of a value: its int32 sums, the same as floats, what each counts in, and their
products, where these are not the value yet."""


@dataclass(frozen=True, eq=False)
class Sums:
    """What the int32 sums of a layer stand for.

    Attributes
    ----------
    units : float32 array [channels]
        Input scale times weight scale.
    axis : int
        Of the channels, counted from the last.
    relu : bool
        Whether the layer has a ReLU, which is behind its sums.
    """

    units: np.ndarray
    axis: int
    relu: bool

    def nodes(self, name: str, dtype: np.dtype) -> list[onnx.NodeProto]:
        """What makes the value ``name`` of its sums."""
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        steps: list[tuple[str, list[str], dict[str, Any]]] = [
            ("Cast", [], {"to": onnx.TensorProto.FLOAT}), ("Mul", [name + UNITS], {})]
        steps += [("Relu", [], {})] * self.relu
        steps += [("Cast", [], {"to": kind})] * (kind != onnx.TensorProto.FLOAT)
        names = [name + INTEGERS, name + FLOAT, name + REAL, f"{name}{REAL}'"][:len(steps)]
        return [helper.make_node(operator, [x, *more], [y], **given)
                for (operator, more, given), x, y in zip(steps, names, [*names[1:], name],
                                                         strict=True)]

    def constant(self, name: str) -> onnx.TensorProto:
        """The units, as :meth:`nodes` take them."""
        shape = (len(self.units), *[1] * (-1 - self.axis))
        return numpy_helper.from_array(self.units.reshape(shape), name + UNITS)

    @classmethod
    def of(cls, model: bytes, operand: int) -> "Sums | None":
        """What a model makes of its operand of this number; None where that is no sums."""
        graph = onnx.load_model_from_string(model).graph
        name = graph.input[operand].name.removesuffix(INTEGERS)
        units = next((numpy_helper.to_array(tensor) for tensor in graph.initializer
                      if tensor.name == name + UNITS), None)
        if units is None:
            return None
        return cls(units.reshape(-1), -units.ndim,
                   any(node.input[0] == name + REAL and node.op_type == "Relu"
                       for node in graph.node if node.input))
