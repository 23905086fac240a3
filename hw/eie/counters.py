"""Performance counters: where every cycle of every PE went."""

from amaranth.hdl import *
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

WIDTH = 32
"""Bits of a counter."""


class PECounter(enum.Enum, shape=4):
    """Counters of one PE. The first seven add up to the computing cycles."""

    USEFUL = 0      # non-zero weight times non-zero activation
    PADDING = 1     # entries that only bridge a gap
    EMPTY = 2       # columns wait in the queue, but none with entries is ready
    FILL = 3        # no work: see Phase
    FULL = 4
    TAIL = 5
    WRITEBACK = 6
    ROW_READS = 7   # 64-bit rows read from the weight memory
    SATURATED = 8   # outputs that were saturated


class ControlCounter(enum.Enum, shape=4):
    """Counters of central control."""

    CYCLES = 0      # in computing mode
    BROADCASTS = 1  # non-zero activations sent to the PEs
    HELD = 2        # cycles in which an activation waited because a queue was full
    IO_CYCLES = 3   # taking inputs, giving outputs
    RUNS = 4        # networks finished


class Counters(wiring.Component):
    """One counter per member of ``which``; it adds one in each cycle its event is set.

    Members
    -------
    events : In
        One bit per counter.
    clear : In(1)
    select : In(4)
    value : Out(32)
        The selected counter, one cycle later.
    """

    def __init__(self, which: type):
        self.which = which
        super().__init__({
            "events": In(len(which)),
            "clear": In(1),
            "select": In(4),
            "value": Out(WIDTH),
        })

    def elaborate(self, platform):
        m = Module()
        counts = Array(Signal(WIDTH, name=member.name.lower()) for member in self.which)
        for member, count in zip(self.which, counts, strict=True):
            with m.If(self.clear):
                m.d.sync += count.eq(0)
            with m.Elif(self.events[member.value]):
                m.d.sync += count.eq(count + 1)
        m.d.sync += self.value.eq(counts[self.select])
        return m
