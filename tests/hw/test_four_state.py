"""The simulation in Icarus finds an X, and nothing else."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.stream import Queue, Skid

ITEMS = [5, 200, 0, 77, 255, 1]


class Forgetful(wiring.Component):
    """A register on the way of a stream, of which some bits are not reset."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def __init__(self, *, valid, total):
        self._valid, self._total = Signal(reset_less=valid), Signal(8, reset_less=total)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.o.valid.eq(self._valid), self.o.payload.eq(self._total),
                     self.i.ready.eq(self.o.ready | ~self._valid)]
        with m.If(self.i.ready):
            m.d.sync += self._valid.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += self._total.eq(self._total + self.i.payload)
        return m


@pytest.mark.parametrize("dut", [Queue(8, depth=3), Skid(8)], ids=["queue", "skid"])
def test_items_pass_that_are_x_while_they_are_not_valid(four_state, dut):
    assert four_state(dut, [{"i": ITEMS}], "o", len(ITEMS)) == ITEMS


def test_what_is_reset_is_known(four_state):
    assert four_state(Forgetful(valid=False, total=False), [{"i": ITEMS[:3]}], "o", 3) == [
        5, 205, 205]


@pytest.mark.parametrize(("forgets", "message"), [
    ({"valid": True, "total": False}, "a port is X in cycle 3"),
    ({"valid": False, "total": True}, "X leaves in cycle"),
])
def test_a_reset_that_is_missing_is_found(four_state, forgets, message):
    with pytest.raises(AssertionError, match=message):
        four_state(Forgetful(**forgets), [{"i": ITEMS}], "o", len(ITEMS))


def test_an_item_that_is_missing_is_found(four_state):
    with pytest.raises(AssertionError, match="too little has left in cycle"):
        four_state(Skid(8), [{"i": ITEMS}], "o", len(ITEMS) + 1)
