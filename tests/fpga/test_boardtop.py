# amaranth: UnusedElaboratable=no
"""The top of a board: its clock, reset and pins around a component."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from zeroskip.fpga.boards import BOARDS
from zeroskip.fpga.boardtop import BoardTop


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
