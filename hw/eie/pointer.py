"""Pointer read: from a column's number to its entries (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import activation, job
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.stream import Queue, delay


class PointerRead(wiring.Component):
    """Reads p[j] and p[j + 1] in one cycle and drops the columns that are empty in this PE.

    Even and odd pointers lie in two banks, so that both come out together. Latency is
    ``BlockRAM.LATENCY`` + 1 cycles, throughput one column a cycle, empty or not. New columns
    are read until ``runahead`` non-empty ones wait at the output, so that an empty one costs
    the multiplier nothing while there are others.

    Members
    -------
    i : In(stream of ``activation``)
    o : Out(stream of ``job``)
    load : In(WritePort)
        Address is the column.
    busy : Out(1)
        A column is inside.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(activation(config))),
            "o": Out(stream.Signature(job(config))),
            "load": In(WritePort(address=bits_for(config.pointers - 1),
                                 data=config.pointer_width)),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config, column = self.config, self.i.payload.column

        bank_depth = max(2, -(-config.pointers // 2))
        m.submodules.even = even = BlockRAM(config.pointer_width, depth=bank_depth)
        m.submodules.odd = odd = BlockRAM(config.pointer_width, depth=bank_depth)
        for parity, bank in enumerate((even, odd)):
            m.d.comb += [
                bank.write.en.eq(self.load.en & (self.load.address[0] == parity)),
                bank.write.address.eq(self.load.address >> 1),
                bank.write.data.eq(self.load.data),
                bank.en.eq(1),
            ]
        m.d.comb += [even.address.eq((column + 1) >> 1), odd.address.eq(column >> 1)]

        # A column is let in only when the queue has room for it and all those under way.
        under_way = BlockRAM.LATENCY
        m.submodules.jobs = jobs = Queue(job(config), depth=config.runahead + under_way)
        m.d.comb += self.i.ready.eq(jobs.level < config.runahead)
        valid = [self.i.valid & self.i.ready]
        for _ in range(under_way):
            valid.append(delay(m, valid[-1], 1))
        is_odd = delay(m, column[0], under_way)
        found = jobs.i.payload
        m.d.comb += [
            found.start.eq(Mux(is_odd, odd.data, even.data)),
            found.stop.eq(Mux(is_odd, even.data, odd.data)),
            found.value.eq(delay(m, self.i.payload.value, under_way)),
            jobs.i.valid.eq(valid[-1] & (even.data != odd.data)),
            self.busy.eq(Cat(valid[1:]).any() | jobs.o.valid),
        ]
        wiring.connect(m, jobs.o, wiring.flipped(self.o))
        return m
