"""The top of a board: clock, reset and pins around a component with a serial line."""

from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from zeroskip.fpga.board import Board


class BoardTop(wiring.Component):
    """A component with ``rx``, ``tx`` and ``irq`` on the pins of a board.

    The component's reset lasts 256 cycles from the moment at which the clock is stable and the
    button is up, as block RAM of the iCE40 needs. The LED shows ``irq``.

    Parameters
    ----------
    board : Board
    component : wiring.Component
        In the domain ``sync``.
    mhz : float
        Its clock.

    Members
    -------
    clk, rx, button : In(1)
    tx, led : Out(1)
        The pins of :class:`~zeroskip.fpga.board.Board`.
    """

    def __init__(self, board: Board, component: wiring.Component, mhz: float):
        self.board, self.component, self.mhz = board, component, mhz
        super().__init__({"clk": In(1), "rx": In(1), "button": In(1),
                          "tx": Out(1), "led": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.domains.start = start = ClockDomain(reset_less=True)
        m.domains.sync = sync = ClockDomain()
        clock, locked = Signal(), Signal()
        pll = self.board.pll(self.mhz)
        if pll is None:
            m.d.comb += [clock.eq(self.clk), locked.eq(1)]
        else:
            m.submodules.pll = self.board.chip.clock(pll, self.clk, clock, locked)
        m.d.comb += [start.clk.eq(clock), sync.clk.eq(clock)]

        good, waited = Signal(), Signal(9)
        m.submodules.good = FFSynchronizer(locked & self.button, good, o_domain="start")
        with m.If(~good):
            m.d.start += waited.eq(0)
        with m.Elif(~waited[-1]):
            m.d.start += waited.eq(waited + 1)
        reset = Signal(init=1)
        m.d.start += reset.eq(~waited[-1])
        m.d.comb += sync.rst.eq(reset)

        m.submodules.top = top = self.component
        m.d.comb += [top.rx.eq(self.rx), self.tx.eq(top.tx),
                     self.led.eq(top.irq ^ self.board.led_low)]
        return m
