"""From accumulators to outputs: bias, multiplier, shift, zero point, ReLU, saturation."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.stream import delay
from zeroskip.hw.tensorcore.layouts import CHANNEL, LEAST_SHIFT, OPERAND, SUM

LEAST, MOST = -(1 << OPERAND.width - 1), (1 << OPERAND.width - 1) - 1
"""What an output saturates to."""

REQUANTISED = data.StructLayout({"value": SUM, "saturated": 1})
"""An output, and whether it had to be saturated to 8 bits."""


class Requantise(wiring.Component):
    """(accumulator + bias) * multiplier / 2^(``LEAST_SHIFT`` + shift), rounded to the nearest
    integer, a tie to the even one (as ONNX's QuantizeLinear), plus the zero point.

    The sum with the bias is exact modulo 2^32, the product exact. The result is saturated to 8
    bits, then at least the zero point with ``relu``; with ``raw`` it is neither, and a
    multiplier of 2^24 with shift 0 and zero point 0 hands the sum on. Latency is ``LATENCY``
    cycles, throughput one a cycle.

    Members
    -------
    accumulator : In(``SUM``)
    channel : In(``CHANNEL``)
        With the accumulator.
    zero_point : In(``OPERAND``), relu : In(1), raw : In(1)
        Constant during a GEMM.
    o : Out(``REQUANTISED``)
        ``saturated`` tells what was too large for 8 bits, or, without ReLU, too small.
    """

    LATENCY = 10

    accumulator: In(SUM)
    channel: In(CHANNEL)
    zero_point: In(OPERAND)
    relu: In(1)
    raw: In(1)
    o: Out(REQUANTISED)

    def elaborate(self, platform):
        m = Module()
        product = self._multiply(m)

        # ``shifted`` ends with one bit behind the point; ``lost`` tells whether anything but zeros
        # was shifted out behind it.
        kept = LEAST_SHIFT - 1
        shifted, lost = product >> kept, product[:kept].any()
        shift = delay(m, self.channel.shift, 4)
        for places in ((4, 3), (2, 1)):
            shifted, lost, shift = (delay(m, each, 1) for each in (
                *_shift_right(shifted, lost, shift, places), shift))
        shifted, lost = _shift_right(shifted, lost, shift, (0,))

        # The last bit becomes whether to round up; that and the zero point in one sum.
        up, doubled = shifted[0] & (shifted[1] | lost), Signal(signed(10))
        rounded = delay(m, Cat(up, shifted[1:]).as_signed(), 1)
        value = Signal(signed(64 - kept))
        m.d.sync += [doubled.eq((self.zero_point << 1) + 1), value.eq((rounded + doubled) >> 1)]
        below, above, off = (delay(m, flag, 1) for flag in (
            value < LEAST, value > MOST, self.relu & (value < self.zero_point)))
        m.d.sync += [
            self.o.saturated.eq(~self.raw & (above | (below & ~self.relu))),
            self.o.value.eq(delay(m, value, 1)),
        ]
        with m.If(~self.raw):
            with m.If(off):
                m.d.sync += self.o.value.eq(self.zero_point)
            with m.Elif(below):
                m.d.sync += self.o.value.eq(LEAST)
            with m.Elif(above):
                m.d.sync += self.o.value.eq(MOST)
        return m

    def _multiply(self, m: Module) -> Value:
        """(accumulator + bias) * multiplier, four cycles later: products of halves, each with a
        register on either side as DSP blocks have them, and their sums."""
        biased = delay(m, (self.accumulator + self.channel.bias)[:32], 1, reset_less=True)
        multiplier = delay(m, self.channel.multiplier, 1, reset_less=True)
        product, rows = Signal(signed(63)), []
        for factor in (multiplier[:16], multiplier[16:]):
            low, high = (delay(m, half * factor, 1, reset_less=True)
                         for half in (biased[:16], biased[16:].as_signed()))
            rows.append(delay(m, low + (high << 16), 1))
        m.d.sync += product.eq(rows[0] + (rows[1] << 16))
        return product


def _shift_right(value: Value, lost: Value, shift: Value,
                 places: tuple[int, ...]) -> tuple[Value, Value]:
    """``value`` shifted by these binary places of ``shift``, and ``lost`` or whether a one fell
    out."""
    for place in places:
        lost |= shift[place] & value[:1 << place].any()
        value = Mux(shift[place], value >> (1 << place), value)
    return value, lost
