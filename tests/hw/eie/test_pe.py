"""One processing element against integers: entries in, outputs and counters out."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.hw.eie.counters import PECounter
from zeroskip.hw.eie.layouts import LoadTarget, Phase
from zeroskip.hw.eie.pe import PE
from zeroskip.sim.bench import Stalls, checker, receive, simulate

CONFIG = EIEConfig(pes=4, queue_depth=2, weight_rows=32, pointers=34, acc_depth=64, act_depth=64,
                   bias_depth=64, codebooks=2)
IDENTITY = 2
BOOK = [0, *range(-7, 0), *range(1, 9)]
REASONS = list(PECounter)[:7]


def pack(column):
    """Entries (v, z) of one column of codebook indices; gaps over 15 zeros are bridged."""
    entries, gap = [], 0
    for index in column:
        if not index:
            gap += 1
            continue
        entries += [(0, 15)] * (gap // 16) + [(index, gap % 16)]
        gap = 0
    return entries


class Image:
    """A matrix of codebook indices, column by column, as the memories of a PE hold it."""

    def __init__(self, columns):
        self.columns = columns
        self.packed = [pack(column) for column in columns]
        self.pointers = [0]
        for entries in self.packed:
            self.pointers.append(self.pointers[-1] + len(entries))

    def loads(self):
        """The load words (target, address, data)."""
        stored = [v | z << 4 for entries in self.packed for v, z in entries]
        for at in range(0, len(stored), 4):
            yield LoadTarget.WEIGHTS, at // 4, sum(
                byte << 8 * k for k, byte in enumerate(stored[at:at + 4]))
        yield from ((LoadTarget.POINTERS, j, at) for j, at in enumerate(self.pointers))
        yield from ((LoadTarget.CODEBOOK, 16 + v, weight % 65536)
                    for v, weight in enumerate(BOOK))

    def product(self, activations):
        """The matrix times the broadcast activations, row by row."""
        rows = len(self.columns[0])
        return [sum(BOOK[self.columns[j][row]] * value for j, value in activations)
                for row in range(rows)]

    def row_reads(self, activations):
        """Rows of the weight memory that the entries change between."""
        rows = [at // ENTRIES_PER_ROW for j, _ in activations
                for at in range(self.pointers[j], self.pointers[j + 1])]
        return bool(rows) + sum(here != before for before, here in pairwise(rows))

    def entries(self, activations, *, padding):
        return sum((v == 0) == padding for j, _ in activations for v, _ in self.packed[j])


async def load(ctx, dut, words, pe=IDENTITY):
    for target, address, data in words:
        ctx.set(dut.load.payload, {"target": target, "pe": pe, "address": address, "data": data})
        ctx.set(dut.load.valid, 1)
        await ctx.tick()
    ctx.set(dut.load.valid, 0)


def order(ctx, dut, **fields):
    for name, value in fields.items():
        ctx.set(dut.command[name], value)


async def pause(ctx, cycles):
    for _ in range(cycles):
        await ctx.tick()


async def broadcast(ctx, dut, activations, stalls=None):
    """Sends while the queue is not full, then waits for the last product."""
    for column, value in activations:
        order(ctx, dut, phase=Phase.FILL)
        await pause(ctx, stalls.cycles() if stalls else 0)
        while ctx.get(dut.full):
            order(ctx, dut, phase=Phase.FULL)
            await ctx.tick()
        ctx.set(dut.i.payload, {"column": column, "value": value})
        ctx.set(dut.i.valid, 1)
        await ctx.tick()
        ctx.set(dut.i.valid, 0)
    order(ctx, dut, phase=Phase.TAIL)
    await ctx.tick()
    while ctx.get(dut.busy):
        await ctx.tick()


async def write_back(ctx, dut, rows):
    for row in range(rows):
        order(ctx, dut, phase=Phase.WRITEBACK, drain=1, row=row, word=row, bias=row)
        await ctx.tick()
    order(ctx, dut, drain=0)
    await pause(ctx, 10)


async def emit(ctx, dut, rows, role=1, stalls=None):
    """The outputs of this PE, zeros too."""
    order(ctx, dut, role=role, scan=1, emit=1, limit=CONFIG.pes * rows)
    await ctx.tick()
    order(ctx, dut, scan=0)
    return [item["value"] for item in await receive(ctx, dut.found, rows, stalls)]


async def read_counters(ctx, dut):
    counts = {}
    for which in PECounter:
        ctx.set(dut.select, which)
        await ctx.tick()
        counts[which] = ctx.get(dut.count)
    return counts


def compute(image, activations, *, stalls=None, config=CONFIG, background=lambda dut: []):
    """Outputs, counters and computing cycles of one layer in one PE."""
    dut, results = PE(config), []
    source, sink = stalls(1) if stalls else (None, None)
    rows = len(image.columns[0])

    async def bench(ctx):
        ctx.set(dut.identity, IDENTITY)
        order(ctx, dut, codebook=1)
        await load(ctx, dut, image.loads())
        order(ctx, dut, computing=1)
        await broadcast(ctx, dut, activations, source)
        await write_back(ctx, dut, rows)
        order(ctx, dut, computing=0)
        results.append(await emit(ctx, dut, rows, stalls=sink))
        results.append(await read_counters(ctx, dut))

    cycles = []

    async def computing(ctx):
        async for *_, now in ctx.tick().sample(dut.command.computing):
            cycles.append(now)

    simulate(dut, bench, background=[computing, checker(dut.found), *background(dut)],
             deadline=5_000)
    return *results, sum(cycles)


def matrix(density, *, rows=40, columns=33, seed=1):
    random = Random(seed)
    return Image([[random.randrange(1, 16) if random.random() < density else 0
                   for _ in range(rows)] for _ in range(columns)])


ACTIVATIONS = st.lists(st.tuples(st.integers(0, 32), st.integers(-20, 20).filter(bool)),
                       max_size=20)


@given(density=st.sampled_from([0.02, 0.1]), activations=ACTIVATIONS, seed=st.integers(0, 100))
@settings(deadline=None, derandomize=True, max_examples=6)
def test_the_accumulators_hold_the_product(stalls, density, activations, seed):
    image = matrix(density, seed=seed)
    outputs, *_ = compute(image, activations, stalls=stalls)
    assert outputs == image.product(activations)


def sparse(rows, *nonzeros):
    """A column with weights 1 in these rows."""
    return [8 * (row in nonzeros) for row in range(rows)]


CASES = {
    "an all-zero matrix": [sparse(8)] * 5,
    "one entry in each column": [sparse(8, k) for k in range(8)],
    "one entry in the last row": [sparse(64, 63)],
    "empty columns between": [sparse(8, 0), sparse(8), sparse(8), sparse(8), sparse(8, 1)],
    "updates of one row, back to back": [sparse(8, 5)] * 12,
    **{f"a gap of {gap}": [sparse(64, 0, gap + 1), sparse(64, gap)]
       for gap in (14, 15, 16, 17, 31, 32, 33, 47, 48)},
}


@pytest.mark.parametrize("columns", CASES.values(), ids=CASES)
def test_by_name(columns):
    image = Image(columns)
    activations = [(j, j + 1) for j in range(len(columns))] * 2
    outputs, counts, _ = compute(image, activations)
    assert outputs == image.product(activations)
    assert counts[PECounter.PADDING] == image.entries(activations, padding=True)


def test_no_activation_at_all():
    outputs, counts, cycles = compute(matrix(0.1), [])
    assert outputs == [0] * 40
    assert counts[PECounter.USEFUL] == counts[PECounter.EMPTY] == 0
    assert counts[PECounter.TAIL] + counts[PECounter.WRITEBACK] == cycles


@given(activations=ACTIVATIONS)
@settings(deadline=None, derandomize=True, max_examples=4)
def test_the_counters_add_up(stalls, activations):
    image = matrix(0.06, rows=64)
    _, counts, cycles = compute(image, activations, stalls=stalls)
    assert counts[PECounter.USEFUL] == image.entries(activations, padding=False)
    assert counts[PECounter.PADDING] == image.entries(activations, padding=True)
    assert counts[PECounter.ROW_READS] == image.row_reads(activations)
    assert counts[PECounter.SATURATED] == 0
    assert sum(counts[which] for which in REASONS) == cycles


def test_a_pe_without_work_blames_the_phase():
    _, counts, _ = compute(matrix(0), [(0, 1)])
    # Queue, pointer memory and its queue: the column is empty only at the end of that.
    assert counts[PECounter.EMPTY] == 3
    dut, counted = PE(CONFIG), []

    async def bench(ctx):
        for cycles, phase in enumerate(Phase, start=4):
            order(ctx, dut, computing=1, phase=phase)
            await pause(ctx, cycles)
        order(ctx, dut, computing=0)
        counted.append(await read_counters(ctx, dut))

    simulate(dut, bench)
    assert counted == [{**dict.fromkeys(PECounter, 0), PECounter.FILL: 4, PECounter.FULL: 5,
                        PECounter.TAIL: 6, PECounter.WRITEBACK: 7}]


def test_saturated_outputs_are_counted():
    image = Image([sparse(8, 1, 3, 4)])
    outputs, counts, _ = compute(image, [(0, 30000)] * 2)
    assert outputs == [0, 32767, 0, 32767, 32767, 0, 0, 0]
    assert counts[PECounter.SATURATED] == 3


def test_throughput_is_one_entry_a_cycle():
    image = Image([sparse(12, *range(12))] * 10 + [sparse(12)] * 10)
    activations = [(j, 1) for pair in zip(range(10), range(10, 20), strict=True) for j in pair]
    _, counts, _ = compute(image, activations)
    assert counts[PECounter.USEFUL] == 120
    # Only the way of the first column to the multiplier is without an entry.
    assert counts[PECounter.EMPTY] + counts[PECounter.FILL] + counts[PECounter.FULL] <= 12


def test_clear_takes_the_counters_to_zero():
    dut, counted = PE(CONFIG), []

    async def bench(ctx):
        order(ctx, dut, computing=1)
        await pause(ctx, 5)
        order(ctx, dut, computing=0)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        counted.append(await read_counters(ctx, dut))

    simulate(dut, bench)
    assert counted == [dict.fromkeys(PECounter, 0)]


def test_loads_for_other_pes_are_ignored():
    image, dut, outputs = Image([sparse(8, 2, 6)]), PE(CONFIG), []
    junk = [(target, address, 0x01010101) for target in LoadTarget for address in range(32)]

    async def bench(ctx):
        ctx.set(dut.identity, IDENTITY)
        order(ctx, dut, codebook=1)
        await load(ctx, dut, image.loads())
        for pe in {0, 1, 3}:
            await load(ctx, dut, junk, pe)
        await broadcast(ctx, dut, [(0, 11)])
        await write_back(ctx, dut, 8)
        outputs.extend(await emit(ctx, dut, 8))
        order(ctx, dut, scan=0)
        outputs.extend(await emit(ctx, dut, 8, role=0))

    simulate(dut, bench)
    assert outputs == [*image.product([(0, 11)]), *[0] * 8]


def test_biases_and_activations_are_loaded():
    dut, outputs = PE(CONFIG), []

    async def bench(ctx):
        ctx.set(dut.identity, IDENTITY)
        await load(ctx, dut, [(LoadTarget.BIASES, k, (100 - 60 * k) % (1 << 32))
                              for k in range(4)])
        await load(ctx, dut, [(LoadTarget.ACTIVATIONS, k, (k - 2) % (1 << 32))
                              for k in range(4)])
        await write_back(ctx, dut, 4)
        outputs.append(await emit(ctx, dut, 4, role=1))
        outputs.append(await emit(ctx, dut, 4, role=0))

    simulate(dut, bench)
    assert outputs == [[100, 40, -20, -80], [-2, -1, 0, 1]]


def test_found_activations_carry_the_columns_of_this_pe(watch):
    dut, found, log = PE(CONFIG), [], []

    async def bench(ctx):
        ctx.set(dut.identity, IDENTITY)
        await load(ctx, dut, [(LoadTarget.ACTIVATIONS, k, value % 65536)
                              for k, value in enumerate([3, 0, -5, 0, 7])])
        order(ctx, dut, scan=1, first=8, limit=8 + 20)
        await ctx.tick()
        order(ctx, dut, scan=0)
        found.extend(await receive(ctx, dut.found, 3, Stalls(1, 0.5)))

    simulate(dut, bench, background=[checker(dut.found), watch(log, dut.scanning)])
    assert found == [{"column": 10, "value": 3}, {"column": 18, "value": -5},
                     {"column": 26, "value": 7}]
    assert log[-1] == (0,)


def test_a_full_queue_stops_the_broadcast_and_nothing_is_lost(watch):
    log = []
    image = Image([sparse(20, *range(20))] * 12)
    activations = [(j, j + 1) for j in range(12)]
    outputs, counts, _ = compute(image, activations,
                                 background=lambda dut: [watch(log, dut.full)])
    assert outputs == image.product(activations)
    assert any(full for full, in log)
    assert counts[PECounter.USEFUL] == 240


def test_built_without_counters():
    config = EIEConfig(pes=4, queue_depth=2, weight_rows=32, pointers=34, bias_depth=64,
                       codebooks=2, counters=False)
    image, activations = matrix(0.1), [(3, 4), (5, -6)]
    outputs, counts, _ = compute(image, activations, config=config)
    assert outputs == image.product(activations)
    assert set(counts.values()) == {0}
