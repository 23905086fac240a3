"""Compiled simulation of any component: Verilog, Verilator, a C++ compiler, ctypes."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from amaranth.lib import wiring

from zeroskip.hw import tools
from zeroskip.hw.netlist import emit
from zeroskip.sim.compiled import DRIVERS, Model, build_once, large_copies
from zeroskip.sw.errors import ToolMissing

__all__ = ["Model", "build", "simulator", "version"]

OLDEST = 5
"""First major version that works: the first that schedules as SystemVerilog says."""

_OPTIONS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert",
            "-Wno-lint", "--prefix", "Vdesign")


def simulator() -> Callable:
    """Backend ``verilator``: the Verilog, compiled by a simulator that is not of this project's
    making; ``ToolMissing`` without it."""
    version()
    return lambda make, name, key: Model(build(make, name, key))


def version() -> str:
    """What the installed Verilator calls itself; ``ToolMissing`` if it is none or too old."""
    if not shutil.which("verilator"):
        raise ToolMissing(f"there is no Verilator; install version {OLDEST} or newer, as with "
                          "'apt install verilator'")
    found = tools.run(["verilator", "--version"]).stdout.strip()
    major = re.match(r"Verilator (\d+)\.", found)
    if not major or int(major[1]) < OLDEST:
        raise ToolMissing(f"'verilator --version' says '{found}'; install version {OLDEST} or "
                          "newer")
    return found


def build(make: Callable[[], wiring.Component], name: str, key: str) -> Path:
    """A shared library that simulates the component that ``make`` makes; see
    :func:`zeroskip.sim.cxxrtl.build`."""
    def generate(folder: Path) -> list[str]:
        component = make()
        source = folder / "design.v"
        source.write_text(_keep(emit.verilog(component, name), name))
        _verilator(*_OPTIONS, "--top-module", name, "--Mdir", str(folder), str(source))
        (folder / "ports.inc").write_text("".join(
            f'PORT("{port["name"]}", {_member(port["name"])}, {port["width"]})\n'
            for port in emit.ports(component)))
        parts = [*sorted(path.name for path in folder.glob("Vdesign*.cpp")),
                 *_runtime(folder / "Vdesign_classes.mk"), "verilator_driver.cc"]
        (folder / "model.cc").write_text("".join(f'#include "{part}"\n' for part in parts))
        include = Path(_verilator("--getenv", "VERILATOR_ROOT").strip(), "include")
        return [f"-I{folder}", f"-I{include}", f"-I{include / 'vltstd'}", f"-I{DRIVERS}",
                "-pthread"]

    return build_once("verilator", name, [key, Path(__file__).read_text(), version()], generate)


def _keep(text: str, top: str) -> str:
    """Verilog in which :func:`large_copies` are marked to stay modules."""
    modules = {part[:re.search(r"[ (]", part).start()]: part
               for part in re.split(r"^module \\?", text, flags=re.MULTILINE)[1:]}
    lines = {name: part.count("\n") for name, part in modules.items()}
    cells = {name: Counter(cell for cell in re.findall(r"^  \\?(\S+) +\S+ \($", part, re.MULTILINE)
                           if cell in modules) for name, part in modules.items()}
    for name in large_copies(top, lines, cells):
        text = re.sub(rf"^module \\?{re.escape(name)} ?\([^;]*\);",
                      r"\g<0> /*verilator no_inline_module*/", text, count=1, flags=re.MULTILINE)
    return text


def _member(port: str) -> str:
    """What Verilator's C++ calls a port."""
    return port.replace("__", "___05F")


def _runtime(makefile: Path) -> list[str]:
    """The files of Verilator's own library that a model needs."""
    listed = re.findall(r"^VM_GLOBAL_\w+ \+= \\\n((?:\t\w+ \\\n)*)", makefile.read_text(),
                        re.MULTILINE)
    return [f"{name}.cpp" for group in listed for name in re.findall(r"\w+", group)]


def _verilator(*arguments: str) -> str:
    """Runs Verilator and returns what it said."""
    done = tools.run(["verilator", *arguments])
    if done.returncode:
        raise RuntimeError(f"Verilator failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
