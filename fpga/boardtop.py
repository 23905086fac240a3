"""The top of a board: clock, reset and pins around a component with a serial line."""

from collections.abc import Iterable
from dataclasses import dataclass

from amaranth.hdl import ClockDomain, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from zeroskip.fpga.boards import Board


@dataclass(frozen=True)
class PLL:
    """Divisors of a PLL: the output is ``reference * multiply / divide``, and the oscillator
    inside runs at ``output * post``."""

    divide: int
    multiply: int
    post: int


@dataclass(frozen=True)
class _Limits:
    """Frequencies in MHz and divisors that a PLL has."""

    oscillator: tuple[float, float]
    compared: tuple[float, float]
    divide: int
    multiply: int
    post: Iterable[int]


_LIMITS = {
    "ecp5": _Limits((400, 800), (3.125, 400), 128, 80, range(1, 129)),
    "ice40": _Limits((533, 1066), (10, 133), 16, 128, [2 ** q for q in range(1, 7)]),
    "gowin": _Limits((400, 1200), (3, 400), 64, 64, (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)),
}


def pll(board: Board, mhz: float) -> PLL | None:
    """The divisors for a clock, the lowest first; None where the oscillator gives it itself."""
    if mhz == board.clock_mhz:
        return None
    limits = _LIMITS[board.family]
    for divide in range(1, limits.divide + 1):
        compared = board.clock_mhz / divide
        for post in limits.post:
            # The feedback of the iCE40 comes from the oscillator, that of the others from the
            # output.
            multiply = mhz / compared * (post if board.family == "ice40" else 1)
            if (multiply.is_integer() and multiply <= limits.multiply
                    and limits.compared[0] <= compared <= limits.compared[1]
                    and limits.oscillator[0] <= mhz * post <= limits.oscillator[1]):
                return PLL(divide, int(multiply), post)
    raise ValueError(f"the PLL of {board.name} makes no {mhz} MHz from {board.clock_mhz}")


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
        The pins of :class:`~zeroskip.fpga.boards.Board`.
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
        found = pll(self.board, self.mhz)
        if found is None:
            m.d.comb += [clock.eq(self.clk), locked.eq(1)]
        else:
            m.submodules.pll = _PLLS[self.board.family](self, found, clock, locked)
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


def _ecp5(pins: BoardTop, pll: PLL, clock: Signal, locked: Signal) -> Instance:
    return Instance(
        "EHXPLLL", p_CLKI_DIV=pll.divide, p_CLKFB_DIV=pll.multiply, p_CLKOP_DIV=pll.post,
        p_CLKOP_CPHASE=pll.post // 2, p_CLKOP_ENABLE="ENABLED", p_FEEDBK_PATH="CLKOP",
        a_FREQUENCY_PIN_CLKI=str(pins.board.clock_mhz), a_FREQUENCY_PIN_CLKOP=str(pins.mhz),
        a_ICP_CURRENT="12", a_LPF_RESISTOR="8",
        i_CLKI=pins.clk, i_CLKFB=clock, i_RST=Const(0), i_STDBY=Const(0),
        i_PHASESEL0=Const(0), i_PHASESEL1=Const(0), i_PHASEDIR=Const(0), i_PHASESTEP=Const(0),
        i_PHASELOADREG=Const(0), i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0),
        o_CLKOP=clock, o_LOCK=locked)


def _ice40(pins: BoardTop, pll: PLL, clock: Signal, locked: Signal) -> Instance:
    compared = pins.board.clock_mhz / pll.divide
    return Instance(
        "SB_PLL40_PAD", p_FEEDBACK_PATH="SIMPLE", p_DIVR=Const(pll.divide - 1, 4),
        p_DIVF=Const(pll.multiply - 1, 7), p_DIVQ=Const(pll.post.bit_length() - 1, 3),
        p_FILTER_RANGE=Const(1 + sum(compared >= top for top in (17, 26, 44, 66, 101)), 3),
        i_PACKAGEPIN=pins.clk, i_RESETB=Const(1), i_BYPASS=Const(0),
        o_PLLOUTGLOBAL=clock, o_LOCK=locked)


def _gowin(pins: BoardTop, pll: PLL, clock: Signal, locked: Signal) -> Instance:
    return Instance(
        "rPLL", p_DEVICE="GW1NR-9C", p_FCLKIN=str(pins.board.clock_mhz),
        p_IDIV_SEL=pll.divide - 1, p_FBDIV_SEL=pll.multiply - 1, p_ODIV_SEL=pll.post,
        i_CLKIN=pins.clk, i_CLKFB=Const(0), i_RESET=Const(0), i_RESET_P=Const(0),
        i_FBDSEL=Const(0, 6), i_IDSEL=Const(0, 6), i_ODSEL=Const(0, 6),
        i_PSDA=Const(0, 4), i_DUTYDA=Const(0, 4), i_FDLY=Const(0, 4),
        o_CLKOUT=clock, o_LOCK=locked)


_PLLS = {"ecp5": _ecp5, "ice40": _ice40, "gowin": _gowin}
