"""Backend ``golden``: the integer reference, which knows nothing of packing or hardware."""

from itertools import islice

import numpy as np

from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.base import Image, Progress, ReferenceLayer, Result
from zeroskip.sw.errors import BadInput
from zeroskip.sw.runtime import golden_network as network
from zeroskip.sw.runtime.golden_network import Computed


class GoldenBackend:
    """Computes from the integer reference, not from the program's packed images.

    It runs the parts of ``program``, and what is made of them by replacing images; several in a
    row by itself, with a conversion between them of its own. Raises ``BadInput`` if the program
    was not compiled from that reference.

    Attributes
    ----------
    layers : tuple of ReferenceLayer
        The reference.
    """

    name = "golden"

    def __init__(self, program: Program, layers: tuple[ReferenceLayer, ...]):
        if reference.digest(layers, program.input_dtype) != program.reference:
            raise BadInput("the reference beside the program belongs to another program, or is "
                           "damaged; compile the model again")
        self.layers = layers
        self._parts, start = [], 0
        for part in program.parts:
            end = start + len(part.layers)
            self._parts.append((part.layers, layers[start:end]))
            start = end

    def run(self, part: Image, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sw.runtime.backend.Backend`; all images are computed at once."""
        return self.run_parts((part,), inputs, progress)[0]

    def run_parts(self, parts: tuple[Image, ...], inputs: np.ndarray,
                  progress: Progress | None = None) -> list[Result]:
        """The result of every one of these parts, which follow one another."""
        layers = [layer for part in parts for layer in self._layers(part)]
        computed, results = network.run(layers, inputs), []
        for number, part in enumerate(parts, 1):
            results.append(_result(part, list(islice(computed, len(part.layers)))))
            if progress:
                progress(number * len(inputs), len(parts) * len(inputs))
        return results

    def _layers(self, part: Image) -> tuple[ReferenceLayer, ...]:
        return next(layers for infos, layers in self._parts if infos is part.layers)


def _result(part: Image, computed: list[Computed]) -> Result:
    outputs = tuple(each.y for each, sent in zip(computed, part.sent, strict=True) if sent)
    return Result(outputs, tuple(np.zeros(y.shape, np.int64) for y in outputs),
                  saturated=sum(each.saturated for each in computed),
                  inputs_saturated=sum(each.inputs_saturated for each in computed))
