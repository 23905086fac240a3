"""Sparse-matrix read: every entry in its turn, escapes, fillers, and no row read twice in a row."""

import random
from itertools import accumulate, pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import ENTRIES_PER_ROW as ROW
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.rows import RowRead
from zeroskip.hw.eie.search import EntrySearch
from zeroskip.hw.eie.spmat import SparseMatrixRead
from zeroskip.hw.eie.unpack import Unpack
from zeroskip.hw.stream import Queue
from zeroskip.sim.bench import device, send, simulate
from zeroskip.sim.proof import Claims

ROWS = 6
CONFIGS = {escapes: EIEConfig(weight_rows=ROWS, escapes=escapes) for escapes in (True, False)}
LATENCY = SparseMatrixRead.latency(CONFIGS[True])
MODES = pytest.mark.parametrize("escapes", [True, False], ids=["escapes", "plain"])


def image_of(rows=ROWS, seed=1):
    """A weight memory of random bytes without an escape: v, from 1 to 15, in the low half."""
    return bytes(byte | (byte % 16 == 0) for byte in random.Random(seed).randbytes(ROW * rows))


def words_of(image):
    """The load words of an image: four bytes each, the first in the low byte."""
    return {at // 4: int.from_bytes(image[at:at + 4], "little")
            for at in range(0, len(image), 4)}


def job(start, stop, value=1):
    """Bytes ``start`` to ``stop`` - 1; without one, the last byte does not matter."""
    return {"value": value, "start": start, "last": max(stop - 1, 0), "blank": stop == start}


def behind_each_other(sizes, at=0):
    """Jobs of contiguous columns."""
    return [job(*span, value=k) for k, span in enumerate(pairwise(accumulate(sizes, initial=at)))]


def stop_of(each):
    return each["start"] if each["blank"] else each["last"] + 1


def steps_of(image, each, escapes):
    """(byte where it ends, entry) of a job; an escape and its entry are one."""
    at, steps = each["start"], []
    while at < stop_of(each):
        v, gap = image[at] % 16, image[at] // 16
        if escapes and v == 0:
            at += 1
            if at == stop_of(each):
                break   # a filler
            v, gap = image[at] % 16, 16 * (gap + 1) + image[at] // 16
        steps.append((at, {"v": v, "gap": gap, "first": int(not steps), "value": each["value"]}))
        at += 1
    return steps


def entries_of(image, jobs, escapes):
    return [entry for each in jobs for _, entry in steps_of(image, each, escapes)]


def rows_of(jobs):
    """The row of every byte, in the order in which they are walked."""
    return [at // ROW for each in jobs for at in range(each["start"], stop_of(each))]


def row_reads(jobs):
    """Rows read: one for the first byte, and one for each change of the row."""
    rows = rows_of(jobs)
    return 1 + sum(here != before for before, here in pairwise(rows)) if rows else 0


def cycles_of(image, jobs, escapes, config):
    """The cycle of each entry, from the first job's, when the jobs never stall.

    Each row of a job, and each blank job, is a part, which takes a cycle of the walk. Those with an
    entry that ends there, and the blank ones, come into the queue; there, one waits for the entries
    of the one before it. While ``runahead`` are in the queue, nothing else moves, a cycle later."""
    walk = []       # entries that end in the part, and whether it is blank
    for each in jobs:
        ends = [end // ROW for end, _ in steps_of(image, each, escapes)]
        rows = sorted(set(rows_of([each])))
        walk += [(ends.count(row), False) for row in rows] or [(1, True)]
    steps, queue, cycles = [None] * EntrySearch.latency(config), [], []
    cycle, go, left = RowRead.LATENCY, True, 0
    while walk or queue or any(steps):
        level, left = len(queue), max(left - 1, 0)
        if queue and not left:
            left, blank = queue.pop(0)
            cycles += [] if blank else range(cycle + Unpack.LATENCY,
                                             cycle + Unpack.LATENCY + left)
        if go:
            steps.append(walk.pop(0) if walk else None)
            part = steps.pop(0)
            queue += [part] if part and part[0] else []
        cycle, go = cycle + 1, level < config.runahead
    return cycles


@pytest.fixture(scope="session")
def walk(fill, record, watch):
    """``walk(image, jobs)``: asserts what leaves and how many rows are read; gives the cycle in
    which each job entered, and that in which each entry left."""
    def walk(image, jobs, *, escapes=True, stalls=None, **options):
        dut = device(SparseMatrixRead, EIEConfig(weight_rows=len(image) // ROW, escapes=escapes,
                                                 **options))
        entered, left, log = [], [], []

        async def bench(ctx):
            await fill(ctx, dut.load, words_of(image))
            await send(ctx, dut.i, jobs, stalls)

        simulate(dut, bench, quiet=len(image) + 50, deadline=8_000,
                 background=[record(entered, dut.i), record(left, dut.o),
                             watch(log, dut.reads, dut.busy)])
        assert [payload for _, payload in left] == entries_of(image, jobs, escapes)
        assert sum(read for read, _ in log) == row_reads(jobs)
        assert not log[-1][1], "busy for ever"
        return [cycle for cycle, _ in entered], [cycle for cycle, _ in left]
    return walk


@pytest.fixture(scope="session")
def timed(walk):
    """``timed(image, jobs)``: like ``walk``, and asserts the cycle of each entry; gives the
    cycles of all entries, from the first to the last."""
    def timed(image, jobs, *, escapes=True):
        entered, left = walk(image, jobs, escapes=escapes)
        assert [cycle - entered[0] for cycle in left] == cycles_of(
            image, jobs, escapes, CONFIGS[escapes])
        return left[-1] - left[0] + 1 if left else 0
    return timed


# Images in which every other byte has v = 0: runs of any length.
IMAGES = st.binary(min_size=ROW * ROWS, max_size=ROW * ROWS).map(
    lambda image: bytes(byte & 0xF0 if byte & 8 else byte for byte in image))
VALUES = st.integers(-32768, 32767)
ANYWHERE = st.builds(
    lambda start, size, value: job(start, min(start + size, ROW * ROWS), value),
    st.integers(0, ROW * ROWS), st.sampled_from([0, 0, 1, 2, 3, 8, 9, 20]), VALUES)


@MODES
@given(image=IMAGES, jobs=st.lists(ANYWHERE, max_size=20))
@settings(deadline=None, derandomize=True, max_examples=5)
def test_every_entry_of_every_job_in_order(walk, stalls, escapes, image, jobs):
    walk(image, jobs, escapes=escapes, stalls=stalls(1)[0])


@MODES
@given(image=IMAGES, jobs=st.lists(ANYWHERE, max_size=40))
@settings(deadline=None, derandomize=True, max_examples=15)
def test_every_cycle_while_jobs_never_stall(timed, escapes, image, jobs):
    timed(image, jobs, escapes=escapes)


@MODES
@given(image=IMAGES, sizes=st.lists(st.integers(0, 20), max_size=20), at=st.integers(0, 7))
@settings(deadline=None, derandomize=True, max_examples=15)
def test_columns_behind_each_other_at_every_cycle(timed, escapes, image, sizes, at):
    jobs = [each for each in behind_each_other(sizes, at) if stop_of(each) <= len(image)]
    timed(image, jobs, escapes=escapes)


@MODES
@pytest.mark.parametrize("size", range(6))
def test_every_pattern_of_escapes_in_a_column_at_every_byte(timed, escapes, size):
    """Columns of ``size`` bytes that begin at each byte of a row, with v = 0 in any of them; in
    front of them and behind them lie escapes too."""
    rand, image, jobs = random.Random(size), b"", []
    for start, pattern in product(range(ROW), product((0, 1), repeat=size)):
        column = [(rand.randrange(1, 16) if weight else 0) + 16 * rand.randrange(16)
                  for weight in pattern]
        rows = [0x30] * start + column
        jobs.append(job(len(image) + start, len(image) + start + size, rand.randrange(1000)))
        image += bytes(rows + [0x50] * (2 * ROW - len(rows)))
    timed(image, jobs, escapes=escapes)


@MODES
@pytest.mark.parametrize("runahead", [2, 3])
def test_a_walk_that_stalls_reads_the_same(walk, escapes, runahead):
    """Columns of up to twenty bytes, with escapes among them; a row of eight entries takes eight
    cycles, and its walk one."""
    config = EIEConfig(weight_rows=40, escapes=escapes, runahead=runahead)
    image = bytes(byte & 0xF0 if byte % 5 == 0 else byte | 1
                  for byte in random.Random(runahead).randbytes(ROW * 40))
    sizes = [11 * k % 21 for k in range(30)]
    jobs = behind_each_other(sizes, 3)
    entered, left = walk(image, jobs, escapes=escapes, runahead=runahead)
    assert [cycle - entered[0] for cycle in left] == cycles_of(image, jobs, escapes, config)
    parts = sum(len({*rows_of([each])}) or 1 for each in jobs[:-1])
    stalled = entered[-1] - entered[0] - parts
    assert stalled > parts


@pytest.mark.parametrize("start", [0, 5, 7])
@MODES
def test_latency(walk, start, escapes):
    (entered,), (left,) = walk(image_of(), [job(start, start + 1)], escapes=escapes)
    assert left - entered == SparseMatrixRead.latency(CONFIGS[escapes]) == (11 if escapes else 7)


@MODES
@pytest.mark.parametrize("sizes", [[1] * 30, [2] * 15, [8] * 6, [7] * 6, [13, 1, 1, 9, 3], [48]],
                         ids=str)
@pytest.mark.parametrize("at", [0, 3])
def test_one_entry_a_cycle_without_a_bubble_between_columns(timed, sizes, at, escapes):
    jobs = [each for each in behind_each_other(sizes, at) if stop_of(each) <= ROW * ROWS]
    assert timed(image_of(), jobs, escapes=escapes) == sum(
        stop_of(each) - each["start"] for each in jobs)


@MODES
def test_one_entry_a_cycle_when_every_entry_changes_the_row(timed, escapes):
    jobs = [job(at, at + 1) for row in range(3) for at in (8 * row + 2, 8 * row + 25)]
    assert timed(image_of(), jobs, escapes=escapes) == len(jobs)


# v = 0 with z, and an entry with z.
def escape(z):
    return 16 * z


def entry(z, v=5):
    return 16 * z + v


def laid(*contents, at=0, rows=ROWS):
    """An image with these bytes from ``at`` on, and the jobs of columns behind each other."""
    image = bytearray(image_of(rows))
    for column in contents:
        image[at:at + len(column)] = bytes(column)
        at += len(column)
    return bytes(image), behind_each_other(map(len, contents), at - sum(map(len, contents)))


@pytest.mark.parametrize("at", range(ROW))
def test_every_entry_behind_an_escape_one_a_cycle(timed, at):
    """Columns of two entries, both with an escape: wherever they begin, an entry a cycle."""
    image, jobs = laid(*[[escape(3), entry(1), escape(15), entry(15)]] * 6, at=at)
    assert timed(image, jobs) == 2 * 6
    assert {each["gap"] for each in entries_of(image, jobs, escapes=True)} == {65, 271}


@pytest.mark.parametrize("begin", [0, 1])
def test_columns_of_single_entries_behind_escapes(timed, begin):
    """Two bytes each: one cycle, but two of the walk when the row changes between them."""
    image, jobs = laid(*[[escape(1), entry(2)]] * 20, at=begin)
    changes = sum(each["start"] // ROW != each["last"] // ROW for each in jobs)
    assert changes == (5 if begin else 0)
    assert timed(image, jobs) == 20 + changes


@pytest.mark.parametrize("z", range(16))
def test_every_gap_behind_an_escape(walk, z):
    image, jobs = laid([byte for low in range(16) for byte in (escape(z), entry(low))], at=z % 8)
    walk(image, jobs)
    assert [each["gap"] for each in entries_of(image, jobs, escapes=True)] == [
        16 * (z + 1) + low for low in range(16)]


def test_an_escape_at_the_end_of_a_row_goes_with_the_next_row(timed):
    image, jobs = laid([entry(1), entry(2), escape(4), entry(3), entry(6)], at=5)
    assert timed(image, jobs) == 4
    assert [each["gap"] for each in entries_of(image, jobs, escapes=True)] == [1, 2, 83, 6]


def test_a_column_begins_with_an_escape_at_the_end_of_a_row(timed):
    image, jobs = laid([escape(0), entry(7), entry(8)], [entry(9), entry(10)], at=7)
    assert timed(image, jobs) == 4
    assert [(each["gap"], each["first"]) for each in entries_of(image, jobs, escapes=True)] == [
        (23, 1), (8, 0), (9, 1), (10, 0)]


@pytest.mark.parametrize("next_size", [1, 2, 7])
def test_the_next_column_begins_behind_an_entry_that_is_alone_in_its_row(timed, next_size):
    image, jobs = laid([entry(1), escape(2), entry(3)], [entry(4)] * next_size, at=6)
    assert timed(image, jobs) == 2 + next_size
    assert row_reads(jobs) == 2


@pytest.mark.parametrize("next_start", range(1, ROW))
@pytest.mark.parametrize("size", [2, 5, 6])
def test_a_column_elsewhere_comes_behind_an_entry_that_is_alone_in_its_row(timed, size,
                                                                         next_start):
    """Its row is read while the entry's byte is still needed."""
    image, _ = laid([*[entry(1)] * (size - 1), escape(2), entry(3)], at=ROW - size)
    start = 4 * ROW + next_start
    jobs = [job(ROW - size, ROW + 1), job(start, start + 9), job(0, 1), job(7, 9)]
    assert timed(image, jobs) == size + 9 + 1 + 1
    assert row_reads(jobs) == 2 + 2 + 2


def test_an_entry_alone_in_its_row_behind_padding_costs_no_more(timed):
    image, jobs = laid([escape(15), escape(15), escape(2), entry(3)], [entry(4)], at=5)
    assert timed(image, jobs) == 2 + 1


@pytest.mark.parametrize("single", [True, False])
def test_the_next_column_begins_with_an_escape_behind_an_entry_alone_in_its_row(timed, single):
    """That its row is walked for nothing is not seen."""
    image, jobs = laid([*[entry(1)] * (not single), escape(2), entry(3)],
                       [escape(4), entry(5)], [escape(6), entry(7)], at=6 + single)
    assert timed(image, jobs) == 4 - single


@pytest.mark.parametrize("at", range(ROW))
def test_a_filler_at_a_columns_end_is_nothing(timed, at):
    """Also when it is alone in its row, which costs a cycle, as ``cycles_of`` says."""
    image, jobs = laid(*[[entry(1), entry(2), escape(0)]] * 4, at=at)
    timed(image, jobs)
    assert [each["gap"] for each in entries_of(image, jobs, escapes=True)] == [1, 2] * 4


@pytest.mark.parametrize("at", range(ROW))
@pytest.mark.parametrize("fillers", range(5))
def test_zero_bytes_at_a_columns_end_have_weight_zero(timed, at, fillers):
    """As in a balanced layer: in pairs, padding; one that is left over is nothing."""
    image, jobs = laid(*[[entry(1), *[0] * fillers]] * 3, at=at)
    timed(image, jobs)
    assert [(each["v"], each["gap"]) for each in entries_of(image, jobs, escapes=True)] == [
        (5, 1), *[(0, 16)] * (fillers // 2)] * 3


@pytest.mark.parametrize("at", range(ROW))
def test_a_column_that_is_only_a_filler(timed, at):
    """It costs a cycle."""
    image, jobs = laid([entry(1)], [escape(0)], [entry(2)], [escape(9)], [escape(9)], [entry(3)],
                       at=at)
    assert timed(image, jobs) == 6
    assert [each["gap"] for each in entries_of(image, jobs, escapes=True)] == [1, 2, 3]


def test_a_filler_is_not_the_escape_of_the_next_column(timed):
    image, jobs = laid([entry(1), escape(5)], [entry(2), entry(3)], at=6)
    assert timed(image, jobs) == 3
    assert [(each["gap"], each["first"]) for each in entries_of(image, jobs, escapes=True)] == [
        (1, 1), (2, 1), (3, 0)]


def test_a_padding_pair_is_one_entry_of_weight_zero(timed):
    image, jobs = laid([entry(1), escape(15), escape(15), escape(0), entry(4)], at=6)
    assert timed(image, jobs) == 3
    assert [(each["v"], each["gap"]) for each in entries_of(image, jobs, escapes=True)] == [
        (5, 1), (0, 271), (5, 20)]


@pytest.mark.parametrize("at", range(ROW))
def test_without_escapes_a_zero_is_an_entry_that_costs_a_cycle(timed, at):
    image, jobs = laid([entry(1), escape(15), entry(2), escape(15)], [escape(3)], at=at)
    assert timed(image, jobs, escapes=False) == 5
    assert [(each["v"], each["gap"], each["first"])
            for each in entries_of(image, jobs, escapes=False)] == [
        (5, 1, 1), (0, 15, 0), (5, 2, 0), (0, 15, 0), (0, 3, 1)]


@MODES
@pytest.mark.parametrize("blanks", [1, 2, 5])
def test_a_job_without_bytes_takes_a_cycle_and_gives_nothing(timed, blanks, escapes):
    positions = (0, 7, 11, ROW * ROWS)
    jobs = [each for at in positions for each in
            (job(3, 6), *[job(at, at)] * blanks, job(6, 9), job(9, 9), job(14, 18))]
    assert timed(image_of(), jobs, escapes=escapes) == len(positions) * (3 + blanks + 3 + 1 + 4)


def test_a_job_without_bytes_is_no_escape_whatever_byte_it_points_at(timed):
    """The row in front of the walk ends in an escape, which belongs to nobody."""
    image, _ = laid([escape(8)], at=7)
    jobs = [job(2, 5), job(7, 7), job(8, 12), job(15, 15), job(4, 7), job(7, 7), job(3, 5)]
    assert timed(image, jobs) == 3 + 1 + 4 + 1 + 3 + 1 + 2


@MODES
def test_only_jobs_without_bytes(timed, escapes):
    assert timed(image_of(), [job(k, k) for k in (0, 7, 8, 48)], escapes=escapes) == 0


def test_columns_within_one_row_read_it_once(walk):
    jobs = [job(8, 10), job(10, 11), job(11, 16)]
    walk(image_of(), jobs)
    assert row_reads(jobs) == 1


def test_a_column_that_straddles_rows_reads_each_once(walk):
    walk(image_of(), [job(6, 27)])
    assert row_reads([job(6, 27)]) == 4


def test_a_row_is_read_again_when_another_came_between(walk):
    jobs = [job(0, 1), job(8, 9), job(0, 1)]
    walk(image_of(), jobs)
    assert row_reads(jobs) == 3


def test_a_job_without_bytes_does_not_make_a_row_be_read_again(walk):
    jobs = [job(0, 3), job(20, 20), job(3, 8), job(48, 48), job(2, 4)]
    walk(image_of(), jobs)
    assert row_reads(jobs) == 1


@pytest.mark.parametrize("size", [2, 5, 8])
def test_a_row_waits_behind_a_long_one_while_the_next_is_read(timed, size):
    """Three rows are inside: taken apart, in the output register, in the memory."""
    jobs = [job(0, 8), job(16, 16 + size), job(32, 32 + size), job(0, 1), job(1, 2), job(16, 17)]
    assert timed(image_of(), jobs) == 8 + 2 * size + 3


@pytest.mark.parametrize("pauses", [[0, 0, 0], [1, 1, 1], [2, 1, 2], [0, 3, 1], [4, 0, 1]], ids=str)
def test_jobs_that_come_late_close_up_behind_a_long_one(fill, record, pauses):
    dut, left = device(SparseMatrixRead, CONFIGS[True]), []
    jobs = [job(0, 8), job(16, 17), job(32, 34), job(40, 43)]

    async def bench(ctx):
        await fill(ctx, dut.load, words_of(image_of()))
        await send(ctx, dut.i, jobs[:1])
        for pause, each in zip(pauses, jobs[1:], strict=True):
            for _ in range(pause):
                await ctx.tick()
            await send(ctx, dut.i, [each])

    simulate(dut, bench, background=[record(left, dut.o)])
    assert [each for _, each in left] == entries_of(image_of(), jobs, True)
    assert left[-1][0] - left[0][0] + 1 == len(left)


@MODES
def test_a_row_is_held_while_nothing_comes(fill, record, watch, escapes):
    dut, reads, left = device(SparseMatrixRead, CONFIGS[escapes]), [], []

    async def bench(ctx):
        await fill(ctx, dut.load, words_of(image_of()))
        for _ in range(3):
            await send(ctx, dut.i, [job(16, 18)])
            await ctx.tick().repeat(20)

    simulate(dut, bench, background=[watch(reads, dut.reads), record(left, dut.o)])
    assert sum(read for read, in reads) == 1
    assert [each for _, each in left] == entries_of(image_of(), [job(16, 18)] * 3, escapes)


@pytest.mark.parametrize("half", [0, 1])
def test_new_weights_are_seen_in_the_row_that_was_held(fill, record, half):
    dut, left = device(SparseMatrixRead, CONFIGS[True]), []
    old, new = image_of(), image_of(seed=2)

    async def bench(ctx):
        await fill(ctx, dut.load, words_of(old))
        await send(ctx, dut.i, [job(40, 48)])
        await ctx.tick().repeat(20)
        await fill(ctx, dut.load, {10 + half: words_of(new)[10 + half]})
        await send(ctx, dut.i, [job(40, 48)])

    simulate(dut, bench, background=[record(left, dut.o)])
    at = 40 + 4 * half
    changed = old[:at] + new[at:at + 4] + old[at + 4:]
    assert [each for _, each in left] == [
        each for image in (old, changed) for each in entries_of(image, [job(40, 48)], True)]


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_the_walk_reaches_the_last_byte(timed, rows):
    assert timed(image_of(rows), [job(0, ROW * rows)]) == ROW * rows
    image = image_of(rows)[:-1] + bytes([escape(3)])
    assert timed(image, [job(0, ROW * rows)]) == ROW * rows - 1


@pytest.mark.parametrize(("contents", "cycles"), [
    ([entry(1)] * 6, range(1, LATENCY + 6)),
    ([escape(1)], range(1, LATENCY - 3)),
    ([], range(1, LATENCY - 1)),
], ids=["entries", "filler", "nothing"])
def test_busy_from_the_job_to_its_last_entry(fill, watch, record, contents, cycles):
    dut, log, entered = device(SparseMatrixRead, CONFIGS[True]), [], []
    image, jobs = laid(contents, at=3)

    async def bench(ctx):
        await fill(ctx, dut.load, words_of(image))
        await send(ctx, dut.i, jobs)

    simulate(dut, bench, background=[watch(log, dut.busy), record(entered, dut.i)])
    start = entered[0][0]
    assert [cycle - start for cycle, (busy,) in enumerate(log) if busy] == list(cycles)


@MODES
@given(image=IMAGES, jobs=st.lists(ANYWHERE, max_size=8))
@settings(deadline=None, derandomize=True, max_examples=5)
def test_busy_while_an_entry_is_still_to_come(fill, watch, stalls, escapes, image, jobs):
    dut, log = device(SparseMatrixRead, CONFIGS[escapes]), []

    async def bench(ctx):
        await fill(ctx, dut.load, words_of(image))
        await send(ctx, dut.i, jobs, stalls(2)[0])

    simulate(dut, bench, quiet=len(image) + 50,
             background=[watch(log, dut.busy, dut.i.valid, dut.i.ready, dut.o.valid)])
    # Entries still to come of each job that has entered in an earlier cycle.
    waiting, counts = 0, iter([len(steps_of(image, each, escapes)) for each in jobs])
    for busy, valid, ready, sent in log:
        assert busy or not waiting
        waiting += (next(counts) if valid and ready else 0) - sent
    assert not waiting
    assert not busy


def test_the_timing_diagram_is_that_of_a_simulation(fill):
    """A has four entries, the third behind an escape at the end of row 0; B two in the rest of row
    1; C one in row 3."""
    image, _ = laid([entry(1), entry(2), escape(0), entry(3), entry(4), entry(5), entry(6)], at=5)
    jobs = [job(5, 10, 0xA), job(10, 12, 0xB), job(25, 26, 0xC)]
    dut, lines = device(SparseMatrixRead, CONFIGS[True]), {}
    inside = Claims(dut)
    (rows,), (search,), (slices,) = map(inside.inside, (RowRead, EntrySearch, Queue))
    signals = {
        "job": (dut.i.valid & dut.i.ready, dut.i.payload.value),
        "slice": (rows.o.valid, rows.o.payload.value),
        "row read": (rows.reads, rows.row),
        "decoded": (search.o.valid, search.o.payload.value),
        "queue": (slices.o.valid, slices.o.payload.value),
        "entry": (dut.o.valid, dut.o.payload.value),
        "gap": (dut.o.valid, dut.o.payload.gap),
    }

    async def bench(ctx):
        await fill(ctx, dut.load, words_of(image))
        await send(ctx, dut.i, jobs)

    async def watch(ctx):
        async for _, _, *values in ctx.tick().sample(*(each for pair in signals.values()
                                                       for each in pair)):
            for name, valid, value in zip(signals, values[::2], values[1::2], strict=True):
                shown = f"{value}" if name in ("row read", "gap") else f"{value:X}"
                lines.setdefault(name, []).append(shown if valid else ".")

    simulate(inside.m, bench, background=[watch], quiet=25)
    start = lines["job"].index("A")
    drawn = {name: " ".join(f"{cell:>2}" for cell in cells[start:start + 20]).rstrip(" .")
             for name, cells in lines.items()}
    drawn = {"cycle": " ".join(f"{k:2}" for k in range(20)), **drawn}
    for name, line in drawn.items():
        assert f"{name:10}{line}\n" in dut.__doc__
