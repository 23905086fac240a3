"""Images and what lies between them become the steps of a program."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.compiler.program import Builder, Port, Program
from zeroskip.sw.compiler.rules import Patches, Permute, Sum
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image, ReferenceLayer
from zeroskip.sw.graph.graph import Graph, LayerNode, OperatorNode, RuleNode
from zeroskip.sw.graph.session import Session
from zeroskip.sw.graph.sums import Sums
from zeroskip.sw.graph.types import TensorType

Section = tuple[Sequence[LayerNode], Image]
"""Consecutive layers of one core, and their image."""


def chains(graph: Graph) -> list[tuple[LayerNode, ...]]:
    """The layers, those together of which each takes all that the one before it gives, and which
    nothing else reads."""
    read = {name: len(nodes) for name, nodes in graph.readers.items()}
    for name in graph.outputs:
        read[graph.source_of(name)] = read.get(graph.source_of(name), 0) + 1
    found: list[list[LayerNode]] = []
    ends: dict[str, list[LayerNode]] = {}
    for node in graph.layers:
        before = graph.source_of(node.reads[0])
        chain = ends.get(before, []) if read[before] == 1 else []
        last = chain[-1].layer if chain else None
        if last is None or last.outputs != node.layer.inputs \
                or (last.quantised and last.quantised.raw):
            chain = []
            found.append(chain)
        chain.append(node)
        ends[node.writes[0]] = chain
    return [tuple(chain) for chain in found]


def link(graph: Graph, sections: Sequence[Section], layers: Iterable[ReferenceLayer],
         kinds: Mapping[str, TensorType], sums: Mapping[str, Sums]) -> Program:
    """The program of a graph whose layers are in these images, bound to the reference ``layers``.

    ``kinds`` has the types of what rules give, ``sums`` what the sums of layers stand for.
    """
    images = {id(nodes[0]): (nodes, image) for nodes, image in sections}
    held = {name: name for name in graph.inputs}
    made = Builder({name: _input(graph, name, sections) for name in graph.inputs})
    for group in graph.groups:
        if isinstance(group[0], OperatorNode):
            _operators(graph, group, made, held, sums)
        elif isinstance(group[0], RuleNode):
            _rule(graph, group[0], kinds[group[0].writes[0]], made, held)
        elif id(group[0]) in images:
            nodes, image = images[id(group[0])]
            compute = _patches if is_patches(image.config, nodes[0]) else _engine
            held[nodes[-1].writes[0]] = compute(
                nodes, image, held[graph.source_of(nodes[0].reads[0])], made,
                _shape(graph, graph.types[nodes[-1].writes[0]].shape))
    for name in graph.outputs:
        buffer = held[graph.source_of(name)]
        if buffer not in graph.inputs:
            made.buffers[buffer] = replace(made.buffers[buffer],
                                           shape=_shape(graph, graph.types[name].shape))
    return made.program(
        tuple(Port(name, graph.types[name].dtype.name, name) for name in graph.inputs),
        tuple(Port(name, graph.types[name].dtype.name, held[graph.source_of(name)])
              for name in graph.outputs), layers, graph.batch)


def is_patches(config: CoreConfig, node: LayerNode) -> bool:
    """Whether an engine takes the patches of a layer in place of its inputs."""
    return registry.of(config).patches and node.layer.geometry is not None


def _engine(nodes: Sequence[LayerNode], image: Image, name: str, made: Builder,
            shape: tuple[int, ...]) -> str:
    return made.engine(image, name, [node.name for node in nodes], shape)


def _patches(nodes: Sequence[LayerNode], image: Image, name: str, made: Builder,
             shape: tuple[int, ...]) -> str:
    """A convolution as a product of its patches, whose outputs lie channel by channel again."""
    node, = nodes
    geometry: Any = node.layer.geometry
    own = made.convert(name, image.input, f"{name}:{image.engine}")
    samples = made.buffers[own].size // node.layer.inputs
    rows = made.rule(Patches(geometry, image.input.zero_point), [own],
                     replace(image.input, shape=(samples * geometry.positions, image.inputs)),
                     f"{node.name}:patches")
    given = made.engine(image, rows, [node.name])
    return made.rule(Permute((samples, geometry.positions, image.outputs), (0, 2, 1)), [given],
                     replace(image.output, shape=shape), f"{node.name}:channels")


def _rule(graph: Graph, node: RuleNode, kind: TensorType, made: Builder,
          held: dict[str, str]) -> None:
    name, = node.writes
    reads = [held[graph.source_of(each)] for each in node.reads]
    if node.form.same:
        reads = [_rescaled(each, kind, made, f"{each}:{name}") for each in reads]
    rule = node.form.rule([made.buffers[each] for each in reads], kind)
    held[name] = made.rule(rule, reads, replace(kind, shape=_shape(graph, graph.types[name].shape)),
                           name)


def _rescaled(name: str, kind: TensorType, made: Builder, called: str) -> str:
    """A buffer with the values of another as integers of a type."""
    own = made.buffers[name]
    if replace(own, shape=()) == replace(kind, shape=()):
        return name
    return made.rule(Sum.of([own], kind), [name], replace(kind, shape=own.shape), called)


def _operators(graph: Graph, group: Sequence[OperatorNode], made: Builder,
               held: dict[str, str], sums: Mapping[str, Sums]) -> None:
    model, reads, writes = graph.host_model(group, sums)
    buffers = [held[name] if name in sums else
               made.convert(held[graph.source_of(name)], _type(graph, name), f"{name}:host")
               for name in reads]
    written = {name: _type(graph, name) for name in writes}
    held.update({name: name for name in writes})
    made.operators(Session(model), buffers, written)


def _input(graph: Graph, name: str, sections: Sequence[Section]) -> TensorType:
    """The type of an input's buffer: an engine's, where only such read it, of one type."""
    shape = _shape(graph, graph.types[name].shape)
    views = {each for each in graph.types if graph.source_of(each) == name}
    host = any(views & set(node.reads) for node in graph.nodes if isinstance(node, OperatorNode))
    kinds = {replace(image.input, shape=()) for nodes, image in sections
             if nodes[0].reads[0] in views}
    if not host and len(kinds) == 1 and not views & set(graph.outputs):
        return replace(kinds.pop(), shape=shape)
    return _type(graph, name)


def _type(graph: Graph, name: str) -> TensorType:
    """The type of a value as the model has it."""
    own, kind = graph.types[name], graph.quantised.get(graph.source_of(name))
    shape = _shape(graph, own.shape)
    if kind is not None and own.dtype == kind.dtype:
        return replace(kind, shape=shape)
    return TensorType(shape, own.dtype, 1.0)


def _shape(graph: Graph, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a run, without a batch of 1."""
    if graph.batch == 1 and len(shape) > 1 and shape[0] == 1:
        return shape[1:]
    return shape or (1,)
