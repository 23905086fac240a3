"""Arithmetic unit: multiply, accumulate, and the bypass between them (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import operation_layout
from zeroskip.hw.eie.registers import ActivationRegisters
from zeroskip.hw.memory import WritePort
from zeroskip.hw.stream import delay, flow


class ArithmeticUnit(wiring.Component):
    """accumulator[row] += weight * value, one a cycle, in any order of rows.

    Five stages: the accumulator's address; operands; product; its output register, with the
    accumulator; the sum, which is written. An update that follows one to four cycles behind
    another of the same row takes its sum from the bypass. Sums are exact: the compiler has proved
    that none can overflow. ``LATENCY`` cycles after an operation its sum can be read.

    Members
    -------
    i : In(flow of ``operation_layout``)
    address, data, write : Out, In, Out(WritePort)
        The accumulators: ``data`` belongs to the ``address`` of two cycles ago.
    in_flight : Out(3)
        An operation was taken one, two or three cycles ago; it is written four cycles after that.
    """

    LATENCY = 5

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(flow(operation_layout(config))),
            "address": Out(config.word_width),
            "data": In(signed(config.acc_width)),
            "write": Out(WritePort(address=config.word_width, data=config.acc_width)),
            "in_flight": Out(3),
        })

    def elaborate(self, platform):
        m = Module()
        # Index k of each list is stage k; stage 0 is the input.
        op = self.i.payload
        valid, row = [self.i.valid], [op.row]
        for signals in (valid, row):
            for _ in range(6):
                signals.append(delay(m, signals[-1], 1))
        weight, value = (delay(m, each, 1, reset_less=True) for each in (op.weight, op.value))
        product = delay(m, delay(m, weight * value, 1, reset_less=True), 1)
        m.d.comb += self.address.eq(row[0])
        assert ActivationRegisters.LATENCY == 2

        # Stage 4 holds the sum being written, 5 and 6 those written before it.
        sums = {4: Signal(signed(self.config.acc_width))}
        sums[5] = delay(m, sums[4], 1)
        sums[6] = delay(m, sums[5], 1)

        def same(older: int, stage: int) -> Value:
            """In the next stage: the update at stage ``older`` was of the same row."""
            return delay(m, valid[older] & (row[older] == row[stage]), 1)

        stored, two, three, four = Signal.like(sums[4]), same(3, 1), same(4, 1), same(5, 1)
        m.d.sync += stored.eq(Mux(two, sums[4], Mux(three, sums[5], Mux(four, sums[6], self.data))))
        m.d.sync += sums[4].eq(Mux(same(3, 2), sums[4], stored) + product)
        m.d.comb += [self.write.en.eq(valid[4]), self.write.address.eq(row[4]),
                     self.write.data.eq(sums[4]), self.in_flight.eq(Cat(valid[1:4]))]
        return m
