"""A trained network into a program and its reference."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw import files
from zeroskip.sw.compiler import integer, placement, reference
from zeroskip.sw.compiler.linking import link
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.compiler.quantise import quantised, smoothed
from zeroskip.sw.compiler.sections import channels, sections
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image, ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import read_safetensors
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.graph.network import Network
from zeroskip.sw.graph.samples import Samples, runs
from zeroskip.sw.graph.sums import Sums
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.calibration import check_method

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
                    wishes: placement.Wishes | None = None, method: str = "min-max",
                    smooth: bool = False) -> Compiled:
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
        Without any, the :func:`zeroskip.sw.compiler.placement.smallest`.
    batch : int, optional
        Samples that go through an engine together: on a tensor core, for a good one and the
        default see :class:`zeroskip.sw.engines.tensorcore.image.TensorCoreImage`; on an EIE array
        those whose sums are kept while a layer is loaded block by block.
    wishes : mapping of str to str, optional
        Engines by the names of layers; see :data:`zeroskip.sw.compiler.placement.Wishes`.
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
    if wishes:
        placement.check_wishes(graph, wishes)
    configs = configs or tuple(placement.smallest(graph, registry.engines(), wishes))
    if smooth and given is not None:
        graph = smoothed(graph, sections(graph, configs, batch, wishes), given, method)
    graph = integer.take(graph)
    found = sections(graph, configs, batch, wishes)
    images: dict[Hashable, Image] = {}
    layers: list[ReferenceLayer] = []
    reports: list = []
    kinds: dict[str, TensorType] = {}
    sums: dict[str, Sums] = {}
    for uses, own, report in quantised(graph, found, given, method, kinds):
        first = uses[0]
        images[first.key] = registry.of(first.config).lower(own, first.config, batch)
        layers += own
        reports += report
        if first.raw:
            sums.update({use.writes: Sums(
                np.array(report[-1].units, np.float32), channels(graph, use.nodes[-1]),
                use.nodes[-1].layer.activation == "relu") for use in uses})
    program = link(graph, [(section.nodes, images[section.key]) for section in found], layers,
                   kinds, sums)
    return Compiled(program, tuple(layers), tuple(reports))


def storage(program: Program) -> dict[str, int]:
    """Bytes that the packed network occupies, by kind as each image counts them, in all, and of
    its float32 original."""
    sizes: Counter[str] = Counter()
    for image in program.images:
        sizes.update(image.storage())
    original = sizes.pop("float32")
    return {**sizes, "packed": sizes.total(), "float32": original}
