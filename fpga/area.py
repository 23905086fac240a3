"""What a design occupies on a family of FPGAs, after synthesis and before placement."""

import json
from dataclasses import dataclass

from amaranth.lib import wiring

from zeroskip.fpga.blocks import BORDERS
from zeroskip.fpga.family import Family, count
from zeroskip.hw import tools
from zeroskip.hw.netlist.emit import rtlil, yosys


@dataclass(frozen=True)
class Cells:
    """Cells of a synthesised design, by what they are."""

    logic: int
    flip_flops: int
    multipliers: int
    memories: int


def synthesise(component: wiring.Component, family: type[Family], *, soft: bool) -> Cells:
    """The cells of ``component`` on a family; with ``soft``, multipliers are built from logic
    cells."""
    with tools.scratch() as folder:
        source, found = folder / "design.il", folder / "cells.json"
        source.write_text(rtlil(component, "design"))
        yosys(f"read_rtlil {source}", f"setattr -mod -set keep_hierarchy 1 {BORDERS}",
              f"{family.soft if soft else family.synthesis} -top design",
              f"setattr -mod -unset keep_hierarchy {BORDERS}", "flatten", "clean",
              f"tee -q -o {found} stat -json")
        cells = json.loads(found.read_text())["design"]["num_cells_by_type"]
    return Cells(*(count(family.mapped[what], cells) for what in ("lut", "ff", "dsp", "bram")))
