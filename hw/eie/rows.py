"""Row read: which row of the weight memory comes next, and what of it belongs to which column."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import OFFSET_WIDTH, SLICE, job_layout
from zeroskip.hw.stream import flow


class RowRead(wiring.Component):
    """Cuts each job into slices of rows, and has the rows read.

    A row is read once and then held by the memory: again only when the row changes, so that short
    columns that share a row cost one read. Latency from a job to its first slice is ``LATENCY``
    cycles, throughput one slice a step. A blank job is one slice, without bytes.

    Members
    -------
    i : In(stream of ``job_layout``)
    enable, stalled : In(1)
        Of the :class:`~zeroskip.hw.pipeline.RunAhead` that this is stage 0 of.
    o : Out(flow of ``SLICE``)
        Stands while it is stalled.
    row : Out
        The row of the slice.
    reads : Out(1)
        It has to be read in this cycle, for the memory holds another.
    loaded : In(1)
        A word of the memory is written: what it holds may be old.
    """

    LATENCY = 1

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(job_layout(config))),
            "enable": In(1),
            "stalled": In(1),
            "o": Out(flow(SLICE)),
            "row": Out(config.pointer_width - OFFSET_WIDTH),
            "reads": Out(1),
            "loaded": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        new, waits, o = self.i.payload, self.i.valid, self.o.payload
        start, end = new.start[OFFSET_WIDTH:], new.last[OFFSET_WIDTH:]
        # How many rows of the job follow. Whether it is the last one, or the one held already, is
        # known when the cycle begins: the queue of jobs stands on the same path.
        left, last = Signal.like(self.row), Signal(OFFSET_WIDTH)
        final, same = Signal(), Signal()
        m.d.comb += self.i.ready.eq(~self.o.valid | (final & ~self.stalled))
        with m.If(self.i.ready):
            m.d.sync += [
                self.o.valid.eq(waits), left.eq(end - start),
                final.eq(new.blank | (start == end)), last.eq(new.last),
                o.begin.eq(1), o.blank.eq(new.blank), o.value.eq(new.value), o.first.eq(new.start),
            ]
            with m.If(waits & ~new.blank):      # a job without bytes reads no row
                m.d.sync += [self.row.eq(start), same.eq(start == self.row)]
        with m.Elif(self.enable):
            m.d.sync += [self.row.eq(self.row + 1), same.eq(0), left.eq(left - 1),
                         final.eq(left == 1), o.begin.eq(0), o.first.eq(0)]
        m.d.comb += o.last.eq(last | (~final).replicate(OFFSET_WIDTH))

        holds = Signal()
        m.d.comb += self.reads.eq(self.enable & (self.o.valid & ~o.blank) & ~(holds & same))
        with m.If(self.loaded):
            m.d.sync += holds.eq(0)
        with m.Elif(self.reads):
            m.d.sync += holds.eq(1)
        return m
