"""Operators of a clean ONNX model in place of others: those whose products an engine can compute
once they stand apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from zeroskip.sw.frontends.clean import DOMAINS, Clean
from zeroskip.sw.frontends.constants import Reject, attributes, operand
from zeroskip.sw.frontends.values import Values


class Rewriter:
    """What stands in place of one node.

    Attributes
    ----------
    node : onnx.NodeProto
    name : str
        Of the node, for names of others.
    given : dict
        Its attributes.
    nodes : list of onnx.NodeProto
    weights : dict of str to array
        The constants that they take.
    types : list of onnx.ValueInfoProto
        Of what they give.
    taken : list of onnx.NodeProto
        What follows the node, and is in them.
    """

    def __init__(self, node: onnx.NodeProto, values: Values):
        self.node, self.given, self._values = node, attributes(node), values
        self._prefix = next(filter(None, node.output))
        self.name = node.name or self._prefix
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.types: list[onnx.ValueInfoProto] = []
        self.taken: list[onnx.NodeProto] = []
        self._indices: dict[int, str] = {}
        self.dtype = values.types[node.input[0]].dtype
        if self.dtype.kind != "f" and self.dtype.name != "bfloat16":
            raise Reject(f"its input is {self.dtype}, not floats")

    def shape(self, name: str) -> tuple[int, ...]:
        """That of a value of the model."""
        return self._values.types[name].shape

    def operand(self, index: int) -> str | None:
        """The name of an input; None where it is left out."""
        return operand(self.node, index)

    def known(self, index: int) -> np.ndarray | None:
        """An input that is a constant; None where it is left out, or is computed."""
        name = self.operand(index)
        return self._values.constants.array(name) \
            if name is not None and name in self._values.constants else None

    def weight(self, index: int, what: str) -> np.ndarray:
        """A constant input of the type of the first; :class:`Reject` where it is computed."""
        found = self.known(index)
        if found is None:
            raise Reject(f"its {what} are computed, not constants")
        if found.dtype != self.dtype:
            raise Reject(f"its {what} are {found.dtype}, but its input is {self.dtype}")
        return found

    def add(self, operator: str, inputs: Sequence[str], shape: Sequence[int], name: str = "",
            **given) -> str:
        """The output, of a shape, of one more node."""
        made = f"{self._prefix}:{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [made], name, **given))
        self.types.append(helper.make_tensor_value_info(
            made, helper.np_dtype_to_tensor_dtype(self.dtype), shape))
        return made

    def constant(self, values: np.ndarray) -> str:
        """A constant."""
        name = f"{self._prefix}:constant{len(self.weights)}"
        self.weights[name] = values
        return name

    def product(self, x: str, weight: str, bias: str, shape: Sequence[int], name: str) -> str:
        """``x`` [rows, in] times a weight [out, in], and a bias [out], under a name."""
        return self.add("Gemm", [x, weight, bias], shape, f"{self.name}:{name}", transB=1)

    def reshaped(self, x: str, shape: Sequence[int]) -> str:
        """The same values under another shape."""
        return self.add("Reshape", [x, self.constant(np.array(shape, np.int64))], shape)

    def part(self, x: str, index: int, axis: int, shape: Sequence[int]) -> str:
        """The values at an index of an axis, which goes; ``shape`` is what is left."""
        if index not in self._indices:
            self._indices[index] = self.constant(np.array(index, np.int64))
        return self.add("Gather", [x, self._indices[index]], shape, axis=axis)

    def takes(self, operator: str) -> bool:
        """Whether the only reader of the node's first output is such an operator, which is taken
        out of the model then: what is given in place of the node is to be its output."""
        after = self._values.only_reader(self.node.output[0])
        found = after is not None and after.op_type == operator and after.domain in DOMAINS
        self.taken += [after] * found
        return found

    def gives(self, value: str, index: int) -> None:
        """Makes a value an output of the node, or of what is taken behind it."""
        name = self.taken[-1].output[0] if self.taken else self.node.output[index]
        self.nodes.append(helper.make_node("Identity", [value], [name]))


Rule = Callable[[Rewriter], None]
"""Puts operators in place of a node, or raises :class:`Reject` with the reason why none can be."""


def rewritten(clean: Clean, source: str, rules: Mapping[str, Rule]) -> Clean:
    """The model with other operators in place of those of ``rules``, which it loses; those that
    cannot be replaced stay, and the reason is kept."""
    graph = clean.model.graph
    if not any(node.op_type in rules and node.domain in DOMAINS for node in graph.node):
        return clean
    values = Values(clean, source)
    computed = {id(node) for node in values.computed}
    nodes, weights, reasons = [], dict(clean.weights), dict(clean.reasons)
    taken: set[int] = set()
    for node in list(graph.node):
        if id(node) in taken:
            continue
        if node.op_type not in rules or node.domain not in DOMAINS or id(node) not in computed:
            nodes.append(node)
            continue
        try:
            own = Rewriter(node, values)
            rules[node.op_type](own)
        except Reject as refused:
            reasons[node.output[0]] = str(refused)
            nodes.append(node)
            continue
        nodes += own.nodes
        taken |= {id(each) for each in own.taken}
        weights |= own.weights
        graph.value_info.extend(own.types)
    del graph.node[:]
    graph.node.extend(nodes)
    return replace(clean, weights=weights, reasons=reasons)
