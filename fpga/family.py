"""What the flow has to know of a family of FPGAs."""

import importlib.util
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from amaranth.hdl import Instance, Signal

from zeroskip.fpga.pll import PLL, Limits
from zeroskip.sw.errors import ToolMissing


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
class Pin:
    """A pin of the package.

    Attributes
    ----------
    name : str
        The package's name for it.
    standard : str
        What the constraint file says of its voltage.
    pull_up : bool
        A button or a line that may float.
    """

    name: str
    standard: str = ""
    pull_up: bool = False


KINDS = {"lut": "LUTs", "ff": "flip-flops", "dsp": "multipliers", "bram": "block RAMs",
         "spram": "single-port RAMs"}
"""What is counted, in a report and for people."""

Weights = Mapping[str, Mapping[str, int]]
"""By what is counted, a key of :data:`KINDS`: patterns of cell types, and how many one is."""


def count(weights: Mapping[str, int], cells: Mapping[str, int]) -> int:
    """The sum over ``cells``, numbers by type; a type that ``weights`` doesn't match is none."""
    return sum(weight * number for pattern, weight in weights.items()
               for kind, number in cells.items() if fnmatchcase(kind, pattern))


@dataclass(frozen=True)
class Family(ABC):
    """A chip of a family of FPGAs, whose class holds all that is known of the family.

    Attributes
    ----------
    name : str
        Of the family.
    synthesis, soft : str
        The Yosys commands that build multiplications from DSP blocks, and from logic.
    mapped, placed : Weights
        What Yosys' cells count, and what nextpnr's do. What only ``mapped`` has lies in logic
        cells, where nextpnr does not count it. Without ``mapped`` nothing is counted before it is
        placed, and ``soft`` is of no use.
    primitives : str
        A regular expression of the types of cells that Yosys names behind a signal's name.
    nextpnr, packer : Tool
    constraints, routed, bitstream : str
        Names of the files: of the pins, what ``packer`` takes, and what it gives.
    pll : Limits
    unconstrained : list of str
        nextpnr's arguments for a design whose ports may lie on any pin.
    device : str
        The chip, as nextpnr calls it.
    """

    name: ClassVar[str]
    synthesis: ClassVar[str]
    soft: ClassVar[str] = ""
    mapped: ClassVar[Weights] = {}
    placed: ClassVar[Weights]
    primitives: ClassVar[str]
    nextpnr: ClassVar[Tool]
    packer: ClassVar[Tool]
    constraints: ClassVar[str]
    routed: ClassVar[str]
    bitstream: ClassVar[str]
    pll: ClassVar[Limits]
    unconstrained: ClassVar[list[str]] = []

    device: str

    @abstractmethod
    def pin(self, port: str, pin: Pin, mhz: float | None) -> str:
        """Lines of the constraint file that put a port on a pin; a clock has a frequency."""

    @abstractmethod
    def arguments(self) -> list[str]:
        """nextpnr's that only this family has: the chip, and the files of pins and result."""

    @abstractmethod
    def packing(self, bitstream: str) -> list[str]:
        """The packer's arguments to write a file."""

    @abstractmethod
    def clock(self, pll: PLL, pin: Signal, clock: Signal, locked: Signal) -> Instance:
        """The PLL between the pin of the oscillator and the clock that it makes."""

    def script(self, top: str, borders: str) -> list[str]:
        """Yosys commands from the design that was read to cells; ``borders`` selects modules
        whose logic does not mix with that around them, where a family needs that."""
        return [f"{self.synthesis} -top {top}"]

    def improve(self, netlist: Path) -> None:   # noqa: B027 - most families need no pass
        """Passes over the JSON netlist, between Yosys and nextpnr."""

    def used(self, report: dict, cells: Mapping[str, int]
             ) -> tuple[dict[str, int], dict[str, int]]:
        """What a placed design occupies and what there is, by what is counted: from nextpnr's
        report, and from the numbers of Yosys' cells by type."""
        kinds = report["utilization"]
        used = {what: count(weights, {kind: each["used"] for kind, each in kinds.items()})
                for what, weights in self.placed.items()}
        # The first is the one whose places the others share.
        there = {what: kinds[next(iter(weights))]["available"]
                 for what, weights in self.placed.items()}
        for what in self.mapped.keys() - self.placed.keys():
            used[what], there[what] = count(self.mapped[what], cells), there["lut"]
        return used, there

    def signal(self, cell: str) -> str:
        """The signal or memory, or the instance, by which Yosys and nextpnr named a cell."""
        return re.sub(rf"(\.\d+)*(_({self.primitives})_.*|_(LC|RAM|DSP)|\.\$.*|\$[A-Za-z].*)?$",
                      "", cell)
