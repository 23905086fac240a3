"""A clean ONNX model as a graph: products become layers, with what follows them folded in, and
everything else stays an operator for the host.

A layer takes into itself what is only behind it: constants that are added, batch normalisation,
ReLU; and in a quantised model the DequantizeLinear in front of it and the QuantizeLinear behind it,
so that it goes from integers to integers. Views between them do not matter, because a layer reads
values in the order in which they lie. Layers of the same numbers are one.
"""

from dataclasses import fields, replace

import numpy as np
import onnx

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.clean import DOMAINS, Clean
from zeroskip.sw.frontends.constants import Reject
from zeroskip.sw.frontends.products import PRODUCTS, Known, Product, product
from zeroskip.sw.frontends.tail import Tail
from zeroskip.sw.frontends.values import Values
from zeroskip.sw.graph.graph import Graph, LayerNode, Node, OperatorNode, ValueType, ViewNode
from zeroskip.sw.graph.network import Layer, Quantised
from zeroskip.sw.graph.types import TensorType

LARGEST_BIAS = 1 << 53


def lift(clean: Clean, source: str) -> Graph:
    """The graph of a model; BadInput for weights that are not finite."""
    return _Lift(clean, source).graph()


class _Lift:
    """The nodes are taken one after another."""

    def __init__(self, clean: Clean, source: str):
        self.source, self.opsets = source, tuple(clean.model.opset_import)
        self.values, self.reasons = Values(clean, source), clean.reasons
        self.taken: set[int] = set()
        self.layers: list[Layer] = []

    def graph(self) -> Graph:
        """All nodes that something depends on."""
        values = self.values
        nodes = [self._node(node) for node in values.computed if id(node) not in self.taken]
        nodes += [self._constant(name) for name in values.outputs if name in values.constants]
        wanted, kept = set(values.outputs), []
        for node in reversed(nodes):
            if wanted & set(node.writes):
                kept.append(node)
                wanted |= set(node.reads)
        kept.reverse()
        return _with_batch(Graph(self.source, tuple(kept), values.types, values.inputs,
                                 values.outputs, 1, values.quantised, self._operands(kept),
                                 self.opsets))

    def _operands(self, nodes: list[Node]) -> dict[str, onnx.TensorProto | onnx.NodeProto]:
        """The constants that operators and views take."""
        known = self.values.constants
        wanted = {name for node in nodes if not isinstance(node, LayerNode)
                  for name in node.proto.input}
        made = {}
        for name, proto in reversed(known.nodes.items()):
            if wanted & set(proto.output):
                made[name] = proto
                wanted |= set(proto.input)
        found = {name: known.tensor(name) for name in sorted(wanted)}
        return {name: each for name, each in found.items() if each is not None} | dict(
            reversed(made.items()))

    def _constant(self, name: str) -> OperatorNode:
        """What gives an output that does not depend on the inputs."""
        known = self.values.constants
        proto = known.nodes.get(name) or onnx.helper.make_node(
            "Constant", [], [name], value=known.tensor(name))
        return OperatorNode(name, proto, (), (name,))

    def _node(self, node: onnx.NodeProto) -> Node:
        if self.values.is_view(node) or self.values.is_other_unit(node):
            return ViewNode(node, (node.input[0],), (node.output[0],))
        reason = self.reasons.get(node.output[0], "")
        if node.domain in DOMAINS and node.op_type in PRODUCTS:
            try:
                return self._layer(node)
            except Reject as refused:
                reason = str(refused)
        reads = tuple(dict.fromkeys(name for name in node.input
                                    if name and name not in self.values.constants))
        return OperatorNode(self._name(node), node, reads, tuple(filter(None, node.output)),
                            reason)

    def _name(self, node: onnx.NodeProto) -> str:
        name = node.name or node.output[0]
        # protobuf gives a name that is no UTF-8 as bytes
        return name if isinstance(name, str) else name.decode(errors="replace")

    def _layer_name(self, node: onnx.NodeProto) -> str:
        """As the model calls the module that its weights belong to, where they say so."""
        weights = [name for name in node.input[1:] if name.endswith(".weight")]
        module = weights[0].removesuffix(".weight") if weights else ""
        own = module and len(self.values.readers.get(weights[0], [])) == 1
        return module if own else self._name(node)

    def _layer(self, node: onnx.NodeProto) -> LayerNode:
        """The layer that begins at a node; :class:`Reject` where it is none."""
        values = self.values
        if node.input[0] in values.constants:
            raise Reject("its weights are its first operand")
        reads, grid = values.integers_before(node.input[0])
        grid = grid or values.known_grid(reads)
        known = Known(values.constants, lambda name: values.types[name].shape,
                      lambda name: values.types[name].dtype, grid)
        found = product(node, self._layer_name(node), known)
        if found.grids:
            return self._quantised(found, [node], node.input[0], *found.grids)
        if grid and found.integers is None:
            raise Reject("its input is quantised, but its weights are not")
        tail = Tail(values, [node], found, known)
        if grid is None:
            values.products.add(tail.nodes[-1].output[0])
            return self._taken(tail.product.layer, tail.nodes, node.input[0])
        if tail.output is None:
            raise Reject("its input and weights are quantised, but its output is not")
        return self._quantised(tail.product, tail.nodes, reads, grid, tail.output)

    def _quantised(self, found: Product, nodes: list[onnx.NodeProto], reads: str,
                   before: TensorType, after: TensorType) -> LayerNode:
        layer, weights = found.layer, found.integers
        given, made = _int8(before, layer.inputs), _int8(after, layer.outputs)
        units = found.bias / (before.scale * weights.scale)
        if not (np.abs(units) < LARGEST_BIAS).all():
            raise Reject("its bias is too large for its scales: quantise the model again")
        for name, own in ((reads, before), (nodes[-1].output[0], after)):
            known = self.values.stands_for(name, own)
            if known != own:
                raise Reject(f"it takes {own}, but {known} reaches it")
        return self._taken(replace(layer, quantised=Quantised(
            weight=weights.weight.reshape(len(units), -1), weight_scale=weights.scale,
            bias=np.rint(units).astype(np.int64), input=given, output=made)), nodes, reads)

    def _taken(self, layer: Layer, nodes: list[onnx.NodeProto], reads: str) -> LayerNode:
        _check_finite(self.source, layer)
        self.taken |= {id(node) for node in nodes}
        known = next((each for each in self.layers if _same(each, layer)), None)
        if known is None:
            self.layers.append(layer)
        return LayerNode(known or layer, (reads,), (nodes[-1].output[0],), layer.name)


def _same(one: Layer | Quantised, other: Layer | Quantised) -> bool:
    """Whether two layers, or their integers, differ in nothing but a name."""
    return type(one) is type(other) and all(
        _same(a, b) if isinstance(a, Quantised) else np.array_equal(a, b)
        for a, b in ((getattr(one, each.name), getattr(other, each.name))
                     for each in reversed(fields(one)) if each.name != "name"))


def _int8(own: TensorType, size: int) -> TensorType:
    """The type of an engine's integers, where the model's are uint8."""
    if own.dtype == np.uint8:
        return TensorType((size,), np.dtype(np.int8), own.scale, own.zero_point - 128)
    return TensorType((size,), own.dtype, own.scale, own.zero_point)


def _with_batch(graph: Graph) -> Graph:
    """The graph with its batch, where all inputs and outputs have one: samples of a fixed one go
    through layers one by one."""
    firsts = {graph.types[name].shape[:1] for name in (*graph.inputs, *graph.outputs)}
    if len(firsts) != 1 or firsts <= {(), (1,)}:
        return graph
    (batch,), = firsts
    apart = not any(isinstance(node, OperatorNode) for node in graph.nodes) and not any(
        graph.types[node.reads[0]].size // node.layer.inputs % batch for node in graph.layers)
    if not apart:
        return replace(graph, batch=batch)
    ends = {name: ValueType((1, *graph.types[name].shape[1:]), graph.types[name].dtype)
            for name in (*graph.inputs, *graph.outputs)}
    inner = {name: ValueType((1, each.size // batch), each.dtype)
             for name, each in graph.types.items()}
    return replace(graph, types=inner | ends)


def _check_finite(source: str, layer: Layer) -> None:
    for tensor, values in (("weight", layer.weight), ("bias", layer.bias)):
        finite = np.isfinite(values)
        if not finite.all():
            place = tuple(np.argwhere(~finite)[0])
            raise BadInput(f"{source}: the {tensor} of layer {layer.name!r} is "
                           f"{values[place]} at {[int(at) for at in place]}; "
                           "train the model again or repair the file.")
