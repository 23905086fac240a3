"""Operators of a float model that have an exact integer form stay integers between engines.

A rule is taken where all that it reads comes from layers or other rules, and a layer or a rule
reads what it gives, or it is an output of the model. A model that is quantised already keeps its
operators: it equals onnxruntime so.

The greatest of a window, permutations, and what is joined of equal types keep the type of what
they read; of everything else the calibration's range of the value sets the scale.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from zeroskip.sw.compiler.rules import (
    AXES,
    OPERANDS,
    WINDOW,
    Average,
    Join,
    Maximum,
    Permute,
    Rule,
    Sum,
    counts,
)
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.clean import DOMAINS
from zeroskip.sw.frontends.constants import attributes
from zeroskip.sw.graph.graph import Graph, LayerNode, Node, OperatorNode, RuleNode
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.calibration import Range
from zeroskip.sw.quantize.requantise import FINEST


class Form(ABC):
    """The integer form of an operator, before the types are known.

    Attributes
    ----------
    same : bool
        Whether all that it reads must be of the type that it gives.
    """

    same = False

    @abstractmethod
    def type(self, before: Sequence[TensorType], span: Range) -> TensorType:
        """The type of what it gives, whose values are within ``span``; its shape does not
        count."""

    @abstractmethod
    def rule(self, before: Sequence[TensorType], after: TensorType) -> Rule:
        """The rule between these types."""


@dataclass(frozen=True)
class Pooled(Form):
    """Windows: their greatest values, or averages where the padding that is ``counted`` is
    given."""

    geometry: Geometry
    counted: tuple[int, int, int, int] | None

    def type(self, before, span):
        """See :class:`Form`."""
        if self.counted is None:
            return before[0]
        return _spanning(before, span, 1 / int(counts(self.geometry, self.counted).min()))

    def rule(self, before, after):
        """See :class:`Form`."""
        if self.counted is None:
            return Maximum(self.geometry)
        return Average.of(self.geometry, self.counted, before[0], after)


@dataclass(frozen=True)
class Added(Form):
    """A sum, or a value alone, from ``low`` to ``high``."""

    low: float = -np.inf
    high: float = np.inf

    def type(self, before, span):
        """See :class:`Form`."""
        return _spanning(before, span, 1.0)

    def rule(self, before, after):
        """See :class:`Form`."""
        limits = np.iinfo(after.dtype)
        low, high = (None if np.isinf(end) else int(np.clip(
            round(end / after.scale) + after.zero_point, limits.min, limits.max))
            for end in (self.low, self.high))
        return Sum.of(before, after, low, high)


@dataclass(frozen=True)
class Joined(Form):
    """Values behind one another, in so many rows."""

    rows: int
    same = True

    def type(self, before, span):
        """See :class:`Form`."""
        if len({replace(kind, shape=()) for kind in before}) == 1:
            return before[0]
        return _spanning(before, span, 1.0)

    def rule(self, before, after):      # noqa: ARG002 - as the others
        """See :class:`Form`."""
        return Join(self.rows)


@dataclass(frozen=True)
class Permuted(Form):
    """Axes in another order."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def type(self, before, span):       # noqa: ARG002 - as the others
        """See :class:`Form`."""
        return before[0]

    def rule(self, before, after):      # noqa: ARG002 - as the others
        """See :class:`Form`."""
        return Permute(self.shape, self.axes)


def take(graph: Graph) -> Graph:
    """The graph with rules in place of the operators that become some."""
    if graph.quantised:
        return graph
    return replace(graph, nodes=_needed(graph, _clamped(graph, _possible(graph))))


def _possible(graph: Graph) -> list[Node]:
    """The nodes, with a rule wherever all that it reads are integers."""
    integers: set[str] = set()
    found = []
    for node in graph.nodes:
        if isinstance(node, OperatorNode) and (form := _form(graph, node)):
            reads = tuple(name for name in node.proto.input if name in node.reads)
            if all(graph.source_of(name) in integers for name in reads):
                node = RuleNode((node,), reads, node.writes, form)
        if isinstance(node, LayerNode | RuleNode):
            integers.update(node.writes)
        found.append(node)
    return found


def _clamped(graph: Graph, nodes: Sequence[Node]) -> list[Node]:
    """The nodes, with sums and what alone stands behind each and bounds it as one rule."""
    ends = {graph.source_of(name) for name in graph.outputs}
    sums: dict[str, RuleNode] = {}
    found: list[Node] = []
    for node in nodes:
        if isinstance(node, RuleNode) and isinstance(node.form, Added):
            before = sums.get(node.reads[0]) if len(node.reads) == 1 else None
            if before is not None:
                found.remove(before)
                node = RuleNode((*before.operators, *node.operators), before.reads, node.writes,
                                node.form)
            name = node.writes[0]
            if node.form == Added() and name not in ends and len(graph.readers[name]) == 1:
                sums[name] = node
        found.append(node)
    return found


def _needed(graph: Graph, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes, with operators again in place of rules whose results only operators read."""
    wanted = {graph.source_of(name) for name in graph.outputs}
    found: list[Node] = []
    for node in reversed(nodes):
        if isinstance(node, RuleNode) and node.writes[0] not in wanted:
            found += reversed(node.operators)
            continue
        if isinstance(node, LayerNode | RuleNode):
            wanted.update(graph.source_of(name) for name in node.reads)
        found.append(node)
    return tuple(reversed(found))


def _spanning(before: Sequence[TensorType], span: Range, gain: float) -> TensorType:
    """The type, int16 where one of what is read is, whose integers reach over ``span``; its scale
    is no finer than a multiplier can make of ``gain`` times the coarsest of what is read."""
    dtype = max((kind.dtype for kind in before), key=lambda each: each.itemsize)
    least = max(kind.scale for kind in before) * gain / FINEST
    (low, high), limits = span, np.iinfo(dtype)
    if dtype == np.int16:       # zero is zero in an EIE array
        return TensorType.of(1, np.int16, max(max(-low, high) / limits.max, least))
    scale = max((high - low) / (limits.max - limits.min), least)
    return TensorType.of(1, np.int8, scale, int(limits.min) + round(-low / scale))


def _form(graph: Graph, node: OperatorNode) -> Form | None:
    """The integer form of an operator, if it has one."""
    make = FORMS.get(node.proto.op_type) if node.proto.domain in DOMAINS else None
    if make is None or len(node.writes) != 1 or graph.types[node.writes[0]].dtype.kind != "f":
        return None
    if node.proto.op_type in WHOLE and set(node.proto.input) != set(node.reads):
        return None
    try:
        return make(graph, node.proto)
    except BadInput:    # a geometry that is none, or too large
        return None


def _constant(graph: Graph, node: onnx.NodeProto, index: int, name: str):
    """An operand, or attribute, that says how: None where there is none, ``BadInput`` where it is
    computed."""
    operand = node.input[index] if index < len(node.input) else ""
    if not operand:
        return attributes(node).get(name)
    tensor = graph.constants.get(operand)
    if not isinstance(tensor, onnx.TensorProto):
        raise BadInput(f"{operand} is no constant; export the model with one")
    return numpy_helper.to_array(tensor)


def _added(graph: Graph, node: onnx.NodeProto) -> Form | None:
    shapes = {graph.types[name].shape for name in (*node.input, *node.output)}
    return Added() if len(shapes) == 1 else None


def _clip(graph: Graph, node: onnx.NodeProto) -> Form | None:
    low, high = (_constant(graph, node, index, name) for index, name in ((1, "min"), (2, "max")))
    form = Added(-np.inf if low is None else float(low), np.inf if high is None else float(high))
    return form if form.low <= form.high else None


def _concat(graph: Graph, node: onnx.NodeProto) -> Form | None:
    shape = graph.types[node.output[0]].shape
    axis = attributes(node)["axis"] % len(shape)
    return Joined(prod(shape[:axis])) if len(node.input) <= OPERANDS else None


def _transpose(graph: Graph, node: onnx.NodeProto) -> Form | None:
    shape = graph.types[node.input[0]].shape
    axes = attributes(node).get("perm", range(len(shape))[::-1])
    return Permuted(shape, tuple(axes)) if 0 < len(shape) <= AXES else None


def _mean(graph: Graph, node: onnx.NodeProto) -> Form | None:
    """An average over axes that follow one another."""
    shape = graph.types[node.input[0]].shape
    axes = list(range(2, len(shape)))
    if node.op_type == "ReduceMean":
        given = _constant(graph, node, 1, "axes")
        axes = [] if given is None else sorted(int(axis) % len(shape) for axis in given)
    if not axes or axes != list(range(axes[0], axes[-1] + 1)):
        return None
    first, size, rest = (prod(shape[part]) for part in (
        slice(axes[0]), slice(axes[0], axes[-1] + 1), slice(axes[-1] + 1, None)))
    geometry = Geometry((first, size, rest), (size, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    return Pooled(geometry, (0, 0, 0, 0)) if _usual(geometry) else None


def _pool(graph: Graph, node: onnx.NodeProto) -> Form | None:
    """Windows over one or two axes; one is an image of one row."""
    given, shape = attributes(node), graph.types[node.input[0]].shape
    axes = len(shape) - 2
    if axes not in (1, 2):
        return None

    def two(values: Sequence[int], first: int = 1) -> Any:
        return (*[first] * (2 - axes), *values)

    sizes, wanted = two(shape[2:]), two(graph.types[node.output[0]].shape[2:])
    kernel = two(given["kernel_shape"])
    stride, dilation = (two(given.get(name, [1] * axes)) for name in ("strides", "dilations"))
    pads = given.get("pads", [0] * (2 * axes))
    before, after = two(pads[:axes], 0), two(pads[axes:], 0)
    needed = [(out - 1) * step + (k - 1) * d + 1 - size for out, step, k, d, size in zip(
        wanted, stride, kernel, dilation, sizes, strict=True)]
    automatic = given.get("auto_pad", b"NOTSET").decode(errors="replace")
    if automatic.startswith("SAME"):
        less, more = (tuple((max(each, 0) + up) // 2 for each in needed) for up in (0, 1))
        before, after = (less, more) if automatic == "SAME_UPPER" else (more, less)
    # a size that is rounded up ends beyond the padding
    bottom, right = (max(end, each - begin) for begin, end, each in zip(
        before, after, needed, strict=True))
    geometry = Geometry((prod(shape[:2]), *sizes), kernel, stride, (*before, bottom, right),
                        dilation)
    if geometry.output_size != wanted:
        return None
    counted = None
    if node.op_type == "AveragePool":
        counted = (*before, *after) if given.get("count_include_pad", 0) else (0, 0, 0, 0)
    return Pooled(geometry, counted) if _usual(geometry) else None


def _usual(geometry: Geometry) -> bool:
    """Whether each window has a value in the image, and not too many."""
    return prod(geometry.kernel) <= WINDOW and bool(counts(geometry, (0, 0, 0, 0)).all())


WHOLE = ("Add", "Concat")
"""Operators whose operands are all values; of a constant there are no integers."""

FORMS: dict[str, Callable[[Graph, onnx.NodeProto], Form | None]] = {
    "Add": _added, "AveragePool": _pool, "Clip": _clip, "Concat": _concat,
    "GlobalAveragePool": _mean, "MaxPool": _pool, "ReduceMean": _mean,
    "Relu": lambda _graph, _node: Added(0.0), "Transpose": _transpose}
"""By operator, its integer form, if it has one with these attributes and shapes."""
