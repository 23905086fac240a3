"""Two engines, every output of every layer, and the first difference by name."""

from dataclasses import dataclass

import numpy as np

from zeroskip.sim.engine import Engine, Progress, Result
from zeroskip.sw.program import Program


@dataclass(frozen=True)
class Difference:
    """The first output in which two engines disagree, in order of image, layer, row.

    ``pe`` owns the row; ``cycle`` is the clock cycle since reset in which the engine that has
    a clock sent it, 0 if none has. ``outputs`` counts all that differ.
    """

    image: int
    layer: str
    row: int
    pe: int
    cycle: int
    values: tuple[int, int]
    outputs: int

    def __str__(self) -> str:
        return (f"image {self.image}, layer {self.layer}, row {self.row} (PE {self.pe}, cycle "
                f"{self.cycle}): {self.values[0]} against {self.values[1]}; {self.outputs} "
                "outputs differ in all")


@dataclass(frozen=True)
class Verdict:
    """How many outputs were compared, the first difference if any, and both results."""

    compared: int
    difference: Difference | None
    results: tuple[Result, Result]


def verify(program: Program, inputs: np.ndarray, engines: tuple[Engine, Engine],
           progress: Progress | None = None) -> Verdict:
    """Runs ``inputs`` (int16 [batch, in]) on both engines and compares every layer's outputs."""
    traced = program.traced()
    a, b = (engine.run(traced, inputs, progress) for engine in engines)
    return Verdict(sum(layer.size for layer in a.outputs), _first(program, a, b), (a, b))


def _first(program: Program, a: Result, b: Result) -> Difference | None:
    wrong = [np.argwhere(x != y) for x, y in zip(a.outputs, b.outputs, strict=True)]
    found = [(int(image), layer, int(row)) for layer, places in enumerate(wrong)
             for image, row in places[:1]]
    if not found:
        return None
    image, layer, row = min(found)
    cycle = max(int(result.times[layer][image, row]) for result in (a, b))
    values = tuple(int(result.outputs[layer][image, row]) for result in (a, b))
    return Difference(image, program.layers[layer].name, row, row % program.config.pes, cycle,
                      values, sum(len(places) for places in wrong))
