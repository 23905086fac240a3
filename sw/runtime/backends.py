"""The backends by name. A simulator is imported when it is asked for."""

from collections.abc import Callable
from pkgutil import resolve_name

from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.base import ReferenceLayer
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.runtime import board_backend
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.rtl_backend import RtlBackend

SIMULATORS = {
    "python": "zeroskip.sim.amaranth_model:simulator",
    "cxxrtl": "zeroskip.sim.cxxrtl:simulator",
    "verilator": "zeroskip.sim.verilator:simulator",
}
"""By name, where the function is that gives a :data:`~zeroskip.sw.runtime.rtl_backend.MakeModel`,
or raises ``ToolMissing``."""

NAMES = ("golden", *SIMULATORS, "virtual")


def default() -> str:
    """``cxxrtl`` where a C++ compiler is found, ``python`` elsewhere."""
    try:
        rtl("cxxrtl")
    except ToolMissing:
        return "python"
    return "cxxrtl"


def create(name: str, program: Program,
           layers: Callable[[], tuple[ReferenceLayer, ...]]) -> Backend:
    """The backend called ``name`` for ``program``; ``layers`` is asked for the reference if the
    backend needs one."""
    if name == "golden":
        return GoldenBackend(program, layers())
    if name == "virtual":
        return board_backend.virtual(program)
    return rtl(name)


def rtl(name: str) -> RtlBackend:
    """The backend called ``name``, which must simulate gateware.

    Raises ``BadInput`` for any other name, ``ToolMissing`` where what it needs is not there.
    """
    if name not in NAMES:
        raise BadInput(f"there is no backend '{name}'; choose one of {', '.join(NAMES)}")
    if name not in SIMULATORS:
        reason = "runs no hardware" if name == "golden" else "runs whole programs only"
        raise BadInput(f"the backend '{name}' {reason}; choose one of {', '.join(SIMULATORS)}")
    return RtlBackend(name, resolve_name(SIMULATORS[name])())
