"""Backend ``golden``: the integer reference, which knows nothing of packing or hardware."""

from collections.abc import Mapping

import numpy as np

from zeroskip.sw.compiler.program import EngineStep, HostStep, Program
from zeroskip.sw.compiler.rules import Convert
from zeroskip.sw.engines.base import Image, Progress, ReferenceLayer, Result
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import golden_network as network
from zeroskip.sw.runtime.backend import Backend


class GoldenBackend(Backend):
    """Computes from the integer reference, not from the program's packed images.

    It runs the images of ``program``, and what is made of them by replacing memories; the
    conversions between them by arithmetic of its own, between the types that its layers have; the
    host's other rules are the same on all backends.
    Raises ``BadInput`` if the program was not compiled from that reference.

    Attributes
    ----------
    layers : tuple of ReferenceLayer
        The reference.
    """

    name = "golden"

    def __init__(self, program: Program, layers: tuple[ReferenceLayer, ...]):
        if program.digest(layers) != program.reference:
            raise BadInput("the reference beside the program belongs to another program, or is "
                           "damaged; compile the model again")
        self.layers = layers
        self._units = {name: network.Units(kind.dtype.type, kind.scale, kind.zero_point)
                       for name, kind in program.buffers.items()}
        steps = [step for step in program.steps if isinstance(step, EngineStep)]
        self._images = []
        for step, own in zip(steps, program.by_step(layers), strict=True):
            self._images.append((step.image.layers, own))
            self._units[step.reads[0]] = network.inputs(own[0])
            self._units[step.writes[-1]] = network.outputs(own[-1])

    def run(self, image: Image, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sw.runtime.backend.Backend`; all samples are computed at once."""
        layers = next(layers for infos, layers in self._images if infos is image.layers)
        computed = list(network.run(layers, inputs))
        if progress:
            progress(len(inputs), len(inputs))
        outputs = tuple(each.y for each, sent in zip(computed, image.sent, strict=True) if sent)
        return Result(outputs, tuple(np.zeros(y.shape, np.int64) for y in outputs),
                      saturated=sum(each.saturated for each in computed))

    def host(self, step: HostStep, types: Mapping[str, TensorType],
             *xs: np.ndarray) -> tuple[np.ndarray, int]:
        """See :class:`zeroskip.sw.runtime.backend.Backend`."""
        if not isinstance(step.rule, Convert):
            return super().host(step, types, *xs)
        return network.convert(self._units[step.reads[0]], self._units[step.writes[0]], *xs)
