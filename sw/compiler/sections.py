"""Which consecutive layers go into one image, and which nodes share one."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.compiler import placement
from zeroskip.sw.compiler.linking import chains, is_patches
from zeroskip.sw.engines import registry
from zeroskip.sw.graph.graph import Graph, LayerNode, OperatorNode
from zeroskip.sw.graph.im2col import columns
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.quantize.calibration import Grid


@dataclass(frozen=True, eq=False)
class Section:
    """Consecutive layers for one core, the chain of layers, for whatever cores, that they are in,
    and whether the last gives its sums."""

    config: CoreConfig
    nodes: tuple[LayerNode, ...]
    chain: tuple[LayerNode, ...]
    raw: bool = False

    @property
    def reads(self) -> str:
        """The value that the first layer reads."""
        return self.nodes[0].reads[0]

    @property
    def writes(self) -> str:
        """The value that the last layer writes."""
        return self.nodes[-1].writes[0]

    @property
    def key(self) -> Hashable:
        """The same in all sections that one image computes."""
        return self.config, self.raw, *(id(node.layer) for node in self.nodes)

    @property
    def places(self) -> range:
        """Of its input and of every output among those of the chain."""
        at = self.chain.index(self.nodes[0])
        return range(at, at + len(self.nodes) + 1)

    @property
    def network(self) -> Network:
        """The layers as the core computes them."""
        layer = self.nodes[0].layer
        if not is_patches(self.config, self.nodes[0]):
            return Network(tuple(node.layer for node in self.nodes))
        return Network((Linear(layer.name, layer.matrix, layer.bias, layer.activation),))

    def samples(self, x: np.ndarray) -> np.ndarray:
        """Inputs of the first layer as the core takes them."""
        geometry = self.nodes[0].layer.geometry
        if geometry is None or not is_patches(self.config, self.nodes[0]):
            return x
        # ranges are known: one sample tells the size of a patch
        return columns(x[:1], geometry, 0)


def sections(graph: Graph, configs: Sequence[CoreConfig], batch: int | None,
             wishes: placement.Wishes | None) -> list[Section]:
    """Those of a graph, in the order in which they run; see
    :func:`zeroskip.sw.compiler.placement.place`."""
    order = {id(node): number for number, group in enumerate(graph.groups) for node in group}
    found = []
    for chain in chains(graph):
        placed = [(placement.place(node.layer, configs, batch, wishes).config, node)
                  for node in chain]
        # a product of patches is an image of its own
        found += [Section(config, tuple(node for _, node in group), chain)
                  for (config, _), group in groupby(placed, key=lambda each: (
                      each[0], id(each[1]) if is_patches(*each) else None))]
    pieces = [replace(piece, raw=registry.of(piece.config).sums
                      and _gives_sums(graph, piece.nodes[-1])) for piece in cut(found)]
    return sorted(pieces, key=lambda piece: order[id(piece.nodes[0])])


def grids(found: Sequence[Section]) -> Mapping[int, Grid]:
    """By the identity of each node, the integers that its engine takes and gives."""
    return {id(node): registry.of(section.config).grid
            for section in found for node in section.nodes}


def channels(graph: Graph, node: LayerNode) -> int:
    """The axis of a layer's channels, counted from the last."""
    return -1 if node.layer.geometry is None else 1 - len(graph.types[node.writes[0]].shape)


def cut(found: Sequence[Section]) -> list[Section]:
    """The sections, cut so that a layer that several nodes have is in one image, or in two where
    some of them give sums: it stands alone where its sections do not repeat as a whole."""
    keys: dict[tuple[CoreConfig, int], Hashable] = {}
    alone = set()
    for section in found:
        layers = [id(node.layer) for node in section.nodes]
        alone |= {each for each in layers if layers.count(each) > 1
                  or keys.setdefault((section.config, each), section.key) != section.key}
    pieces = []
    for section in found:
        for single, group in groupby(section.nodes, key=lambda node: id(node.layer) in alone):
            nodes = tuple(group)
            pieces += [replace(section, nodes=part)
                       for part in ([(node,) for node in nodes] if single else [nodes])]
    return pieces


def _gives_sums(graph: Graph, node: LayerNode) -> bool:
    """Whether a layer's sums are wanted: operators alone read it, in float."""
    name, = node.writes
    readers = graph.readers[name]
    shape = graph.types[name].shape
    return not node.layer.quantised and bool(readers) \
        and all(isinstance(each, OperatorNode) for each in readers) \
        and name not in {graph.source_of(each) for each in graph.outputs} \
        and shape[channels(graph, node):][:1] == (len(node.layer.matrix),)
