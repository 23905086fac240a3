"""The engines by name."""

from collections.abc import Callable

from zeroskip.sim.cxxrtl import compiler
from zeroskip.sim.cxxrtl_engine import CxxrtlEngine
from zeroskip.sim.engine import Engine
from zeroskip.sim.golden_engine import GoldenEngine
from zeroskip.sim.python_engine import PythonEngine
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.reference import ReferenceLayer

NAMES = ("golden", "python", "cxxrtl")


def default() -> str:
    """``cxxrtl`` where a C++ compiler is found, ``python`` elsewhere."""
    try:
        compiler()
    except ToolMissing:
        return "python"
    return "cxxrtl"


def create(name: str, layers: Callable[[], tuple[ReferenceLayer, ...]]) -> Engine:
    """The engine called ``name``; ``layers`` is asked for the reference if it needs one."""
    if name == "golden":
        return GoldenEngine(layers())
    if name == "python":
        return PythonEngine()
    if name == "cxxrtl":
        return CxxrtlEngine()
    raise BadInput(f"there is no engine '{name}'; choose one of {', '.join(NAMES)}")
