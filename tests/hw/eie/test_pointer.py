"""Pointer read: both banks, empty columns, run-ahead and speed."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.pointer import PointerRead
from zeroskip.hw.memory import BlockRAM
from zeroskip.sim.bench import receive, send, simulate

LATENCY = BlockRAM.LATENCY + 1


def pointers_of(counts):
    """The pointers of columns with so many entries each."""
    pointers = [0]
    for count in counts:
        pointers.append(pointers[-1] + count)
    return pointers


def jobs_of(counts, activations):
    """What is left of ``activations`` when those of empty columns are dropped."""
    pointers = pointers_of(counts)
    spans = list(pairwise(pointers))
    return [{"value": a["value"], "start": spans[a["column"]][0], "stop": spans[a["column"]][1]}
            for a in activations if counts[a["column"]]]


def each_once(counts):
    return [{"column": j, "value": j - 3} for j in range(len(counts))]


@pytest.fixture(scope="session")
def read(transfer, fill):
    """``read(counts, activations, **options)``: the jobs of a device with these pointers."""
    def read(counts, activations, *, config=None, **options):
        dut = PointerRead(config or EIEConfig(pointers=len(counts) + 1))
        (jobs,) = transfer(
            dut, [(dut.i, activations)], [(dut.o, len(jobs_of(counts, activations)))],
            before=lambda ctx: fill(ctx, dut.load, dict(enumerate(pointers_of(counts)))),
            **options)
        return jobs
    return read


@pytest.fixture(scope="session")
def timed(fill, record):
    """``timed(counts, take, **sizes)``: transfers in and out as (cycle, payload), for all
    columns in order; ``take`` receives on the other side."""
    def timed(counts, take=None, **sizes):
        dut = PointerRead(EIEConfig(pointers=len(counts) + 1, **sizes))
        entered, left = [], []

        async def bench(ctx):
            await fill(ctx, dut.load, dict(enumerate(pointers_of(counts))))
            if not take:
                ctx.set(dut.o.ready, 1)
            await send(ctx, dut.i, each_once(counts))

        simulate(dut, bench, *([lambda ctx: take(ctx, dut)] if take else []),
                 background=[record(entered, dut.i), record(left, dut.o)])
        assert [payload for _, payload in left] == jobs_of(counts, each_once(counts))
        return entered, left
    return timed


@given(data=st.data(), counts=st.lists(st.sampled_from([0, 0, 1, 2, 9]), min_size=1, max_size=40))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_each_activation_gets_the_entries_of_its_column(read, stalls, data, counts):
    activations = data.draw(st.lists(st.fixed_dictionaries({
        "column": st.integers(0, len(counts) - 1), "value": st.integers(-32768, 32767)})))
    assert read(counts, activations, stalls=stalls) == jobs_of(counts, activations)


@pytest.mark.parametrize("pointers", [2, 3, 4, 7, 8, 10, 16, 33])
def test_every_column_up_to_the_last_pointer(read, pointers):
    counts = [1 + j % 3 for j in range(pointers - 1)]
    assert read(counts, each_once(counts)) == jobs_of(counts, each_once(counts))


@pytest.mark.parametrize("parity", [0, 1])
def test_columns_of_one_bank_only(read, parity):
    counts = [2 if j % 2 == parity else 0 for j in range(20)]
    assert read(counts, each_once(counts)) == jobs_of(counts, each_once(counts))


def test_pointers_reach_the_whole_weight_memory(read):
    config = EIEConfig(weight_rows=2, pointers=3)
    jobs = read([0, 16], [{"column": 1, "value": -1}], config=config)
    assert jobs == [{"value": -1, "start": 0, "stop": 16}]


def test_loaded_pointers_replace_the_old_ones(fill):
    dut, jobs = PointerRead(EIEConfig(pointers=4)), []

    async def bench(ctx):
        for stop in (5, 8):
            await fill(ctx, dut.load, {1: 2, 2: stop})
            await send(ctx, dut.i, [{"column": 1, "value": 4}])
            jobs.extend(await receive(ctx, dut.o, 1))

    simulate(dut, bench)
    assert jobs == [{"value": 4, "start": 2, "stop": stop} for stop in (5, 8)]


def test_latency(timed):
    ((entered, _),), ((left, _),) = timed([3])
    assert left - entered == LATENCY


@pytest.mark.parametrize("runahead", [2, 4])
@pytest.mark.parametrize("counts", [[1] * 40, [0] * 40, [0, 1] * 20, [0, 0, 1, 1, 1] * 8],
                         ids=["none empty", "all empty", "alternating", "mixed"])
def test_one_column_a_cycle_empty_or_not(timed, counts, runahead):
    entered, left = timed(counts, runahead=runahead)
    start = entered[0][0]
    assert [cycle - start for cycle, _ in entered] == list(range(len(counts)))
    assert [cycle - start for cycle, _ in left] == [
        j + LATENCY for j, count in enumerate(counts) if count]


@pytest.mark.parametrize("runahead", [2, 4, 8])
def test_consecutive_empty_columns_cost_no_bubble_while_others_wait(timed, runahead):
    # A job of four entries keeps the multiplier for four cycles; so three empty columns
    # between two jobs must not be seen.
    async def multiplier(ctx, dut):
        while not ctx.get(dut.o.valid):
            await ctx.tick()
        for _ in range(20):
            await receive(ctx, dut.o, 1)
            await ctx.tick().repeat(3)

    _, left = timed([4, 0, 0, 0] * 20, multiplier, runahead=runahead)
    assert [later - earlier for (earlier, _), (later, _) in pairwise(left)] == [4] * 19


@pytest.mark.parametrize("runahead", [2, 5])
def test_a_long_run_of_empty_columns_hides_behind_the_jobs_that_wait(timed, runahead):
    empty = 7 * runahead

    async def multiplier(ctx, dut):
        # Time enough for the run-ahead to fill; then a job every eight cycles.
        await ctx.tick().repeat(empty + 60)
        for _ in range(2 * runahead):
            await receive(ctx, dut.o, 1)
            await ctx.tick().repeat(7)

    _, left = timed([8] * runahead + [0] * empty + [8] * runahead, multiplier, runahead=runahead)
    assert {later - earlier for (earlier, _), (later, _) in pairwise(left)} == {8}


@pytest.mark.parametrize("empty", [1, 2, 3, 100])
def test_empty_columns_in_a_row_do_not_hang(read, empty):
    counts = [1, *[0] * empty, 2, *[0] * empty]
    assert read(counts, each_once(counts), patience=2) == jobs_of(counts, each_once(counts))


def test_all_columns_empty(read):
    assert read([0] * 50, each_once([0] * 50), patience=2) == []


@pytest.mark.parametrize("runahead", [2, 3, 6])
def test_runahead_columns_wait_behind_a_busy_multiplier(record, fill, runahead):
    counts = [1] * 30
    dut = PointerRead(EIEConfig(pointers=31, runahead=runahead))
    entered = []

    async def bench(ctx):
        await fill(ctx, dut.load, dict(enumerate(pointers_of(counts))))
        ctx.set(dut.i.payload, {"column": 1, "value": 1})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(30)

    simulate(dut, bench, background=[record(entered, dut.i)])
    assert runahead <= len(entered) <= runahead + LATENCY


def test_busy_while_a_column_is_inside(watch, stalls, fill, transfer):
    counts, inside, log = [1] * 20, 0, []
    dut = PointerRead(EIEConfig(pointers=21))
    transfer(dut, [(dut.i, each_once(counts))], [(dut.o, 20)], stalls=stalls,
             before=lambda ctx: fill(ctx, dut.load, dict(enumerate(pointers_of(counts)))),
             background=[watch(log, dut.busy, dut.i.valid, dut.i.ready,
                               dut.o.valid, dut.o.ready)])
    for busy, i_valid, i_ready, o_valid, o_ready in log:
        assert busy == (inside > 0)
        inside += (i_valid & i_ready) - (o_valid & o_ready)
    assert inside == 0


def test_busy_while_an_empty_column_is_looked_up(watch, fill):
    dut, log = PointerRead(EIEConfig(pointers=2)), []

    async def bench(ctx):
        await fill(ctx, dut.load, {0: 3, 1: 3})
        await send(ctx, dut.i, [{"column": 0, "value": 1}])

    simulate(dut, bench, background=[watch(log, dut.busy)])
    assert [busy for busy, in log][:6] == [0, 0, 0, *[1] * BlockRAM.LATENCY, 0]
    assert log[-1] == (0,)
