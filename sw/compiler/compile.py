"""A trained network into a program and its reference."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw import files
from zeroskip.sw.compiler import integer, placement, reference
from zeroskip.sw.compiler.linking import chains, is_patches, link
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image, ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import read_safetensors
from zeroskip.sw.graph.graph import Graph, LayerNode, OperatorNode, RuleNode
from zeroskip.sw.graph.im2col import columns
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.graph.samples import Samples, runs
from zeroskip.sw.graph.sums import Sums
from zeroskip.sw.graph.types import TensorType, refuse_nonfinite
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
    graph = integer.take(graph)
    sections = _sections(graph, configs)
    images: dict[int, Image] = {}
    layers: list[ReferenceLayer] = []
    reports: list = []
    kinds: dict[str, TensorType] = {}
    sums: dict[str, Sums] = {}
    for section, quantised, report in _quantised(graph, sections, given, kinds):
        images[id(section.nodes[0])] = registry.of(section.config).lower(
            quantised, section.config, batch)
        layers += quantised
        reports += report
        if section.raw:
            last = section.nodes[-1]
            sums[last.writes[0]] = Sums(
                np.array(report[-1].units, np.float32), _channels(graph, last),
                last.layer.activation == "relu")
    program = link(graph, [(section.nodes, images[id(section.nodes[0])])
                           for section in sections], layers, kinds, sums)
    return Compiled(program, tuple(layers), tuple(reports))


@dataclass(frozen=True, eq=False)
class _Section:
    """Consecutive layers for one core, the chain of layers, for whatever cores, that they are in,
    and whether the last gives its sums."""

    config: CoreConfig
    nodes: tuple[LayerNode, ...]
    chain: tuple[LayerNode, ...]
    raw: bool

    @property
    def network(self) -> Network:
        """The layers as the core computes them."""
        if not is_patches(self.config, self.nodes[0]):
            return Network(tuple(node.layer for node in self.nodes))
        layer = self.nodes[0].layer
        return Network((Linear(layer.name, layer.matrix, layer.bias, layer.activation),))

    def samples(self, x: np.ndarray) -> np.ndarray:
        """Inputs of the first layer as the core takes them."""
        geometry = self.nodes[0].layer.geometry
        if geometry is None or not is_patches(self.config, self.nodes[0]):
            return x
        # ranges are known: one sample tells the size of a patch
        return columns(x[:1], geometry, 0)


def _sections(graph: Graph, configs: Sequence[CoreConfig]) -> list[_Section]:
    """In the order in which they run."""
    order = {id(node): number for number, group in enumerate(graph.groups) for node in group}
    sections = []
    for chain in chains(graph):
        placed = [(placement.place(node.layer, configs)[0], node) for node in chain]
        # a product of patches is an image of its own
        for (config, _), group in groupby(placed, key=lambda each: (
                each[0], id(each[1]) if is_patches(*each) else None)):
            nodes = tuple(node for _, node in group)
            sections.append(_Section(config, nodes, chain, registry.of(config).sums
                                     and _gives_sums(graph, nodes[-1])))
    return sorted(sections, key=lambda section: order[id(section.nodes[0])])


def _gives_sums(graph: Graph, node: LayerNode) -> bool:
    """Whether a layer's sums are wanted: operators alone read it, in float."""
    name, = node.writes
    readers = graph.readers[name]
    shape = graph.types[name].shape
    return not node.layer.quantised and bool(readers) \
        and all(isinstance(each, OperatorNode) for each in readers) \
        and name not in {graph.source_of(each) for each in graph.outputs} \
        and shape[_channels(graph, node):][:1] == (len(node.layer.matrix),)


def _channels(graph: Graph, node: LayerNode) -> int:
    """The axis of a layer's channels, counted from the last."""
    return -1 if node.layer.geometry is None else 1 - len(graph.types[node.writes[0]].shape)


def _quantised(graph: Graph, sections: Sequence[_Section], given: Mapping[str, np.ndarray] | None,
               kinds: dict[str, TensorType]
               ) -> Iterator[tuple[_Section, tuple[ReferenceLayer, ...], tuple]]:
    """Each section in integers, and its report; ``kinds`` becomes the types of what sections and
    rules give."""
    values, spans = {}, {}
    if given is not None:
        for node in graph.layers:
            check_weights(Network((node.layer,)))
        values = graph.evaluate(given, [
            *(section.nodes[0].reads[0] for section in sections),
            *(node.writes[0] for node in graph.nodes if isinstance(node, RuleNode))])
    starts = {id(section.nodes[0]): section for section in sections}
    for first in (group[0] for group in graph.groups):
        section = starts.get(id(first))
        if isinstance(first, RuleNode):
            name, = first.writes
            kinds[name] = first.form.type([kinds[graph.source_of(each)] for each in first.reads],
                                          _span(name, values[name]))
        if section is None:
            continue
        network, x, own, reads = section.network, None, None, section.nodes[0].reads[0]
        if given is not None:
            chain = Network(tuple(node.layer for node in section.chain))
            key, at = id(section.chain), section.chain.index(section.nodes[0])
            if key not in spans:
                begin = section.chain[0].reads[0]
                spans[key] = ranges(chain, samples(chain, _rows(graph, begin, values[begin],
                                                                chain.inputs)))
            own = spans[key][at:at + len(section.nodes) + 1]
            x = samples(network, section.samples(_rows(graph, reads, values[reads],
                                                       section.nodes[0].layer.inputs)))
        layers, report = registry.of(section.config).quantise(
            network, x, own, section.config, kinds.get(graph.source_of(reads)), section.raw)
        kinds[section.nodes[-1].writes[0]] = layers[-1].output
        yield section, layers, report


def _span(name: str, values: np.ndarray) -> Range:
    """Least and greatest value; 0 counts. ``BadInput`` for one that is not finite."""
    refuse_nonfinite(f"value {name} of the calibration", values)
    return min(float(values.min()), 0.0), max(float(values.max()), 0.0)


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
