"""Two backends, every output of every layer, and the first difference by name."""

from dataclasses import dataclass

import numpy as np

from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.base import Progress, Result
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.run import run_program


@dataclass(frozen=True)
class Difference:
    """The first output in which two backends disagree, in order of image, layer, row.

    ``row`` counts in the layer's flat outputs. ``pe`` computes it: a PE of the EIE array, a row
    of the tensor core's tile; ``unit`` says which. ``cycle`` is the clock cycle since reset in
    which the backend that has a clock sent it, 0 if none has. ``outputs`` counts all that differ.
    """

    image: int
    layer: str
    row: int
    unit: str
    pe: int
    cycle: int
    values: tuple[int, int]
    outputs: int

    def __str__(self) -> str:
        return (f"image {self.image}, layer {self.layer}, row {self.row} ({self.unit} {self.pe}, "
                f"cycle {self.cycle}): {self.values[0]} against {self.values[1]}; {self.outputs} "
                "outputs differ in all")


@dataclass(frozen=True, eq=False)
class Verdict:
    """How many outputs were compared, the first difference if any, and both backends' results,
    one per part."""

    compared: int
    difference: Difference | None
    results: tuple[list[Result], list[Result]]


def verify(program: Program, inputs: np.ndarray, backends: tuple[Backend, Backend],
           progress: Progress | None = None) -> Verdict:
    """Runs ``inputs`` (integers [batch, in]) on both backends and compares every layer's
    outputs."""
    traced = program.traced()
    a, b = (run_program(traced, backend, inputs, progress) for backend in backends)
    compared = sum(layer.size for result in a for layer in result.outputs)
    return Verdict(compared, _first(program, a, b), (a, b))


def _first(program: Program, a: list[Result], b: list[Result]) -> Difference | None:
    layers = [(part, layer) for part in program.parts for layer in part.layers]
    outputs, times = ([[array for result in results for array in getattr(result, name)]
                       for results in (a, b)] for name in ("outputs", "times"))
    wrong = [np.argwhere(x != y) for x, y in zip(*outputs, strict=True)]
    found = [(int(image), number, int(row)) for number, places in enumerate(wrong)
             for image, row in places[:1]]
    if not found:
        return None
    image, number, row = min(found)
    part, layer = layers[number]
    return Difference(
        image, layer.name, row, part.unit, part.owner(layer, row),
        max(int(each[number][image, row]) for each in times),
        tuple(int(each[number][image, row]) for each in outputs),
        sum(len(places) for places in wrong))
