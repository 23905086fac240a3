"""The netlist after synthesis as something to simulate: cells of the iCE40 as what they do."""

import importlib.util
import re
from pathlib import Path

from zeroskip.hw.netlist.emit import yosys
from zeroskip.sw.files import write

_MODELS = """
module SB_LUT4 (output O, input I0, I1, I2, I3);
  parameter [15:0] LUT_INIT = 0;
  assign O = LUT_INIT[{I3, I2, I1, I0}];
endmodule
module SB_SPRAM256KA (input [13:0] ADDRESS, input [15:0] DATAIN, input [3:0] MASKWREN, input WREN,
                      CHIPSELECT, CLOCK, STANDBY, SLEEP, POWEROFF, output reg [15:0] DATAOUT);
  reg [15:0] mem [0:16383];
  always @(posedge CLOCK)
    if (CHIPSELECT & WREN) mem[ADDRESS] <= DATAIN;
    else if (CHIPSELECT) DATAOUT <= mem[ADDRESS];
endmodule
"""
"""Instead of Yosys' own: that of the LUT is small, that of the RAM does not clear 16,384 words."""


def write_model(folder: Path, target: Path) -> None:
    """Writes C++ for CXXRTL of the iCE40 design that was synthesised into ``folder``.

    There is no model of a PLL: the design runs at the board's own clock.
    """
    yosys_files = Path(importlib.util.find_spec("pyosys").origin).parent / "share" / "ice40"
    library = (yosys_files / "cells_sim.v").read_text()
    for name in re.findall(r"^module (\w+)", _MODELS, re.MULTILINE):
        library = re.sub(rf"^module {name}\b.*?^endmodule$", "", library,
                         flags=re.DOTALL | re.MULTILINE)
    cells = target.with_suffix(".v")
    write(cells, library + _MODELS)
    yosys(f"read_json {folder / 'design.json'}", "delete =A:blackbox =A:whitebox",
          "delete t:$scopeinfo", f"read_verilog -D ICE40_U -D NO_ICE40_DEFAULT_ASSIGNMENTS {cells}",
          "hierarchy -top board -purge_lib", "proc", "flatten", "delete t:$scopeinfo",
          "opt -full", "opt_clean -purge", "setattr -unset hdlname -unset src w:*",
          "rename -hide", f"write_cxxrtl -g2 {target}")
