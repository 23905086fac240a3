"""Stages that stall together, and run ahead of a queue: delays, order, speed, what waits; and the
proof, for all inputs and all time, that nothing is refused, lost or out of order."""

import pytest
from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw import pipeline
from zeroskip.hw.pipeline import RunAhead, Stages
from zeroskip.hw.stream import Queue
from zeroskip.sim.bench import device, receive, send, simulate
from zeroskip.sim.proof import Claims, Refuted, edited, prove

LAST = 3
"""The number of the last stage."""


class Taps(wiring.Component):
    """A signal at each stage, and one of two stages later."""

    enable: In(1)
    i: In(8)
    taps: Out(8).array(LAST + 1)
    later: Out(8)

    def elaborate(self, platform):
        m = Module()
        stages = Stages(m, self.enable)
        m.d.comb += [tap.eq(each) for tap, each in zip(
            self.taps, stages.taps(self.i, LAST), strict=True)]
        m.d.comb += self.later.eq(stages.step(self.i, 2))
        return m


@given(cycles=st.lists(st.tuples(st.booleans(), st.integers(0, 255)), max_size=60))
@settings(deadline=None, derandomize=True, max_examples=15)
def test_a_signal_at_each_stage(watch, cycles):
    dut, log = device(Taps), []

    async def drive(ctx):
        for enable, value in cycles:
            ctx.set(dut.enable, enable)
            ctx.set(dut.i, value)
            await ctx.tick()

    simulate(dut, drive, background=[watch(log, *dut.taps, dut.later)], quiet=0)
    held = [0] * LAST
    for (enable, value), (*taps, later) in zip(cycles, log[:len(cycles)], strict=True):
        assert taps == [value, *held]
        assert later == held[1]
        held = [value, *held][:LAST] if enable else held


class Line(wiring.Component):
    """Items that pass ``LAST`` stages to the queue of their lowest bit."""

    def __init__(self, ahead, queues=1, kind=RunAhead, width=8):
        self.ahead, self.queues, self.kind = ahead, queues, kind
        super().__init__({"i": In(stream.Signature(width)), "enable": Out(1), "stalled": Out(1),
                          "o": Out(stream.Signature(width)).array(queues)})

    def elaborate(self, platform):
        m = Module()
        queues = [self.kind.queue(self.i.payload.shape(), self.ahead) for _ in self.o]
        stages = self.kind(m, queues, self.ahead)
        item = stages.step(self.i.payload, LAST)
        leaves = stages.leaves(stages.taps(self.i.valid, LAST)[LAST])
        m.d.comb += [self.i.ready.eq(stages.enable), self.enable.eq(stages.enable),
                     self.stalled.eq(stages.stalled)]
        for k, (queue, o) in enumerate(zip(queues, self.o, strict=True)):
            m.submodules[f"queue_{k}"] = queue
            mine = item[0] == k if self.queues > 1 else 1
            m.d.comb += [queue.i.payload.eq(item), queue.i.valid.eq(leaves & mine)]
            wiring.connect(m, queue.o, wiring.flipped(o))
        return m


@pytest.mark.parametrize("queues", [1, 2])
@pytest.mark.parametrize("ahead", [2, 5])
@given(items=st.lists(st.integers(0, 255), max_size=30))
@settings(deadline=None, derandomize=True, max_examples=3)
def test_items_leave_in_order_and_none_is_lost(transfer, stalls, ahead, queues, items):
    dut = device(Line, ahead, queues)
    mine = [[item for item in items if queues == 1 or item % 2 == k] for k in range(queues)]
    assert transfer(dut, [(dut.i, items)],
                    [(o, len(own)) for o, own in zip(dut.o, mine, strict=True)],
                    stalls=stalls) == mine


def test_latency(record):
    dut, entered, left = device(Line, 2), [], []
    simulate(dut, lambda ctx: send(ctx, dut.i, [7]), lambda ctx: receive(ctx, dut.o[0], 1),
             background=[record(entered, dut.i), record(left, dut.o[0])])
    assert left[0][0] - entered[0][0] == LAST + 1


@pytest.mark.parametrize(("ahead", "bubbles"), [(2, 1), (3, 0), (9, 0)])
def test_with_three_one_leaves_in_every_cycle_after_a_stall(record, ahead, bubbles):
    dut, left = device(Line, ahead), []

    async def take(ctx):
        await ctx.tick().repeat(ahead + LAST + 5)
        await receive(ctx, dut.o[0], 30)

    simulate(dut, lambda ctx: send(ctx, dut.i, range(30)), take,
             background=[record(left, dut.o[0])])
    assert left[-1][0] - left[0][0] - 29 == bubbles


def test_what_is_inside_waits_for_the_fullest_queue(watch):
    """Items for the second queue wait behind those for the first, which nobody takes."""
    dut, log = device(Line, 2, queues=2), []

    async def press(ctx):
        ctx.set(dut.o[1].ready, 1)
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.i.payload, 4)
        await ctx.tick().repeat(30)

    simulate(dut, press, background=[watch(log, dut.i.ready, dut.o[0].valid, dut.o[1].valid)],
             quiet=0)
    # After reset a cycle for the level, then all stages, the queue and one more.
    assert [ready for ready, *_ in log] == [0] + [1] * (LAST + 2 + 1) + [0] * (len(log) - 7)
    assert log[-1] == (0, 1, 0)


def test_enable_and_stalled_are_opposites_but_after_reset(watch):
    dut, log = device(Line, 2), []

    async def press(ctx):
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(15)
        ctx.set(dut.o[0].ready, 1)
        await ctx.tick().repeat(5)

    simulate(dut, press, background=[watch(log, dut.enable, dut.stalled)])
    assert log[0] == (0, 0)
    assert {enable + stalled for enable, stalled in log[1:]} == {1}
    assert (0, 1) in log


def line(kind=RunAhead, ahead=3):
    claims = Claims(dut := Line(ahead, kind=kind, width=1))
    (queue,), (o,) = claims.inside(Queue), dut.o
    claims.claim("the queue takes what it is offered", queue.i.ready, when=queue.i.valid)
    claims.claim("the queue fills", 1, when=queue.level == ahead + 1)
    claims.claim("no stage steps that would overrun", ~dut.enable | ~dut.stalled)
    claims.follow(dut.i, o, LAST + ahead + 1)
    claims.stable(o)
    return claims


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_run_ahead(ahead):
    prove(line(ahead=ahead))


@pytest.mark.parametrize(("old", "new"), [
    ("depth=ahead + 1", "depth=ahead"),
    ("valid & ~self.stalled", "valid"),
    ("level >= ahead", "level > ahead"),
    ("self.enable.eq(~above)", "self.enable.eq(1)"),
    ("self.stalled.eq(above)", "self.stalled.eq(0)"),
])
def test_run_ahead_with_a_fault(old, new):
    with pytest.raises(Refuted):
        prove(line(edited(RunAhead, (old, new))))


@pytest.mark.parametrize(("old", "new"), [
    ("stages, self.enable)", "stages)"),
    ("self.step(taps[-1])", "self.step(taps[0])"),
])
def test_stages_with_a_fault(monkeypatch, old, new):
    monkeypatch.setattr(pipeline, "Stages", edited(Stages, (old, new)))
    with pytest.raises(Refuted):
        prove(line(edited(RunAhead)))
