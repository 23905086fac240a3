"""Pointer read: from a column's place to its entries (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.directory import kind
from zeroskip.hw.eie.layouts import STRIDE_WIDTH, job_layout, work_layout
from zeroskip.hw.memory import WritePort
from zeroskip.hw.pipeline import RunAhead


class PointerRead(wiring.Component):
    """Looks columns up in the directory and drops those that are empty in this PE.

    Latency is ``latency`` cycles, throughput one column a cycle, empty or not. It looks up until
    ``runahead`` jobs wait at the output, so that an empty column costs the multiplier nothing while
    there are others. Without ``drops_empty``, it is handed on.

    Members
    -------
    i : In(stream of ``work_layout``)
    o : Out(stream of ``job_layout``)
    load : In(WritePort)
        See ``LoadTarget.POINTERS``.
    stride, balanced : In
        As in ``command_layout``.
    busy : Out(1)
        A column is inside.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(work_layout(config))),
            "o": Out(stream.Signature(job_layout(config))),
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
        config, last = self.config, self.latency(self.config) - 1
        m.submodules.columns = columns = kind(config)(config)
        m.submodules.jobs = jobs = RunAhead.queue(job_layout(config), config.runahead)
        stages = RunAhead(m, [jobs], config.runahead)
        wiring.connect(m, wiring.flipped(self.load), columns.load)
        m.d.comb += [
            self.i.ready.eq(stages.enable),
            columns.enable.eq(stages.enable),
            columns.place.eq(stages.step(self.i.payload.place)),
            columns.stride.eq(self.stride),
            columns.balanced.eq(self.balanced),
        ]

        valid = stages.taps(self.i.valid, last)
        dropped = columns.empty & config.drops_empty
        found = jobs.i.payload
        m.d.comb += [
            found.start.eq(columns.start),
            found.last.eq(columns.last),
            found.blank.eq(columns.empty & (not config.drops_empty)),
            found.value.eq(stages.step(self.i.payload.value, last)),
            jobs.i.valid.eq(stages.leaves(valid[last]) & ~dropped),
            self.busy.eq(Cat(valid[1:]).any() | jobs.o.valid),
        ]
        wiring.connect(m, jobs.o, wiring.flipped(self.o))
        return m
