"""A clean ONNX model as a graph: products become layers, with what follows them folded in, and
everything else stays an operator for the host.

A layer takes into itself what is only behind it: constants that are added, batch normalisation,
ReLU; and in a quantised model the DequantizeLinear in front of it and the QuantizeLinear behind it,
so that it goes from integers to integers. Views between them do not matter, because a layer reads
values in the order in which they lie.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.clean import DOMAINS, array
from zeroskip.sw.frontends.constants import Constants, Reject, attributes
from zeroskip.sw.frontends.products import PRODUCTS, Known, Product, as_bias, bias_of, product
from zeroskip.sw.graph.graph import Graph, LayerNode, Node, OperatorNode, ValueType, ViewNode
from zeroskip.sw.graph.network import Quantised
from zeroskip.sw.graph.types import TensorType

VIEWS = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators whose output is their input, in the same order."""

LARGEST_BIAS = 1 << 53


def lift(model: onnx.ModelProto, source: str) -> Graph:
    """The graph of a model as :func:`zeroskip.sw.frontends.clean.load` gives it; BadInput for
    weights that are not finite."""
    return _Lift(model, source).graph()


class _Lift:
    """What is known of the model while its nodes are taken, one after another."""

    def __init__(self, model: onnx.ModelProto, source: str):
        self.source, self.opsets = source, tuple(model.opset_import)
        graph = model.graph
        self.tensors = {each.name: each for each in graph.initializer}
        self.computed: list[onnx.NodeProto] = []
        arrays, nodes = _Arrays(self.tensors, source), {}
        for node in graph.node:
            standard = node.domain in DOMAINS
            if standard and node.op_type == "Constant":
                value = helper.get_attribute_value(node.attribute[0])
                self.tensors[node.output[0]] = value if isinstance(value, onnx.TensorProto) \
                    else onnx.numpy_helper.from_array(np.asarray(value), node.output[0])
                self.tensors[node.output[0]].name = node.output[0]
            elif standard and node.op_type in ("QuantizeLinear", "DequantizeLinear") \
                    and (node.input[0] in self.tensors or node.input[0] in nodes):
                nodes[node.output[0]] = node
            else:
                self.computed.append(node)
        self.constants, self.stored = Constants(arrays, nodes), nodes
        self.types = {value.name: _type(value) for value in
                      [*graph.value_info, *graph.input, *graph.output]
                      if value.name not in self.tensors and _complete(value)}
        self.inputs = tuple(value.name for value in graph.input if value.name not in self.tensors)
        self.outputs = tuple(value.name for value in graph.output)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        self.producers = {}
        for node in self.computed:
            for name in filter(None, node.input):
                self.readers.setdefault(name, []).append(node)
            for name in filter(None, node.output):
                self.producers[name] = node
        self.names = Counter(node.name for node in self.computed)
        self.taken: set[int] = set()
        self.quantised: dict[str, TensorType] = {}

    def graph(self) -> Graph:
        """All nodes that something depends on."""
        self._check_types()
        nodes = [self._node(node) for node in self.computed if id(node) not in self.taken]
        wanted, kept = set(self.outputs), []
        for node in reversed(_in_order(nodes, self.inputs)):
            if wanted & set(node.writes):
                kept.append(node)
                wanted |= set(node.reads)
        # operands of operators that are integers times a scale stay nodes of their own
        constants = dict(self.tensors)
        found = self._stored_operands(kept)
        graph = Graph(self.source, (*found, *reversed(kept)), self.types, self.inputs,
                      self.outputs, 1, self.quantised, constants, self.opsets)
        return _with_batch(graph)

    def _check_types(self):
        for node in self.computed:
            for name in filter(None, node.output):
                if name not in self.types:
                    raise BadInput(f"{self.source}: the shape of {name!r}, which "
                                   f"{node.op_type} computes, depends on the values of the inputs; "
                                   "export the model with shapes that do not.")

    def _stored_operands(self, nodes: list[Node]) -> list[OperatorNode]:
        """The nodes that make the constants of operators out of integers."""
        wanted = [name for node in nodes if isinstance(node, OperatorNode)
                  for name in node.proto.input if name in self.stored]
        found: dict[str, OperatorNode] = {}
        while wanted:
            name = wanted.pop()
            proto = self.stored[name]
            wanted += [each for each in proto.input if each in self.stored]
            found[name] = OperatorNode(name, proto, (), (name,))
        return [found[name] for name in self.stored if name in found]

    def _node(self, node: onnx.NodeProto) -> Node:
        standard = node.domain in DOMAINS
        reads = tuple(dict.fromkeys(name for name in node.input
                                    if name and name not in self.tensors))
        writes = tuple(filter(None, node.output))
        if standard and self._keeps_values(node):
            return ViewNode((node.input[0],), (node.output[0],))
        reason = ""
        if standard and node.op_type in PRODUCTS:
            try:
                return self._layer(node)
            except Reject as refused:
                reason = str(refused)
        return OperatorNode(self._name(node), node, reads, writes, reason)

    def _keeps_values(self, node: onnx.NodeProto) -> bool:
        """Whether a node's output stands for the same real values in the same order."""
        if node.op_type in VIEWS:
            return self._is_view(node)
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return False
        before, after = node.input[0], node.output[0]
        integers = before if node.op_type == "DequantizeLinear" else after
        try:
            own = self.constants.grid(node, 1, 2, self.types[integers].dtype)
        except Reject:
            return False
        own = replace(own, shape=(self.types[integers].size,))
        found = self.quantised.setdefault(self._source(integers), own)
        if node.op_type == "DequantizeLinear":
            return found == own
        if before in self.inputs:   # which is rounded before it goes in
            return all(each.op_type == "QuantizeLinear" for each in self.readers[before]) \
                and len(self.readers[before]) == 1 and before not in self.outputs
        return self._is_dequantised(before, replace(own, shape=()))

    def _source(self, name: str) -> str:
        """What a value is a view of."""
        while name in self.producers and self.producers[name].op_type in VIEWS \
                and self._is_view(self.producers[name]):
            name = self.producers[name].input[0]
        return name

    def _is_view(self, node: onnx.NodeProto) -> bool:
        before, after = self.types.get(node.input[0]), self.types[node.output[0]]
        return before is not None and before.size == after.size and all(
            name not in self.readers for name in node.output[1:]) and not any(
            name in self.outputs for name in node.output[1:])

    def _name(self, node: onnx.NodeProto) -> str:
        # node names are optional and need not differ, output names do
        unique = node.name and self.names[node.name] == 1
        name = node.name if unique or not node.output else node.output[0]
        # protobuf gives a name that is no UTF-8 as bytes
        return name if isinstance(name, str) else name.decode(errors="replace")

    def _layer_name(self, node: onnx.NodeProto) -> str:
        """As the model calls the module that its weights belong to, where they say so."""
        weights = [name for name in node.input[1:] if name.endswith(".weight")]
        module = weights[0].removesuffix(".weight") if weights else ""
        own = module and len(self.readers.get(weights[0], [])) == 1
        return module if own else self._name(node)

    def _layer(self, node: onnx.NodeProto) -> LayerNode:
        """The layer that begins at a node; :class:`Reject` where it is none."""
        if node.input[0] in self.constants:
            raise Reject("its weights are its first operand")
        reads, grid = self._integers_before(node.input[0])
        grid = grid or self._grid_of(reads)
        known = Known(self.constants, lambda name: self.types[name].shape,
                      lambda name: self.types[name].dtype, grid)
        found = product(node, self._layer_name(node), known)
        if found.grids:
            return self._finish(found, [node], node.input[0], *found.grids)
        if grid and found.integers is None:
            raise Reject("its input is quantised, but its weights are not")
        tail = _Tail(self, node, found, known)
        tail.follow()
        if grid:
            if tail.output is None:
                raise Reject("its input and weights are quantised, but its output is not")
            return self._finish(tail.product, tail.nodes, reads, grid, tail.output)
        return self._finish(tail.product, tail.nodes, node.input[0], None, None)

    def _finish(self, found: Product, nodes: list[onnx.NodeProto], reads: str,
                before: TensorType | None, after: TensorType | None) -> LayerNode:
        layer, writes = found.layer, nodes[-1].output[0]
        if before is not None and after is not None:
            before, after = _int8(before, layer.inputs), _int8(after, layer.outputs)
            units = found.bias / (before.scale * found.integers.scale)
            if not (np.abs(units) < LARGEST_BIAS).all():
                raise Reject("its bias is too large for its scales: quantise the model again")
            layer = replace(layer, quantised=Quantised(
                weight=found.integers.weight.reshape(len(units), -1),
                weight_scale=found.integers.scale, bias=np.rint(units).astype(np.int64),
                input=before, output=after))
            for name, kind in ((reads, before), (writes, after)):
                own = self._stands_for(name, kind)
                found = self.quantised.setdefault(self._source(name), own)
                if found != own:
                    raise Reject(f"it takes {own}, but {found} reaches it")
        _check_finite(self.source, layer)
        self.taken |= {id(node) for node in nodes}
        return LayerNode(layer, (reads,), (writes,))

    def _grid_of(self, name: str) -> TensorType | None:
        """How integers are quantised, where that is known."""
        found = self.quantised.get(self._source(name))
        return found and replace(found, shape=())

    def _stands_for(self, name: str, own: TensorType) -> TensorType:
        """What the model's own integers stand for, where the engine's are int8."""
        dtype = self.types[name].dtype
        shift = 128 if dtype == np.uint8 else 0
        return TensorType((self.types[name].size,), dtype, own.scale, own.zero_point + shift)

    def _integers_before(self, name: str) -> tuple[str, TensorType | None]:
        """The integers that a value stands for, behind views and roundings that change nothing,
        and how they are quantised; the value itself where it stands for none."""
        current, grid, found = name, None, name
        while current in self.producers:
            node = self.producers[current]
            if node.op_type in VIEWS and node.domain in DOMAINS and self._is_view(node):
                current = node.input[0]
            elif node.op_type == "DequantizeLinear":
                own = self.constants.grid(node, 1, 2, self.types[node.input[0]].dtype)
                if grid not in (None, own):
                    break
                current = found = node.input[0]
                grid = own
            elif node.op_type == "QuantizeLinear" and grid is not None \
                    and self._is_dequantised(node.input[0], grid):
                current = node.input[0]
            else:
                break
        return found, grid

    def _is_dequantised(self, name: str, grid: TensorType) -> bool:
        """Whether a float value stands for integers of this kind."""
        while name in self.producers:
            node = self.producers[name]
            if node.op_type == "DequantizeLinear":
                return self.constants.grid(
                    node, 1, 2, self.types[node.input[0]].dtype) == grid
            if node.op_type not in VIEWS or not self._is_view(node):
                return False
            name = node.input[0]
        return False

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a value which is no output."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


@dataclass
class _Tail:
    """What follows a product and becomes part of its layer."""

    lift: _Lift
    node: onnx.NodeProto
    product: Product
    known: Known

    def __post_init__(self):
        self.nodes, self.output = [self.node], None
        self._views = False

    def follow(self) -> None:
        """Takes one node after another."""
        while (after := self.lift.only_reader(self.nodes[-1].output[0])) is not None:
            take = {"Add": self._add, "BatchNormalization": self._norm, "Relu": self._relu,
                    "QuantizeLinear": self._quantise}.get(after.op_type)
            if after.domain not in DOMAINS:
                return
            if take is None:
                if after.op_type not in VIEWS or not self.lift._is_view(after) \
                        or self.known.grid is None:
                    return
                self._views = True
            else:
                try:
                    if not take(after):
                        return
                except Reject:
                    return
            self.nodes.append(after)
            if self.output is not None:
                return

    def _add(self, node: onnx.NodeProto) -> bool:
        index = next((i for i in (0, 1) if node.input[i] in self.lift.constants), None)
        layer = self.product.layer
        if index is None or layer.activation != "none" or self._views:
            return False
        values = bias_of(node, index, self.known, self.product.integers)
        shape = self.lift.types[node.output[0]].shape
        if shape != self.lift.types[self.nodes[-1].output[0]].shape:
            return False
        bias = self.product.bias + as_bias(values, shape, self._channel)
        self.product = replace(self.product, bias=bias, layer=replace(
            layer, bias=bias.astype(np.float32)))
        return True

    @property
    def _channel(self) -> int:
        """The axis of a value's channels."""
        return -1 if self.node.op_type in ("Gemm", "MatMul") else 1

    def _norm(self, node: onnx.NodeProto) -> bool:
        given, layer = attributes(node), self.product.layer
        if given.get("training_mode", 0) or layer.activation != "none" or self._views \
                or self.known.grid is not None \
                or (self._channel == -1 and len(self.lift.types[node.input[0]].shape) != 2):
            return False
        scale, offset, mean, variance = (
            self.known.constants.real(node, i).astype(np.float64) for i in (1, 2, 3, 4))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # refused at the end
            factor = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
            wide = factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
            bias = (self.product.bias - mean) * factor + offset
            self.product = replace(self.product, bias=bias, integers=None, layer=replace(
                layer, weight=(layer.weight * wide).astype(np.float32),
                bias=bias.astype(np.float32)))
        return True

    def _relu(self, node: onnx.NodeProto) -> bool:      # noqa: ARG002 - as the others
        self.product = replace(self.product, layer=replace(self.product.layer, activation="relu"))
        return True

    def _quantise(self, node: onnx.NodeProto) -> bool:
        if self.known.grid is None:
            return False
        self.output = self.known.constants.grid(node, 1, 2, self.lift.types[node.output[0]].dtype)
        return True


class _Arrays(dict):
    """The values of tensors, read when they are asked for."""

    def __init__(self, tensors: dict[str, onnx.TensorProto], source: str):
        super().__init__()
        self._tensors, self._source = tensors, source

    def __contains__(self, name):
        return name in self._tensors

    def __missing__(self, name):
        self[name] = array(self._tensors[name], self._source)
        return self[name]


def _complete(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(each.HasField("dim_value") for each in kind.shape.dim)


def _type(value: onnx.ValueInfoProto) -> ValueType:
    kind = value.type.tensor_type
    return ValueType(tuple(each.dim_value for each in kind.shape.dim),
                     np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))


def _int8(own: TensorType, size: int) -> TensorType:
    """The type of an engine's integers, where the model's are uint8."""
    if own.dtype == np.uint8:
        return TensorType((size,), np.dtype(np.int8), own.scale, own.zero_point - 128)
    return TensorType((size,), own.dtype, own.scale, own.zero_point)


def _in_order(nodes: list[Node], inputs: tuple[str, ...]) -> list[Node]:
    """Each node behind those whose values it reads; a layer begins where its last node was."""
    ready, left, found = set(inputs), list(nodes), []
    written = {name for node in nodes for name in node.writes}
    while left:
        rest = []
        for node in left:
            if all(name in ready or name not in written for name in node.reads):
                found.append(node)
                ready |= set(node.writes)
            else:
                rest.append(node)
        if len(rest) == len(left):
            raise BadInput(f"the values {sorted(rest[0].writes)} depend on themselves; export the "
                           "model again.")
        left = rest
    return found


def _with_batch(graph: Graph) -> Graph:
    """The graph with its batch: samples of a fixed one go through layers one by one."""
    firsts = {graph.types[name].shape[:1] for name in graph.inputs}
    if len(firsts) != 1 or firsts == {()}:
        return graph
    (batch,), = firsts
    if batch == 1:
        return graph
    apart = not any(isinstance(node, OperatorNode) for node in graph.nodes) and not any(
        graph.types[node.reads[0]].size // node.layer.inputs % batch for node in graph.layers)
    if not apart:
        return replace(graph, batch=batch)
    ends = {name: ValueType((1, *graph.types[name].shape[1:]), graph.types[name].dtype)
            for name in (*graph.inputs, *graph.outputs)
            if graph.types[name].shape[:1] == (batch,)}
    inner = {name: ValueType((1, each.size // batch), each.dtype)
             for name, each in graph.types.items()}
    return replace(graph, types=inner | ends)


def _check_finite(source, layer):
    for tensor, values in (("weight", layer.weight), ("bias", layer.bias)):
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            raise BadInput(f"{source}: the {tensor} of layer {layer.name!r} is "
                           f"{values[tuple(wrong[0])]} at {wrong[0].tolist()}; "
                           "train the model again or repair the file.")
