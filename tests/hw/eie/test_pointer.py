"""Pointer read: every kind of directory, empty columns, run-ahead and speed."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.pointer import PointerRead
from zeroskip.sim.bench import Stalls, device, receive, send, simulate

KINDS = pytest.mark.parametrize("counts", [True, False], ids=["counts", "pointers"])
EMPTY = pytest.mark.parametrize("drops_empty", [True, False], ids=["drops", "keeps"])


def config_for(sizes, **fields):
    """With a directory just large enough."""
    unit = 16 if fields.get("counts", True) else 2
    return EIEConfig(**{"pointers": unit * -(-(len(sizes) + 1) // unit), **fields})


def latency_of(config):
    return PointerRead.latency(config)


def words_of(config, sizes):
    """The load words of a directory of columns with so many bytes each, at most 15."""
    starts = list(accumulate(sizes, initial=0))
    if not config.counts:
        return dict(enumerate(starts))
    words = {}
    for word, at in enumerate(range(0, len(sizes), 16)):
        packed = sum(size << 4 * k for k, size in enumerate(sizes[at:at + 16]))
        words |= {4 * word: starts[at], 4 * word + 1: packed % (1 << 32),
                  4 * word + 2: packed >> 32}
    return words


def job(config, start, stop, value):
    return {"value": value, "start": start, "last": (stop - 1) % (1 << config.pointer_width),
            "blank": int(start == stop)}


def jobs_of(config, sizes, works):
    """What is left of ``works`` when those of empty columns are dropped, or kept."""
    spans = list(pairwise(accumulate(sizes, initial=0)))
    return [job(config, *spans[each["place"]], each["value"])
            for each in works if sizes[each["place"]] or not config.drops_empty]


def each_once(sizes):
    return [{"place": j, "value": j - 3} for j in range(len(sizes))]


@pytest.fixture(scope="session")
def prepare(fill):
    """``prepare(dut, sizes)``: an async function that loads the directory."""
    def prepare(dut, sizes):
        async def run(ctx):
            ctx.set(dut.stride, 1)
            await fill(ctx, dut.load, words_of(dut.config, sizes))
        return run
    return prepare


@pytest.fixture(scope="session")
def read(transfer, prepare):
    """``read(sizes, works)``: asserts that the jobs of these columns are what they must be."""
    def read(sizes, works, *, config=None, **options):
        dut = device(PointerRead, config or config_for(sizes))
        expected = jobs_of(dut.config, sizes, works)
        (jobs,) = transfer(dut, [(dut.i, works)], [(dut.o, len(expected))],
                           before=prepare(dut, sizes), **options)
        assert jobs == expected
    return read


@pytest.fixture(scope="session")
def timed(prepare, record):
    """``timed(sizes, take)``: transfers in and out as (cycle, payload), for all columns in
    order; ``take`` receives on the other side."""
    def timed(sizes, take=None, **fields):
        dut = device(PointerRead, config_for(sizes, **fields))
        entered, left = [], []

        async def bench(ctx):
            await prepare(dut, sizes)(ctx)
            if not take:
                ctx.set(dut.o.ready, 1)
            await send(ctx, dut.i, each_once(sizes))

        simulate(dut, bench, *([lambda ctx: take(ctx, dut)] if take else []),
                 background=[record(entered, dut.i), record(left, dut.o)])
        assert [payload for _, payload in left] == jobs_of(dut.config, sizes, each_once(sizes))
        return entered, left
    return timed


SIZES = st.lists(st.sampled_from([0, 0, 1, 2, 9, 15]), min_size=1, max_size=40)


@KINDS
@EMPTY
@given(data=st.data(), sizes=SIZES)
@settings(deadline=None, derandomize=True, max_examples=3)
def test_each_activation_gets_the_bytes_of_its_column(read, stalls, counts, drops_empty, data,
                                                      sizes):
    works = data.draw(st.lists(st.fixed_dictionaries({
        "place": st.integers(0, len(sizes) - 1), "value": st.integers(-32768, 32767)})))
    config = config_for(sizes, counts=counts, drops_empty=drops_empty, runahead=3)
    read(sizes, works, stalls=stalls, config=config)


@KINDS
@EMPTY
@pytest.mark.parametrize("runahead", [2, 3])
def test_lookups_that_stall_give_the_same(transfer, prepare, watch, counts, drops_empty, runahead):
    sizes, log = [7 * j % 16 for j in range(60)], []
    dut = device(PointerRead, config_for(sizes, counts=counts, drops_empty=drops_empty,
                                         runahead=runahead))
    expected = jobs_of(dut.config, sizes, each_once(sizes))
    assert transfer(dut, [(dut.i, each_once(sizes))], [(dut.o, len(expected))],
                    before=prepare(dut, sizes), stalls=lambda seed: [None, Stalls(seed, 0.8)],
                    background=[watch(log, dut.i.valid, dut.i.ready)]) == [expected]
    stalled = [not ready for valid, ready in log if valid]
    assert sum(stalled) > len(stalled) / 2
    assert sum(now != before for before, now in pairwise(stalled)) > 20


@KINDS
@EMPTY
@pytest.mark.parametrize("stride", [0, 1, 24, 63])
def test_a_balanced_layer(transfer, counts, drops_empty, stride):
    dut = device(PointerRead, EIEConfig(counts=counts, drops_empty=drops_empty))
    works = [{"place": (37 * k) % 4000, "value": 9 - k} for k in range(25)]
    expected = [job(dut.config, each["place"], each["place"] + stride, each["value"])
                for each in works if stride or not drops_empty]

    async def prepare(ctx):
        ctx.set(dut.stride, stride)
        ctx.set(dut.balanced, 1)

    assert transfer(dut, [(dut.i, works)], [(dut.o, len(expected))],
                    before=prepare) == [expected]


@KINDS
@pytest.mark.parametrize("columns", [1, 2, 3, 15, 16, 17, 47])
def test_every_column_up_to_the_last(read, counts, columns):
    sizes = [1 + j % 3 for j in range(columns)]
    read(sizes, each_once(sizes), config=config_for(sizes, counts=counts))


@KINDS
@pytest.mark.parametrize("parity", [0, 1])
def test_every_other_column_is_empty(read, counts, parity):
    sizes = [2 if j % 2 == parity else 0 for j in range(20)]
    read(sizes, each_once(sizes), config=config_for(sizes, counts=counts))


@KINDS
def test_the_last_column_ends_with_the_weight_memory(read, counts):
    sizes = [0, 1, 15]
    config = config_for(sizes, counts=counts, weight_rows=2)
    read(sizes, [{"place": 2, "value": -1}, {"place": 1, "value": 2}], config=config)


@pytest.mark.parametrize("stride", [2, 4])
def test_counts_of_several_nibbles(transfer, fill, stride):
    """Two columns: 0x1203 bytes in four nibbles, or 0x03 and 0x12 in two each."""
    dut = device(PointerRead, EIEConfig(pointers=16, weight_rows=1024))
    works = [{"place": stride * k, "value": k} for k in range(3)]
    stops = {2: [7, 10, 28, 28], 4: [7, 7 + 0x1203, 7 + 0x1203]}[stride]

    async def before(ctx):
        ctx.set(dut.stride, stride)
        await fill(ctx, dut.load, {0: 7, 1: 0x1203, 2: 0})

    expected = [job(dut.config, start, stop, k)
                for k, (start, stop) in enumerate(pairwise(stops)) if start != stop]
    assert transfer(dut, [(dut.i, works)], [(dut.o, len(expected))], before=before) == [expected]


@KINDS
def test_words_that_are_loaded_replace_the_old_ones(prepare, counts):
    dut, jobs = device(PointerRead, config_for([0, 0], counts=counts)), []

    async def bench(ctx):
        for size in (3, 6):
            await prepare(dut, [2, size])(ctx)
            await send(ctx, dut.i, [{"place": 1, "value": 4}])
            jobs.extend(await receive(ctx, dut.o, 1))

    simulate(dut, bench)
    assert jobs == [job(dut.config, 2, 2 + size, 4) for size in (3, 6)]


@KINDS
def test_latency(timed, counts):
    ((entered, _),), ((left, _),) = timed([3], counts=counts)
    assert left - entered == (9 if counts else 5)
    assert left - entered == latency_of(EIEConfig(counts=counts))


@KINDS
@EMPTY
@pytest.mark.parametrize("runahead", [2, 4])
@pytest.mark.parametrize("sizes", [[1] * 40, [0] * 40, [0, 1] * 20, [0, 0, 1, 1, 1] * 8],
                         ids=["none empty", "all empty", "alternating", "mixed"])
def test_one_column_a_cycle_empty_or_not(timed, sizes, runahead, counts, drops_empty):
    entered, left = timed(sizes, runahead=runahead, counts=counts, drops_empty=drops_empty)
    start = entered[0][0]
    assert [cycle - start for cycle, _ in entered] == list(range(len(sizes)))
    assert [cycle - start for cycle, _ in left] == [
        j + latency_of(EIEConfig(counts=counts)) for j, size in enumerate(sizes)
        if size or not drops_empty]


@KINDS
@pytest.mark.parametrize("runahead", [2, 4, 8])
def test_consecutive_empty_columns_cost_no_bubble_while_others_wait(timed, runahead, counts):
    # A job of four entries keeps the multiplier for four cycles; so three empty columns
    # between two jobs must not be seen.
    async def multiplier(ctx, dut):
        while not ctx.get(dut.o.valid):
            await ctx.tick()
        for _ in range(20):
            await receive(ctx, dut.o, 1)
            await ctx.tick().repeat(3)

    _, left = timed([4, 0, 0, 0] * 20, multiplier, runahead=runahead, counts=counts)
    assert [later - earlier for (earlier, _), (later, _) in pairwise(left)] == [4] * 19


@KINDS
@pytest.mark.parametrize("runahead", [2, 5])
def test_a_long_run_of_empty_columns_hides_behind_the_jobs_that_wait(timed, runahead, counts):
    empty = 7 * runahead

    async def multiplier(ctx, dut):
        # Time enough for the run-ahead to fill; then a job every eight cycles.
        await ctx.tick().repeat(empty + 60)
        for _ in range(2 * runahead):
            await receive(ctx, dut.o, 1)
            await ctx.tick().repeat(7)

    _, left = timed([8] * runahead + [0] * empty + [8] * runahead, multiplier, runahead=runahead,
                    counts=counts)
    assert {later - earlier for (earlier, _), (later, _) in pairwise(left)} == {8}


@KINDS
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_multiplier_never_waits_once_the_runahead_covers_the_latency(timed, counts, size):
    """Also after it has stalled for long enough to fill the queue."""
    latency = latency_of(EIEConfig(counts=counts))

    async def multiplier(ctx, dut):
        await ctx.tick().repeat(60)
        for _ in range(60):
            await receive(ctx, dut.o, 1)
            if size > 1:
                await ctx.tick().repeat(size - 1)

    _, left = timed([size] * 60, multiplier, counts=counts, runahead=1 + -(-(latency + 1) // size))
    assert {later - earlier for (earlier, _), (later, _) in pairwise(left)} == {size}


@KINDS
@pytest.mark.parametrize("empty", [1, 2, 3, 100])
def test_empty_columns_in_a_row_do_not_hang(read, empty, counts):
    sizes = [1, *[0] * empty, 2, *[0] * empty]
    read(sizes, each_once(sizes), config=config_for(sizes, counts=counts), patience=2)


@KINDS
def test_all_columns_empty(read, counts):
    read([0] * 50, each_once([0] * 50), config=config_for([0] * 50, counts=counts), patience=2)


@KINDS
@pytest.mark.parametrize("runahead", [2, 3, 6])
def test_runahead_columns_wait_behind_a_busy_multiplier(record, prepare, runahead, counts):
    sizes = [1] * 60
    dut = device(PointerRead, config_for(sizes, runahead=runahead, counts=counts))
    entered = []

    async def bench(ctx):
        await prepare(dut, sizes)(ctx)
        ctx.set(dut.i.payload, {"place": 1, "value": 1})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(40)

    simulate(dut, bench, background=[record(entered, dut.i)])
    assert len(entered) == runahead + latency_of(dut.config)


@KINDS
def test_busy_while_a_column_is_inside(watch, stalls, prepare, transfer, counts):
    sizes, inside, log = [1] * 20, 0, []
    dut = device(PointerRead, config_for(sizes, counts=counts, runahead=3))
    transfer(dut, [(dut.i, each_once(sizes))], [(dut.o, 20)], stalls=stalls,
             before=prepare(dut, sizes),
             background=[watch(log, dut.busy, dut.i.valid, dut.i.ready,
                               dut.o.valid, dut.o.ready)])
    for busy, i_valid, i_ready, o_valid, o_ready in log:
        assert busy == (inside > 0)
        inside += (i_valid & i_ready) - (o_valid & o_ready)
    assert inside == 0


@KINDS
def test_busy_while_an_empty_column_is_looked_up(watch, record, prepare, counts):
    dut, log, entered = device(PointerRead, config_for([0], counts=counts)), [], []

    async def bench(ctx):
        await prepare(dut, [0])(ctx)
        await send(ctx, dut.i, [{"place": 0, "value": 1}])

    simulate(dut, bench, background=[watch(log, dut.busy), record(entered, dut.i)])
    start = entered[0][0] + 1
    assert [cycle for cycle, (busy,) in enumerate(log) if busy] == list(
        range(start, start + latency_of(dut.config) - 1))
