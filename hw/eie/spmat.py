"""Sparse-matrix read: the entries of a column, one a cycle (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import DECODED, ENTRY, job_layout
from zeroskip.hw.eie.rows import RowRead
from zeroskip.hw.eie.search import EntrySearch
from zeroskip.hw.eie.unpack import Unpack
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.pipeline import RunAhead
from zeroskip.hw.stream import flow


class SparseMatrixRead(wiring.Component):
    """Reads the bytes of each job from the weight memory of 64-bit rows, an entry a cycle.

    ::

        job --> RowRead --slice--> EntrySearch --decoded slice--> queue --> Unpack --> entry
                  |                  ^
                  +--> memory --row--+

    Rows are read ahead of the entries, one a cycle, as a column may begin anywhere in a row: what
    is behind the queue must find the next slice there when a row gives out, even if it has one
    entry only. Row read, memory and search stall together while the queue has no room.

    With escapes, one of them and the entry behind it, possibly in the next row, take one cycle; an
    escape at a column's end is a filler and nothing. A row of a column in which no entry ends,
    because the column has only an escape there, costs a cycle of the row read, and so of the
    entries only if no slice waits. A blank job takes a cycle. Latency from a job to its first entry
    is :meth:`latency` cycles.

    Three columns in a simulation: A has four entries, the third behind an escape at the end of row
    0; B two in what is left of row 1, which is not read again; C one in row 3. The row read is done
    when the first slice is decoded (the search takes four of the six cycles), and no cycle is lost
    between entries::

        cycle      0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19
        job        A  .  B  C
        slice      .  A  A  B  C
        row read   .  0  1  .  3
        decoded    .  .  .  .  .  .  .  A  A  B  C
        queue      .  .  .  .  .  .  .  .  A  A  A  B  B  C  C
        entry      .  .  .  .  .  .  .  .  .  .  .  A  A  A  A  B  B  C
        gap        .  .  .  .  .  .  .  .  .  .  .  1  2 19  4  5  6  3

    Members
    -------
    i : In(stream of ``job_layout``)
    o : Out(flow of ``ENTRY``)
    load : In(WritePort)
        32-bit words; address = 2 * row + half, the first entry in the low byte.
    reads : Out(1)
        A row is read in this cycle.
    busy : Out(1)
        A job or an entry is inside.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(job_layout(config))),
            "o": Out(flow(ENTRY)),
            "load": In(WritePort(address=bits_for(2 * config.weight_rows - 1), data=32)),
            "reads": Out(1),
            "busy": Out(1),
        })

    @staticmethod
    def latency(config: EIEConfig) -> int:
        """Cycles from a job to its first entry; one of them is the queue's."""
        return RowRead.LATENCY + EntrySearch.latency(config) + 1 + Unpack.LATENCY

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.slices = slices = RunAhead.queue(DECODED, config.runahead)
        m.submodules.rows = rows = RowRead(config)
        m.submodules.search = search = EntrySearch(config)
        m.submodules.unpack = unpack = Unpack()
        stages = RunAhead(m, [slices], config.runahead)

        wiring.connect(m, wiring.flipped(self.i), rows.i)
        wiring.connect(m, rows.o, search.i)
        wiring.connect(m, slices.o, unpack.i)
        wiring.connect(m, unpack.o, wiring.flipped(self.o))
        m.d.comb += [
            rows.enable.eq(stages.enable),
            rows.stalled.eq(stages.stalled),
            rows.loaded.eq(self.load.en),
            search.enable.eq(stages.enable),
            search.word.eq(self._memory(m, rows.row, rows.reads, stages.enable)),
            slices.i.payload.eq(search.o.payload),
            slices.i.valid.eq(stages.leaves(search.o.valid)),
            self.reads.eq(rows.reads),
            self.busy.eq(rows.o.valid | search.busy | slices.o.valid | unpack.busy),
        ]
        return m

    def _memory(self, m: Module, row: Value, reads: Value, enable: Value) -> Value:
        """The weight memory; returns the row, ``BlockRAM.LATENCY`` steps after its address. In two
        halves, for a word of the load bus is half a row."""
        halves = []
        for half in range(2):
            m.submodules[f"half_{half}"] = memory = BlockRAM(32, depth=self.config.weight_rows)
            m.d.comb += [
                memory.write.en.eq(self.load.en & (self.load.address[0] == half)),
                memory.write.address.eq(self.load.address >> 1),
                memory.write.data.eq(self.load.data),
                memory.en.eq(reads),
                memory.hold.eq(~enable),
                memory.address.eq(row),
            ]
            halves.append(memory.data)
        return Cat(*halves)
