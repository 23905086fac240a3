"""The engines by name."""

from collections.abc import Callable

from zeroskip.sim import cxxrtl
from zeroskip.sim.amaranth_model import AmaranthModel
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.compiler.reference import Layer
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.runtime import board_backend as board_engine
from zeroskip.sw.runtime.backend import Engine
from zeroskip.sw.runtime.golden_backend import GoldenEngine
from zeroskip.sw.runtime.rtl_backend import RtlEngine

RTL = ("python", "cxxrtl", "verilator")
NAMES = ("golden", *RTL, "virtual")


def default() -> str:
    """``cxxrtl`` where a C++ compiler is found, ``python`` elsewhere."""
    try:
        cxxrtl.compiler()
    except ToolMissing:
        return "python"
    return "cxxrtl"


def create(name: str, program: Program, layers: Callable[[], tuple[Layer, ...]]) -> Engine:
    """The engine called ``name`` for ``program``; ``layers`` is asked for the reference if the
    engine needs one."""
    if name == "golden":
        return GoldenEngine(program, layers())
    if name == "virtual":
        cxxrtl.compiler()
        return board_engine.virtual(program)
    return rtl(name)


def rtl(name: str) -> RtlEngine:
    """The engine called ``name``, which must simulate gateware.

    Raises ``BadInput`` for any other name, ``ToolMissing`` where what it needs is not there.
    """
    if name not in NAMES:
        raise BadInput(f"there is no engine '{name}'; choose one of {', '.join(NAMES)}")
    if name not in RTL:
        reason = "runs no hardware" if name == "golden" else "runs whole programs only"
        raise BadInput(f"the engine '{name}' {reason}; choose one of {', '.join(RTL)}")
    return RtlEngine(name, {"python": _python, "cxxrtl": _cxxrtl, "verilator": _verilator}[name]())


def _python():
    """Amaranth's simulator: some thousand cycles a second."""
    return lambda make, _name, _key: AmaranthModel(make())


def _cxxrtl():
    """Compiled, hundreds of times faster."""
    cxxrtl.compiler()
    return lambda make, name, key: cxxrtl.Model(cxxrtl.build(make, name, key))


def _verilator():
    """The Verilog, compiled by a simulator that is not of this project's making."""
    from zeroskip.sim import verilator
    verilator.version()
    return lambda make, name, key: verilator.Model(verilator.build(make, name, key))
