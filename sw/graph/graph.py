"""A model as every front end delivers it and the compiler takes it: named values, and nodes that
read and write them.

A graph is for one run of the model, so that every shape is known: on one sample, or on as many as
an export with a fixed batch takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, pairwise
from math import prod
from typing import Any

import numpy as np
import onnx

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Layer, Network
from zeroskip.sw.graph.reasons import table
from zeroskip.sw.graph.session import Session
from zeroskip.sw.graph.sums import INTEGERS, Sums
from zeroskip.sw.graph.types import TensorType


@dataclass(frozen=True)
class ValueType:
    """What the model says of a value.

    Attributes
    ----------
    shape : tuple of int
        With the batch.
    dtype : numpy.dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """How many there are."""
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class LayerNode:
    """A product, with its bias and activation, that an engine may compute.

    It takes what it reads as rows of ``layer.inputs`` values, in order, and writes as many rows of
    ``layer.outputs``: samples, tokens, steps of time. Several nodes that share weights have the
    same object as their layer, and each may have a name of its own: ``called``, where that is not
    the layer's.
    """

    layer: Layer
    reads: tuple[str]
    writes: tuple[str]
    called: str = ""

    @property
    def name(self) -> str:
        """Its own, or that of the layer."""
        return self.called or self.layer.name


@dataclass(frozen=True, eq=False)
class ViewNode:
    """The same values in the same order under another shape; or integers for the real values that
    they stand for, or the other way about. ``proto`` is the operator that says so."""

    proto: onnx.NodeProto
    reads: tuple[str]
    writes: tuple[str]


@dataclass(frozen=True, eq=False)
class OperatorNode:
    """An operator that the host computes.

    Attributes
    ----------
    name : str
    proto : onnx.NodeProto
    reads, writes : tuple of str
        Without constants, and without outputs that are left out.
    reason : str
        Why no engine takes it; empty where it is no product.
    """

    name: str
    proto: onnx.NodeProto
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    reason: str = ""

    @property
    def operator(self) -> str:
        """As the model calls it, with its domain where that is not ONNX itself."""
        return f"{self.proto.domain}::{self.proto.op_type}" if self.proto.domain \
            else self.proto.op_type


@dataclass(frozen=True, eq=False)
class RuleNode:
    """What the host computes on integers, by an exact rule.

    Attributes
    ----------
    operators : tuple of OperatorNode
        What it stands for, one behind the other: in float it is these.
    reads : tuple of str
        Operands in order; one may come twice.
    writes : tuple of str
    form : zeroskip.sw.compiler.integer.Form
        The rule, but for the types.
    """

    operators: tuple[OperatorNode, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    form: Any

    @property
    def name(self) -> str:
        """That of the first operator."""
        return self.operators[0].name


Node = LayerNode | ViewNode | OperatorNode | RuleNode
Group = tuple[LayerNode] | tuple[RuleNode] | tuple[OperatorNode, ...]
"""Nodes that run together."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A model.

    Attributes
    ----------
    source : str
        Its name in messages.
    nodes : tuple of Node
        Each behind those whose values it reads.
    types : dict of str to ValueType
        Of every value.
    inputs, outputs : tuple of str
    batch : int
        Samples of a run; the first dimension of inputs and outputs, where it is theirs.
    quantised : dict of str to TensorType
        Values that are integers, and what they stand for.
    constants : dict of str to onnx.TensorProto or onnx.NodeProto
        Operands of operators, or what makes one of other constants.
    opsets : tuple of onnx.OperatorSetIdProto
    """

    source: str
    nodes: tuple[Node, ...]
    types: Mapping[str, ValueType]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int = 1
    quantised: Mapping[str, TensorType] = field(default_factory=dict)
    constants: Mapping[str, onnx.TensorProto | onnx.NodeProto] = field(default_factory=dict)
    opsets: tuple[onnx.OperatorSetIdProto, ...] = ()

    @classmethod
    def of(cls, network: Network) -> "Graph":
        """The graph of a chain of layers."""
        names = ["input"]
        for layer in network.layers:
            name = layer.name
            while name in names:
                name += "'"
            names.append(name)
        dtype = np.dtype(network.input_dtype)
        types = {"input": ValueType((1, *network.input_shape), dtype)}
        quantised = {}
        for layer, name in zip(network.layers, names[1:], strict=True):
            own = layer.quantised
            types[name] = ValueType((1, layer.outputs), own.output.dtype if own
                                    else np.dtype(np.float32))
            if own:
                quantised[name] = own.output
                if dtype.kind != "f":
                    shift = 128 if dtype == np.uint8 else 0
                    quantised.setdefault("input", replace(
                        own.input, dtype=dtype, zero_point=own.input.zero_point + shift))
        types[names[-1]] = ValueType((1, *network.output_shape), types[names[-1]].dtype)
        nodes = tuple(LayerNode(layer, (a,), (b,)) for layer, a, b in
                      zip(network.layers, names, names[1:], strict=False))
        return cls("the network", nodes, types, ("input",), (names[-1],), quantised=quantised)

    @property
    def layers(self) -> tuple[LayerNode, ...]:
        """The products."""
        return tuple(node for node in self.nodes if isinstance(node, LayerNode))

    @cached_property
    def views(self) -> dict[str, ViewNode]:
        """What makes each value that is another one under another shape."""
        return {node.writes[0]: node for node in self.nodes if isinstance(node, ViewNode)}

    @cached_property
    def sources(self) -> dict[str, str]:
        """Of each value that is another one under another shape: that one."""
        found: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ViewNode):
                found[node.writes[0]] = self.source_of(node.reads[0], found)
        return found

    def source_of(self, value: str, sources: Mapping[str, str] | None = None) -> str:
        """The value itself, or the one that it is a view of."""
        return (self.sources if sources is None else sources).get(value, value)

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """Of each value that is no view: what reads it, under whatever shape."""
        found: dict[str, list[Node]] = {
            name: [] for name in self.types if self.source_of(name) == name}
        for node in self.nodes:
            if not isinstance(node, ViewNode):
                for name in {self.source_of(each) for each in node.reads}:
                    found.setdefault(name, []).append(node)
        return found

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The nodes in an order of execution: each layer and rule alone, and all operators together
        that need none of these between them."""
        stage: dict[str, tuple[int, type]] = dict.fromkeys(self.inputs, (0, OperatorNode))
        levels: list[tuple[int, bool, int, LayerNode | OperatorNode | RuleNode]] = []
        for number, node in enumerate(self.nodes):
            kind = OperatorNode if isinstance(node, OperatorNode) else LayerNode
            if isinstance(node, ViewNode):
                stage[node.writes[0]] = stage[node.reads[0]]
                continue
            level = max((own + (other is not kind) for own, other in
                         (stage[value] for value in node.reads)), default=0)
            levels.append((level, kind is OperatorNode, number, node))
            stage.update(dict.fromkeys(node.writes, (level, kind)))
        groups: list = []
        for (_, host), each in groupby(sorted(levels, key=lambda found: found[:3]),
                                       key=lambda found: found[:2]):
            nodes = [found[3] for found in each]
            groups += [tuple(nodes)] if host else [(node,) for node in nodes]
        return tuple(groups)

    def evaluate(self, inputs: Mapping[str, np.ndarray],
                 wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """Values [runs, values] of some names, by those of the inputs [runs, ...]: layers in
        float32, operators in onnxruntime."""
        values = {name: np.asarray(x).reshape(len(x), -1) for name, x in inputs.items()}
        runs = len(next(iter(values.values())))
        last = self._last_uses(wanted)
        for number, group in enumerate(self.groups):
            if isinstance(group[0], LayerNode):
                node, = group
                values[node.writes[0]] = self._layer(node, values[self.source_of(node.reads[0])])
            else:
                operators = group[0].operators if isinstance(group[0], RuleNode) else group
                model, reads, writes = self.host_model(operators)
                values.update(zip(writes, Session(model).run([values[name] for name in reads],
                                                             runs), strict=True))
            for name in [name for name in values if last.get(name, -1) <= number]:
                if name not in wanted:
                    del values[name]
        return {name: self.seen(name, values[self.source_of(name)]) for name in wanted}

    def _last_uses(self, wanted: Sequence[str]) -> dict[str, int]:
        found = {self.source_of(name): len(self.groups) for name in wanted}
        for number, group in enumerate(self.groups):
            for node in group:
                for name in node.reads:
                    source = self.source_of(name)
                    found[source] = max(found.get(source, 0), number)
        return found

    def seen(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values of what a name is a view of, as the name has them."""
        chain = [name]
        while chain[-1] in self.views:
            chain.append(self.views[chain[-1]].reads[0])
        for before, after in pairwise(reversed(chain)):
            dtype, grid = self.types[after].dtype, self._grid(after)
            if values.dtype != dtype:
                values = self.real(before, values).astype(dtype) if dtype.kind == "f" \
                    or grid is None else grid.to_integer(values)[0]
        return values

    def _grid(self, name: str) -> TensorType | None:
        """What the integers of a value stand for."""
        while name not in self.quantised and name in self.views:
            name = self.views[name].reads[0]
        return self.quantised.get(name)

    def real(self, name: str, values: np.ndarray) -> np.ndarray:
        """What values stand for, float32."""
        kind = self._grid(name)
        if kind is None or values.dtype.kind == "f":
            return values.astype(np.float32)
        return kind.to_float(values).astype(np.float32)

    def _layer(self, node: LayerNode, x: np.ndarray) -> np.ndarray:
        own = node.layer.quantised
        rows = self.real(node.reads[0], self.seen(node.reads[0], x))
        y = node.layer.forward(rows.reshape(-1, node.layer.inputs))
        if own and own.raw:     # sums are in units of the input
            y = np.rint(y / own.input.scale).astype(np.int32)
        elif own:
            y = self.quantised[node.writes[0]].to_integer(y)[0]
        return y.reshape(len(x), -1)

    def host_model(self, group: Sequence[OperatorNode], sums: Mapping[str, Sums] | None = None
                   ) -> tuple[bytes, list[str], list[str]]:
        """Operators as an ONNX model, and the names of the values that it takes and gives.

        Of the values that ``sums`` has, it takes the int32 sums.

        What makes integers real values around an operator is in the model too: onnxruntime then
        computes the three together, as it does in the whole.
        """
        protos = self._with_operands(group)
        written = {name for proto in protos for name in proto.output}
        operands = dict.fromkeys(name for proto in protos for name in proto.input if name)
        reads = [name for name in operands if name not in written and name not in self.constants]
        members = set(map(id, group))
        later = {self.source_of(name) for name in self.outputs} | {
            self.source_of(name) for node in self.nodes
            if id(node) not in members and not isinstance(node, ViewNode)
            for name in node.reads}
        writes = [name for node in group for name in node.writes if name in later]
        given = {name: each for name, each in (sums or {}).items() if name in reads}
        first = [node for name, each in given.items()
                 for node in each.nodes(name, self.types[name].dtype)]
        model = onnx.helper.make_model(
            onnx.helper.make_graph([*first, *protos], "host",
                                   [self._info(name, name in given) for name in reads],
                                   [self._info(name) for name in writes],
                                   [self.constants[name] for name in sorted(operands)
                                    if name in self.constants and name not in written]
                                   + [each.constant(name) for name, each in given.items()]),
            opset_imports=list(self.opsets),
            ir_version=onnx.helper.find_min_ir_version_for(list(self.opsets)))
        return model.SerializeToString(deterministic=True), reads, writes

    def _with_operands(self, group: Sequence[OperatorNode]) -> list[onnx.NodeProto]:
        """Operators, behind the views and the operators on constants whose outputs they read."""
        members = set(map(id, group))
        wanted: set[str] = set()
        found: list[onnx.NodeProto] = []
        for node in reversed([each for one in self.nodes for each in (
                one.operators if isinstance(one, RuleNode) else (one,))]):
            if isinstance(node, LayerNode):
                continue
            if id(node) in members or (isinstance(node, ViewNode) and node.writes[0] in wanted):
                found.append(node.proto)
                wanted.update(node.proto.input)
        for name, proto in reversed(list(self.constants.items())):
            if isinstance(proto, onnx.NodeProto) and name in wanted \
                    and not any(proto is each for each in found):
                found.append(proto)
                wanted.update(proto.input)
        return found[::-1]

    def _info(self, name: str, sums: bool = False) -> onnx.ValueInfoProto:
        found = self.types[name]
        if sums:
            return onnx.helper.make_tensor_value_info(
                name + INTEGERS, onnx.TensorProto.INT32, found.shape)
        return onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(found.dtype), found.shape)

    def network(self) -> Network:
        """The graph as a chain of layers; ``BadInput`` with a table of what stands in the way."""
        operators = [node for node in self.nodes if isinstance(node, OperatorNode)]
        if operators:
            count = "1 node" if len(operators) == 1 else f"{len(operators)} nodes"
            raise BadInput(f"{self.source} has {count} that no engine computes, and only a chain "
                           f"of layers can be changed here.\n{table(operators)}")
        return self._chain()

    def _chain(self) -> Network:
        layers = self.layers
        if not layers:
            raise BadInput(f"{self.source} holds no linear layer and no convolution; give a model "
                           "with at least one.")
        ends = [*self.inputs, *(node.writes[0] for node in layers)]
        reads = [self.source_of(node.reads[0]) for node in layers]
        if len(self.inputs) != 1 or len(self.outputs) != 1 \
                or [*reads, self.source_of(self.outputs[0])] != ends:
            raise BadInput(f"{self.source} branches, and only a chain of layers can be changed "
                           "here; give a model in which each layer reads what the one before it "
                           "writes.")
        first, last = self.types[self.inputs[0]], self.types[self.outputs[0]]
        return Network(tuple(_named(node) for node in layers), first.dtype.name,
                       first.shape[1:], last.shape[1:])


def _named(node: LayerNode) -> Layer:
    """The layer of a node, under the node's name."""
    layer: Any = node.layer
    return layer if node.name == layer.name else replace(layer, name=node.name)
