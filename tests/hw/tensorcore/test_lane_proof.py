"""The operand select, proved: each multiplier gets the operand that its metadata name. The weights
are 0 or 1, so that the sum shows the operands; the products are tested exhaustively elsewhere."""

import pytest
from amaranth.hdl import *

from zeroskip.hw.stream import delay
from zeroskip.hw.tensorcore.config import GROUP, TensorCoreConfig
from zeroskip.hw.tensorcore.lane import Lane
from zeroskip.sim.proof import Claims, Refuted, edited, prove

TWO, ONE = ("dense", "2:4"), ("dense", "2:4", "1:4")


def select(kind, patterns):
    """The metadata of 2:4 are in order; with 1:4 built, each slot has a group of its own."""
    dut = kind(TensorCoreConfig(patterns=patterns))
    claims = Claims(dut)
    m, first, second = claims.m, *dut.select
    if patterns == TWO:
        claims.assume(first < second)
    operands, groups = Array(dut.operands), patterns == ONE
    chosen = operands[first], operands[second + GROUP * groups]
    for k in range(2):
        m.d.comb += dut.weights[k].eq(claims.free(f"weight_{k}"))
    # Added where the lane adds: a reset clears the sum and not what is on its way there.
    due = Signal(signed(9))
    m.d.sync += due.eq(sum(delay(m, Mux(dut.weights[k] == 1, operand, 0), Lane.LATENCY - 1,
                                 reset_less=True) for k, operand in enumerate(chosen)))
    claims.claim("the sum of the operands that were chosen", dut.sum == due)
    return claims


@pytest.mark.parametrize("patterns", [TWO, ONE], ids=lambda patterns: patterns[-1])
def test_select(patterns):
    prove(select(Lane, patterns))


@pytest.mark.parametrize(("patterns", "old", "new"), [
    (TWO, "Mux(high, x[2], Mux(low, x[1], x[0]))", "Mux(high, x[2], Mux(low, x[0], x[1]))"),
    (TWO, "Mux(low, x[3], x[2]), x[1]", "Mux(low, x[3], x[2]), x[0]"),
    (ONE, "slot * GROUP + i", "i"),
])
def test_select_with_a_fault(patterns, old, new):
    with pytest.raises(Refuted):
        prove(select(edited(Lane, (old, new)), patterns))
