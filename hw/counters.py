"""Performance counters, read one at a time."""

from collections.abc import Mapping
from enum import Enum

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.stream import delay

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


def count(m: Module, events: Mapping[Enum, ValueLike], *, clear: ValueLike,
          select: ValueLike) -> Value:
    """Adds counters of the ``events``, one of each member of an enumeration, to a module; returns
    the selected one, one cycle later.

    An event goes through a register first, so that what is counted is not slowed down by its
    counter; ``clear`` does not.
    """
    (which,) = {type(member) for member in events}
    m.submodules.counters = counters = Counters(which)
    m.d.comb += [counters.events[member.value].eq(delay(m, events[member], 1))
                 for member in which]
    m.d.comb += [counters.clear.eq(clear), counters.select.eq(select)]
    return counters.value
