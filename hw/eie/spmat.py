"""Sparse-matrix read: the entries of a column, one a cycle (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.hw.eie.layouts import ENTRY, PACKED_ENTRY, job
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.stream import delay, flow

_LOW = exact_log2(ENTRIES_PER_ROW)


class SparseMatrixRead(wiring.Component):
    """Walks the entries of each job through the weight memory of 64-bit rows.

    Latency from a job to its first entry is ``LATENCY`` cycles, throughput one entry a cycle,
    across columns too. A row is read once and then held: again only when the row changes.

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

    LATENCY = BlockRAM.LATENCY + 2

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

        # The walk: `at` is the entry of this cycle; the last one takes the next job along.
        active, first, last = Signal(), Signal(), Signal()
        at, stop = (Signal(self.config.pointer_width) for _ in range(2))
        value = Signal(signed(16))
        m.d.comb += [last.eq(at + 1 == stop), self.i.ready.eq(~active | last)]
        with m.If(self.i.ready):
            m.d.sync += [
                active.eq(self.i.valid),
                first.eq(1),
                at.eq(self.i.payload.start),
                stop.eq(self.i.payload.stop),
                value.eq(self.i.payload.value),
            ]
        with m.Else():
            m.d.sync += [first.eq(0), at.eq(at + 1)]

        # The row is read when it is not the one that the memory holds already.
        row, held, holds = at[_LOW:], Signal(len(at) - _LOW), Signal()
        m.d.comb += self.reads.eq(active & ~(holds & (held == row)))
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
                memory.address.eq(row),
            ]
            halves.append(memory.data)

        # The memory's latency, then the choice of one byte into the output register.
        steps = BlockRAM.LATENCY
        valid = [active]
        for _ in range(steps + 1):
            valid.append(delay(m, valid[-1], 1))
        m.d.comb += [self.o.valid.eq(valid[-1]), self.busy.eq(Cat(valid).any())]
        m.d.sync += [
            self.o.payload.packed.eq(
                Cat(*halves).word_select(delay(m, at[:_LOW], steps), PACKED_ENTRY.size)),
            self.o.payload.first.eq(delay(m, first, steps)),
            self.o.payload.value.eq(delay(m, value, steps)),
        ]
        return m
