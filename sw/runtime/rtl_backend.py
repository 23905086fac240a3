"""The backends that simulate gateware: any core in any simulator."""

from collections.abc import Callable

import numpy as np
from amaranth.lib import wiring

from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Device, Image, Progress, Result
from zeroskip.sw.runtime.backend import Backend

MakeModel = Callable[[Callable[[], wiring.Component], str, str], Device]
"""A simulator: from a function that makes a component, its name, and a key that tells
configurations apart, to the device that it is just after reset."""


class RtlBackend(Backend):
    """A simulator under a backend's name."""

    def __init__(self, name: str, make_model: MakeModel):
        self.name = name
        self._make_model = make_model

    def run(self, image: Image, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sw.runtime.backend.Backend`."""
        model = self.model(image)
        if progress:
            progress(0, len(inputs))
        return registry.engine(image.engine).run(model, image, inputs, progress)

    def model(self, image: Image) -> Device:
        """The core of ``image`` just after reset."""
        return self._make_model(image.config.component, image.engine, image.config.digest())
