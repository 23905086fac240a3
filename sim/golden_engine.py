"""Engine ``golden``: the integer reference, which knows nothing of packing or hardware."""

from collections.abc import Iterator

import numpy as np

from zeroskip.sim.engine import Progress, Result
from zeroskip.sw import reference
from zeroskip.sw.errors import BadInput
from zeroskip.sw.golden import eie, tensorcore
from zeroskip.sw.parts.eie import EIEPart
from zeroskip.sw.program import Part, Program


class GoldenEngine:
    """Computes from the integer reference, not from the program's packed images.

    It runs the parts of ``program``, and what is made of them by replacing images. Raises
    ``BadInput`` if the program was not compiled from that reference.
    """

    name = "golden"

    def __init__(self, program: Program, layers: tuple[reference.Layer, ...]):
        if reference.digest(layers, program.input_dtype) != program.reference:
            raise BadInput("the reference beside the program belongs to another program, or is "
                           "damaged; compile the model again")
        self._parts, start = [], 0
        for part in program.parts:
            end = start + len(part.layers)
            self._parts.append((part.layers, layers[start:end]))
            start = end

    def run(self, part: Part, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sim.engine.Engine`; all images are computed at once."""
        compute = _eie if isinstance(part, EIEPart) else _tensorcore
        outputs = tuple(compute(part, self._layers(part), inputs))
        if progress:
            progress(len(inputs), len(inputs))
        return Result(outputs, tuple(np.zeros(y.shape, np.int64) for y in outputs))

    def _layers(self, part: Part) -> tuple[reference.Layer, ...]:
        return next(layers for infos, layers in self._parts if infos is part.layers)


def _eie(part: EIEPart, layers, y: np.ndarray) -> Iterator[np.ndarray]:
    ends = [segment for segment in part.segments if segment.swap]
    for layer, end in zip(layers, ends, strict=True):
        y, _ = eie.layer(y, layer.weight, layer.bias, layer.shift, layer.activation)
        if end.outputs:
            yield y


def _tensorcore(_part: Part, layers, y: np.ndarray) -> Iterator[np.ndarray]:
    for layer in layers:
        y, _ = tensorcore.layer(y, layer)
        yield y
