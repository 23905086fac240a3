"""The activation queue: order, when it is full, and what it still takes then."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import PLACE_LATENCY, EIEConfig
from zeroskip.hw.eie.queue import ActivationQueue
from zeroskip.sim.bench import Stalls, device, receive, send, simulate

ITEMS = st.lists(st.fixed_dictionaries({"place": st.integers(0, EIEConfig().entries),
                                        "value": st.integers(-32768, 32767)}), max_size=30)


@given(items=ITEMS)
@settings(deadline=None, derandomize=True, max_examples=10)
def test_activations_leave_in_order(transfer, stalls, items):
    dut = device(ActivationQueue, EIEConfig(queue_depth=3))
    assert transfer(dut, [(dut.i, items)], [(dut.o, len(items))], stalls=stalls) == [items]


def test_latency_is_one_cycle_and_throughput_one_a_cycle(record):
    dut, left = device(ActivationQueue, EIEConfig()), []
    items = [{"place": k, "value": -k} for k in range(20)]
    simulate(dut, lambda ctx: send(ctx, dut.i, items), lambda ctx: receive(ctx, dut.o, 20),
             background=[record(left, dut.o)])
    assert left == [(1 + k, item) for k, item in enumerate(items)]


@pytest.mark.parametrize("depth", [1, 2, 8])
@pytest.mark.parametrize("latency", [0, 1, 3])
def test_full_rises_at_the_depth_and_the_slots_above_still_take(watch, depth, latency):
    config = EIEConfig(queue_depth=depth, broadcast_latency=latency)
    dut, log = device(ActivationQueue, config), []

    async def press(ctx):
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(config.queue_slots + 3)

    simulate(dut, press, background=[watch(log, dut.full, dut.i.ready)], quiet=1)
    slots = depth + 2 * latency + PLACE_LATENCY
    assert log[:slots + 3] == [(k >= depth, k < slots) for k in range(slots + 3)]


def test_full_falls_when_room_is_made(watch):
    dut, log = device(ActivationQueue, EIEConfig(queue_depth=2)), []

    async def bench(ctx):
        await send(ctx, dut.i, [{"place": k} for k in range(2)])
        await receive(ctx, dut.o, 1)

    simulate(dut, bench, background=[watch(log, dut.full)], quiet=2)
    assert [full for full, in log] == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("latency", [0, 1, 2, 4])
def test_a_broadcast_that_learns_late_of_full_loses_nothing(latency):
    dut = device(ActivationQueue, EIEConfig(queue_depth=2, broadcast_latency=latency))
    items = [{"place": k, "value": k} for k in range(60)]
    taken = []

    async def broadcast(ctx):
        left = iter(items)
        # What the sender knows of `full`, and what is on its way to the queue.
        news, road = [0] * latency, [None] * (latency + PLACE_LATENCY)
        sent = 0
        while sent < len(items):
            news.append(ctx.get(dut.full))
            road.append(None if news.pop(0) else next(left, None))
            item = road.pop(0)
            ctx.set(dut.i.valid, item is not None)
            if item is not None:
                ctx.set(dut.i.payload, item)
                assert ctx.get(dut.i.ready), "the queue always takes what arrives"
                sent += 1
            await ctx.tick()
        ctx.set(dut.i.valid, 0)

    async def take(ctx):
        taken.extend(await receive(ctx, dut.o, len(items), Stalls(1, 0.8)))

    simulate(dut, broadcast, take)
    assert taken == items
