"""Sparse-matrix read: every entry in its turn, and no row read twice in a row."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.hw.eie.spmat import SparseMatrixRead
from zeroskip.sim.bench import send, simulate

CONFIG = EIEConfig(weight_rows=6)


def image_of(config=CONFIG, seed=1):
    """A weight memory full of random entries, as bytes: v in the low half."""
    return random.Random(seed).randbytes(config.entries)


def words_of(image):
    """The load words of an image: four entries each, the first in the low byte."""
    return {at // 4: int.from_bytes(image[at:at + 4], "little")
            for at in range(0, len(image), 4)}


def job(start, stop, value=1):
    return {"value": value, "start": start, "stop": stop}


def entries_of(image, jobs):
    return [{"packed": {"v": image[at] % 16, "z": image[at] // 16},
             "first": int(at == job["start"]), "value": job["value"]}
            for job in jobs for at in range(job["start"], job["stop"])]


def row_reads(jobs):
    """Rows read: one for the first entry, and one for each change of the row."""
    rows = [at // ENTRIES_PER_ROW for job in jobs for at in range(job["start"], job["stop"])]
    return 1 + sum(here != before for before, here in pairwise(rows)) if rows else 0


@pytest.fixture(scope="session")
def walk(fill, record, watch):
    """``walk(jobs)``: jobs in and entries out as (cycle, payload), and the rows read."""
    def walk(jobs, *, config=CONFIG, stalls=None):
        dut, entered, left, reads = SparseMatrixRead(config), [], [], []

        async def bench(ctx):
            await fill(ctx, dut.load, words_of(image_of(config)))
            await send(ctx, dut.i, jobs, stalls)

        simulate(dut, bench, background=[record(entered, dut.i), record(left, dut.o),
                                         watch(reads, dut.reads)],
                 quiet=config.entries + 50, deadline=2_000)
        assert [payload for _, payload in left] == entries_of(image_of(config), jobs)
        return entered, left, sum(read for read, in reads)
    return walk


JOBS = st.lists(st.tuples(st.integers(0, CONFIG.entries - 1), st.integers(1, 20),
                          st.integers(-32768, 32767)), max_size=15).map(
    lambda triples: [job(start, min(start + count, CONFIG.entries), value)
                     for start, count, value in triples])


@given(jobs=JOBS)
@settings(deadline=None, derandomize=True, max_examples=10)
def test_every_entry_of_every_job_in_order(walk, stalls, jobs):
    _, _, reads = walk(jobs, stalls=stalls(1)[0])
    assert reads == row_reads(jobs)


def test_latency(walk):
    ((entered, _),), ((left, _),), _ = walk([job(11, 12)])
    assert left - entered == SparseMatrixRead.LATENCY


@pytest.mark.parametrize("sizes", [[1] * 30, [2] * 15, [8] * 6, [7] * 6, [13, 1, 1, 9, 3], [48]],
                         ids=str)
def test_one_entry_a_cycle_without_a_bubble_between_columns(walk, sizes):
    jobs, at = [], 0
    for size in sizes:
        jobs.append(job(at, at + size))
        at += size
    entered, left, _ = walk(jobs)
    first = entered[0][0] + SparseMatrixRead.LATENCY
    assert [cycle for cycle, _ in left] == list(range(first, first + at))


def test_one_entry_a_cycle_when_every_entry_changes_the_row(walk):
    jobs = [job(at, at + 1) for row in range(3) for at in (8 * row + 2, 8 * row + 25)]
    _, left, reads = walk(jobs)
    assert {later - earlier for (earlier, _), (later, _) in pairwise(left)} == {1}
    assert reads == len(jobs)


def test_columns_within_one_row_read_it_once(walk):
    _, _, reads = walk([job(8, 10), job(10, 11), job(11, 16)])
    assert reads == 1


def test_a_column_that_straddles_rows_reads_each_once(walk):
    _, _, reads = walk([job(6, 27)])
    assert reads == 4


def test_a_row_is_held_while_nothing_comes(fill, watch):
    dut, reads = SparseMatrixRead(CONFIG), []

    async def bench(ctx):
        await fill(ctx, dut.load, words_of(image_of()))
        for _ in range(3):
            await send(ctx, dut.i, [job(16, 18)])
            await ctx.tick().repeat(20)

    simulate(dut, bench, background=[watch(reads, dut.reads)])
    assert sum(read for read, in reads) == 1


def test_a_row_is_read_again_when_another_came_between(walk):
    _, _, reads = walk([job(0, 1), job(8, 9), job(0, 1)])
    assert reads == 3


def test_new_weights_are_seen_in_the_row_that_was_held(fill, record):
    dut, left = SparseMatrixRead(CONFIG), []

    async def bench(ctx):
        for seed in (1, 2):
            await fill(ctx, dut.load, words_of(image_of(seed=seed)))
            await send(ctx, dut.i, [job(40, 48)])
            await ctx.tick().repeat(20)

    simulate(dut, bench, background=[record(left, dut.o)])
    assert [entry for _, entry in left] == [
        entry for seed in (1, 2) for entry in entries_of(image_of(seed=seed), [job(40, 48)])]


def test_a_half_of_a_row_is_loaded_alone(fill, record):
    dut, left = SparseMatrixRead(CONFIG), []
    image = image_of()[:12] + bytes(4) + image_of()[16:]

    async def bench(ctx):
        await fill(ctx, dut.load, {**words_of(image_of()), 3: 0})
        await send(ctx, dut.i, [job(8, 16)])

    simulate(dut, bench, background=[record(left, dut.o)])
    assert [entry for _, entry in left] == entries_of(image, [job(8, 16)])


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_the_walk_reaches_the_last_entry(walk, rows):
    config = EIEConfig(weight_rows=rows)
    _, _, reads = walk([job(0, config.entries)], config=config)
    assert reads == rows


def test_busy_from_the_job_to_its_last_entry(fill, watch, record):
    dut, log, entered, left = SparseMatrixRead(CONFIG), [], [], []

    async def bench(ctx):
        await fill(ctx, dut.load, words_of(image_of()))
        await send(ctx, dut.i, [job(3, 9)])

    simulate(dut, bench, background=[watch(log, dut.busy), record(entered, dut.i),
                                     record(left, dut.o)])
    assert [cycle for cycle, (busy,) in enumerate(log) if busy] == list(
        range(entered[0][0] + 1, left[-1][0] + 1))

