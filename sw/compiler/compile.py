"""A trained network into a program and its reference."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from zeroskip.sw.quantize.calibration import Range, check_weights, ranges, samples

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
                    *configs: CoreConfig, batch: int | None = None) -> Compiled:
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

    Raises
    ------
    BadInput
        Where the calibration has another shape, no engine takes a layer, a scale cannot be found,
        a sum could overflow, or a memory is too small.
    """
    if batch is not None and batch < 1:
        raise BadInput(f"a batch must be 1 sample or more, not {batch}")
    graph = Graph.of(model) if isinstance(model, Network) else model
    given = None
    if calibration is not None:
        given = runs(graph, "the calibration array", calibration)
    elif not all(node.layer.quantised for node in graph.layers):
        raise BadInput("the network holds layers that are not quantised; give samples to "
                       "calibrate them with")
    if not graph.layers:
        raise BadInput(f"{graph.source} holds no layer that an engine computes; give a model with "
                       "a linear layer or a convolution")
    sections = _sections(graph, configs)
    images: dict[Hashable, Image] = {}
    layers: list[ReferenceLayer] = []
    reports: list = []
    for section, quantised, report in _quantised(graph, sections, given):
        images[section.key] = registry.of(section.config).lower(quantised, section.config, batch)
        layers += quantised
        reports += report
    program = link(graph, [(section.nodes, images[section.key]) for section in sections], layers)
    return Compiled(program, tuple(layers), tuple(reports))


@dataclass(frozen=True, eq=False)
class _Section:
    """Consecutive layers for one core, and the chain of layers, for whatever cores, that they are
    in."""

    config: CoreConfig
    nodes: tuple[LayerNode, ...]
    chain: tuple[LayerNode, ...]

    @property
    def key(self) -> Hashable:
        """The same in all sections that one image computes."""
        return self.config, *(id(node.layer) for node in self.nodes)

    @property
    def places(self) -> range:
        """Of its input and of every output among those of the chain."""
        at = self.chain.index(self.nodes[0])
        return range(at, at + len(self.nodes) + 1)


def _sections(graph: Graph, configs: Sequence[CoreConfig]) -> list[_Section]:
    """In the order in which they run."""
    order = {id(node): number for number, group in enumerate(graph.groups) for node in group}
    sections = []
    for chain in chains(graph):
        placed = [(placement.place(node.layer, configs)[0], node) for node in chain]
        sections += [_Section(config, tuple(node for _, node in group), chain)
                     for config, group in groupby(placed, key=lambda each: each[0])]
    return sorted(_cut(sections), key=lambda section: order[id(section.nodes[0])])


def _cut(sections: Sequence[_Section]) -> list[_Section]:
    """The sections, cut so that a layer that several nodes have is in one image: it stands alone
    where its sections do not repeat as a whole."""
    keys: dict[tuple[CoreConfig, int], Hashable] = {}
    alone = set()
    for section in sections:
        layers = [id(node.layer) for node in section.nodes]
        alone |= {each for each in layers if layers.count(each) > 1
                  or keys.setdefault((section.config, each), section.key) != section.key}
    pieces = []
    for section in sections:
        for single, group in groupby(section.nodes, key=lambda node: id(node.layer) in alone):
            nodes = tuple(group)
            pieces += [replace(section, nodes=part)
                       for part in ([(node,) for node in nodes] if single else [nodes])]
    return pieces


def _quantised(graph: Graph, sections: Sequence[_Section], given: Mapping[str, np.ndarray] | None
               ) -> Iterator[tuple[_Section, tuple[ReferenceLayer, ...], tuple]]:
    """The layers of each image in integers, and their report; for all sections that it computes,
    with the first of them."""
    values: dict[str, np.ndarray] = {}
    spans: dict[Hashable, list[Range]] = {}
    uses: dict[Hashable, list[_Section]] = {}
    for section in sections:
        uses.setdefault(section.key, []).append(section)
    if given is not None:
        for node in graph.layers:
            check_weights(Network((node.layer,)))
        values = graph.evaluate(given, [section.nodes[0].reads[0] for section in sections])
        spans = _united(sections, _ranges(graph, sections, values))
    for each in uses.values():
        section, x, own = each[0], None, None
        network = Network(tuple(node.layer for node in section.nodes))
        if given is not None:
            own = spans[section.key]
            reads = [use.nodes[0].reads[0] for use in each]
            x = samples(network, np.concatenate([
                _rows(graph, name, values[name], network.inputs) for name in reads]))
        yield section, *registry.of(section.config).quantise(network, x, own, section.config)


def _ranges(graph: Graph, sections: Sequence[_Section],
            values: Mapping[str, np.ndarray]) -> dict[int, list[Range]]:
    """Of the input and of every output of each chain."""
    spans = {}
    for section in sections:
        if id(section.chain) not in spans:
            chain = Network(tuple(node.layer for node in section.chain))
            first = section.chain[0].reads[0]
            spans[id(section.chain)] = ranges(chain, samples(chain, _rows(
                graph, first, values[first], chain.inputs)))
    return spans


def _united(sections: Sequence[_Section],
            spans: Mapping[int, list[Range]]) -> dict[Hashable, list[Range]]:
    """Of the input and of every output of each image: wide enough for all its uses.

    What is beside an image of several uses in a chain takes the range that this has there, which
    loses nothing and needs no conversion.
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


def storage(program: Program) -> dict[str, int]:
    """Bytes that the packed network occupies, by kind as each image counts them, in all, and of
    its float32 original."""
    sizes: Counter[str] = Counter()
    for image in program.images:
        sizes.update(image.storage())
    original = sizes.pop("float32")
    return {**sizes, "packed": sizes.total(), "float32": original}
