"""Unpack: the entries of a row, one a cycle."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import ENTRIES_PER_ROW
from zeroskip.hw.eie.layouts import DECODED, ENTRY, PACKED_ENTRY
from zeroskip.hw.eie.search import at_least, first
from zeroskip.hw.stream import delay, flow


class Unpack(wiring.Component):
    """Gives the entries of each decoded slice, the lowest first, across slices without a gap.

    Latency is ``LATENCY`` cycles, throughput one entry a cycle; a blank slice takes a cycle and
    gives none. Nothing behind this ever stalls.

    Members
    -------
    i : In(stream of ``DECODED``)
    o : Out(flow of ``ENTRY``)
    busy : Out(1)
        A slice or an entry is inside.
    """

    LATENCY = 3

    i: In(stream.Signature(DECODED))
    o: Out(flow(ENTRY))
    busy: Out(1)

    def elaborate(self, platform):
        m = Module()
        # What is left of the slice: its first entry is at ``at``, and goes in this cycle.
        held, valid = Signal(DECODED), Signal()
        rest = Cat(bit & held.ends[:k].any() for k, bit in enumerate(held.ends))
        m.d.comb += self.i.ready.eq(~valid | ~held.more)
        with m.If(self.i.ready):
            m.d.sync += [valid.eq(self.i.valid), held.eq(self.i.payload)]
        with m.Else():
            m.d.sync += [held.ends.eq(rest), held.at.eq(first(rest)),
                         held.more.eq(at_least(3, held.ends)), held.begin.eq(0)]

        # The byte, and z of the one before it, which an escape counts in; then the entry.
        here = delay(m, data.View(PACKED_ENTRY, held.row.word_select(held.at, 8)), 1)
        before = Cat(held.before, (held.row[8 * k + 4:8 * k + 8]
                                   for k in range(ENTRIES_PER_ROW - 1)))
        before = delay(m, before.word_select(held.at, 4), 1)
        wide, entry = (delay(m, each, 1) for each in (
            held.wide.bit_select(held.at, 1), valid & ~held.blank))
        m.d.sync += [
            self.o.valid.eq(entry),
            self.o.payload.v.eq(here.v),
            self.o.payload.gap.eq(Mux(wide, Cat(here.z, before + 1), here.z)),
            self.o.payload.first.eq(delay(m, held.begin, 1)),
            self.o.payload.value.eq(delay(m, held.value, 1)),
        ]
        m.d.comb += self.busy.eq(valid | entry | self.o.valid)
        return m
