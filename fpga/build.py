"""From a named configuration of a board to its bitstream, which exists only if it meets its clock.

Tools found on the path are taken; else those that pip installs.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from amaranth.lib import wiring

from zeroskip.fpga.blocks import BORDERS, CORES
from zeroskip.fpga.board import Design
from zeroskip.fpga.boardtop import BoardTop
from zeroskip.fpga.flow import BuildError, critical_path, fmax, netlist, route, synthesise
from zeroskip.hw import tools
from zeroskip.hw.system.top import Top
from zeroskip.sw.files import beside, write

SEEDS = 3
"""Seeds of the placer that are tried until one meets the clock."""


class TimingMissed(RuntimeError):
    """No seed meets the clock; there is no bitstream."""


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
    started, board, chip = time.monotonic(), design.board, design.board.chip
    step = progress or (lambda *_: None)
    chip.nextpnr.command()
    packer = chip.packer.command()
    for name in (chip.bitstream, "report.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    step(0, SEEDS + 2, "synthesis")
    top = component or Top(design.system, divisor=design.divisor)
    synthesise(BoardTop(board, top, design.mhz), chip, folder, top="board",
               borders=f"{CORES} {BORDERS}")
    write(folder / chip.constraints, board.constraints())

    reached = {}
    for trial in range(seed, seed + SEEDS):
        step(1 + len(reached), SEEDS + 2, f"place and route, seed {trial} (tools from PyPI take "
             "up to a minute more when they first run)")
        placed = route(chip, folder, design.name, seed=trial, mhz=design.mhz)
        reached[trial] = fmax(placed)
        if reached[trial] >= design.mhz:
            break
    else:
        raise TimingMissed(
            f"{design.name} on {board.name} reaches {max(reached.values()):.1f} MHz of its "
            f"{design.mhz:g} MHz with seeds {', '.join(map(str, reached))}, so there is no "
            f"bitstream; the path is {critical_path(placed, chip).ends}; choose a lower clock or "
            "other seeds")
    step(SEEDS + 1, SEEDS + 2, "bitstream")
    with beside(folder / chip.bitstream) as part:
        _run([*packer, *chip.packing(part.name)], folder)
    used, there = chip.used(placed, Counter(cell["type"] for cell in netlist(folder).values()))
    report = {
        "board": board.name, "config": design.name, "pes": design.total("pes"),
        "multipliers": design.total("multipliers"), "fmax_mhz": round(reached[trial], 2),
        "target_mhz": design.mhz, **used, "available": there, "bitstream": chip.bitstream,
        "seconds": round(time.monotonic() - started, 1), "seed": trial,
        "critical_path": critical_path(placed, chip).ends, "baud": design.baud,
        "digests": {name: core.digest() for name, core in
                    zip(design.system.names, design.system.cores, strict=True)}}
    write(folder / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def _run(command: Sequence[str], folder: Path) -> None:
    done = tools.run(command, folder=folder)
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed:\n{(done.stdout + done.stderr)[-2000:]}")
