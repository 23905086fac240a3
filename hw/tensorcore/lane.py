"""A multiplier pair whose operands are chosen from a group of four by metadata."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.stream import delay
from zeroskip.hw.tensorcore.config import GROUP, TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import window_layout

PAIR_SHIFT = 9
"""Bits between the two halves of a 4-bit pair on their way into one multiplier."""


class Lane(wiring.Component):
    """``weights[0] * x[select[0]] + weights[1] * x[select[1]]``, x from the window.

    The metadata of 2:4 are *ordered*, ``select[0] < select[1]`` (PTX ISA, mma.sp), so that
    each multiplier needs three of the four operands: 0 to 2, and 1 to 3. With 1:4 each has a
    group of its own and needs all four. A dense core has two operands and no select.

    With ``int4`` each byte is a pair of 4-bit numbers, the first in the low bits, and a
    product is the pair's dot product. One multiplication gives it, as the middle part of
    (w0 + w1 * 2^9) * (x1 + x0 * 2^9).

    Latency is ``LATENCY`` cycles, throughput one a cycle.

    Members
    -------
    weights : In
    select : In
        Only with an operand select.
    operands : In(``window_layout``)
    int4 : In(1)
        Only where the configuration has it.
    sum : Out(signed(17))
    """

    LATENCY = 3

    def __init__(self, config: TensorCoreConfig):
        self.config = config
        super().__init__({
            "weights": In(data.ArrayLayout(signed(8), 2)),
            **({"select": In(data.ArrayLayout(2, 2))} if config.sparse else {}),
            "operands": In(window_layout(config)),
            **({"int4": In(1)} if config.int4 else {}),
            "sum": Out(signed(17)),
        })

    def elaborate(self, platform):
        m = Module()
        products = []
        for slot in range(2):
            weight, operand = (delay(m, value, 1, reset_less=True)
                               for value in (self.weights[slot], self._operand(slot)))
            products.append(delay(m, self._product(weight, operand)[:16].as_signed(), 1,
                                  reset_less=True))
        m.d.sync += self.sum.eq(products[0] + products[1])
        return m

    def _operand(self, slot: int) -> Value:
        x = self.operands
        if not self.config.sparse:
            return x[slot]
        low, high = self.select[slot]
        if self.config.span > 2:
            group = [x[slot * GROUP + i] for i in range(GROUP)]
            return Mux(high, Mux(low, group[3], group[2]), Mux(low, group[1], group[0]))
        if slot == 0:
            return Mux(high, x[2], Mux(low, x[1], x[0]))
        return Mux(high, Mux(low, x[3], x[2]), x[1])

    def _product(self, weight: Value, operand: Value) -> Value:
        if not self.config.int4:
            return weight * operand
        halves = [(value[:4].as_signed(), value[4:].as_signed()) for value in (weight, operand)]
        (w0, w1), (x0, x1) = halves
        product = (Mux(self.int4, w0 + (w1 << PAIR_SHIFT), weight)
                   * Mux(self.int4, x1 + (x0 << PAIR_SHIFT), operand))
        # The part below is at most 64 in magnitude; rounding takes its borrow back.
        pair = (product + (1 << PAIR_SHIFT - 1))[PAIR_SHIFT:2 * PAIR_SHIFT].as_signed()
        return Mux(self.int4, pair, product)
