"""The whole core: GEMMs of any size and pattern under stalls, its counters, and reset.

Expected outputs are numpy's product and exact integers; with 2:4 also torch's product of the
gathered operands.
"""

import os
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from zeroskip.hw.tensorcore.config import GROUP, TensorCoreConfig
from zeroskip.hw.tensorcore.core import CoreCounter, TensorCore
from zeroskip.hw.tensorcore.drain import Drain
from zeroskip.sim.bench import Stalls, device, receive, send, simulate

REGRESSION = bool(os.environ.get("ZEROSKIP_REGRESSION"))
EVERY = ("dense", "2:4", "1:4")

# Buffers so small that chunks, blocks and panels all occur.
TINY = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=4, activation_words=8)
CONFIGS = {
    "tiny": TINY,
    "one accumulator": TensorCoreConfig(rows=1, columns=1, products=2, weight_words=2,
                                        activation_words=2),
    "every mode": TensorCoreConfig(rows=3, columns=2, products=4, weight_words=4,
                                   activation_words=6, patterns=EVERY, int4=True),
    "no select": TensorCoreConfig(rows=2, columns=3, products=4, weight_words=3,
                                  activation_words=5, patterns=("dense",)),
    "1:4 alone": TensorCoreConfig(rows=4, columns=1, products=2, weight_words=5,
                                  activation_words=3, patterns=("dense", "1:4")),
    "odd depths": TensorCoreConfig(rows=2, columns=2, products=2, weight_words=3,
                                   activation_words=5),
}
MODES = pytest.mark.parametrize(("config", "pattern", "int4"), [
    pytest.param(config, pattern, int4, id=f"{name}, {pattern}{', int4' * int4}")
    for name, config in CONFIGS.items() for pattern in config.patterns
    for int4 in range(1 + config.int4)])


def slow(seed):
    return [Stalls(seed, 0.3), Stalls(seed, 0.3)]


@MODES
def test_every_mode_in_chunks_and_panels(assert_exact, random_gemm, config, pattern, int4):
    gemm = random_gemm(config, pattern, 2 * config.rows + 1, 70, 2 * config.columns + 1,
                       int4=bool(int4))
    assert gemm.schedule.chunks > 1
    assert len(gemm.schedule.panels) == len(gemm.schedule.blocks) == 3
    assert_exact(gemm, stalls=slow)


@MODES
def test_every_mode_in_blocks_and_panels(assert_exact, random_gemm, config, pattern, int4):
    gemm = random_gemm(config, pattern, config.rows + 1, config.products,
                       (config.activation_words + 1) * config.columns, int4=bool(int4), raw=True)
    assert gemm.schedule.chunks == 1
    assert len(gemm.schedule.blocks) == 2
    assert_exact(gemm, stalls=slow)


@pytest.mark.parametrize(("m", "k", "n"), [
    (1, 1, 1), (1, 40, 9), (9, 40, 1), (1, 4, 1), (4, 1, 4), (5, 16, 4), (4, 16, 5), (2, 17, 2),
    (2, 4, 2), (3, 13, 7), (8, 3, 40),
], ids=["one product", "one row", "one column", "one of both", "K of one", "a short last panel",
        "a short last strip", "a short last chunk", "one full tile", "nothing even",
        "many blocks"])
@pytest.mark.parametrize("pattern", ["dense", "2:4"])
def test_by_name(assert_exact, random_gemm, pattern, m, k, n):
    assert_exact(random_gemm(TINY, pattern, m, k, n, raw=True),
                 random_gemm(TINY, pattern, m, k, n, relu=True))


def test_block_of_one_tile_without_chunks(assert_exact, random_gemm):
    """A column fills its buffer."""
    config = replace(TINY, weight_words=16)
    gemm = random_gemm(config, "dense", 5, 32, 6)
    assert (gemm.schedule.block, gemm.schedule.chunks) == (config.columns, 1)
    assert_exact(gemm, stalls=slow)


def test_extreme_operands(assert_exact, random_gemm):
    for lowest in (-128, 127):
        gemm = random_gemm(TINY, "2:4", 3, 40, 3, raw=True)
        gemm.b[:] = -128
        gemm.values[:] = lowest
        gemm.a[:] = np.where(gemm.a != 0, lowest, 0)
        # The stored zeros have become numbers too.
        stored = np.zeros((3, 10, GROUP), np.int8)
        np.put_along_axis(stored, gemm.indices.reshape(3, 10, 2).astype(int), lowest, axis=2)
        gemm.a[:] = stored.reshape(3, 40)
        assert_exact(gemm)


def torch_product(gemm):
    """A.B as torch has it from the stored weights and the operands that they index."""
    torch = pytest.importorskip("torch")
    kept = gemm.values.shape[1]
    columns = np.arange(kept) // 2 * GROUP + gemm.indices
    b = np.zeros((gemm.schedule.n, columns.max() + 1), np.int32)
    b[:, :gemm.b.shape[1]] = gemm.b[:, :b.shape[1]]
    gathered = torch.from_numpy(b[:, columns].transpose(1, 2, 0).copy())   # [m, kept, n]
    weights = torch.from_numpy(gemm.values.astype(np.int32))[:, None]
    return torch.matmul(weights, gathered)[:, 0].numpy()


@st.composite
def gemms(draw):
    """Arguments of one or two GEMMs on one core, and the stalls of its four streams and outputs."""
    largest = draw(st.sampled_from([1, 3])) if REGRESSION else 1
    config = CONFIGS[draw(st.sampled_from(sorted(CONFIGS)))]
    arguments = [(
        config, draw(st.sampled_from(config.patterns)), draw(st.integers(1, 7 * largest)),
        draw(st.integers(1, 12 * config.products * largest)), draw(st.integers(1, 9 * largest)),
        {"seed": draw(st.integers(0, 2**32 - 1)), "relu": draw(st.booleans()),
         "raw": draw(st.sampled_from([False, False, True])),
         "int4": config.int4 and draw(st.booleans())})
        for _ in range(draw(st.integers(1, 2)))]
    kinds = st.sampled_from([(0.0, 1), (0.0, 1), (0.3, 1), (0.9, 1), (0.5, 20)])
    return arguments, draw(st.lists(kinds, min_size=5, max_size=5))


@settings(max_examples=200 if REGRESSION else 12, deadline=None, derandomize=True,
          phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(7200)
@given(case=gemms())
def test_random_gemms_under_random_stalls(assert_exact, random_gemm, case):
    arguments, kinds = case
    problems = [random_gemm(*sizes, **options) for *sizes, options in arguments]
    for gemm in problems:
        if gemm.schedule.pattern == "2:4" and not gemm.int4:
            np.testing.assert_array_equal(torch_product(gemm), gemm.sums)
    # The senders are numbered 0 to 3; the only receiver is 0.
    counts = assert_exact(*problems, stalls=lambda seed: [
        Stalls(seed, *kinds[seed]), Stalls(9, *kinds[4])])
    assert counts[CoreCounter.STEPS] == sum(gemm.steps for gemm in problems)
    assert counts[CoreCounter.GEMMS] == len(problems)


def test_commands_follow_one_another(assert_exact, random_gemm):
    """Patterns, sizes and modes change from GEMM to GEMM; nothing is left of the one before."""
    config, random = CONFIGS["every mode"], Random(1)
    problems = [random_gemm(config, pattern, random.randint(1, 7), random.randint(1, 50),
                            random.randint(1, 7), seed=seed, int4=int4, raw=random.random() < 0.3,
                            relu=random.random() < 0.5)
                for seed in range(3) for pattern in EVERY for int4 in (False, True)]
    counts = assert_exact(*problems)
    assert counts[CoreCounter.GEMMS] == 18
    assert counts[CoreCounter.STEPS] == sum(gemm.steps for gemm in problems)


def test_what_lies_past_the_edges_may_be_anything(compute, random_gemm):
    """The streams of a larger GEMM with the command of a smaller one: same tiles."""
    whole = random_gemm(TINY, "2:4", 4, 24, 8, raw=True)
    small = replace(
        whole, schedule=replace(whole.schedule, m=3, n=7), values=whole.values[:3],
        indices=whole.indices[:3], a=whole.a[:3], b=whole.b[:7], bias=whole.bias[:3],
        multiplier=whole.multiplier[:3], shift=whole.shift[:3])

    streams = small.streams()
    for name in ("weights", "activations"):
        filled = whole.streams()[name]
        assert filled.shape == streams[name].shape
        assert np.any(filled != streams[name])
        streams[name] = filled
    [(outputs, _)], _ = compute([SimpleNamespace(schedule=small.schedule,
                                                 streams=lambda: streams)])
    np.testing.assert_array_equal(outputs, small.expected()[0])


# Counters.

QUEUE = 2
"""Cycles from the entry of a row to the output queue until it can be taken."""
WAITS = (CoreCounter.WAIT_WEIGHTS, CoreCounter.WAIT_ACTIVATIONS, CoreCounter.WAIT_OUTPUTS)


def outside(counts):
    """Cycles that are neither steps nor waits."""
    return counts[CoreCounter.CYCLES] - counts[CoreCounter.STEPS] - sum(
        counts[which] for which in WAITS)


@MODES
def test_the_counters_account_for_every_cycle(assert_exact, random_gemm, watch, config, pattern,
                                              int4):
    """What is in no other counter: the cycle of the start, and the way of the last tile's rows to
    the output queue, through it, and out."""
    gemm = random_gemm(config, pattern, config.rows + 1, 40, 5, int4=bool(int4))
    log = []
    counts = assert_exact(gemm, background=lambda dut: [watch(log, dut.busy)])
    assert counts[CoreCounter.CYCLES] == sum(busy for busy, in log)
    assert counts[CoreCounter.STEPS] == gemm.steps
    assert counts[CoreCounter.GEMMS] == 1
    last_rows = (gemm.schedule.m - 1) % config.rows + 1
    assert outside(counts) == 2 + Drain.latency(config) + QUEUE + last_rows


def test_the_core_is_busy_until_the_last_output_is_taken(compute, random_gemm, watch):
    gemm = random_gemm(TINY, "2:4", 3, 20, 5)
    log = []
    compute([gemm], stalls=lambda seed: [None, Stalls(2, 0.5, 7)], background=lambda dut: [watch(
        log, dut.busy, dut.commands.valid & dut.commands.ready,
        dut.outputs.valid & dut.outputs.ready)])
    (command,) = [cycle for cycle, (_, taken, _) in enumerate(log) if taken]
    last = max(cycle for cycle, (*_, taken) in enumerate(log) if taken)
    busy = [cycle for cycle, (busy, *_) in enumerate(log) if busy]
    assert busy == list(range(command + 1, last + 2))


def test_a_second_command_waits_until_the_core_is_idle(compute, random_gemm, watch):
    gemm = random_gemm(TINY, "2:4", 3, 20, 5)
    log = []
    compute([gemm, gemm], background=lambda dut: [watch(
        log, dut.busy, dut.commands.valid & dut.commands.ready)])
    first, second = (cycle for cycle, (_, taken) in enumerate(log) if taken)
    assert [cycle for cycle, (busy, _) in enumerate(log[:second + 1]) if not busy] == [
        *range(first + 1), second]


@pytest.mark.parametrize(("late", "counter"), [
    (1, CoreCounter.WAIT_WEIGHTS), (2, CoreCounter.WAIT_WEIGHTS),
    (3, CoreCounter.WAIT_ACTIVATIONS)], ids=["weights", "channels", "activations"])
def test_a_late_stream_is_what_is_waited_for(assert_exact, random_gemm, late, counter):
    gemm = random_gemm(TINY, "2:4", 8, 16, 4)
    free = assert_exact(gemm)
    counts = assert_exact(gemm, stalls=lambda seed: [
        Stalls(1, 0.9) if seed == late else None, None])
    more = {which: counts[which] - free[which] for which in WAITS}
    assert more.pop(counter) > 50
    assert max(more.values()) <= 0


def test_outputs_stalled_for_long_lose_nothing(assert_exact, random_gemm):
    """The queue of rows fills up, and the steps stop."""
    gemm = random_gemm(TINY, "2:4", 8, 4, 24)
    free = assert_exact(gemm)
    counts = assert_exact(gemm, stalls=lambda seed: [None, Stalls(4, 0.95, 300)])
    assert counts[CoreCounter.WAIT_OUTPUTS] > free[CoreCounter.WAIT_OUTPUTS] + 300
    assert counts[CoreCounter.STEPS] == free[CoreCounter.STEPS]


@pytest.mark.parametrize("rows", [2, 3])
def test_tiles_of_as_many_steps_as_rows_never_wait_for_the_outputs(assert_exact, random_gemm, rows):
    """A row leaves in each cycle; the queue has room for those on their way."""
    config = TensorCoreConfig(rows=rows, columns=1, products=2, weight_words=8,
                              activation_words=128)
    gemm = random_gemm(config, "2:4", rows, 4 * rows, 40, raw=True)
    assert gemm.schedule.steps == rows
    counts = assert_exact(gemm)
    assert [counts[which] for which in WAITS] == [rows, 0, 0]


def test_without_a_wait_every_multiplier_works_in_every_cycle(assert_exact, random_gemm):
    """Panels of more steps than rows, and operands that are always there in time."""
    config = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=8, activation_words=64)
    gemm = random_gemm(config, "2:4", 16, 32, 8)
    counts = assert_exact(gemm)
    # Only the first strips are waited for: the columns of a tile come while it is computed.
    assert counts[CoreCounter.STEPS] == 8 * 4 * 8
    assert sum(counts[which] for which in WAITS) <= 2 * gemm.schedule.words + 4


@pytest.mark.parametrize(("sizes", "more"), [
    ((4, 32, 4), (8, 32, 4)), ((4, 32, 4), (4, 32, 12)), ((2, 64, 4), (2, 192, 4)),
], ids=["rows", "columns", "K"])
def test_2_4_takes_half_the_steps_and_half_the_cycles(assert_exact, random_gemm, sizes, more):
    """In the steady state: what a GEMM takes longer if one size grows, exactly."""
    config = TensorCoreConfig(rows=2, columns=2, products=4, weight_words=8, activation_words=32)
    longer = {}
    for pattern in config.patterns:
        small, large = (random_gemm(config, pattern, *each) for each in (sizes, more))
        first, second = assert_exact(small), assert_exact(large)
        longer[pattern] = second[CoreCounter.CYCLES] - first[CoreCounter.CYCLES]
        assert longer[pattern] == large.steps - small.steps
    assert longer["dense"] == 2 * longer["2:4"]


@pytest.mark.parametrize(("sizes", "more"), [((4, 32, 4), (8, 32, 4)), ((2, 64, 2), (2, 192, 2))],
                         ids=["rows", "K"])
def test_1_4_takes_a_quarter(assert_exact, random_gemm, sizes, more):
    config = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=8, activation_words=64,
                              patterns=EVERY)
    longer = {}
    for pattern in EVERY:
        first, second = (assert_exact(random_gemm(config, pattern, *each))[CoreCounter.CYCLES]
                         for each in (sizes, more))
        longer[pattern] = second - first
    assert longer["dense"] == 2 * longer["2:4"] == 4 * longer["1:4"]


def test_clear_takes_the_counters_to_zero(random_gemm, flat, flat_streams):
    gemm = random_gemm(TINY, "2:4", 3, 20, 5)
    dut, found = device(TensorCore, TINY), []

    async def counters(ctx):
        counts = {}
        for which in CoreCounter:
            ctx.set(dut.stats.select, which.value)
            await ctx.tick().repeat(TensorCore.stats_latency)
            counts[which] = ctx.get(dut.stats.count)
        return counts

    async def bench(ctx):
        await receive(ctx, dut.outputs, gemm.schedule.output_rows)
        await ctx.tick()
        found.append(await counters(ctx))
        ctx.set(dut.stats.clear, 1)
        await ctx.tick()
        ctx.set(dut.stats.clear, 0)
        found.append(await counters(ctx))

    simulate(dut, bench, *senders(dut, flat, flat_streams(gemm)))
    assert found[0][CoreCounter.STEPS] == gemm.steps
    assert found[1] == dict.fromkeys(CoreCounter, 0)


def senders(dut, flat, streams):
    """A process for each stream of the host."""
    def sender(name, items):
        async def run(ctx):
            await send(ctx, flat(getattr(dut, name)), items)
        return run
    return [sender(*each) for each in streams.items()]


# Reset.

@pytest.mark.parametrize("seed", range(200 if REGRESSION else 4))
@pytest.mark.timeout(600)
def test_reset_in_the_middle_leaves_nothing_behind(random_gemm, flat, flat_streams, unflatten,
                                                   seed, run_seed):
    """Reset at a random cycle of a GEMM, for a random time; another GEMM then is exact."""
    seed += run_seed
    random = Random(seed)
    config = CONFIGS[random.choice(["tiny", "every mode", "one accumulator"])]
    problems = [random_gemm(config, random.choice(config.patterns), random.randint(1, 5),
                            random.randint(1, 40), random.randint(1, 5), seed=2 * seed + k)
                for k in range(2)]
    streams = [flat_streams(gemm) for gemm in problems]
    core, reset, numbers = TensorCore(config), Signal(), []
    when, held = random.randint(1, 150), random.randint(1, 3)
    now = 0

    def host(name):
        """Sends the first GEMM's items until reset, then the second's."""
        port = flat(getattr(core, name))

        async def run(ctx):
            for items, stop in zip((it[name] for it in streams), (when, None), strict=True):
                for item in items:
                    if stop is not None and now >= stop:
                        break
                    ctx.set(port.payload, item)
                    ctx.set(port.valid, 1)
                    ready = False
                    while not ready and (stop is None or now < stop):
                        *_, ready = await ctx.tick().sample(port.ready)
                    ctx.set(port.valid, 0)
                while now < when + held:
                    await ctx.tick()
        return run

    async def clock(ctx):
        nonlocal now
        for _ in range(when):
            await ctx.tick()
            now += 1
        ctx.set(reset, 1)
        for _ in range(held):
            await ctx.tick()
            now += 1
        ctx.set(reset, 0)

    async def take(ctx):
        stalls, port = Stalls(seed, 0.5), flat(core.outputs)
        while now < when + held:
            ctx.set(port.ready, stalls.patient())
            await ctx.tick()
        numbers.extend(await receive(ctx, port, problems[1].schedule.output_rows))

    wrapped = ResetInserter(reset)(core)
    simulate(wrapped, clock, take, *map(host, streams[0]))
    outputs, saturated = problems[1].schedule.outputs(
        unflatten(numbers, len(flat(core.outputs).payload)))
    y, flags = problems[1].expected()
    np.testing.assert_array_equal(outputs, y)
    np.testing.assert_array_equal(saturated, flags)
