"""A whole program on a backend: its steps one after another."""

from dataclasses import dataclass, field, replace

import numpy as np

from zeroskip.sw.compiler.program import INPUT, EngineStep, Program
from zeroskip.sw.engines.base import Progress, Result
from zeroskip.sw.runtime.backend import Backend


@dataclass(frozen=True, eq=False)
class Run:
    """What a batch gave.

    Attributes
    ----------
    buffers : dict of str to integer array [batch, values]
        Every buffer of the program, flat.
    times : dict of str to int64 [batch, values]
        Of those that an engine wrote: the cycle since reset in which each value left its core.
    results : list of Result
        Of each engine step.
    """

    buffers: dict[str, np.ndarray]
    times: dict[str, np.ndarray] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    @property
    def output(self) -> np.ndarray:
        """The program's outputs, integers [batch, values]."""
        return self.results[-1].outputs[-1]


def run_program(program: Program, backend: Backend, inputs: np.ndarray,
                progress: Progress | None = None) -> Run:
    """Runs ``inputs``, integers [batch, in] as ``program.input`` describes them.

    Where the host converts what an engine takes, its result says how many values saturated in
    that.
    """
    run, saturated, images = Run({INPUT: inputs}), 0, len(program.images)
    for step in program.steps:
        x = run.buffers[step.reads[0]]
        if not isinstance(step, EngineStep):
            run.buffers[step.writes[0]], saturated = backend.host(step, program.buffers, x)
            continue
        result = backend.run(step.image, x, _share(progress, len(run.results), images, len(inputs)))
        run.buffers.update(zip(step.writes, result.outputs, strict=True))
        run.times.update(zip(step.writes, result.times, strict=True))
        run.results.append(replace(result, inputs_saturated=int(saturated)))
        saturated = 0
    return run


def _share(progress: Progress | None, number: int, images: int, samples: int) -> Progress | None:
    """Progress of one image, in any steps, as progress of all."""
    if progress is None or images == 1:
        return progress
    return lambda done, total: progress(number * samples + done * samples // total,
                                        images * samples)
