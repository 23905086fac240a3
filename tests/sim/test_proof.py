"""The proofs themselves: what is true is proved, what is not is refuted, by name; nothing is proved
for want of an occasion, a register, a tool or time."""

import pytest
from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.stream import Queue
from zeroskip.sim import proof
from zeroskip.sim.proof import Claims, NotClosed, Refuted, Vacuous, edited, prove
from zeroskip.sw.errors import ToolMissing


class Count(wiring.Component):
    """Counts up to five while ``en`` is high, and stays there."""

    en: In(1)
    count: Out(3)

    def elaborate(self, platform):
        m = Module()
        with m.If(self.en & (self.count < 5)):
            m.d.sync += self.count.eq(self.count + 1)
        return m


class Wire(wiring.Component):
    """No register at all."""

    i: In(1)
    o: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(self.i)
        return m


def always(_dut):
    return 1


def counts(*claims, assume=always):
    """Claims of a counter: name, and functions of it for the condition and when it holds."""
    found = Claims(dut := Count())
    for name, condition, when in claims:
        found.claim(name, condition(dut), when=when(dut))
    found.assume(assume(dut))
    return found


BOUND = ("bound", lambda dut: dut.count <= 5, always)


def test_what_holds_is_proved():
    prove(counts(BOUND))


@pytest.mark.parametrize("claims", [[BOUND, ("four", lambda dut: dut.count < 5, always)],
                                    [("four", lambda dut: dut.count < 5, always), BOUND],
                                    [("four", lambda dut: dut.count < 5, always)]])
def test_the_claim_that_fails_is_named_with_its_cycle(claims):
    with pytest.raises(Refuted, match="^'four' fails in cycle 5$"):
        prove(counts(*claims))


def test_what_never_holds_is_refuted():
    with pytest.raises(Refuted, match="^'false' fails in cycle 0$"):
        prove(counts(BOUND, ("false", lambda dut: 0, always)))


def test_reset_may_come_in_any_cycle():
    claims = Claims(dut := Count())
    was = Signal(3, reset_less=True)
    claims.m.d.sync += was.eq(dut.count)
    claims.claim("never less", dut.count >= was)
    with pytest.raises(Refuted, match="never less"):
        prove(claims)


def test_an_assumption_holds_up_to_the_claim():
    still = ("zero", lambda dut: dut.count == 0, always)
    prove(counts(still, assume=lambda dut: ~dut.en))
    with pytest.raises(Refuted, match="zero"):
        prove(counts(still, assume=lambda dut: ~dut.en | (dut.count == 0)))


def test_an_occasion_that_never_arises_is_no_proof():
    with pytest.raises(Vacuous, match="^the occasion of 'six' never arises$"):
        prove(counts(BOUND, ("six", lambda dut: 0, lambda dut: dut.count == 6)))


def test_assumptions_that_nothing_fulfils_are_no_proof():
    with pytest.raises(Vacuous, match="the occasion of 'bound' never arises"):
        prove(counts(BOUND, assume=lambda dut: dut.count == 7))


def test_a_device_without_registers_is_no_proof():
    claims = Claims(dut := Wire())
    claims.claim("follows", dut.o == dut.i)
    with pytest.raises(Vacuous, match="no register"):
        prove(claims)


def test_a_driven_input_is_not_free():
    claims = Claims(dut := Count())
    claims.m.d.comb += dut.en.eq(claims.free("half") & (dut.count < 2))
    claims.claim("two", dut.count <= 2)
    prove(claims)


def test_time_is_up():
    dut = Queue(8, depth=8)
    claims = Claims(dut)
    claims.follow(dut.i, dut.o, 8)
    with pytest.raises(NotClosed, match=r"^'pdr' did not end in 0\.1 s$"):
        prove(claims, seconds=0.1)


@pytest.mark.parametrize("found", [None, "a package without the tool"])
def test_a_missing_tool_is_named(found, monkeypatch, tmp_path):
    spec = found and proof.importlib.util.spec_from_file_location("pyosys", tmp_path / "pyosys.py")
    monkeypatch.setattr(proof.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ToolMissing, match="yosys-abc"):
        prove(counts(BOUND))


def test_two_claims_of_one_name_are_refused():
    claims = counts(BOUND)
    with pytest.raises(ValueError, match="two claims called 'bound'"):
        claims.claim("bound", 1)
    prove(claims)


def test_components_inside_are_found():
    class Two(wiring.Component):
        def __init__(self):
            super().__init__({})
            self.queues = [Queue(1, depth=1 + k) for k in range(2)]

        def elaborate(self, platform):
            m = Module()
            m.submodules.outer = outer = Module()
            outer.submodules += self.queues
            return m

    dut = Two()
    claims = Claims(dut)
    assert claims.inside(Queue) == dut.queues
    assert "module \\top.dut.outer" in claims.rtlil()


@pytest.mark.parametrize(("text", "times"), [("there is no such text", 0), ("self.count", 3)])
def test_an_edit_changes_one_place(text, times):
    with pytest.raises(ValueError, match=f"{text!r} stands {times} times in Count, not once"):
        edited(Count, (text, ""))


def test_edits_make_a_class_of_their_own():
    small = edited(Count, ("< 5", "< 3"), ("count + 1", "count + 2"))
    claims = Claims(dut := small())
    claims.claim("even", (dut.count == 0) | (dut.count == 2) | (dut.count == 4))
    prove(claims)
    with pytest.raises(Refuted):
        prove(counts(("three", lambda dut: dut.count < 4, always)))
