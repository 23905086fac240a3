"""Compiled simulation of any component: RTLIL, Yosys CXXRTL, a C++ compiler, ctypes."""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from amaranth.lib import wiring

from zeroskip.hw.netlist.emit import rtlil, yosys
from zeroskip.sim.compiled import DRIVERS, Model, build_once, compiler, large_copies

__all__ = ["Model", "build", "compiler", "simulator"]


def simulator() -> Callable:
    """Backend ``cxxrtl``: compiled, hundreds of times faster; ``ToolMissing`` without a C++
    compiler."""
    compiler()
    return lambda make, name, key: Model(build(make, name, key))


def build(make: Callable[[], wiring.Component], name: str, key: str) -> Path:
    """A shared library that simulates the component that ``make`` makes.

    It is built once per gateware source, ``key`` (which tells components of one ``name``
    apart: their configuration), compiler and version of the tools; see :func:`build_once`.
    """
    def generate(folder: Path) -> list[str]:
        source, model = folder / "model.il", folder / "model.cc"
        source.write_text(_keep(rtlil(make(), name), name))
        yosys(f"read_rtlil {source}", f"hierarchy -top {name}", "proc", "flatten", "opt",
              f"write_cxxrtl -noflatten -g2 {model}")
        with model.open("a") as file:
            file.write('\n#include <cxxrtl/capi/cxxrtl_capi.cc>\n#include "cxxrtl_driver.cc"\n')
        runtime = Path(importlib.util.find_spec("pyosys").origin).parent \
            / "share/include/backends/cxxrtl/runtime"
        # NDEBUG: CXXRTL's assertions also look at the address of a write that is not enabled.
        return ["-DNDEBUG", f"-I{runtime}", f"-I{DRIVERS}"]

    return build_once("cxxrtl", name, [key, Path(__file__).read_text()], generate)


def _keep(text: str, top: str) -> str:
    """RTLIL in which :func:`large_copies` are marked to stay modules."""
    modules = {part[:part.index("\n")]: part
               for part in re.split(r"^module \\", text, flags=re.MULTILINE)[1:]}
    lines = {name: part.count("\n") for name, part in modules.items()}
    cells = {name: Counter(re.findall(r"^  cell \\(\S+) ", part, re.MULTILINE))
             for name, part in modules.items()}
    for name in large_copies(top, lines, cells):
        module = f"module \\{name}\n"
        text = text.replace(module, f"attribute \\keep_hierarchy 1\n{module}", 1)
    return text
