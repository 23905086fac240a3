"""Sections in integers: the ranges of all values, and what the engines make of them."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from zeroskip.sw.compiler.sections import Section, grids
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import ReferenceLayer
from zeroskip.sw.graph.graph import Graph, LayerNode, RuleNode
from zeroskip.sw.graph.network import Network
from zeroskip.sw.graph.types import TensorType, refuse_nonfinite
from zeroskip.sw.quantize import smooth as smoothing
from zeroskip.sw.quantize.calibration import METHODS, Grid, Range, check_weights, ranges, samples

Given = Mapping[str, np.ndarray]
"""Calibration inputs, by name."""


def smoothed(graph: Graph, sections: Sequence[Section], given: Given, method: str) -> Graph:
    """The graph with the outlier channels of int8 layers moved into their weights."""
    own = grids(sections)

    def int8(node: LayerNode) -> Grid | None:
        grid = own[id(node)]
        return grid if grid(-1.0, 1.0).dtype == np.int8 else None

    for node in graph.layers:
        check_weights(Network((node.layer,)))
    return smoothing.smooth(graph, given, int8, method)


def quantised(graph: Graph, sections: Sequence[Section], given: Given | None, method: str,
              kinds: dict[str, TensorType]
              ) -> Iterator[tuple[list[Section], tuple[ReferenceLayer, ...], tuple]]:
    """The layers of each image in integers, and their report, with all sections that the image
    computes; ``kinds`` becomes the types of what sections and rules give."""
    values: dict[str, np.ndarray] = {}
    spans: dict[Hashable, list[Range]] = {}
    uses: dict[Hashable, list[Section]] = {}
    for section in sections:
        uses.setdefault(section.key, []).append(section)
    if given is not None:
        for node in graph.layers:
            check_weights(Network((node.layer,)))
        made = [node.writes[0] for node in graph.nodes if isinstance(node, RuleNode)]
        values = graph.evaluate(given, [*(section.reads for section in sections), *made])
        for name in made:
            refuse_nonfinite(f"value {name} of the calibration", values[name])
        spans = _united(sections, _ranges(graph, sections, values, method))
    starts = {id(section.nodes[0]): section for section in sections}
    for first in (group[0] for group in graph.groups):
        if isinstance(first, RuleNode):
            kinds[first.writes[0]] = _rule_type(graph, first, values[first.writes[0]], method,
                                                kinds)
        start = starts.get(id(first))
        if start is None or start.writes in kinds:
            continue
        each, network, x, own = uses[start.key], start.network, None, None
        if given is not None:
            own = spans[start.key]
            x = samples(network, start.samples(np.concatenate([
                _rows(graph, use.reads, values[use.reads], start.nodes[0].layer.inputs)
                for use in each])))
        before = kinds.get(graph.source_of(start.reads)) if len(each) == 1 else None
        layers, report = registry.of(start.config).quantise(
            network, x, own, start.config, before, start.raw)
        kinds.update({use.writes: layers[-1].output for use in each})
        yield each, layers, report


def _rule_type(graph: Graph, node: RuleNode, values: np.ndarray, method: str,
               kinds: Mapping[str, TensorType]) -> TensorType:
    """The type of what a rule gives."""
    before = [kinds[graph.source_of(each)] for each in node.reads]
    return node.form.type(before, METHODS[method](
        values, lambda low, high: node.form.type(before, (low, high))))


def _ranges(graph: Graph, sections: Sequence[Section], values: Given,
            method: str) -> dict[int, list[Range]]:
    """Of the input and of every output of each chain."""
    spans, own = {}, grids(sections)
    for chain in {id(section.chain): section.chain for section in sections}.values():
        network, first = Network(tuple(node.layer for node in chain)), chain[0].reads[0]
        spans[id(chain)] = ranges(
            network, samples(network, _rows(graph, first, values[first], network.inputs)), method,
            [own[id(node)] for node in (chain[0], *chain)])
    return spans


def _united(sections: Sequence[Section],
            spans: Mapping[int, list[Range]]) -> dict[Hashable, list[Range]]:
    """Of the input and of every output of each image: wide enough for all its uses.

    What is beside an image of several uses in a chain takes the range that this has there: on a
    tensor core no conversion is needed then, and an EIE array gives its own room on top of it.
    """
    found: dict[Hashable, list[Range]] = {}
    for section in sections:
        own = [spans[id(section.chain)][place] for place in section.places]
        found[section.key] = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(
            own, found.get(section.key, own), strict=True)]
    uses = Counter(section.key for section in sections)
    shared = {(id(section.chain), section.places[end], end): found[section.key][end]
              for section in sections if uses[section.key] > 1 for end in (0, -1)}
    for section in sections:
        for end in (0, -1) if uses[section.key] == 1 else ():
            beside = id(section.chain), section.places[end], -1 - end
            found[section.key][end] = shared.get(beside, found[section.key][end])
    return found


def _rows(graph: Graph, name: str, values: np.ndarray, inputs: int) -> np.ndarray:
    """Values of a name as real inputs of a layer, float32 [rows, inputs]."""
    return graph.real(name, values).reshape(-1, inputs)
