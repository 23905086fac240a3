"""iCE40: what its tools and its PLL are told; a simulated netlist gives the reference's bits."""

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest

from zeroskip.fpga.boards import BOARDS, design
from zeroskip.fpga.boardtop import BoardTop
from zeroskip.fpga.flow import synthesise
from zeroskip.hw.netlist.emit import yosys
from zeroskip.hw.system.top import Top
from zeroskip.sim.cases import random_layers
from zeroskip.sim.compiled import DRIVERS, Model, SerialLine, build_once
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie import host
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.runtime.board import Board
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.link import Link

REGRESSION = bool(os.environ.get("ZEROSKIP_REGRESSION"))

BOARD, DIVISOR = BOARDS["icebreaker"], 4
SYSTEM = design("icebreaker").system
CONFIG = SYSTEM.cores[0]


MODELS = """
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
    for name in re.findall(r"^module (\w+)", MODELS, re.MULTILINE):
        library = re.sub(rf"^module {name}\b.*?^endmodule$", "", library,
                         flags=re.DOTALL | re.MULTILINE)
    cells = target.with_suffix(".v")
    cells.write_text(library + MODELS)
    yosys(f"read_json {folder / 'design.json'}", "delete =A:blackbox =A:whitebox",
          "delete t:$scopeinfo", f"read_verilog -D ICE40_U -D NO_ICE40_DEFAULT_ASSIGNMENTS {cells}",
          "hierarchy -top board -purge_lib", "proc", "flatten", "delete t:$scopeinfo",
          "opt -full", "opt_clean -purge", "setattr -unset hdlname -unset src w:*",
          "rename -hide", f"write_cxxrtl -g2 {target}")


def generate(folder):
    """The model of the top, as :func:`build_once` wants it."""
    synthesise(BoardTop(BOARD, Top(SYSTEM, divisor=DIVISOR), BOARD.clock_mhz), BOARD.chip, folder,
               top="board", borders="")
    write_model(folder, folder / "model.cc")
    with (folder / "model.cc").open("a") as file:
        file.write('\n#include <cxxrtl/capi/cxxrtl_capi.cc>\n#include "cxxrtl_driver.cc"\n')
    runtime = Path(importlib.util.find_spec("pyosys").origin).parent \
        / "share/include/backends/cxxrtl/runtime"
    return ["-O1", "-DNDEBUG", f"-I{runtime}", f"-I{DRIVERS}"]


class Pins:
    """The link's transport, straight at the pins of a model."""

    def __init__(self, model):
        self._line = SerialLine(model, rx="rx", tx="tx", divisor=DIVISOR)
        self._received = b""

    def write(self, data):
        while data:
            sent, received = self._line.run(data, 1000)
            data, self._received = data[sent:], self._received + received

    def read(self, timeout):
        for _ in range(100):
            if self._received:
                break
            self._received = self._line.run(b"", 1000)[1]
        received, self._received = self._received, b""
        return received


def test_arguments():
    assert BOARD.chip.arguments() == ["--up5k", "--package", "sg48", "--pcf", "pins.pcf",
                                      "--asc", "routed.asc"]
    assert BOARD.chip.packing("x") == ["routed.asc", "x"]


def test_pll(pll):
    """30 MHz are 12 MHz * 80 / 32, of the oscillator inside. Divisors count from 0."""
    kind, told = pll("icebreaker", 30)
    assert kind == "SB_PLL40_PAD"
    assert told == {"FEEDBACK_PATH": '"SIMPLE"', "DIVR": "4'0000", "DIVF": "7'1001111",
                    "DIVQ": "3'101", "FILTER_RANGE": "3'001"}


@pytest.mark.skipif(not REGRESSION, reason="minutes of the C++ compiler; set ZEROSKIP_REGRESSION=1")
@pytest.mark.timeout(900)
def test_netlist_gives_the_same_bits():
    rng = np.random.default_rng(1)
    inputs = (rng.integers(-100, 100, (5, 24)) * (rng.random((5, 24)) < 0.6)).astype(np.int16)
    layers = tuple(random_layers(rng, (24, 30, 9), 0.3))
    integers = tuple(layers)
    part = compile_layers(layers, CONFIG).traced()
    expected = GoldenBackend(Program.chain((part,), integers), integers).run(
        part, inputs)
    model = Model(build_once("cxxrtl", "board", [CONFIG.digest(), BOARD.name, __file__], generate))
    model.poke("button", 1)
    model.poke("rx", 1)
    model.tick(300)
    device = Board(Link(Pins(model)), SYSTEM).device("eie")
    result = host.run(device, part, inputs)
    for found, wanted in zip(result.outputs, expected.outputs, strict=True):
        np.testing.assert_array_equal(found, wanted)
