"""What a family's PLL is told in the top of a board."""

import re

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.fpga.boards import BOARDS
from zeroskip.fpga.boardtop import BoardTop
from zeroskip.hw.netlist.emit import rtlil


class Loop(wiring.Component):
    """The line from the host is that to it."""

    rx: In(1)
    tx: Out(1)
    irq: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.tx.eq(self.rx)
        return m


@pytest.fixture
def pll():
    """``pll(board, mhz)``: the type of the PLL and its parameters, as they are in RTLIL."""
    def pll(board, mhz):
        text = rtlil(BoardTop(BOARDS[board], Loop(), mhz), "board")
        kind, body = re.search(r"cell \\(\w*PLL\w*) .*\n((?:    .*\n)*)", text).groups()
        return kind, dict(re.findall(r"parameter \\(\w+) (.*)", body))
    return pll
