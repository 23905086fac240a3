"""A trained network into a program and its reference."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw import files
from zeroskip.sw.compiler import placement, reference
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image, ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import read_safetensors
from zeroskip.sw.graph.network import Network, as_int8, as_samples
from zeroskip.sw.quantize.calibration import check_weights, ranges, samples

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


def compile_network(network: Network, calibration: np.ndarray | None,
                    *configs: CoreConfig, batch: int | None = None) -> Compiled:
    """Quantises and packs ``network``, each layer for the engine that suits it best.

    Parameters
    ----------
    network : Network
        For an EIE array, layers of at most 15 distinct non-zero weights keep them as their
        codebook, others are shared by k-means; for a tensor core, weights become int8, and
        zeros in a 2:4 (or 1:4) pattern are skipped.
    calibration : array of the network's input type, or None
        Inputs that set the scales, batch first, flat or in the network's shape; None only where
        every layer is quantised already. The ranges of all tensors are found in the network as a
        whole, so that the engines on both sides of a tensor see the same.
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
    if calibration is not None:
        calibration = as_samples("the calibration array", calibration, network.input_shape)
    elif not all(layer.quantised for layer in network.layers):
        raise BadInput("the network holds layers that are not quantised; give samples to "
                       "calibrate them with")
    placed = [placement.place(layer, configs) for layer in network.layers]
    x = spans = None
    if calibration is not None:
        check_weights(network)
        x = samples(network, _real(network, calibration))
        spans = ranges(network, x)
    images: list[Image] = []
    layers: list[ReferenceLayer] = []
    reports: list = []
    start = 0
    for config, group in groupby(placed, key=lambda each: each[0]):
        end = start + len(list(group))
        section, engine = Network(network.layers[start:end]), registry.of(config)
        quantised, report = engine.quantise(section, x, spans and spans[start:end + 1], config)
        images.append(engine.lower(quantised, config, batch))
        layers += quantised
        reports += report
        if x is not None and end < len(placed):
            x = section.forward(x)[-1]
        start = end
    program = Program.chain(images, layers, network.input_dtype, network.input_shape,
                            network.output_shape)
    return Compiled(program, tuple(layers), tuple(reports))


def _real(network: Network, calibration: np.ndarray) -> np.ndarray:
    """The real values that the inputs of a network stand for."""
    if network.input_dtype == "float32":
        return calibration
    integers = as_int8("the calibration array", calibration, network.input_dtype)
    first = network.layers[0].quantised
    assert first is not None    # as a network says that takes integers
    return first.input.to_float(integers)


def storage(program: Program) -> dict[str, int]:
    """Bytes that the packed network occupies, by kind as each image counts them, in all, and of
    its float32 original."""
    sizes: Counter[str] = Counter()
    for image in program.images:
        sizes.update(image.storage())
    original = sizes.pop("float32")
    return {**sizes, "packed": sizes.total(), "float32": original}
