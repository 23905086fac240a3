"""Pointer read: from a column's place to its entries (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.directory import kind
from zeroskip.hw.eie.layouts import STRIDE_WIDTH, job, work
from zeroskip.hw.memory import WritePort
from zeroskip.hw.stream import Queue, delay


class PointerRead(wiring.Component):
    """Looks columns up in the directory and drops those that are empty in this PE.

    Latency is ``latency`` cycles, throughput one column a cycle, empty or not. It looks up until
    ``runahead`` jobs wait at the output, so that an empty column costs the multiplier nothing while
    there are others. Without ``drops_empty``, it is handed on.

    Members
    -------
    i : In(stream of ``work``)
    o : Out(stream of ``job``)
    load : In(WritePort)
        See ``LoadTarget.POINTERS``.
    stride, balanced : In
        As in ``command``.
    busy : Out(1)
        A column is inside.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(work(config))),
            "o": Out(stream.Signature(job(config))),
            "load": In(WritePort(address=bits_for(config.pointers - 1), data=32)),
            "stride": In(STRIDE_WIDTH),
            "balanced": In(1),
            "busy": Out(1),
        })

    @staticmethod
    def latency(config: EIEConfig) -> int:
        """Cycles from a column to its job: a register, the directory, the queue."""
        return 1 + kind(config).LATENCY + 1

    def elaborate(self, platform):
        m = Module()
        config, under_way = self.config, self.latency(self.config) - 1
        m.submodules.columns = columns = kind(config)(config)
        m.submodules.jobs = jobs = Queue(job(config), depth=config.runahead + 1)
        # Two registers of one meaning: ``go`` has to reach every register on the way.
        go, stop = Signal(), Signal()
        m.d.sync += [go.eq(jobs.level < config.runahead), stop.eq(jobs.level >= config.runahead)]
        wiring.connect(m, wiring.flipped(self.load), columns.load)
        m.d.comb += [
            self.i.ready.eq(go),
            columns.go.eq(go),
            columns.place.eq(delay(m, self.i.payload.place, 1, go)),
            columns.stride.eq(self.stride),
            columns.balanced.eq(self.balanced),
        ]

        valid = [self.i.valid]
        for _ in range(under_way):
            valid.append(delay(m, valid[-1], 1, go))
        found = jobs.i.payload
        m.d.comb += [
            found.start.eq(columns.start),
            found.last.eq(columns.last),
            found.blank.eq(columns.empty & (not config.drops_empty)),
            found.value.eq(delay(m, self.i.payload.value, under_way, go)),
            jobs.i.valid.eq(valid[-1] & ~stop & ~(columns.empty & config.drops_empty)),
            self.busy.eq(Cat(valid[1:]).any() | jobs.o.valid),
        ]
        wiring.connect(m, jobs.o, wiring.flipped(self.o))
        return m
