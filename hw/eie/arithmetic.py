"""Arithmetic unit: multiply, accumulate, and the bypass between them (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import operation
from zeroskip.hw.stream import delay, flow


class ArithmeticUnit(wiring.Component):
    """accumulator[row] += weight * value, one a cycle, in any order of rows.

    Five stages: operands and accumulator address; multiply and accumulator read; product and
    accumulator output register; add; write. An update that follows one to three cycles behind
    another of the same row takes its sum from the bypass. Sums are exact: the compiler has
    proved that none can overflow.

    A drained accumulator leaves ``DRAIN_LATENCY`` cycles after it was asked for, with every
    earlier update in it, and is zero afterwards.

    Members
    -------
    i : In(flow of ``operation``)
    drain : In(flow of a row)
        Never in the same cycle as ``i``.
    o : Out(flow of signed(acc_width))
        Drained accumulators in order.
    """

    DRAIN_LATENCY = 3

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(flow(operation(config))),
            "drain": In(flow(config.row_width)),
            "o": Out(flow(signed(config.acc_width))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.accumulators = accumulators = Memory(
            shape=signed(self.config.acc_width), depth=self.config.acc_depth, init=[])
        read, write = accumulators.read_port(), accumulators.write_port()

        # Index k of each list is stage k; stage 0 is the input.
        op = self.i.payload
        valid, drain = [self.i.valid | self.drain.valid], [self.drain.valid]
        row = [Mux(self.drain.valid, self.drain.payload, op.row)]
        for signals in (valid, drain, row):
            for _ in range(5):
                signals.append(delay(m, signals[-1], 1))
        product = delay(m, delay(m, op.weight, 1) * delay(m, op.value, 1), 2)

        # Stage 4 holds the sum being written, stage 5 the one written a cycle ago.
        sums = {4: Signal(signed(self.config.acc_width))}
        sums[5] = delay(m, sums[4], 1)
        stored = Signal.like(sums[4])
        m.d.comb += read.addr.eq(row[1])
        with m.If(valid[4] & (row[4] == row[2])):
            m.d.sync += stored.eq(sums[4])
        with m.Elif(valid[5] & (row[5] == row[2])):
            m.d.sync += stored.eq(sums[5])
        with m.Else():
            m.d.sync += stored.eq(read.data)

        adjacent = delay(m, valid[3] & (row[3] == row[2]), 1)
        accumulator = Signal.like(stored)
        m.d.comb += accumulator.eq(Mux(adjacent, sums[4], stored))
        m.d.sync += sums[4].eq(Mux(drain[3], 0, accumulator + product))
        m.d.comb += [
            write.en.eq(valid[4]), write.addr.eq(row[4]), write.data.eq(sums[4]),
            self.o.valid.eq(drain[3]), self.o.payload.eq(accumulator),
        ]
        return m
