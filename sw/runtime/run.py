"""A whole program on a backend: its steps one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from zeroskip.sw.compiler.program import EngineStep, HostStep, OperatorStep, Program
from zeroskip.sw.engines.base import Progress, Result
from zeroskip.sw.runtime.backend import Backend


@dataclass(frozen=True, eq=False)
class Run:
    """What a batch gave.

    Attributes
    ----------
    program : Program
    buffers : dict of str to array [runs, values]
        Every buffer of the program, flat.
    times : dict of str to int64 [runs, values]
        Of those that an engine wrote: the cycle since reset in which each value left its core.
    results : list of Result
        Of each engine step.
    """

    program: Program
    buffers: dict[str, np.ndarray]
    times: dict[str, np.ndarray] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    @property
    def output(self) -> np.ndarray:
        """The only, or first, output [runs, values], as its buffer has it."""
        return self.buffers[self.program.outputs[0].buffer]


def run_program(program: Program, backend: Backend, inputs: np.ndarray | Mapping[str, np.ndarray],
                progress: Progress | None = None) -> Run:
    """Runs inputs [runs, values] as the program's buffers have them: those of the only input, or
    of each by its name.

    Where the host makes what an engine takes, the engine's result says how many values saturated
    in that.
    """
    given = inputs if isinstance(inputs, Mapping) else {program.inputs[0].name: inputs}
    run = Run(program, {port.buffer: given[port.name] for port in program.inputs})
    saturated = dict.fromkeys(program.buffers, 0)
    work = [program.rows(step) * step.image.work for step in program.steps
            if isinstance(step, EngineStep)]
    runs = len(next(iter(run.buffers.values())))
    for step in program.steps:
        if isinstance(step, OperatorStep):
            run.buffers.update(zip(step.writes, step.session.run(
                [run.buffers[name] for name in step.reads], runs), strict=True))
            continue
        if isinstance(step, HostStep):
            name, = step.writes
            run.buffers[name], lost = backend.host(
                step, program.buffers, *(run.buffers[each] for each in step.reads))
            saturated[name] = lost + sum(saturated[each] for each in set(step.reads))
            continue
        rows = run.buffers[step.reads[0]].reshape(-1, step.image.inputs)
        result = backend.run(step.image, rows,
                             _share(progress, len(run.results), work))
        for name, y, times in zip(step.writes, result.outputs, result.times, strict=True):
            run.buffers[name], run.times[name] = y.reshape(runs, -1), times.reshape(runs, -1)
        run.results.append(replace(result, inputs_saturated=int(saturated[step.reads[0]])))
    return run


def _share(progress: Progress | None, number: int, work: Sequence[int]) -> Progress | None:
    """Progress of one engine step, of which each takes so much work, as progress of all."""
    if progress is None or len(work) == 1:
        return progress
    before, own, whole = sum(work[:number]), work[number], sum(work)
    return lambda done, total: progress(total * before + done * own, total * whole)
