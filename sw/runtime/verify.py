"""Two backends, every output of every layer, and the first difference by name."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zeroskip.sw.compiler.program import EngineStep, Program
from zeroskip.sw.engines.base import Progress, Result
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.run import Run, run_program


@dataclass(frozen=True)
class Difference:
    """The first value in which two backends disagree, in order of image, buffer, row.

    ``layer`` is the buffer's name: that of a layer, or of what the host made of its outputs for an
    engine, ``fc2:eie``. ``row`` counts in its flat values. ``pe`` computes it: a PE of the EIE
    array, a row of the tensor core's tile; ``unit`` says which. ``cycle`` is the clock cycle since
    reset in which the backend that has a clock sent it, 0 if none has. ``outputs`` counts all that
    differ.
    """

    image: int
    layer: str
    row: int
    unit: str
    pe: int
    cycle: int
    values: tuple[float, float]
    outputs: int

    def __str__(self) -> str:
        return (f"image {self.image}, layer {self.layer}, row {self.row} ({self.unit} {self.pe}, "
                f"cycle {self.cycle}): {self.values[0]} against {self.values[1]}; {self.outputs} "
                "outputs differ in all")


@dataclass(frozen=True, eq=False)
class Verdict:
    """How many outputs of layers were compared, the first difference if any, and both backends'
    results, one per engine step."""

    compared: int
    difference: Difference | None
    results: tuple[list[Result], list[Result]]


def verify(program: Program, inputs: np.ndarray | Mapping[str, np.ndarray],
           backends: tuple[Backend, Backend], progress: Progress | None = None) -> Verdict:
    """Runs ``inputs`` (integers [batch, in]) on both backends and compares every buffer by its
    name: every layer's outputs, and what the host makes of them."""
    traced = program.traced()
    a, b = (run_program(traced, backend, inputs, progress) for backend in backends)
    return Verdict(sum(y.size for result in a.results for y in result.outputs),
                   _first(traced, a, b), (a.results, b.results))


def _first(program: Program, a: Run, b: Run) -> Difference | None:
    """``program`` is a traced one."""
    wrong = {name: np.argwhere(_differ(a.buffers[name], b.buffers[name]))
             for name in program.buffers}
    found = [(int(image), number, int(row)) for number, places in enumerate(wrong.values())
             for image, row in places[:1]]
    if not found:
        return None
    image, number, row = min(found)
    name = list(wrong)[number]
    unit, owner, times = "host", 0, [0]
    for step in program.steps:
        if isinstance(step, EngineStep) and name in step.writes:
            layer = step.image.layers[step.writes.index(name)]
            unit = step.image.unit
            owner = step.image.owner(layer, row % layer.output.size)
            times = [int(run.times[name][image, row]) for run in (a, b)]
    values = a.buffers[name][image, row].item(), b.buffers[name][image, row].item()
    return Difference(image, name, row, unit, owner, max(times), values,
                      sum(map(len, wrong.values())))


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where values differ; a NaN is equal to a NaN."""
    if a.dtype.kind != "f":
        return a != b
    return (a != b) & ~(np.isnan(a) & np.isnan(b))
