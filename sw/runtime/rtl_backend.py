"""The engines that simulate gateware: any machine in any simulator."""

from collections.abc import Callable

import numpy as np
from amaranth.lib import wiring

from zeroskip.sw.compiler.program import Part
from zeroskip.sw.engines.eie.part import EIEPart
from zeroskip.sw.engines.tensorcore.part import TensorCorePart
from zeroskip.sw.runtime.backend import Progress, Result

MakeModel = Callable[[Callable[[], wiring.Component], str, str], object]
"""A simulator: from a function that makes a component, its name, and a key that tells
configurations apart, to a model with the interface of ``zeroskip.sim.cxxrtl.Model``."""


def _eie():
    from zeroskip.hw.eie.array import EIE
    from zeroskip.sw.engines.eie import host as eie_host
    return EIE, eie_host.run


def _tensorcore():
    from zeroskip.hw.tensorcore.core import TensorCore
    from zeroskip.sw.engines.tensorcore import host as tensorcore_host
    return TensorCore, tensorcore_host.run


_MACHINES = {EIEPart: _eie, TensorCorePart: _tensorcore}
"""By the kind of part: the machine's class, which takes the part's configuration, and its host
side, which takes a model of the machine, the part, the inputs and the progress, and gives a
``Result``."""


def host(part: Part) -> Callable:
    """The host side of the machine of ``part``."""
    return _MACHINES[type(part)]()[1]


class RtlEngine:
    """A simulator under an engine's name."""

    def __init__(self, name: str, make_model: MakeModel):
        self.name = name
        self._make_model = make_model

    def run(self, part: Part, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sw.runtime.backend.Engine`."""
        return host(part)(self.model(part), part, inputs, progress)

    def model(self, part: Part):
        """The machine of ``part`` just after reset, as :class:`zeroskip.sim.compiled.Model`
        describes it."""
        machine, _ = _MACHINES[type(part)]()
        return self._make_model(lambda: machine(part.config), part.engine, part.config.digest())
