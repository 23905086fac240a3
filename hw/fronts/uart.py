"""A UART: eight data bits, no parity, one stop bit, at a fixed divisor of the clock."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out


class Receiver(wiring.Component):
    """Bytes from a pin.

    Each bit is sampled in its middle. A byte whose stop bit is low is dropped, and so is a
    start bit that is high again in its middle. A byte is there ``9 * divisor + divisor // 2 + 3``
    cycles after the falling edge of its start bit.

    Parameters
    ----------
    divisor : int
        Clock cycles of a bit, at least 4.

    Members
    -------
    rx : In(1)
        The pin; it need not be synchronous to the clock.
    o : Out(stream of 8)
        Waits for whoever takes it; nothing can hold up the pin.
    overrun : Out(1)
        A byte was lost in this cycle, because the one before it still waits.
    """

    def __init__(self, *, divisor: int):
        self.divisor = _checked(divisor)
        super().__init__({
            "rx": In(1, init=1),
            "o": Out(stream.Signature(8)),
            "overrun": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        pin, before = Signal(init=1), Signal(init=1)
        timer, bits, byte = Signal(range(self.divisor)), Signal(range(10)), Signal(8)
        m.submodules.synchronizer = FFSynchronizer(self.rx, pin, init=1)
        m.d.sync += [before.eq(pin), timer.eq(timer - 1)]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"), m.If(before & ~pin):
                m.d.sync += [timer.eq(self.divisor // 2 - 1), bits.eq(0)]
                m.next = "BITS"
            with m.State("BITS"), m.If(timer == 0):
                m.d.sync += [timer.eq(self.divisor - 1), bits.eq(bits + 1)]
                with m.If(bits != 9):
                    m.d.sync += byte.eq(Cat(byte, pin)[1:])
                with m.If((bits == 0) & pin | (bits == 9)):
                    m.next = "IDLE"
                with m.If((bits == 9) & pin):
                    m.d.comb += self.overrun.eq(self.o.valid & ~self.o.ready)
                    with m.If(~self.overrun):
                        m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(byte)]
        return m


class Transmitter(wiring.Component):
    """Bytes to a pin.

    The start bit begins one cycle after its byte was taken; throughput is one byte in
    ``10 * divisor + 1`` cycles.

    Parameters
    ----------
    divisor : int
        Clock cycles of a bit, at least 4.

    Members
    -------
    i : In(stream of 8)
    tx : Out(1)
        The pin, from a register; high while nothing is sent.
    """

    def __init__(self, *, divisor: int):
        self.divisor = _checked(divisor)
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        timer, left = Signal(range(self.divisor)), Signal(range(11))
        rest = Signal(9, init=-1)
        m.d.comb += self.i.ready.eq(left == 0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.tx.eq(0), rest.eq(Cat(self.i.payload, 1)), left.eq(10),
                         timer.eq(self.divisor - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(left != 0):
            m.d.sync += [Cat(self.tx, rest).eq(Cat(rest, 1)), left.eq(left - 1),
                         timer.eq(self.divisor - 1)]
        return m


def _checked(divisor: int) -> int:
    if divisor < 4:
        raise ValueError(f"divisor must be at least 4, not {divisor}")
    return divisor
