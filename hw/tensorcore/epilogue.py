"""From accumulators to outputs: bias, multiplier, shift, zero point, ReLU, saturation."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.stream import delay
from zeroskip.hw.tensorcore.layouts import CHANNEL, LEAST_SHIFT

REQUANTISED = data.StructLayout({"value": signed(32), "saturated": 1})
"""An output, and whether it had to be saturated to 8 bits."""


class Requantise(wiring.Component):
    """(accumulator + bias) * multiplier / 2^(``LEAST_SHIFT`` + shift), a half rounded away from
    zero (TensorFlow Lite's rule, in one rounding), plus the zero point.

    The sum with the bias is exact modulo 2^32, the product exact. The result is saturated to 8
    bits, then at least the zero point with ``relu``; with ``raw`` it is neither, and a
    multiplier of 2^24 with shift 0 and zero point 0 hands the sum on. Latency is ``LATENCY``
    cycles, throughput one a cycle.

    Members
    -------
    accumulator : In(signed(32))
    channel : In(``CHANNEL``)
        With the accumulator.
    zero_point : In(signed(8)), relu : In(1), raw : In(1)
        Constant during a GEMM.
    o : Out(``REQUANTISED``)
        ``saturated`` tells what was too large for 8 bits, or, without ReLU, too small.
    """

    LATENCY = 7

    accumulator: In(signed(32))
    channel: In(CHANNEL)
    zero_point: In(signed(8))
    relu: In(1)
    raw: In(1)
    o: Out(REQUANTISED)

    def elaborate(self, platform):
        m = Module()
        biased = Signal(signed(32))
        m.d.sync += biased.eq(self.accumulator + self.channel.bias)

        # Two multiplications of half the width, which a DSP block takes without a long path.
        multiplier = delay(m, self.channel.multiplier, 1)
        low, high = Signal(signed(49)), Signal(signed(48))
        product = Signal(signed(63))
        m.d.sync += [
            low.eq(biased * multiplier[:16]),
            high.eq(biased * multiplier[16:]),
            product.eq(low + (high << 16)),
        ]

        # Away from zero on a tie: less the smallest step where negative, then half up. Only
        # bits from the least half on count.
        kept = LEAST_SHIFT - 1
        truncated, shifted = Signal(signed(63 - kept)), Signal(signed(63 - kept))
        borrow = (product < 0) & ~product[:kept].any()
        m.d.sync += [
            truncated.eq((product >> kept) - borrow),
            shifted.eq(truncated >> delay(m, self.channel.shift, 4)),
        ]

        value = Signal(signed(64 - kept))
        m.d.sync += value.eq(((shifted + 1) >> 1) + self.zero_point)
        below, above = value < -128, value > 127
        m.d.sync += [
            self.o.saturated.eq(~self.raw & (above | (below & ~self.relu))),
            self.o.value.eq(value),
        ]
        with m.If(~self.raw):
            with m.If(self.relu & (value < self.zero_point)):
                m.d.sync += self.o.value.eq(self.zero_point)
            with m.Elif(below):
                m.d.sync += self.o.value.eq(-128)
            with m.Elif(above):
                m.d.sync += self.o.value.eq(127)
        return m
