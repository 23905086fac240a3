"""A trained network into a program and its reference."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw import files
from zeroskip.sw.compiler import placement, reference
from zeroskip.sw.compiler.linking import chains, link
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image, ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import read_safetensors
from zeroskip.sw.graph.graph import Graph, LayerNode
from zeroskip.sw.graph.network import Network
from zeroskip.sw.graph.samples import Samples, runs
from zeroskip.sw.quantize import smooth as smoothing
from zeroskip.sw.quantize.calibration import (
    Grid,
    check_method,
    check_weights,
    ranges,
    samples,
)

SUFFIX = ".zsk"
"""Of a program's file."""


@dataclass(frozen=True)
class Compiled:
    """A program, its integer reference, and what quantisation did to each layer."""

    program: Program
    reference: tuple[ReferenceLayer, ...]
    report: tuple

    def save(self, path: Path) -> None:
        """Writes the program to ``path`` and the reference beside it, both or neither.

        Raises ``BadInput`` like :func:`check_name`, and for a configuration that loading refuses.
        """
        path = Path(path)
        check_name(path)
        for image in self.program.images:
            image.check_size()
        with files.beside(reference.beside(path)) as second, files.beside(path) as first:
            self.program.save(first)
            reference.save(second, self.reference)


def check_name(path: Path) -> None:
    """Raises ``BadInput`` where :meth:`Compiled.save` cannot write ``path`` by its name, or a file
    that is not the reference of the program in ``path`` lies where it would write one."""
    if path.suffix != SUFFIX:
        raise BadInput(f"{path}: a program is written as {SUFFIX}; give a name that ends in "
                       f"{SUFFIX}")
    beside = reference.beside(path)
    if beside.is_dir() or (beside.exists() and "layers" not in read_safetensors(beside)[0]):
        raise BadInput(f"{beside} would be overwritten and was not written by compile; give "
                       "another name, or move it")
    if beside.exists() and not path.exists():
        raise BadInput(f"{beside} would be overwritten and belongs to another program, as "
                       f"{path.name} is not there; give another name, or move it")


def compile_network(model: Network | Graph, calibration: Samples | None,
                    *configs: CoreConfig, batch: int | None = None,
                    method: str = "min-max", smooth: bool = False) -> Compiled:
    """Quantises and packs ``model``, each layer for the engine that suits it best.

    Parameters
    ----------
    model : Network or Graph
        For an EIE array, layers of at most 15 distinct non-zero weights keep them as their
        codebook, others are shared by k-means; for a tensor core, weights become int8, and
        zeros in a 2:4 (or 1:4) pattern are skipped. What is no layer runs on the host.
    calibration : array, or arrays by the names of the inputs, or None
        Inputs that set the scales, batch first, flat or in the model's shape; None only where
        every layer is quantised already. The ranges of all values are found in the model as a
        whole, so that the engines on both sides of a value see the same.
    configs : one of each engine at most
        Of the engines that take a layer; see :func:`zeroskip.sw.compiler.placement.place`.
    batch : int, optional
        Samples that go through an engine together, where it has images for a batch size; for a
        good one and the default see :class:`zeroskip.sw.engines.tensorcore.image.TensorCoreImage`.
    method : str
        One of :data:`zeroskip.sw.quantize.calibration.METHODS`: how the samples set the ranges.
    smooth : bool
        Whether outlier channels are moved into weights first, for layers that take int8; see
        :mod:`zeroskip.sw.quantize.smooth`.

    Raises
    ------
    BadInput
        Where the calibration has another shape, no engine takes a layer, a scale cannot be found,
        a sum could overflow, or a memory is too small.
    """
    if batch is not None and batch < 1:
        raise BadInput(f"a batch must be 1 sample or more, not {batch}")
    check_method(method)
    graph = Graph.of(model) if isinstance(model, Network) else model
    given = None
    if calibration is not None:
        given = runs(graph, "the calibration array", calibration)
    elif not all(node.layer.quantised for node in graph.layers):
        raise BadInput("the network holds layers that are not quantised; give samples to "
                       "calibrate them with")
    if given is None and (smooth or method != "min-max"):
        raise BadInput("a calibration method and smoothing need samples, and none are given; give "
                       "some to calibrate with, or leave them out")
    if not graph.layers:
        raise BadInput(f"{graph.source} holds no layer that an engine computes; give a model with "
                       "a linear layer or a convolution")
    sections = _sections(graph, configs)
    if smooth and given is not None:
        graph = _smoothed(graph, sections, given, method)
        sections = _sections(graph, configs)
    images: dict[int, Image] = {}
    layers: list[ReferenceLayer] = []
    reports: list = []
    for section, quantised, report in _quantised(graph, sections, given, method):
        images[id(section.nodes[0])] = registry.of(section.config).lower(
            quantised, section.config, batch)
        layers += quantised
        reports += report
    program = link(graph, [(section.nodes, images[id(section.nodes[0])])
                           for section in sections], layers)
    return Compiled(program, tuple(layers), tuple(reports))


@dataclass(frozen=True, eq=False)
class _Section:
    """Consecutive layers for one core, and the chain of layers, for whatever cores, that they are
    in."""

    config: CoreConfig
    nodes: tuple[LayerNode, ...]
    chain: tuple[LayerNode, ...]


def _sections(graph: Graph, configs: Sequence[CoreConfig]) -> list[_Section]:
    """In the order in which they run."""
    order = {id(node): number for number, group in enumerate(graph.groups) for node in group}
    sections = []
    for chain in chains(graph):
        placed = [(placement.place(node.layer, configs)[0], node) for node in chain]
        sections += [_Section(config, tuple(node for _, node in group), chain)
                     for config, group in groupby(placed, key=lambda each: each[0])]
    return sorted(sections, key=lambda section: order[id(section.nodes[0])])


def _smoothed(graph: Graph, sections: Sequence[_Section],
              given: Mapping[str, np.ndarray], method: str) -> Graph:
    """The graph with the outlier channels of int8 layers moved into their weights."""
    grids = {id(node): registry.of(section.config).grid
             for section in sections for node in section.nodes}

    def int8(node: LayerNode) -> Grid | None:
        own = grids[id(node)]
        return own if own(-1.0, 1.0).dtype == np.int8 else None

    for node in graph.layers:
        check_weights(Network((node.layer,)))
    return smoothing.smooth(graph, given, int8, method)


def _quantised(graph: Graph, sections: Sequence[_Section], given: Mapping[str, np.ndarray] | None,
               method: str) -> Iterator[tuple[_Section, tuple[ReferenceLayer, ...], tuple]]:
    """Each section in integers, and its report."""
    values, spans = {}, {}
    if given is not None:
        for node in graph.layers:
            check_weights(Network((node.layer,)))
        values = graph.evaluate(given, [section.nodes[0].reads[0] for section in sections])
    for section in sections:
        network, x, own = Network(tuple(node.layer for node in section.nodes)), None, None
        if given is not None:
            chain = Network(tuple(node.layer for node in section.chain))
            key, at = id(section.chain), section.chain.index(section.nodes[0])
            if key not in spans:
                first = section.chain[0].reads[0]
                rows = samples(chain, _rows(graph, first, values[first], chain.inputs))
                spans[key] = ranges(chain, rows, method, _grids(section.chain, sections))
            own = spans[key][at:at + len(section.nodes) + 1]
            reads = section.nodes[0].reads[0]
            x = samples(network, _rows(graph, reads, values[reads], network.inputs))
        yield section, *registry.of(section.config).quantise(network, x, own, section.config)


def _grids(chain: Sequence[LayerNode], sections: Sequence[_Section]) -> list[Grid]:
    """Of a chain's input and of every layer's output: those of the engines that take and give
    them."""
    grids = {id(node): registry.of(section.config).grid
             for section in sections for node in section.nodes}
    return [grids[id(node)] for node in (chain[0], *chain)]


def _rows(graph: Graph, name: str, values: np.ndarray, inputs: int) -> np.ndarray:
    """Values of a name as real inputs of a layer, float32 [rows, inputs]."""
    return graph.real(name, values).reshape(-1, inputs)


def storage(program: Program) -> dict[str, int]:
    """Bytes that the packed network occupies, by kind as each image counts them, in all, and of
    its float32 original."""
    sizes: Counter[str] = Counter()
    for image in program.images:
        sizes.update(image.storage())
    original = sizes.pop("float32")
    return {**sizes, "packed": sizes.total(), "float32": original}
