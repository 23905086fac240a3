"""Engine ``golden``: the integer reference, which knows nothing of packing or hardware."""

import numpy as np

from zeroskip.sim.engine import Progress, Result
from zeroskip.sw import reference
from zeroskip.sw.errors import BadInput
from zeroskip.sw.golden import eie
from zeroskip.sw.program import Program


class GoldenEngine:
    """Computes from ``reference.safetensors``, not from the program's packed images.

    Raises ``BadInput`` if the program was not compiled from that reference.
    """

    name = "golden"

    def __init__(self, layers: tuple[reference.ReferenceLayer, ...]):
        self._layers = layers

    def run(self, program: Program, inputs: np.ndarray,
            progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sim.engine.Engine`; all images are computed at once."""
        if reference.digest(self._layers) != program.reference:
            raise BadInput("the reference beside the program belongs to another program, or is "
                           "damaged; compile the model again, into a folder of its own")
        result = Result.empty(program, len(inputs))
        sent = iter(result.outputs)
        ends = [segment for segment in program.segments if segment.swap]
        y = inputs
        for layer, end in zip(self._layers, ends, strict=True):
            y, _ = eie.layer(y, layer.weight, layer.bias, layer.shift, layer.activation)
            if end.outputs:
                next(sent)[:] = y
        if progress:
            progress(len(inputs), len(inputs))
        return result
