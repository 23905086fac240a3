"""Compiled simulation of any component: RTLIL, Yosys CXXRTL, a C++ compiler, ctypes."""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from amaranth.lib import wiring

from zeroskip.hw.emit import rtlil, yosys
from zeroskip.sim.compiled import DRIVERS, Model, build_once, compiler

__all__ = ["Model", "build", "compiler"]

LARGE = 20_000
"""Lines of RTLIL up to which all copies of a module together are flattened."""


def build(make: Callable[[], wiring.Component], name: str, key: str) -> Path:
    """A shared library that simulates the component that ``make`` makes.

    It is built once per gateware source, ``key`` (which tells components of one ``name``
    apart: their configuration), compiler and version of the tools; see :func:`build_once`.
    """
    def generate(folder: Path) -> list[str]:
        source, model = folder / "model.il", folder / "model.cc"
        source.write_text(_keep(rtlil(make(), name)))
        yosys(f"read_rtlil {source}", f"hierarchy -top {name}", "proc", "flatten", "opt",
              f"write_cxxrtl -noflatten -g2 {model}")
        with model.open("a") as file:
            file.write('\n#include <cxxrtl/capi/cxxrtl_capi.cc>\n#include "cxxrtl_driver.cc"\n')
        runtime = Path(importlib.util.find_spec("pyosys").origin).parent \
            / "share/include/backends/cxxrtl/runtime"
        # NDEBUG: CXXRTL's assertions also look at the address of a write that is not enabled.
        return ["-DNDEBUG", f"-I{runtime}", f"-I{DRIVERS}"]

    return build_once("cxxrtl", name, [key, Path(__file__).read_text()], generate)


def _keep(text: str) -> str:
    """RTLIL whose large repeated modules, the PEs of an array, are not to be flattened.

    Across the border of a module signals need an evaluation more to settle, which is why
    flattening pays. But code for each copy of a large module takes minutes to compile, and
    then does not fit the processor's cache.
    """
    bodies = {body[:body.index("\n")]: body
              for body in re.split(r"^module \\", text, flags=re.MULTILINE)[1:]}
    children = {name: Counter(re.findall(r"^  cell \\(\S+) ", body, re.MULTILINE))
                for name, body in bodies.items()}
    lines = {}
    for name in reversed(bodies):       # children stand behind their parents
        lines[name] = bodies[name].count("\n") + sum(
            count * lines[child] for child, count in children[name].items())

    kept = set()

    def visit(name: str, copies: int):
        for child, count in children[name].items():
            if copies * count > 1 and copies * count * lines[child] > LARGE:
                kept.add(child)
                visit(child, 1)
            else:
                visit(child, copies * count)

    visit(next(iter(bodies)), 1)
    for name in kept:
        module = f"module \\{name}\n"
        text = text.replace(module, f"attribute \\keep_hierarchy 1\n{module}", 1)
    return text
