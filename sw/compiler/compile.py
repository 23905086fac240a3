"""A trained network into a program and its reference."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw import files
from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.compiler.reference import Layer
from zeroskip.sw.engines.eie import lower as eie
from zeroskip.sw.engines.eie import quantize as fixed_point
from zeroskip.sw.engines.eie.quantize import LayerReport
from zeroskip.sw.engines.tensorcore import lower as tensorcore
from zeroskip.sw.engines.tensorcore import quantize as int8
from zeroskip.sw.engines.tensorcore.quantize import LayerReport8
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import read_safetensors
from zeroskip.sw.frontends.load import engine
from zeroskip.sw.graph.network import Conv2d, Linear, Network, as_int8, as_samples

SUFFIX = ".zsk"
"""Of a program's file."""


@dataclass(frozen=True)
class Compiled:
    """A program, its integer reference, and what quantisation did to each layer."""

    program: Program
    reference: tuple[Layer, ...]
    report: tuple[LayerReport | LayerReport8, ...]

    def save(self, path: Path) -> None:
        """Writes the program to ``path`` and the reference beside it, both or neither.

        Raises ``BadInput`` like :func:`check_name`, and for a configuration that loading refuses.
        """
        path = Path(path)
        check_name(path)
        for part in self.program.parts:
            part.check_size()
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


Config = EIEConfig | TensorCoreConfig


def compile_network(network: Network, calibration: np.ndarray | None,
                    *configs: Config, batch: int | None = None) -> Compiled:
    """Quantises and packs ``network``, each layer for the machine that suits it.

    Parameters
    ----------
    network : Network
        For an EIE array, layers of at most 15 distinct non-zero weights keep them as their
        codebook, others are shared by k-means; for a tensor core, weights become int8, and
        zeros in a 2:4 (or 1:4) pattern are skipped.
    calibration : array of the network's input type, or None
        Inputs that set the scales, batch first, flat or in the network's shape; None only where
        every layer is quantised already.
    configs : one of each machine at most
        With one machine it takes all layers; with both see
        :func:`zeroskip.sw.frontends.load.engine`.
    batch : int, optional
        Samples that go through a tensor core together; for a good one and the default see
        :class:`zeroskip.sw.engines.tensorcore.part.TensorCorePart`.

    Raises
    ------
    BadInput
        Where the calibration has another shape, a layer cannot run on its machine, a scale cannot
        be found, a sum could overflow, or a memory is too small.
    """
    if calibration is not None:
        calibration = as_samples("the calibration array", calibration, network.input_shape)
    elif not all(layer.quantised for layer in network.layers):
        raise BadInput("the network holds layers that are not quantised; give samples to "
                       "calibrate them with")
    parts, layers, reports = [], [], []
    x = _real(network, calibration)
    for config, group in groupby(network.layers, lambda layer: _machine(layer, configs)):
        section = Network(tuple(group))
        compile_section = _eie if isinstance(config, EIEConfig) else _tensorcore
        part, quantised, report = compile_section(section, x, config, batch)
        parts.append(part)
        layers += reference.from_layers(quantised)
        reports += report
        if x is not None:
            x = section.forward(x)[-1]
    program = Program(tuple(parts), reference.digest(layers, network.input_dtype),
                      network.input_dtype, network.input_shape, network.output_shape)
    return Compiled(program, tuple(layers), tuple(reports))


def _real(network: Network, calibration: np.ndarray | None) -> np.ndarray | None:
    """The real values that the inputs of a network stand for."""
    if calibration is None or network.input_dtype == "float32":
        return calibration
    integers = as_int8("the calibration array", calibration, network.input_dtype)
    first = network.layers[0].quantised
    return (integers.astype(np.float64) - first.input_zero_point) * first.input_scale


def _machine(layer: Linear | Conv2d, configs: tuple[Config, ...]) -> Config:
    """The configuration of the machine that suits a layer best, of those that are there."""
    wanted = EIEConfig if engine(layer) == "eie" else TensorCoreConfig
    return next((config for config in configs if isinstance(config, wanted)), configs[0])


def _eie(section: Network, x: np.ndarray, config: EIEConfig, _batch: int | None):
    fixed = fixed_point.quantize(section, x, config.acc_width)
    return eie.compile_layers(fixed.layers, config), fixed.layers, fixed.report


def _tensorcore(section: Network, x: np.ndarray | None, config: TensorCoreConfig,
                batch: int | None):
    layers, report = int8.quantize(section, x)
    return tensorcore.compile_layers(layers, config, batch), layers, report


def storage(program: Program) -> dict[str, int]:
    """Bytes that the packed network occupies, by kind as each part counts them, in all, and of
    its float32 original."""
    sizes = Counter()
    for part in program.parts:
        sizes.update(part.storage())
    original = sizes.pop("float32")
    return {**sizes, "packed": sizes.total(), "float32": original}
