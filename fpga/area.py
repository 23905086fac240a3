"""What a design occupies on a family of FPGAs, after synthesis and before placement."""

import json
from dataclasses import dataclass

from amaranth.lib import wiring

from zeroskip.hw import tools
from zeroskip.hw.netlist.emit import rtlil, yosys


@dataclass(frozen=True)
class Family:
    """How a family is synthesised, and what its cells count.

    Attributes
    ----------
    script : str
        The Yosys command that maps multiplications to DSP blocks.
    soft : str
        The one that builds them from logic.
    logic : dict
        Cell type: logic cells (a 4-input LUT or a carry bit) in it.
    multipliers, memories : str
        Cell types of the DSP block and of the block RAM.
    flip_flops : str
        What the types of flip-flops begin with.
    """

    script: str
    soft: str
    logic: dict[str, int]
    multipliers: str
    memories: str
    flip_flops: str


FAMILIES = {
    # A CCU2C is two LUTs with carry; a distributed RAM occupies four LUTs and their write port.
    "ecp5": Family("synth_ecp5", "synth_ecp5 -nodsp",
                   {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
                   "MULT18X18D", "DP16KD", "TRELLIS_FF"),
    # A carry lies in the cell of the LUT that it feeds.
    "ice40": Family("synth_ice40 -dsp", "synth_ice40", {"SB_LUT4": 1},
                    "SB_MAC16", "SB_RAM40_4K", "SB_DFF"),
}


@dataclass(frozen=True)
class Cells:
    """Cells of a synthesised design, by what they are."""

    logic: int
    flip_flops: int
    multipliers: int
    memories: int


def synthesise(component: wiring.Component, family: str, *, soft: bool) -> Cells:
    """The cells of ``component`` on a family of :data:`FAMILIES`; with ``soft``, multipliers
    are built from logic cells."""
    rules = FAMILIES[family]
    with tools.scratch() as folder:
        source, found = folder / "design.il", folder / "cells.json"
        source.write_text(rtlil(component, "design"))
        yosys(f"read_rtlil {source}", f"{rules.soft if soft else rules.script} -top design",
              f"tee -q -o {found} stat -json")
        counts = json.loads(found.read_text())["design"]["num_cells_by_type"]
    return Cells(
        logic=sum(each * counts.get(kind, 0) for kind, each in rules.logic.items()),
        flip_flops=sum(count for kind, count in counts.items()
                       if kind.startswith(rules.flip_flops)),
        multipliers=counts.get(rules.multipliers, 0), memories=counts.get(rules.memories, 0))
