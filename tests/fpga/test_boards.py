# amaranth: UnusedElaboratable=no
"""Boards and their named designs: constraint files, clocks, and the top around a component."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from zeroskip.fpga.boards import BOARDS, DESIGNS, design
from zeroskip.fpga.boardtop import BoardTop, pll
from zeroskip.sw.errors import BadInput

EVERY = [design(board, config) for board, configs in DESIGNS.items() for config in configs]


@pytest.mark.parametrize(("board", "lines"), [
    ("ulx3s-85f", ['LOCATE COMP "clk" SITE "G2";', 'FREQUENCY PORT "clk" 25 MHZ;',
                   'IOBUF PORT "clk" IO_TYPE=LVCMOS33;',
                   'LOCATE COMP "rx" SITE "M1";', 'LOCATE COMP "tx" SITE "L4";',
                   'IOBUF PORT "button" IO_TYPE=LVCMOS33 PULLMODE=UP;']),
    ("icebreaker", ["set_io clk 35", "set_frequency clk 12", "set_io -pullup yes rx 6",
                    "set_io tx 9"]),
    ("tangnano9k", ['IO_LOC "clk" 52;', 'IO_PORT "rx" IO_TYPE=LVCMOS33 PULL_MODE=UP;',
                    'IO_LOC "rx" 18;', 'IO_LOC "tx" 17;', 'IO_PORT "led" IO_TYPE=LVCMOS18;']),
])
def test_constraint_file(board, lines):
    found = BOARDS[board].constraints().splitlines()
    assert set(lines) <= set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("board", BOARDS.values(), ids=str)
def test_every_port_of_the_top_has_a_pin(board):
    assert set(board.pins) == set(BoardTop(board, None, board.clock_mhz).signature.members)
    assert len({pin.name for pin in board.pins.values()}) == len(board.pins)


@pytest.mark.parametrize("made", EVERY, ids=lambda made: f"{made.board.name} {made.name}")
def test_clock_and_bit_rate_of_a_design(made):
    board = made.board
    if (found := pll(board, made.mhz)) is None:
        assert made.mhz == board.clock_mhz
    else:
        inside = made.mhz * found.post
        feedback = inside if board.family == "ice40" else made.mhz
        assert feedback / found.multiply == pytest.approx(board.clock_mhz / found.divide)
        assert {"ecp5": 400, "ice40": 533, "gowin": 400}[board.family] <= inside <= \
            {"ecp5": 800, "ice40": 1066, "gowin": 1200}[board.family]
    # A receiver samples the tenth bit in its middle: half a bit late or early is too much.
    assert made.mhz * 1e6 / made.divisor == pytest.approx(made.baud, rel=0.02)


def test_designs_that_the_boards_are_for():
    assert set(DESIGNS) == set(BOARDS)
    large = [design("ulx3s-85f", name) for name in DESIGNS["ulx3s-85f"]]
    assert any(made.pes >= 16 and not made.multipliers for made in large)
    assert any(not made.pes and made.multipliers for made in large)
    assert any(made.pes >= 8 and made.multipliers for made in large)


@pytest.mark.parametrize(("arguments", "message"), [
    (("arty",), "there is no board 'arty'; choose one of ulx3s-85f, "),
    (("icebreaker", "eie-64"), "icebreaker has no configuration 'eie-64'; choose one of "),
])
def test_unknown(arguments, message):
    with pytest.raises(BadInput, match=message):
        design(*arguments)


def test_no_divisors():
    with pytest.raises(ValueError, match=r"the PLL of icebreaker makes no 12\.34567 MHz from 12"):
        pll(BOARDS["icebreaker"], 12.34567)


class Inverter(wiring.Component):
    """``tx`` is what ``rx`` was not, a cycle ago; high in reset."""

    rx: In(1)
    tx: Out(1, init=1)
    irq: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.tx.eq(~self.rx)
        m.d.comb += self.irq.eq(self.rx)
        return m


def test_reset_of_the_top():
    """The component is in reset for 256 cycles, and again when the button is pressed."""
    top = BoardTop(BOARDS["icebreaker"], Inverter(), 12)
    seen = []

    async def bench(ctx):
        ctx.set(top.rx, 1)
        for half in range(2 * 700):
            ctx.set(top.button, not 2 * 400 <= half < 2 * 420)
            ctx.set(top.clk, half % 2)
            await ctx.delay(1e-6)
            if half % 2:
                seen.append(ctx.get(top.tx))
        assert ctx.get(top.led) == 0    # the LED is lit by a low pin

    simulator = Simulator(top)
    simulator.add_testbench(bench)
    simulator.run()
    changes = [at for at in range(1, len(seen)) if seen[at] != seen[at - 1]]
    assert (seen[0], seen[-1], len(changes)) == (1, 0, 3)
    started, stopped, again = changes
    assert 256 <= started <= 264
    assert 400 <= stopped <= 405
    assert 420 + 256 <= again <= 420 + 264
