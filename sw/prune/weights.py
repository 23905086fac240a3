"""Weights in an ONNX file, as the layers that read them see them.

A weight is an initialiser, or what a Constant holds, as it is or behind operators that only move
or widen its values. What a layer sees is then a view of the stored values, so that what is written
into the view is written back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.constants import attributes, operand

PRODUCTS = ("Conv", "Gemm", "MatMul")
"""The operators that are layers where their second operand is a weight."""

QUANTISED = ("ConvInteger", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul")

MOVES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""What a weight may pass on its way to a layer."""

DOMAINS = ("", "ai.onnx")


class Computed(Exception):
    """A weight cannot be written back; the text says why."""


@dataclass(frozen=True, eq=False)
class Weight:
    """Where a layer's weight comes from.

    Attributes
    ----------
    name : str
        The initialiser, or the output of the Constant.
    view : callable
        From the stored array to the layer's weight, [out, ...], as a view.
    turned : bool
        Whether that is the transposed matrix.
    plain : bool
        Whether no other operator but that stands between.
    """

    name: str
    view: Callable[[np.ndarray], np.ndarray]
    turned: bool
    plain: bool


@dataclass(frozen=True, eq=False)
class Found:
    """A product in a file.

    Attributes
    ----------
    name : str
        Of the layer, as :mod:`zeroskip.sw.frontends.lift` calls it.
    node : onnx.NodeProto
    weight : Weight or None
    reason : str
        Why it cannot be changed; empty where it can.
    """

    name: str
    node: onnx.NodeProto
    weight: Weight | None
    reason: str = ""


class Stored:
    """The tensors of a model that do not change while it runs, by name."""

    def __init__(self, model: onnx.ModelProto):
        graph = model.graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in filter(None, node.input):
                self.readers.setdefault(name, []).append(node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.tensors[node.output[0]] = node.attribute[0].t
        self.outputs = {value.name for value in graph.output}

    def array(self, name: str) -> np.ndarray:
        """Its values."""
        return numpy_helper.to_array(self.tensors[name])

    def constant(self, name: str) -> bool:
        """Whether a value depends on no input."""
        if name in self.tensors:
            return True
        node = self.producers.get(name)
        return node is not None and all(map(self.constant, filter(None, node.input)))

    def weight(self, name: str) -> Weight:
        """The weight that a value is; :class:`Computed` where it cannot be written back."""
        steps: list[Callable] = []
        turned, is_plain, current = False, True, name
        while current not in self.tensors:
            node = self.producers[current]
            operator = node.op_type
            if operator not in MOVES or node.domain not in DOMAINS:
                if operator in ("DequantizeLinear", "QuantizeLinear"):
                    raise Computed("is quantised and cannot be changed; prune the float network "
                                   "before quantising it.")
                raise Computed(f"has a weight that {operator} ({node.name or current!r}) works "
                               "out, which cannot be written back; leave it out, or export the "
                               "model with the result.")
            given = attributes(node)
            if operator == "Transpose":
                order = given.get("perm")
                steps.append(lambda x, order=order: x.transpose(order))
                turned ^= order in (None, [1, 0])
                is_plain &= order in (None, [1, 0])
            elif operator not in ("Identity", "Cast"):
                steps.append(self._reshape(node, given))
                is_plain = False
            current = node.input[0]

        def view(stored):
            for step in reversed(steps):
                stored = step(stored)
            return stored
        stored = self.array(current)
        if not np.shares_memory(view(stored), stored):
            raise Computed("has a weight that is turned and reshaped, which cannot be written "
                           "back; leave it out, or export the model with the result.")
        return Weight(current, view, turned, is_plain)

    def _reshape(self, node, given) -> Callable:
        """The same values under another shape."""
        axes = given.get("axes")
        if operand(node, 1):
            if node.input[1] not in self.tensors:
                raise Computed(f"has a weight behind {node.op_type} ({node.name!r}) whose shape is "
                               "worked out; leave it out, or export the model with it.")
            axes = self.array(node.input[1]).tolist()

        def shape(x):
            if node.op_type == "Reshape":
                return [x.shape[at] if size == 0 and not given.get("allowzero") else size
                        for at, size in enumerate(axes)]
            if node.op_type == "Flatten":
                axis = given.get("axis", 1)
                return [prod(x.shape[:axis]), prod(x.shape[axis:])]
            if node.op_type == "Unsqueeze":
                return np.expand_dims(x, tuple(axes)).shape
            return np.squeeze(x, None if axes is None else tuple(axes)).shape
        return lambda x: x.reshape(shape(x))


def products(model: onnx.ModelProto, stored: Stored) -> list[Found]:
    """The products of a model whose second operand does not depend on its inputs, in order."""
    found, names, counts = [], set(), {}
    for node in model.graph.node:
        counts[node.name] = counts.get(node.name, 0) + 1
    for node in model.graph.node:
        if node.op_type in QUANTISED:
            name = node.name or node.output[0]
            found.append(Found(name, node, None, f"layer {name} is quantised and cannot be "
                               "changed; prune the float network before quantising it."))
        if node.op_type not in PRODUCTS or node.domain not in DOMAINS or len(node.input) < 2 \
                or not stored.constant(node.input[1]) or stored.constant(node.input[0]):
            continue
        name = _name(node, stored, counts)
        while name in names:
            name += "'"
        names.add(name)
        try:
            weight = _weight(node, stored)
            if weight is not None:
                found.append(Found(name, node, weight))
        except Computed as error:
            found.append(Found(name, node, None, f"layer {name} {error}"))
    return found


def _name(node, stored, counts) -> str:
    weights = [name for name in node.input[1:] if name.endswith(".weight")]
    if weights and weights[0] != ".weight" and len(stored.readers[weights[0]]) == 1:
        return weights[0].removesuffix(".weight")
    return node.name if node.name and counts[node.name] == 1 else node.output[0]


def _weight(node, stored) -> Weight | None:
    """The weight of a product, [out, ...]; None where it is none that a layer has."""
    weight, given = stored.weight(node.input[1]), attributes(node)
    array = stored.array(weight.name)
    seen = weight.view(array)
    wanted = (3, 4) if node.op_type == "Conv" else (2,)
    if seen.ndim not in wanted or 0 in seen.shape or given.get("transA"):
        return None
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return None
    stands = node.op_type == "Conv" or (node.op_type == "Gemm" and given.get("transB"))
    if not stands:
        inner = weight.view
        weight = Weight(weight.name, lambda x: inner(x).T, not weight.turned, weight.plain)
    return weight


def float32(values: np.ndarray, name: str) -> np.ndarray:
    """A copy as float32; BadInput for doubles that would be rounded, and what is not finite."""
    with np.errstate(over="ignore"):    # is refused
        single = np.array(values, np.float32, order="C")
    if not np.isfinite(single).all():
        raise BadInput(f"the tensor {name!r} is not finite; train the model again or repair the "
                       "file.")
    if values.dtype == np.float64 and (single != values).any():
        raise BadInput(f"{name!r} holds a double that float32 cannot represent; convert the model "
                       "to float32 before exporting it.")
    return single


def store(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    """Writes float32 ``values`` into a tensor, whose type stays; nothing where they are there.

    Raises BadInput where that type would round them.
    """
    before = numpy_helper.to_array(tensor)
    after = values.astype(before.dtype)
    if not np.array_equal(after.astype(np.float32), values, equal_nan=True):
        raise BadInput(f"the tensor {tensor.name!r} is {before.dtype}, which would round what was "
                       "trained or shared; convert the model to float32 first.")
    if before.shape == after.shape and before.tobytes() == after.tobytes():
        return
    new = numpy_helper.from_array(np.ascontiguousarray(after), tensor.name)
    kept = tensor.doc_string
    tensor.CopyFrom(new)
    if kept:
        tensor.doc_string = kept


def dtype_of(value: onnx.ValueInfoProto) -> np.dtype:
    """The type of an input."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
