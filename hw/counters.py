"""Performance counters, read one at a time."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

WIDTH = 32
"""Bits of a counter."""


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
