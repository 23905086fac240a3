"""Sparse-matrix read: the entries of a column, one a cycle (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.hw.eie.layouts import ENTRY, PACKED_ENTRY, job
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.stream import flow

_LOW = exact_log2(ENTRIES_PER_ROW)

_PART = data.StructLayout({
    "first": _LOW, "last": _LOW, "begin": 1, "end": 1, "blank": 1, "value": signed(16)})
"""The bytes ``first`` to ``last`` of a row, all of one column; ``begin`` and ``end`` tell that it
begins and ends there, ``blank`` that it has none."""


class SparseMatrixRead(wiring.Component):
    """Walks the bytes of each job through the weight memory of 64-bit rows.

    The walk goes ahead row by row, through the memory and its output register, to the row whose
    entries are taken apart, one a cycle, across rows and columns: stages that each move on when
    the next is free. A row is read once and then held: again only when the row changes. With
    escapes, one of them and the entry behind it, possibly in the next row, are one step; an escape
    at a column's end is a filler and nothing. Latency from a job to its first entry is ``LATENCY``
    cycles.

    An entry takes a cycle, and so does a job without bytes, and a row in which no entry of the
    column begins: a filler alone, or an entry alone whose escape ends the row before. The latter
    is free if the byte before the escape is the column's too and cannot be an escape (v is not 0).

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

    LATENCY = BlockRAM.LATENCY + 3

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(job(config))),
            "o": Out(flow(ENTRY)),
            "load": In(WritePort(address=bits_for(2 * config.weight_rows - 1), data=32)),
            "reads": Out(1),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # Parts of columns on their way: read, in the output register, being taken apart.
        part, valid, ready = ([Signal(shape, name=f"{name}_{k}") for k in range(4)]
                              for name, shape in (("part", _PART), ("valid", 1), ("ready", 1)))
        done, used = Signal(), Signal()
        m.d.comb += [ready[3].eq(~valid[3] | done), ready[2].eq(~valid[2] | used | ready[3]),
                     ready[1].eq(~valid[1] | ready[2])]
        for k in (0, 1):
            with m.If(ready[k + 1]):
                m.d.sync += [part[k + 1].eq(part[k]), valid[k + 1].eq(valid[k])]

        row = self._walk(m, part[0], valid[0], ready[1])
        word = self._read(m, row, valid[0] & ~part[0].blank & ready[1], ready[2])
        self._take_apart(m, part[2], valid[2], ready[3], word, part[3], valid[3], done, used)
        m.d.comb += self.busy.eq(Cat(valid).any() | self.o.valid)
        return m

    def _walk(self, m: Module, part: data.View, valid: Value, go: Value) -> Value:
        """From jobs to parts; returns the row of the part."""
        row, last_row = (Signal(self.config.pointer_width - _LOW) for _ in range(2))
        last, blank = Signal(_LOW), Signal()
        begin, first = Signal(), Signal(_LOW)
        value = Signal(signed(16))
        new, last_byte = self.i.payload, Signal(self.config.pointer_width)
        m.d.comb += [
            last_byte.eq(new.stop - 1),
            part.begin.eq(begin), part.first.eq(first), part.value.eq(value),
            part.blank.eq(blank), part.end.eq(row == last_row),
            part.last.eq(Mux(part.end, last, ENTRIES_PER_ROW - 1)),
            self.i.ready.eq(~valid | (go & (part.end | blank))),
        ]
        with m.If(self.i.ready):
            m.d.sync += [
                valid.eq(self.i.valid), begin.eq(1), value.eq(new.value),
                Cat(first, row).eq(new.start), Cat(last, last_row).eq(last_byte),
                blank.eq(new.start == new.stop),
            ]
        with m.Elif(go):
            m.d.sync += [row.eq(row + 1), first.eq(0), begin.eq(0)]
        return row

    def _read(self, m: Module, row: Value, wanted: Value, out: Value) -> Value:
        """The row, two steps later; it is read when the memory does not hold it already."""
        held, holds = Signal.like(row), Signal()
        m.d.comb += self.reads.eq(wanted & ~(holds & (held == row)))
        with m.If(self.load.en):
            m.d.sync += holds.eq(0)
        with m.Elif(self.reads):
            m.d.sync += [holds.eq(1), held.eq(row)]

        halves = []
        for half in range(2):
            m.submodules[f"half_{half}"] = memory = BlockRAM(32, depth=self.config.weight_rows)
            m.d.comb += [
                memory.write.en.eq(self.load.en & (self.load.address[0] == half)),
                memory.write.address.eq(self.load.address >> 1),
                memory.write.data.eq(self.load.data),
                memory.en.eq(self.reads),
                memory.hold.eq(~out),
                memory.address.eq(row),
            ]
            halves.append(memory.data)
        return Cat(*halves)

    def _take_apart(self, m: Module, new: data.View, new_valid: Value, take: Value, word: Value,
                    part: data.View, valid: Value, done: Value, used: Value):
        """The entries of ``part``, one a cycle; then the next part is ``new``, its row ``word``.
        ``used`` says that ``new`` has nothing that is not taken with ``part``."""
        incoming = [data.View(PACKED_ENTRY, word.word_select(k, 8))
                    for k in range(ENTRIES_PER_ROW)]
        row = Signal.like(word)
        at, fresh = Signal(_LOW), Signal()
        # Per byte: it is an escape; with its entry, it is the last of the part.
        is_escape, finishes = (Signal(ENTRIES_PER_ROW) for _ in range(2))

        escape = Cat(entry.v == 0 for entry in incoming) if self.config.escapes \
            else Const(0, ENTRIES_PER_ROW)
        # The entry behind an escape in the last byte lies in the row that follows, which is always
        # one step behind. Its byte is kept, so that a row with nothing more of the column can give
        # way to the next column.
        follows, kept, kept_byte = Signal(), Signal(), Signal(8)
        across, spills = Signal(), Signal()
        m.d.comb += [
            follows.eq(new_valid & ~new.begin),
            across.eq(valid & (at == ENTRIES_PER_ROW - 1) & is_escape[-1]),
            used.eq(follows & (new.last == 0) & spills),
        ]
        with m.If(take):
            m.d.sync += kept.eq(0)
        with m.Elif(follows):
            m.d.sync += [kept.eq(1), kept_byte.eq(word[:8])]
        filler = new.end & escape.bit_select(new.last, 1)
        first = Mux(across & follows, 1, new.first)
        with m.If(take):
            m.d.sync += [
                valid.eq(new_valid & (new.blank | (first + filler <= new.last))),
                part.eq(new), row.eq(word), at.eq(first), fresh.eq(new.begin),
                is_escape.eq(escape),
                # Surely an escape: behind another one it could be an entry of weight zero.
                spills.eq(escape[-1] & ~escape[-2]),
                finishes.eq(Cat(k + 1 + escape[k] > new.last - filler
                                for k in range(ENTRIES_PER_ROW))),
            ]

        here = data.View(PACKED_ENTRY, row.word_select(at, 8))
        following = Mux(kept, kept_byte, word[:8])
        behind = data.View(PACKED_ENTRY, Cat(row[8:], following).word_select(at, 8))
        escaped = Signal()
        m.d.comb += [
            escaped.eq(is_escape.bit_select(at, 1)),
            done.eq(part.blank | finishes.bit_select(at, 1)),
        ]
        with m.If(valid & ~take):
            m.d.sync += [at.eq(at + 1 + escaped), fresh.eq(0)]
        m.d.sync += [
            self.o.valid.eq(valid & ~part.blank),
            self.o.payload.v.eq(Mux(escaped, behind.v, here.v)),
            self.o.payload.gap.eq(Mux(escaped, Cat(behind.z, here.z + 1), here.z)),
            self.o.payload.first.eq(fresh),
            self.o.payload.value.eq(part.value),
        ]
