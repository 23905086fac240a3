"""The steps that all designs take: synthesis, and place and route with nextpnr."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from amaranth.lib import wiring

from zeroskip.fpga.family import KINDS, Family
from zeroskip.hw import tools
from zeroskip.hw.netlist.emit import rtlil, yosys
from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write

_USED = re.compile(r"Info:\s+(\w+):\s*(\d+)/\s*(\d+)\s+\d+%")


class DoesNotFit(BadInput):
    """The design needs more of something than the device has."""


class BuildError(RuntimeError):
    """A tool failed; the message ends with its log."""


def synthesise(component: wiring.Component, chip: Family, folder: Path, *, top: str,
               borders: str) -> None:
    """Writes ``design.json``, the netlist of ``component``.

    Parameters
    ----------
    top : str
        What it is called there.
    borders : str
        See :meth:`zeroskip.fpga.family.Family.script`.
    """
    source, target = folder / "design.il", folder / "design.json"
    write(source, rtlil(component, top))
    yosys(f"read_rtlil {source}", *chip.script(top, borders), f"write_json {target}")
    chip.improve(target)


def netlist(folder: Path) -> dict[str, dict]:
    """Cells of the synthesised design by name."""
    modules = json.loads((folder / "design.json").read_text())["modules"]
    return next(module["cells"] for module in modules.values()
                if "top" in module["attributes"])


def route(chip: Family, folder: Path, name: str, *, seed: int, mhz: float,
          options: Sequence[str] = ()) -> dict:
    """Places and routes ``design.json`` on the pins of the family's constraint file; the report.

    Paths are relative, for the nextpnr from PyPI sees no others in the system's folder of temporary
    files. It is stopped as soon as it says that the design, ``name``, is too large.

    Raises
    ------
    DoesNotFit
        With all that is too much.
    BuildError
        If it cannot be routed.
    """
    used, log = {}, folder / "nextpnr.log"
    command = [*chip.nextpnr.command(), *chip.arguments(), "--json", "design.json",
               "--write", "placed.json", "--report", "nextpnr.json", "--timing-allow-fail",
               "--seed", str(seed), "--freq", str(mhz), *options]
    with tools.named(log), log.open("w", buffering=1) as file, \
            tools.started(command, folder=folder, together=True) as process:
        for line in process.stdout:
            file.write(line)
            if (found := _USED.match(line)):
                used[found[1]] = int(found[2]), int(found[3])
            elif used and (excess := _excess(used, chip)):
                raise DoesNotFit(f"{name} needs {excess}; choose a smaller configuration")
    if process.returncode:
        raise BuildError(f"nextpnr failed:\n{log.read_text()[-2000:]}")
    return json.loads((folder / "nextpnr.json").read_text())


def _excess(used: dict[str, tuple[int, int]], chip: Family) -> str:
    """All of which more is used than there is."""
    names = {kind: KINDS[what] for what, weights in chip.placed.items()
             for kind, weight in weights.items() if weight == 1}
    return ", ".join(f"{needed} {names.get(kind, kind)} where the board has {there}"
                     for kind, (needed, there) in used.items() if needed > there)


def fmax(report: dict) -> float:
    """The highest clock in MHz, at the worst corner."""
    return min(clock["achieved"] for clock in report["fmax"].values())


@dataclass(frozen=True)
class CriticalPath:
    """The path that limits the clock.

    Attributes
    ----------
    through : tuple of str
        What the path passes, from the register where it starts to the one where it ends.
        Cells without a name of their own bear the one of a register or signal near them.
    logic, routing : float
        Nanoseconds in cells, set-up time included, and on wires between them.
    levels : int
        Cells between the two registers; a carry chain is one.
    """

    through: tuple[str, ...]
    logic: float
    routing: float
    levels: int

    @property
    def ends(self) -> str:
        """Where it starts and ends, for people."""
        return f"{self.through[0]} to {self.through[-1]}, {self._delays}"

    @property
    def _delays(self) -> str:
        return f"{self.logic:.1f} ns of logic and {self.routing:.1f} ns of routing"

    def __str__(self):
        return f"{' -> '.join(self.through)}: {self.levels} levels, {self._delays}"


def critical_path(report: dict, chip: Family) -> CriticalPath:
    """The slowest path from register to register in a report of nextpnr."""
    steps = next(each["path"] for each in report["critical_paths"]
                 if "<async>" not in (each["from"], each["to"]))
    wires = [step["delay"] for step in steps if step["type"] == "routing"]
    start = next(at for at, step in enumerate(steps) if step["type"] == "clk-to-q")
    names = [chip.signal(step["to"]["cell"]) for step in steps[start:]
             if not step["to"]["cell"].startswith("$nextpnr")]      # the ends of carry chains
    return CriticalPath(
        through=tuple(name for name, _ in groupby(names)),
        logic=sum(step["delay"] for step in steps) - sum(wires), routing=sum(wires),
        levels=sum(delay > 0 for delay in wires) - 1)
