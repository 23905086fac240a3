"""A whole program on a backend: its parts one after another, with the host between."""

from dataclasses import replace

import numpy as np

from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.base import Progress, Result
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.golden_backend import GoldenBackend


def run_program(program: Program, backend: Backend, inputs: np.ndarray,
                progress: Progress | None = None) -> list[Result]:
    """The result of every part.

    ``inputs`` are integers [batch, in] as ``program.input`` describes them. Between two parts
    the host converts outputs into inputs through their real values; a result says how many of
    its part's inputs saturated in this. The golden backend has no share in this: it runs all parts
    by itself, so that a fault here is none of its own.
    """
    if isinstance(backend, GoldenBackend):
        return backend.run_parts(program.parts, inputs, progress)
    results: list[Result] = []
    for number, part in enumerate(program.parts):
        saturated = 0
        if results:
            real = program.parts[number - 1].output.to_float(results[-1].outputs[-1])
            inputs, saturated = part.input.to_integer(real)
        result = backend.run(part, inputs, _share(progress, number, len(program.parts),
                                                 len(inputs)))
        results.append(replace(result, inputs_saturated=int(saturated)))
    return results


def _share(progress: Progress | None, number: int, parts: int, images: int) -> Progress | None:
    """Progress of one part, in any steps, as progress of all."""
    if progress is None or parts == 1:
        return progress
    return lambda done, total: progress(number * images + done * images // total, parts * images)
