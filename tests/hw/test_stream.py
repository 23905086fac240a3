"""The queue: order, capacity, level and speed; the skid register; the delay line; the tree."""

from functools import reduce
from operator import or_

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.stream import Downsizer, Queue, Skid, Upsizer, delay, either
from zeroskip.sim.bench import device, receive, send, simulate

ITEM = data.StructLayout({"index": 5, "value": signed(6)})
ITEMS = st.lists(st.fixed_dictionaries({"index": st.integers(0, 31),
                                        "value": st.integers(-32, 31)}), max_size=30)


@pytest.mark.parametrize("depth", [1, 2, 5])
@given(items=ITEMS)
@settings(deadline=None, derandomize=True, max_examples=5)
def test_items_leave_in_order_and_none_is_lost(transfer, stalls, depth, items):
    dut = device(Queue, ITEM, depth=depth)
    assert transfer(dut, [(dut.i, items)], [(dut.o, len(items))], stalls=stalls) == [items]


def test_latency_is_one_cycle(record):
    dut, entered, left = device(Queue, 8, depth=4), [], []

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        await ctx.tick().repeat(3)
        await send(ctx, dut.i, [42])

    simulate(dut, bench, background=[record(entered, dut.i), record(left, dut.o)])
    assert entered == [(3, 42)]
    assert left == [(4, 42)]


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_one_item_a_cycle_flows_at_any_level_below_full(record, watch, level):
    dut, left, levels = device(Queue, 8, depth=5), [], []

    async def take(ctx):
        await ctx.tick().repeat(level)
        await receive(ctx, dut.o, 20)

    simulate(dut, lambda ctx: send(ctx, dut.i, range(level + 20)), take,
             background=[record(left, dut.o), watch(levels, dut.level)])
    assert left == [(level + k, k) for k in range(20)]
    assert levels[level:level + 20] == [(level,)] * 20


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_exactly_depth_items_fit(watch, depth):
    dut, log = device(Queue, 8, depth=depth), []

    async def press(ctx):
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(depth + 5)

    simulate(dut, press, background=[watch(log, dut.i.ready, dut.level)], quiet=1)
    assert log[:depth] == [(1, k) for k in range(depth)]
    assert set(log[depth:]) == {(0, depth)}


@given(offers=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_level_counts_the_items_inside(watch, offers):
    dut, log, inside = device(Queue, 8, depth=3), [], 0

    async def drive(ctx):
        for valid, ready in offers:
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.o.ready, ready)
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        ctx.set(dut.o.ready, 0)

    simulate(dut, drive, background=[watch(log, dut.level, dut.i.ready, dut.o.valid)])
    while_driven = log[:len(offers)]
    for (valid, ready), (level, room, waiting) in zip(offers, while_driven, strict=True):
        assert (level, room, waiting) == (inside, inside < 3, inside > 0)
        inside += (valid and inside < 3) - (ready and inside > 0)


@given(items=ITEMS)
@settings(deadline=None, derandomize=True, max_examples=5)
def test_a_skid_register_keeps_order_and_loses_none(transfer, stalls, items):
    dut = device(Skid, ITEM)
    assert transfer(dut, [(dut.i, items)], [(dut.o, len(items))], stalls=stalls) == [items]


def test_a_skid_register_passes_one_item_a_cycle_a_cycle_later(record):
    dut, entered, left = device(Skid, 8), [], []

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        await send(ctx, dut.i, range(20))

    simulate(dut, bench, background=[record(entered, dut.i), record(left, dut.o)])
    assert entered == [(k, k) for k in range(20)]
    assert left == [(k + 1, k) for k in range(20)]


@given(offers=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_a_skid_register_is_ready_while_it_holds_at_most_one_item(watch, offers):
    """So ``i.ready`` depends on earlier cycles only: it waits for no logic behind ``o``."""
    dut, log, inside = device(Skid, 8), [], 0

    async def drive(ctx):
        for valid, ready in offers:
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.o.ready, ready)
            await ctx.tick()

    simulate(dut, drive, background=[watch(log, dut.i.ready, dut.o.valid)], quiet=0)
    for (valid, ready), (room, waiting) in zip(offers, log[:len(offers)], strict=True):
        assert (room, waiting) == (inside < 2, inside > 0)
        inside += (valid and room) - (ready and waiting)


@pytest.mark.parametrize("cycles", [0, 1, 2, 5])
def test_delay_gives_the_signal_as_it_was(watch, cycles):
    m, signal, log = Module(), Signal(signed(8), init=-1), []
    m.d.sync += Signal().eq(1)  # A clock for the delay of none.
    later = delay(m, signal, cycles)
    values = [-7, 3, -128, 127, 0, 5, 6, 7]

    async def drive(ctx):
        for value in values:
            ctx.set(signal, value)
            await ctx.tick()

    simulate(m, drive, background=[watch(log, later)], quiet=cycles + 1)
    assert [value for value, in log][cycles:cycles + len(values)] == values


def test_delay_is_zero_after_reset(watch):
    m, signal, log = Module(), Signal(8), []
    later = delay(m, signal, 3)

    async def drive(ctx):
        ctx.set(signal, 9)
        await ctx.tick().repeat(5)

    simulate(m, drive, background=[watch(log, later)], quiet=1)
    assert [value for value, in log][:5] == [0, 0, 0, 9, 9]


@pytest.mark.parametrize("bits", [1, 31, 32, 33, 64, 108])
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=5)
def test_words_become_items_and_items_words(transfer, stalls, bits, data):
    items = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=8))
    count = -(-bits // 32)
    words = [item >> 32 * k & 0xFFFFFFFF for item in items for k in range(count)]
    dut = device(Upsizer, bits)
    assert transfer(dut, [(dut.i, words)], [(dut.o, len(items))], stalls=stalls) == [items]
    dut = device(Downsizer, bits)
    assert transfer(dut, [(dut.i, items)], [(dut.o, len(words))], stalls=stalls) == [words]


def test_latency_of_words_and_items(record):
    dut, left = device(Upsizer, 64), []

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        await send(ctx, dut.i, [1, 2])
    simulate(dut, bench, background=[record(left, dut.o)])
    assert left == [(2, 2 << 32 | 1)]
    dut, left = device(Downsizer, 64), []

    async def split(ctx):
        ctx.set(dut.o.ready, 1)
        await send(ctx, dut.i, [4 << 32 | 3])
    simulate(dut, split, background=[record(left, dut.o)])
    assert left == [(1, 3), (2, 4)]


@pytest.mark.parametrize("cycles", [0, 1, 2, 3])
@given(data=st.data(), width=st.integers(1, 3), count=st.integers(1, 20))
@settings(deadline=None, derandomize=True, max_examples=8)
def test_either_has_the_bits_that_any_had(watch, cycles, width, count, data):
    rows = data.draw(st.lists(st.lists(st.integers(0, 2**width - 1) | st.just(0), min_size=count,
                                       max_size=count), max_size=12))
    m, signals, log = Module(), [Signal(width, name=f"s{k}") for k in range(count)], []
    m.d.sync += Signal().eq(1)  # A clock for the tree of none.
    found = either(m, signals, cycles)

    async def drive(ctx):
        for row in rows:
            for signal, value in zip(signals, row, strict=True):
                ctx.set(signal, value)
            await ctx.tick()

    simulate(m, drive, background=[watch(log, found)], quiet=cycles + 1)
    assert [value for value, in log][:cycles] == [0] * cycles
    assert [value for value, in log][cycles:cycles + len(rows)] == [
        reduce(or_, row) for row in rows]
