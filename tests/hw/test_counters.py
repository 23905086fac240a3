"""The counters: each counts its own event, is cleared, and is read a cycle later."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.counters import WIDTH, Counters
from zeroskip.hw.eie.counters import ControlCounter, PECounter
from zeroskip.hw.tensorcore.core import CoreCounter
from zeroskip.sim.bench import device, simulate

WHICH = pytest.mark.parametrize("which", [PECounter, ControlCounter, CoreCounter])


def counts_after(which, events, clears=frozenset()):
    """Every counter's value after one cycle for each member of ``events`` (a bit per counter);
    cleared in the cycles ``clears``."""
    dut, counts = device(Counters, which), []

    async def bench(ctx):
        for cycle, event in enumerate(events):
            ctx.set(dut.events, event)
            ctx.set(dut.clear, cycle in clears)
            await ctx.tick()
        ctx.set(dut.events, 0)
        ctx.set(dut.clear, 0)
        for member in which:
            ctx.set(dut.select, member.value)
            await ctx.tick()
            counts.append(ctx.get(dut.value))

    simulate(dut, bench)
    return counts


@WHICH
def test_each_event_counts_in_its_own_counter(which):
    for member in which:
        assert counts_after(which, [1 << member.value] * 3) == [
            3 * (other is member) for other in which]


@WHICH
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=25)
def test_events_of_one_cycle_count_together(which, data):
    events = data.draw(st.lists(st.integers(0, (1 << len(which)) - 1), max_size=40))
    assert counts_after(which, events) == [
        sum(event >> member.value & 1 for event in events) for member in which]


@WHICH
def test_clear_takes_every_counter_to_zero(which):
    every = (1 << len(which)) - 1
    assert counts_after(which, [every] * 8, clears={5}) == [2] * len(which)


def test_a_count_is_read_one_cycle_after_its_address(watch):
    dut, log = device(Counters, PECounter), []

    async def bench(ctx):
        ctx.set(dut.events, 1 << PECounter.PADDING.value)
        await ctx.tick()
        ctx.set(dut.events, 0)
        for select in (PECounter.PADDING, PECounter.EMPTY, PECounter.PADDING):
            ctx.set(dut.select, select)
            await ctx.tick()

    simulate(dut, bench, background=[watch(log, dut.value)])
    assert [value for value, in log][2:5] == [1, 0, 1]
    assert len(dut.value) == WIDTH == 32
