"""Entry search: in which bytes of a row an entry ends, and which are escapes."""

from collections.abc import Sequence
from itertools import combinations

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.hw.eie.layouts import DECODED, SLICE
from zeroskip.hw.memory import BlockRAM
from zeroskip.hw.pipeline import Stages
from zeroskip.hw.stream import flow


class EntrySearch(wiring.Component):
    """Finds the bytes of each slice in which an entry ends, all eight in a step.

    Without escapes, every byte is an entry. With them, a byte with v = 0 is an escape if the byte
    before it is none, and else the entry that belongs to that escape (padding). Whether a byte is
    one depends on the run of zeros in front of it, which may begin in the row before::

        byte        0    1    2    3    4    5    6    7  | 0    1
        v           5    0    7    0    0    0    2    0  | 0    4
                        esc       esc  pad  esc       esc | pad
        entry ends  ^         ^         ^         ^       | ^    ^

    Eight bytes in a chain are too long for a cycle: stage 3 finds the escapes of both halves for
    either thing that may stand in front of each half, stage 4 chooses. A slice in which no entry
    ends, as it has only the escape of an entry in the next row, is dropped, and the next slice
    begins the column in its place.

    Latency is :meth:`latency` steps, throughput one slice a step.

    Members
    -------
    enable : In(1)
        While it is low, all stages stall.
    i : In(flow of ``SLICE``)
    word : In
        The row of the slice, ``BlockRAM.LATENCY`` steps later.
    o : Out(flow of ``DECODED``)
    busy : Out(1)
        A slice is inside.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "enable": In(1),
            "i": In(flow(SLICE)),
            "word": In(8 * ENTRIES_PER_ROW),
            "o": Out(flow(DECODED)),
            "busy": Out(1),
        })

    @staticmethod
    def latency(config: EIEConfig) -> int:
        """Steps from a slice to what was found in it; without escapes there is no search."""
        return BlockRAM.LATENCY + (4 if config.escapes else 0)

    def elaborate(self, platform):
        m = Module()
        stages, last = Stages(m, self.enable), self.latency(self.config)
        # Index k of a list is stage k; the row is at stage 2, and which of its bytes are meant.
        valid, slices = stages.taps(self.i.valid, last), stages.taps(self.i.payload, last)
        window = stages.step(_bytes(slices[1]))
        assert BlockRAM.LATENCY == 2
        m.d.comb += [
            self.o.payload.blank.eq(slices[last].blank),
            self.o.payload.value.eq(slices[last].value),
            self.busy.eq(Cat(valid[1:]).any()),
        ]
        if self.config.escapes:
            self._search(m, stages, valid, slices, window)
        else:
            m.d.comb += [
                self.o.valid.eq(valid[last]),
                self.o.payload.row.eq(self.word),
                self.o.payload.ends.eq(window),
                self.o.payload.at.eq(first(window)),
                self.o.payload.more.eq(at_least(2, window)),
                self.o.payload.begin.eq(slices[last].begin),
            ]
        return m

    def _search(self, m: Module, stages: Stages, valid: Sequence[Value],
                slices: Sequence[data.View], window: Value):
        """Finds the escapes, from stage 2 on, and with them the ends of entries."""
        step, o = stages.step, self.o.payload
        zero = step(window & Cat(self.word.word_select(k, 8)[:4] == 0
                                 for k in range(ENTRIES_PER_ROW)))

        def escapes(bits: Value, behind: Value) -> Value:
            """Which of the zero bytes are escapes, if what is before them is one (``behind``)."""
            found = []
            for bit in bits:
                behind = bit & ~behind
                found.append(behind)
            return step(Cat(found))

        # Stage 3: both halves at a time, for whatever may stand before them; stage 4: the choice.
        half = ENTRIES_PER_ROW // 2
        low = [escapes(zero[:half], behind) for behind in (Const(0), ~slices[3].begin)]
        high = [escapes(zero[half:], behind) for behind in (Const(0), Const(1))]
        carry, before, row = Signal(), Signal(4), step(self.word, 2)
        below = Mux(carry, low[1], low[0])
        found = Cat(below, Mux(below[-1], high[1], high[0]))
        with m.If(self.enable & valid[4]):
            m.d.sync += [carry.eq(found[-1]), before.eq(row[-4:])]

        # Stage 5: a slice without an end is dropped; the one behind it begins the column then.
        ends = step(step(window, 2) & ~found)
        kept, begin, lost = ends.any() | slices[5].blank, Signal(), Signal()
        m.d.comb += begin.eq(slices[5].begin | lost)
        with m.If(self.enable & valid[5]):
            m.d.sync += lost.eq(begin & ~kept)
        m.d.comb += [
            self.o.valid.eq(step(valid[5] & kept)),
            o.row.eq(step(row, 2)),
            o.ends.eq(step(ends)),
            o.at.eq(step(first(ends))),
            o.more.eq(step(at_least(2, ends))),
            o.wide.eq(step(Cat(carry & ~slices[4].begin, found)[:-1], 2)),
            o.before.eq(step(before, 2)),
            o.begin.eq(step(begin)),
        ]


def _bytes(piece: data.View) -> Value:
    """A bit for each byte of a row that is of the slice."""
    every = Const(2 ** ENTRIES_PER_ROW - 1)
    return ((every << piece.first)[:ENTRIES_PER_ROW] & (every >> ~piece.last)
            & (~piece.blank).replicate(ENTRIES_PER_ROW))


def at_least(count: int, bits: Value) -> Value:
    """Whether 2 or 3 of eight bits are set; made of what is known of each half."""
    def half(count, four):
        return Cat(Cat(chosen).all() for chosen in combinations(four, count)).any()

    low, high = bits[:4], bits[4:]
    return Cat((half(k, low) if k else 1) & (half(count - k, high) if count - k else 1)
               for k in range(count + 1)).any()


def first(bits: Value) -> Value:
    """Number of the lowest of eight bits that is set."""
    low, high = (Cat(~four[0] & (four[1] | ~four[2]), ~(four[0] | four[1]))
                 for four in (bits[:4], bits[4:]))
    none = ~bits[:4].any()
    return Cat(Mux(none, high, low), none)
