"""Outlier channels moved out of activations into weights, before a graph is quantised.

An int8 activation has one scale; where some of its channels are far greater than the others, as
behind layer normalisation, these get few of its steps. Linear layers that read one value X share a
factor for each of its channels j,

    s_j = max|X_j|^a / max|W_j|^(1 - a),

by which their weights are multiplied, and what makes X is divided: the scale and bias of a
LayerNormalization, or the rows and biases of the layer before, as ReLU passes factors above 0 on.
The float function stays, and the names of layers that change end with ``:smooth``. Source: Xiao et
al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
ICML 2023, section 4.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper

from zeroskip.sw.graph.graph import Graph, LayerNode, Node, OperatorNode, ViewNode
from zeroskip.sw.graph.network import SMOOTHED, Linear
from zeroskip.sw.quantize.calibration import METHODS, Grid

ALPHAS = tuple(step / 10 for step in range(10))
"""Tried for each group; and no factors at all."""

ROWS = 512
"""Most rows of a value on which they are tried."""

LARGEST = 2.0**16
"""Of a factor, and of its inverse."""


@dataclass(frozen=True, eq=False)
class Group:
    """Linear layers that read one value, and what makes it.

    Attributes
    ----------
    value : str
    makers : tuple of Node
        A layer, of which nothing else reads the value; or a LayerNormalization, of which others
        may read it, and what only moves its rows.
    nodes : tuple of LayerNode
    """

    value: str
    makers: tuple[Node, ...]
    nodes: tuple[LayerNode, ...]


def smooth(graph: Graph, given: Mapping[str, np.ndarray], grid: Callable[[LayerNode], Grid | None],
           method: str = "min-max") -> Graph:
    """The graph with factors in all groups whose int8 products gain from them on samples.

    Parameters
    ----------
    given : arrays [runs, values] by the names of the inputs
    grid : function of a LayerNode
        The integers of its input; None where it takes no int8, and stays as it is.
    method : str
        How ranges are found; see :data:`zeroskip.sw.quantize.calibration.METHODS`.
    """
    found = groups(graph, lambda node: grid(node) is not None)
    values = graph.evaluate(given, [group.value for group in found])
    made = _Changes(graph)
    for group in found:
        weights = [made.layer(node).weight for node in group.nodes]
        rows = graph.real(group.value, values[group.value]).reshape(-1, weights[0].shape[1])
        factors = choose(rows, weights, grid(group.nodes[0]), method)
        if factors is not None:
            made.smooth(group, factors)
    return made.graph()


def groups(graph: Graph, takes: Callable[[LayerNode], bool]) -> list[Group]:
    """The groups of a graph, in its order, of float layers that ``takes`` says to take."""
    used = Counter(id(node.layer.weight) for node in graph.layers)

    def free(node: Node) -> bool:
        """A layer whose weights may change: no other node has them."""
        return isinstance(node, LayerNode) and isinstance(node.layer, Linear) \
            and not node.layer.quantised and used[id(node.layer.weight)] == 1 and takes(node)

    readers: dict[str, list[Node | None]] = {}
    for node in graph.nodes:
        if isinstance(node, LayerNode | OperatorNode):
            for value in {graph.source_of(name) for name in node.reads}:
                readers.setdefault(value, []).append(node)
    for name in graph.outputs:
        readers.setdefault(graph.source_of(name), []).append(None)
    makers = {name: node for node in graph.nodes for name in node.writes}
    found = []
    for value, own in readers.items():
        maker = makers.get(value)
        layer = isinstance(maker, LayerNode)
        chain = (maker,) if layer else _norm(graph, value, makers)
        if not chain:
            continue
        channels = maker.layer.outputs if layer else graph.types[value].shape[-1]
        fitting = tuple(node for node in own if free(node) and node.layer.inputs == channels)
        if fitting and (not layer or (free(maker) and len(fitting) == len(own))):
            found.append(Group(value, chain, fitting))
    return found


def choose(rows: np.ndarray, weights: Sequence[np.ndarray], grid: Grid,
           method: str) -> np.ndarray | None:
    """The factors, float32 [channels], with which the products of ``rows`` [n, channels] and each
    of ``weights`` [out, channels] lose least in int8; None where they lose least without."""
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), ROWS)).astype(int)]
    peaks = np.abs(rows).max(axis=0), np.max([np.abs(w).max(axis=0) for w in weights], axis=0)
    tried = [None, *(_factors(*peaks, alpha) for alpha in ALPHAS)]
    wanted = [some @ weight.T for weight in weights]
    errors = [_error(some, weights, wanted, grid, method, factors) for factors in tried]
    return tried[int(np.argmin(errors))]


def _factors(activations: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """From the greatest magnitudes of each channel; 1 where there is none."""
    live = (activations > 0) & (weights > 0)
    logarithm = np.zeros(len(live))
    logarithm[live] = alpha * np.log(activations[live].astype(np.float64)) \
        - (1 - alpha) * np.log(weights[live].astype(np.float64))
    return np.clip(np.exp(logarithm), 1 / LARGEST, LARGEST).astype(np.float32)


def _error(rows: np.ndarray, weights: Sequence[np.ndarray], wanted: Sequence[np.ndarray],
           grid: Grid, method: str, factors: np.ndarray | None) -> float:
    """Squared error of the products in int8, in all."""
    scale = np.float32(1) if factors is None else factors
    x = rows / scale
    span = METHODS[method](x, grid)
    if not any(span):
        return 0.0
    kind = grid(*span)
    x = kind.to_float(kind.to_integer(x)[0]).astype(np.float32)
    return sum(float(np.square(x @ _rounded(weight * scale).T - y, dtype=np.float64).sum())
               for weight, y in zip(weights, wanted, strict=True))


def _rounded(weight: np.ndarray) -> np.ndarray:
    """Weights as int8 with a scale for each row, float32."""
    unit = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    unit[unit == 0] = 1
    return np.rint(weight / unit) * unit


def _norm(graph: Graph, value: str, makers: Mapping[str, Node]) -> tuple[Node, ...]:
    """The LayerNormalization that makes a value, and what moves its rows; nothing where it is made
    in another way."""
    chain: list[Node] = []
    while value in makers and not isinstance(makers[value], LayerNode):
        node = makers[value]
        chain.insert(0, node)
        if _is_norm(graph, node):
            return tuple(chain)
        value = node.reads[0]
        before, after = (graph.types[name].shape for name in (value, node.writes[0]))
        moved = isinstance(node, ViewNode) or (node.operator == "Transpose" and _given(
            node, "perm", [0])[-1] == len(before) - 1)
        if not moved or before[-1:] != after[-1:]:
            break
    return ()


def _is_norm(graph: Graph, node: Node) -> bool:
    """Whether it is a LayerNormalization with float32 constants, over the last axis."""
    if not isinstance(node, OperatorNode) or node.operator != "LayerNormalization":
        return False
    constants = [graph.constants.get(name) for name in node.proto.input[1:] if name]
    last = len(graph.types[node.proto.input[0]].shape) - 1
    return len(node.writes) == 1 and _given(node, "axis", -1) in (-1, last) and all(
        isinstance(each, onnx.TensorProto) and len(each.dims) == 1
        and each.data_type == onnx.TensorProto.FLOAT for each in constants)


def _given(node: OperatorNode, name: str, default):
    """An attribute of an operator."""
    return next((onnx.helper.get_attribute_value(each) for each in node.proto.attribute
                 if each.name == name), default)


class _Changes:
    """What becomes of a graph."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._layers = {id(node): node.layer for node in graph.layers}
        self._reads: dict[int, str] = {}
        self._made: dict[int, list[OperatorNode | ViewNode]] = {}
        self._constants = dict(graph.constants)
        self._types = dict(graph.types)

    def layer(self, node: LayerNode) -> Linear:
        """The layer of a node as it is by now."""
        return self._layers[id(node)]

    def smooth(self, group: Group, factors: np.ndarray) -> None:
        """Moves a group's factors."""
        for node in group.nodes:
            own = self.layer(node)
            self._layers[id(node)] = replace(own, name=_marked(own.name),
                                             weight=own.weight * factors)
        first = group.makers[0]
        if isinstance(first, LayerNode):
            own = self.layer(first)
            self._layers[id(first)] = replace(
                own, name=_marked(own.name), weight=own.weight / factors[:, None],
                bias=own.bias / factors)
            return
        reads = first.reads[0]
        for node in group.makers:
            made = _own(node, reads, f"{node.writes[0]}{SMOOTHED}:{group.value}")
            reads, = made.writes
            self._types[reads] = self._types[node.writes[0]]
            self._made.setdefault(id(node), []).append(made)
            if node is first:
                self._divide(made.proto, factors)
        self._reads |= {id(node): reads for node in group.nodes}

    def _divide(self, norm: onnx.NodeProto, factors: np.ndarray) -> None:
        """Scale and bias of a LayerNormalization."""
        for at in range(1, len(norm.input)):
            if norm.input[at]:
                values = numpy_helper.to_array(self._constants[norm.input[at]]) / factors
                norm.input[at] = f"{norm.output[0]}:{at}"
                self._constants[norm.input[at]] = numpy_helper.from_array(values, norm.input[at])

    def graph(self) -> Graph:
        """With all changes, and without what nothing reads any more."""
        wanted, kept = set(self._graph.outputs), []
        for node in reversed(list(self._nodes())):
            if wanted & set(node.writes):
                kept.append(node)
                wanted |= set(node.reads)
        return replace(self._graph, nodes=tuple(reversed(kept)), types=self._types,
                       constants=self._constants)

    def _nodes(self) -> Iterator[Node]:
        for node in self._graph.nodes:
            if isinstance(node, LayerNode):
                layer, called = self._layers[id(node)], node.called
                yield replace(node, layer=layer, reads=(self._reads.get(id(node), node.reads[0]),),
                              called=called if layer is node.layer or not called
                              else _marked(called))
            else:
                yield node
            yield from self._made.get(id(node), ())


def _marked(name: str) -> str:
    return name.removesuffix(SMOOTHED) + SMOOTHED


def _own(node: OperatorNode | ViewNode, reads: str, name: str) -> OperatorNode | ViewNode:
    """A node that does the same to another value."""
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    proto.input[0], proto.output[0], proto.name = reads, name, name
    made = replace(node, proto=proto, reads=(reads,), writes=(name,))
    return replace(made, name=name) if isinstance(made, OperatorNode) else made
