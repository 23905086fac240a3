"""What a component occupies on an ECP5, and how fast it is, after place and route."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from amaranth.lib import wiring

from zeroskip.fpga.blocks import BORDERS
from zeroskip.fpga.family import Family
from zeroskip.fpga.flow import CriticalPath, critical_path, fmax, netlist, route, synthesise
from zeroskip.fpga.shell import Shell
from zeroskip.hw import tools
from zeroskip.sw.files import write

TARGET = 200
"""Clock in MHz that nextpnr is asked for: more than most designs reach, so that it tries."""


@dataclass(frozen=True)
class Placed:
    """Cells of a component without its shell, as nextpnr counts them, and its clock.

    Attributes
    ----------
    lut : int
        LUTs; a carry cell is two, a 16 x 4 bit memory six.
    ff, bram, dsp : int
        Flip-flops, block RAMs of 18 kbit, multipliers of 18 x 18 bits.
    fmax : dict
        Seed of the placer: highest clock in MHz, at the worst corner.
    paths : dict
        Seed: its :class:`~zeroskip.fpga.flow.CriticalPath`; ``shell.`` is the register in front
        of, or behind, the port of that name.
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
    component: wiring.Component, *, chip: Family,
    seeds: Sequence[int] = (1, 2, 3),
    progress: Callable[[int, int, str], None] | None = None,
) -> Placed:
    """Places and routes ``component`` in a :class:`~zeroskip.fpga.shell.Shell`, once a seed.

    The component is synthesised apart from the shell, so that nothing moves between the two,
    and the shell's own cells, which are known, are taken off the counts.

    Parameters
    ----------
    progress : callable, optional
        Gets the steps done, their total, and what comes next.

    Raises
    ------
    ToolMissing
        If there is no nextpnr.
    DoesNotFit, BuildError
        If the component does not fit, or cannot be routed.
    """
    chip.nextpnr.command()      # before any work
    shell, reports = Shell(component), {}
    step = progress or (lambda *_: None)
    with tools.scratch() as folder:
        step(0, len(seeds) + 1, "synthesis")
        synthesise(shell, chip, folder, top="shell", borders=f"shell.component {BORDERS}")
        cells = Counter(cell["type"] for cell in netlist(folder).values())
        write(folder / chip.constraints, "")
        for seed in seeds:
            step(1 + len(reports), len(seeds) + 1, f"place and route, seed {seed} (nextpnr from "
                 "PyPI takes up to a minute more when it first runs)")
            reports[seed] = route(chip, folder, "the component", seed=seed, mhz=TARGET,
                                  options=chip.unconstrained)
    used, _ = chip.used(reports[seeds[0]], cells)
    return Placed(
        lut=used["lut"] - shell.luts, ff=used["ff"] - shell.flip_flops,
        bram=used["bram"], dsp=used["dsp"],
        fmax={seed: fmax(report) for seed, report in reports.items()},
        paths={seed: _named(critical_path(report, chip)) for seed, report in reports.items()})


def _named(path: CriticalPath) -> CriticalPath:
    """A path with the names that its signals have in the component."""
    return replace(path, through=tuple(
        f"shell.{name}".removeprefix("shell.component.") for name in path.through))
