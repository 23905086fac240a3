"""Sparse-matrix read: the entries of a column, one a cycle (paper, section IV)."""

from collections.abc import Callable, Sequence
from itertools import combinations

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.hw.eie.layouts import ENTRY, PACKED_ENTRY, job
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.stream import Queue, delay, flow

_LOW = exact_log2(ENTRIES_PER_ROW)

_PART = data.StructLayout({
    "first": _LOW, "last": _LOW, "begin": 1, "blank": 1, "value": signed(16)})
"""The bytes ``first`` to ``last`` of a row, all of one column; ``begin`` tells that it begins
there, ``blank`` that it has none."""

_DECODED = data.StructLayout({
    "row": 8 * ENTRIES_PER_ROW, "ends": ENTRIES_PER_ROW, "at": _LOW, "more": 1,
    "wide": ENTRIES_PER_ROW, "before": 4, "begin": 1, "blank": 1, "value": signed(16)})
"""A part with its row, and the bytes in which an entry ``ends``, the first of them (``at``), if
there are ``more``, and in front of which an escape stands (``wide``); z of the byte before the row
is ``before``."""


class SparseMatrixRead(wiring.Component):
    """Walks the bytes of each job through the weight memory of 64-bit rows.

    The walk goes ahead row by row. What it reads goes through the memory, its output register and
    the search for escapes into a queue of parts, which are taken apart, one entry a cycle, across
    rows and columns; walk and search stand still while the queue is full. A row is read once and
    then held: again only when the row changes. With escapes, one of them and the entry behind it,
    possibly in the next row, are one step; an escape at a column's end is a filler and nothing.
    Latency from a job to its first entry is ``latency`` cycles.

    An entry takes a cycle, and so does a blank job. A row of a column in which no entry ends,
    because the column has only an escape there, is dropped: it costs a cycle of the walk, and so of
    the entries only if no part waits.

    Members
    -------
    i : In(stream of ``job``)
    o : Out(flow of ``ENTRY``)
    load : In(WritePort)
        32-bit words; address = 2 * row + half, the first entry in the low byte.
    reads : Out(1)
        A row is read in this cycle.
    busy : Out(1)
        A job or an entry is inside.
    """

    WALK = 1
    """Cycles from a job to the read of its first row."""
    APART = 3
    """Cycles from a part in the queue to its first entry, where no other is taken apart."""

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(job(config))),
            "o": Out(flow(ENTRY)),
            "load": In(WritePort(address=bits_for(2 * config.weight_rows - 1), data=32)),
            "reads": Out(1),
            "busy": Out(1),
        })

    @staticmethod
    def decode(config: EIEConfig) -> int:
        """Cycles from the read of a row to its part in the queue; without escapes there is no
        search."""
        return BlockRAM.LATENCY + (4 if config.escapes else 0)

    @classmethod
    def latency(cls, config: EIEConfig) -> int:
        """Cycles from a job to its first entry."""
        return cls.WALK + cls.decode(config) + 1 + cls.APART

    def elaborate(self, platform):
        m = Module()
        # Two registers of one meaning: ``go`` has to reach every register on the way.
        ahead, go, stop = self.config.runahead, Signal(), Signal()
        m.submodules.parts = parts = Queue(_DECODED, depth=ahead + 1)
        m.d.sync += [go.eq(parts.level < ahead), stop.eq(parts.level >= ahead)]

        valid, part, word = self._walk(m, go, stop)
        flowing, found = self._decode(m, go, valid, part, word, parts.i.payload)
        m.d.comb += parts.i.valid.eq(found & ~stop)
        taking = self._take_apart(m, parts.o)
        m.d.comb += self.busy.eq(valid | flowing | parts.o.valid | taking)
        return m

    def _walk(self, m: Module, go: Value, stop: Value) -> tuple[Value, data.View, Value]:
        """From jobs to parts: whether there is a part, the part, and its row,
        ``BlockRAM.LATENCY`` steps later."""
        width = self.config.pointer_width
        new, waits = self.i.payload, self.i.valid

        # The row, and how many of the column follow; what is asked of them is known in advance.
        valid, part = Signal(), Signal(_PART)
        row, left = (Signal(width - _LOW) for _ in range(2))
        last, final, same = Signal(_LOW), Signal(), Signal()
        start, end = new.start[_LOW:], new.last[_LOW:]
        m.d.comb += self.i.ready.eq(~valid | (final & ~stop))
        with m.If(self.i.ready):
            m.d.sync += [
                valid.eq(waits), left.eq(end - start), final.eq(new.blank | (start == end)),
                part.begin.eq(1), part.blank.eq(new.blank), part.value.eq(new.value),
                part.first.eq(new.start), last.eq(new.last),
            ]
            with m.If(waits & ~new.blank):      # a job without bytes reads no row
                m.d.sync += [row.eq(start), same.eq(start == row)]
        with m.Elif(go):
            m.d.sync += [row.eq(row + 1), same.eq(0), left.eq(left - 1), final.eq(left == 1),
                         part.begin.eq(0), part.first.eq(0)]
        m.d.comb += part.last.eq(last | (~final).replicate(_LOW))
        word = self._read(m, row, valid & ~part.blank, same, go)
        return valid, part, word

    def _read(self, m: Module, row: Value, wanted: Value, same: Value, go: Value) -> Value:
        """The row; it is read when it is not the ``same`` as before, which the memory holds."""
        holds = Signal()
        m.d.comb += self.reads.eq(go & wanted & ~(holds & same))
        with m.If(self.load.en):
            m.d.sync += holds.eq(0)
        with m.Elif(self.reads):
            m.d.sync += holds.eq(1)

        halves = []
        for half in range(2):
            m.submodules[f"half_{half}"] = memory = BlockRAM(32, depth=self.config.weight_rows)
            m.d.comb += [
                memory.write.en.eq(self.load.en & (self.load.address[0] == half)),
                memory.write.address.eq(self.load.address >> 1),
                memory.write.data.eq(self.load.data),
                memory.en.eq(self.reads),
                memory.hold.eq(~go),
                memory.address.eq(row),
            ]
            halves.append(memory.data)
        return Cat(*halves)

    def _decode(self, m: Module, go: Value, valid: Value, part: data.View, word: Value,
                o: data.View) -> tuple[Value, Value]:
        """Finds the bytes of each part in which an entry ends. ``part`` is at stage 0, its row,
        ``word``, at that of a read. Returns whether there are parts, and whether ``o`` is one."""
        def step(signal, cycles=1):
            return delay(m, signal, cycles, go)

        under_way, parts = [valid], [part]
        for k in range(self.decode(self.config)):
            under_way.append(step(under_way[k]))
            parts.append(step(parts[k]))
        every = Const(2 ** ENTRIES_PER_ROW - 1)
        window = step((every << parts[1].first)[:ENTRIES_PER_ROW] & (every >> ~parts[1].last)
                      & (~parts[1].blank).replicate(ENTRIES_PER_ROW))
        m.d.comb += [o.blank.eq(parts[-1].blank), o.value.eq(parts[-1].value)]
        if self.config.escapes:
            found = self._search(m, step, go, under_way, parts, window, word, o)
        else:
            found = under_way[-1]
            m.d.comb += [o.row.eq(word), o.ends.eq(window), o.at.eq(_first(window)),
                         o.more.eq(_at_least(2, window)), o.begin.eq(parts[-1].begin)]
        return Cat(under_way[1:]).any(), found

    def _search(self, m: Module, step: Callable, go: Value, valid: Sequence[Value],
                parts: Sequence[data.View], window: Value, word: Value, o: data.View) -> Value:
        """Finds the escapes: bytes with v = 0 that are not behind another one. Index k of a list is
        stage k; ``window``, the bytes of the part, and ``word`` are at stage 2. Returns whether
        ``o`` is a part."""
        zero = step(window & Cat(word.word_select(k, 8)[:4] == 0 for k in range(ENTRIES_PER_ROW)))

        def escapes(bits: Value, behind: Value) -> Value:
            found = []
            for bit in bits:
                behind = bit & ~behind
                found.append(behind)
            return step(Cat(found))

        # Stage 3: both halves at a time, for whatever may stand before them; stage 4: the choice.
        half = ENTRIES_PER_ROW // 2
        low = [escapes(zero[:half], behind) for behind in (Const(0), ~parts[3].begin)]
        high = [escapes(zero[half:], behind) for behind in (Const(0), Const(1))]
        carry, before, row = Signal(), Signal(4), step(word, 2)
        below = Mux(carry, low[1], low[0])
        found = Cat(below, Mux(below[-1], high[1], high[0]))
        with m.If(go & valid[4]):
            m.d.sync += [carry.eq(found[-1]), before.eq(row[-4:])]

        # Stage 5: a part without an end is dropped; the one behind it begins the column then.
        ends = step(step(window, 2) & ~found)
        kept, begin, lost = ends.any() | parts[5].blank, Signal(), Signal()
        m.d.comb += begin.eq(parts[5].begin | lost)
        with m.If(go & valid[5]):
            m.d.sync += lost.eq(begin & ~kept)
        m.d.comb += [
            o.row.eq(step(row, 2)),
            o.ends.eq(step(ends)),
            o.at.eq(step(_first(ends))),
            o.more.eq(step(_at_least(2, ends))),
            o.wide.eq(step(Cat(carry & ~parts[4].begin, found)[:-1], 2)),
            o.before.eq(step(before, 2)),
            o.begin.eq(step(begin)),
        ]
        return step(valid[5] & kept)

    def _take_apart(self, m: Module, i: stream.Interface) -> Value:
        """The entries of the parts, one a cycle; returns whether there are any."""
        part, valid = Signal(_DECODED), Signal()
        rest = Cat(bit & part.ends[:k].any() for k, bit in enumerate(part.ends))
        m.d.comb += i.ready.eq(~valid | ~part.more)
        with m.If(i.ready):
            m.d.sync += [valid.eq(i.valid), part.eq(i.payload)]
        with m.Else():
            m.d.sync += [part.ends.eq(rest), part.at.eq(_first(rest)),
                         part.more.eq(_at_least(3, part.ends)), part.begin.eq(0)]

        # What the byte holds; the entry.
        here = delay(m, data.View(PACKED_ENTRY, part.row.word_select(part.at, 8)), 1)
        before = Cat(part.before, (part.row[8 * k + 4:8 * k + 8]
                                   for k in range(ENTRIES_PER_ROW - 1)))
        before = delay(m, before.word_select(part.at, 4), 1)
        wide, entry = (delay(m, each, 1) for each in (
            part.wide.bit_select(part.at, 1), valid & ~part.blank))
        m.d.sync += [
            self.o.valid.eq(entry),
            self.o.payload.v.eq(here.v),
            self.o.payload.gap.eq(Mux(wide, Cat(here.z, before + 1), here.z)),
            self.o.payload.first.eq(delay(m, part.begin, 1)),
            self.o.payload.value.eq(delay(m, part.value, 1)),
        ]
        return valid | entry | self.o.valid


def _at_least(count: int, bits: Value) -> Value:
    """Whether 2 or 3 of eight bits are set; made of what is known of each half."""
    def half(count, four):
        return Cat(Cat(chosen).all() for chosen in combinations(four, count)).any()

    low, high = bits[:4], bits[4:]
    return Cat((half(k, low) if k else 1) & (half(count - k, high) if count - k else 1)
               for k in range(count + 1)).any()


def _first(bits: Value) -> Value:
    """Number of the lowest of eight bits that is set."""
    low, high = (Cat(~four[0] & (four[1] | ~four[2]), ~(four[0] | four[1]))
                 for four in (bits[:4], bits[4:]))
    none = ~bits[:4].any()
    return Cat(Mux(none, high, low), none)
