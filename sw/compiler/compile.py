"""A trained network into a program and its reference."""

import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sw import reference
from zeroskip.sw.compiler.eie import compile_layers
from zeroskip.sw.errors import BadInput
from zeroskip.sw.network import Network
from zeroskip.sw.program import Program
from zeroskip.sw.quantize.fixed import LayerReport, quantize
from zeroskip.sw.reference import Layer

REFERENCE = "reference.safetensors"
"""Name of the file beside the program."""


@dataclass(frozen=True)
class Compiled:
    """A program, its integer reference, and what quantisation did to each layer."""

    program: Program
    reference: tuple[Layer, ...]
    report: tuple[LayerReport, ...]

    def save(self, path: Path) -> None:
        """Writes the program to ``path`` and the reference beside it, both or neither.

        Raises ``BadInput`` where the reference of another program would be lost.
        """
        path = Path(path)
        beside = path.with_name(REFERENCE)
        others = [other.name for other in path.parent.glob("*.zsk") if other.name != path.name]
        if beside.exists() and others:
            raise BadInput(f"{beside}: it belongs to {others[0]}; give each program a folder of "
                           "its own")
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder, "program"), Path(folder, "reference")
            self.program.save(written[0])
            reference.save(written[1], self.reference)
            os.replace(written[0], path)
            os.replace(written[1], beside)


def compile_network(network: Network, calibration: np.ndarray, config: EIEConfig) -> Compiled:
    """Quantises and packs ``network``.

    Parameters
    ----------
    network : Network
        Pruned; layers of at most 15 distinct non-zero weights keep them as their codebook,
        others are shared by k-means.
    calibration : float array, batch first
        Inputs that set the scales.
    config : EIEConfig

    Raises
    ------
    BadInput
        See :func:`~zeroskip.sw.quantize.fixed.quantize` and
        :func:`~zeroskip.sw.compiler.eie.compile_layers`.
    """
    fixed = quantize(network, calibration, config.acc_width)
    layers = reference.from_layers(fixed.layers)
    part = compile_layers(fixed.layers, config)
    return Compiled(Program((part,), reference.digest(layers)), layers, fixed.report)


def storage(program: Program) -> dict[str, int]:
    """Bytes that the packed network occupies, by kind as each part counts them, in all, and of
    its float32 original."""
    sizes = Counter()
    for part in program.parts:
        sizes.update(part.storage())
    original = sizes.pop("float32")
    return {**sizes, "packed": sizes.total(), "float32": original}
