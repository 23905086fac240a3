"""One processing element against integers: entries in, sums and counters out."""

from itertools import accumulate, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.arithmetic import ArithmeticUnit
from zeroskip.hw.eie.config import BUSY_LATENCY, ENTRIES_PER_ROW, NIBBLES, EIEConfig
from zeroskip.hw.eie.counters import PECounter
from zeroskip.hw.eie.decoder import WeightDecoder
from zeroskip.hw.eie.layouts import LoadTarget, Phase
from zeroskip.hw.eie.pe import PE
from zeroskip.hw.eie.pointer import PointerRead
from zeroskip.hw.eie.registers import ActivationRegisters
from zeroskip.hw.eie.spmat import SparseMatrixRead
from zeroskip.sim.bench import device, simulate

MACHINES = {
    "paper": {"escapes": False, "drops_empty": False, "counts": False},
    "pointers": {"escapes": True, "drops_empty": True, "counts": False},
    "counts": {"escapes": False, "drops_empty": True, "counts": True},
    "zeroskip": {"escapes": True, "drops_empty": True, "counts": True},
}
EACH = pytest.mark.parametrize("machine", MACHINES)
IDENTITY = 2
BOOK = [0, *range(-7, 0), *range(1, 9)]
REASONS = list(PECounter)[:6]


def sized(machine="zeroskip", **sizes):
    return EIEConfig(**{"pes": 4, "queue_depth": 2, "runahead": 4,
                        "weight_rows": 128, "pointers": 128, "act_depth": 64, "codebooks": 2,
                        **MACHINES[machine], **sizes})


def way(config):
    """Cycles from a broadcast to its first entry before the arithmetic unit: the queue, the
    directory and its queue, the weight memory, the decoder."""
    return (1 + PointerRead.latency(config) + SparseMatrixRead.latency(config)
            + WeightDecoder.LATENCY)


def pack(column, escapes):
    """Entries (v, z) of one column of codebook indices. Gaps over 15 zeros are bridged: up to 271
    by an escape, 272 rows at a time by a pair, or 16 rows at a time by padding."""
    entries, gap = [], 0
    for index in column:
        if not index:
            gap += 1
            continue
        far = gap // 272 if escapes else gap // 16
        entries += [(0, 15)] * (2 * far if escapes else far)
        gap -= far * (272 if escapes else 16)
        if gap > 15:
            entries.append((0, gap // 16 - 1))
        entries.append((index, gap % 16))
        gap = 0
    return entries


def steps(entries, escapes):
    """Of each entry that is decoded, whether it only bridges a gap. An escape is decoded with the
    entry behind it; at a column's end it is nothing."""
    seen, at = [], 0
    while at < len(entries):
        at += escapes and entries[at][0] == 0
        if at < len(entries):
            seen.append(entries[at][0] == 0)
        at += 1
    return seen


class Image:
    """A matrix of codebook indices, column by column, as the memories of a PE hold it, behind
    ``begin`` bytes of something else. In a balanced one all columns have as many bytes."""

    def __init__(self, columns, config, balanced=False, begin=0):
        self.columns, self.config, self.balanced = columns, config, balanced
        self.packed = [pack(column, config.escapes) for column in columns]
        largest = max(map(len, self.packed))
        if balanced:
            self.packed = [[*each, *[(0, 0)] * (largest - len(each))] for each in self.packed]
        self.pointers = list(accumulate(map(len, self.packed), initial=begin))
        nibbles = next(n for n in (1, 2, 4) if largest < 16 ** n)
        self.stride = largest if balanced else nibbles if config.counts else 1
        self.first = begin if balanced else NIBBLES

    def loads(self):
        """The load words (target, address, data)."""
        stored = [0x11] * self.pointers[0] + [v | z << 4 for each in self.packed for v, z in each]
        for at in range(0, len(stored), 4):
            yield LoadTarget.WEIGHTS, at // 4, sum(
                byte << 8 * k for k, byte in enumerate(stored[at:at + 4]))
        if self.config.counts and not self.balanced:
            yield from self._counts()
        elif not self.balanced:
            yield from ((LoadTarget.POINTERS, self.first + j, at)
                        for j, at in enumerate(self.pointers))
        yield from ((LoadTarget.CODEBOOK, 16 + v, weight % 65536)
                    for v, weight in enumerate(BOOK))

    def _counts(self):
        share = NIBBLES // self.stride
        for word, at in enumerate(range(0, len(self.packed), share), self.first // NIBBLES):
            counts = sum(len(each) << 4 * self.stride * k
                         for k, each in enumerate(self.packed[at:at + share]))
            for part, value in enumerate((self.pointers[at], counts % (1 << 32), counts >> 32)):
                yield LoadTarget.POINTERS, 4 * word + part, value

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
        return sum(each == padding for j, _ in activations
                   for each in steps(self.packed[j], self.config.escapes))


async def load(ctx, dut, words, pe=IDENTITY):
    for target, address, data in words:
        ctx.set(dut.load.payload, {"target": target, "pe": pe, "address": address, "data": data})
        ctx.set(dut.load.valid, 1)
        await ctx.tick()
    ctx.set(dut.load.valid, 0)


def order(ctx, dut, **fields):
    for name, value in fields.items():
        ctx.set(dut.command[name], value)


async def start(ctx, dut, image, **fields):
    """Everything is loaded, and the command stands."""
    ctx.set(dut.identity, IDENTITY)
    order(ctx, dut, codebook=1, stride=image.stride, balanced=image.balanced, **fields)
    await load(ctx, dut, image.loads())


async def broadcast(ctx, dut, image, activations, stalls=None):
    """Sends while the queue is not full, then waits for the last product."""
    for column, value in activations:
        order(ctx, dut, phase=Phase.FILL)
        for _ in range(stalls.cycles() if stalls else 0):
            await ctx.tick()
        while ctx.get(dut.full):
            order(ctx, dut, phase=Phase.FULL)
            await ctx.tick()
        ctx.set(dut.i.payload, {"place": image.first + column * image.stride, "value": value})
        ctx.set(dut.i.valid, 1)
        await ctx.tick()
        ctx.set(dut.i.valid, 0)
    order(ctx, dut, phase=Phase.TAIL)
    await ctx.tick().repeat(1 + BUSY_LATENCY)
    while ctx.get(dut.busy):
        await ctx.tick()


async def source_words(ctx, dut, count, role=1):
    """The first words of the source in ``role``, which the sums of the other are."""
    await ctx.tick().repeat(ArithmeticUnit.LATENCY)
    order(ctx, dut, role=role)
    ctx.set(dut.enable, 1)
    words = []
    for cycle in range(count + ActivationRegisters.LATENCY):
        ctx.set(dut.word, min(cycle, count - 1))
        if cycle >= ActivationRegisters.LATENCY:
            words.append(ctx.get(dut.value))
        await ctx.tick()
    return words


async def read_counters(ctx, dut):
    counts = {}
    for which in PECounter:
        ctx.set(dut.select, which)
        await ctx.tick()
        counts[which] = ctx.get(dut.count)
    return counts


def compute(image, activations, *, stalls=None, background=lambda dut: []):
    """Sums, counters and computing cycles of one layer in one PE."""
    dut, results = device(PE, image.config), []

    async def bench(ctx):
        await start(ctx, dut, image)
        order(ctx, dut, computing=1)
        await broadcast(ctx, dut, image, activations, stalls and stalls(1)[0])
        order(ctx, dut, computing=0)
        results.append(await source_words(ctx, dut, len(image.columns[0])))
        results.append(await read_counters(ctx, dut))

    cycles = []

    async def computing(ctx):
        async for *_, now in ctx.tick().sample(dut.command.computing):
            cycles.append(now)

    simulate(dut, bench, background=[computing, *background(dut)], deadline=5_000)
    return *results, sum(cycles)


def matrix(density, machine="zeroskip", *, rows=40, columns=33, seed=1, **options):
    random = Random(seed)
    return Image([[random.randrange(1, 16) if random.random() < density else 0
                   for _ in range(rows)] for _ in range(columns)], sized(machine), **options)


ACTIVATIONS = st.lists(st.tuples(st.integers(0, 32), st.integers(-20, 20).filter(bool)),
                       max_size=20)


def assert_exact(image, activations, **options):
    """The sums, and the counters that follow from the layer, to the cycle where they can."""
    sums, counts, cycles = compute(image, activations, **options)
    assert sums == image.product(activations)
    assert counts[PECounter.USEFUL] == image.entries(activations, padding=False)
    assert counts[PECounter.PADDING] == image.entries(activations, padding=True)
    assert counts[PECounter.ROW_READS] == image.row_reads(activations)
    assert counts[PECounter.SATURATED] == 0
    assert sum(counts[which] for which in REASONS) == cycles
    return counts


@EACH
@pytest.mark.parametrize("stalls", ["free", "slow", "bursts"], indirect=True)
@given(data=st.data(), activations=ACTIVATIONS)
@settings(deadline=None, derandomize=True, max_examples=3)
def test_the_product_and_the_counters(stalls, machine, data, activations):
    image = matrix(data.draw(st.sampled_from([0.02, 0.1, 0.3])), machine,
                   balanced=data.draw(st.booleans()), begin=data.draw(st.integers(0, 20)),
                   seed=data.draw(st.integers(0, 100)))
    assert_exact(image, activations, stalls=stalls)


def sparse(rows, *nonzeros):
    """A column with weights 1 in these rows."""
    return [8 * (row in nonzeros) for row in range(rows)]


CASES = {
    "an all-zero matrix": [sparse(8)] * 5,
    "one entry in each column": [sparse(8, k) for k in range(8)],
    "one entry in the last row": [sparse(64, 63)],
    "empty columns between": [sparse(8, 0), sparse(8), sparse(8), sparse(8), sparse(8, 1)],
    "updates of one row, back to back": [sparse(8, 5)] * 12,
    "more than fifteen in a column": [sparse(64, *range(k, 64, 3)) for k in range(9)],
    **{f"gaps around {gap}": [sparse(64, *rows) for near in (gap - 1, gap, gap + 1)
                              for rows in ((0, near + 1), (near,))]
       for gap in (15, 31, 47)},
}


@EACH
@pytest.mark.parametrize("columns", CASES.values(), ids=CASES)
def test_by_name(machine, columns):
    image = Image(columns, sized(machine))
    assert_exact(image, [(j, j + 1) for j in range(len(columns))] * 2)


@pytest.mark.parametrize("machine", ["paper", "zeroskip"])
def test_the_longest_gaps(machine):
    config = sized(machine, act_depth=1024)
    image = Image([sparse(1024, *rows) for rows in (
        (0, 1023), (270,), (271,), (272,), (273,), (543,), (544,), (1, 273, 800), (1023,))],
        config)
    counts = assert_exact(image, [(j, j + 1) for j in range(9)])
    assert counts[PECounter.PADDING] == (12 if machine == "zeroskip" else 307)


@EACH
def test_the_columns_of_a_balanced_layer_end_in_fillers(machine):
    columns = [sparse(64, *range(0, 64, step)) for step in (9, 10, 11, 13, 16, 22, 33, 65)]
    columns.append(sparse(64))
    image = Image(columns, sized(machine), balanced=True, begin=5)
    assert_exact(image, [(j, j + 1) for j in range(len(columns))] * 2)


@EACH
def test_no_activation_at_all(machine):
    counts = assert_exact(matrix(0.1, machine), [])
    assert {which for which, count in counts.items() if count} == {PECounter.TAIL}


@pytest.mark.parametrize("machine", ["pointers", "zeroskip"])
def test_a_pe_without_work_blames_the_phase(machine):
    image = matrix(0, machine)
    _, counts, _ = compute(image, [(0, 1)])
    # The column is found to be empty when it leaves the directory.
    assert counts[PECounter.EMPTY] == PointerRead.latency(image.config)
    dut, counted = device(PE, image.config), []

    async def bench(ctx):
        for cycles, phase in enumerate(Phase, start=4):
            order(ctx, dut, computing=1, phase=phase)
            await ctx.tick().repeat(cycles)
        order(ctx, dut, computing=0)
        counted.append(await read_counters(ctx, dut))

    simulate(dut, bench)
    assert counted == [{**dict.fromkeys(PECounter, 0), PECounter.FILL: 4, PECounter.FULL: 5,
                        PECounter.TAIL: 6}]


@EACH
def test_throughput_is_one_entry_a_cycle(machine):
    image = Image([sparse(64, *range(12))] * 10 + [sparse(64)] * 10, sized(machine))
    order = zip(range(10), range(10, 20), strict=True)
    _, counts, _ = compute(image, [(j, 1) for pair in order for j in pair])
    assert counts[PECounter.USEFUL] == 120
    # Only the way of the first column to the multiplier is without an entry; in the paper's
    # machine each empty column too.
    lost = sum(counts[which] for which in (PECounter.EMPTY, PECounter.FILL, PECounter.FULL))
    assert lost <= way(image.config) + 10 * (not image.config.drops_empty)


def test_an_escape_costs_no_cycle():
    image = Image([sparse(64, 0, 17, 34, 51)] * 20, sized())
    _, counts, _ = compute(image, [(j, 1) for j in range(20)])
    assert counts[PECounter.USEFUL] == 80
    lost = sum(counts[which] for which in (PECounter.EMPTY, PECounter.FILL, PECounter.FULL))
    assert lost <= way(image.config)


@EACH
@pytest.mark.parametrize("distance", [0, 1, 2])
def test_latency_from_the_broadcast_to_the_sum(watch, machine, distance):
    config = sized(machine, broadcast_latency=distance)
    image, log, sums = Image([sparse(8, 5)], config), [], []
    dut, late = device(PE, config), way(config) + ArithmeticUnit.LATENCY

    async def bench(ctx):
        await start(ctx, dut, image)
        ctx.set(dut.enable, 1)
        ctx.set(dut.word, 5)
        ctx.set(dut.i.payload, {"place": image.first, "value": 9})
        for cycle in range(late + ActivationRegisters.LATENCY + 1):
            ctx.set(dut.i.valid, cycle == 0)
            # The sum is written in the cycle before it can be read, in the old role.
            order(ctx, dut, role=cycle >= late)
            sums.append(ctx.get(dut.value))
            await ctx.tick()

    simulate(dut, bench, background=[watch(log, dut.i.valid, dut.busy)])
    assert sums[-2:] == [0, 9]
    # Central control hears late that the PE is not busy, answers, and the roles swap as much later.
    began = log.index((1, 0))
    idle = late - min(1 + 2 * distance, ArithmeticUnit.LATENCY - 1)
    assert [busy for _, busy in log[began:began + late]] == [
        *[0] * (1 + BUSY_LATENCY), *[1] * (idle - 1 - BUSY_LATENCY), *[0] * (late - idle)]
    assert idle + 2 * distance + 1 >= late


def test_passes_add_to_the_words_of_their_destination():
    image, sums = Image([sparse(16, *range(0, 16, 3)), sparse(16, 15)], sized()), []
    dut = device(PE, image.config)

    async def bench(ctx):
        for destination in (0, 16, 48, 16):
            await start(ctx, dut, image, destination=destination)
            await broadcast(ctx, dut, image, [(0, destination + 1), (1, 5)])
        sums.extend(await source_words(ctx, dut, 64))

    simulate(dut, bench)
    once = [image.product([(0, d + 1), (1, 5)]) for d in (0, 16, 48)]
    assert sums == [*once[0], *[2 * each for each in once[1]], *[0] * 16, *once[2]]


def test_the_roles_swap_and_every_sum_stays_where_it_was():
    image, seen = Image([sparse(8, 1, 6)], sized()), []
    dut = device(PE, image.config)

    async def bench(ctx):
        for role in (0, 1, 1, 0):
            await start(ctx, dut, image, role=role)
            await broadcast(ctx, dut, image, [(0, 10 + role)])
            seen.append(await source_words(ctx, dut, 8, role=1 - role))
        seen.append(await source_words(ctx, dut, 8, role=0))

    simulate(dut, bench)
    assert seen == [image.product([(0, value)]) for value in (10, 11, 22, 20, 22)]


def test_the_source_is_loaded_read_cleared_and_wiped():
    dut, seen = device(PE, sized()), []

    async def bench(ctx):
        ctx.set(dut.identity, IDENTITY)
        for role in (0, 1):
            order(ctx, dut, role=role)
            await load(ctx, dut, [(LoadTarget.ACTIVATIONS, k, (10 * role + k - 3) % (1 << 32))
                                  for k in range(8)])
            await ctx.tick()
        # A word that is read when it is cleared is read as it was.
        ctx.set(dut.enable, 1)
        ctx.set(dut.word, 5)
        ctx.set(dut.clear.en, 1)
        ctx.set(dut.clear.address, 5)
        await ctx.tick()
        ctx.set(dut.clear.en, 0)
        await ctx.tick()
        seen.append(ctx.get(dut.value))
        for role in (1, 0):
            seen.append(await source_words(ctx, dut, 8, role=role))
        order(ctx, dut, wipe=1)
        for word in (0, 2, 7):
            ctx.set(dut.word, word)
            await ctx.tick()
        order(ctx, dut, wipe=0)
        for role in (1, 0):
            seen.append(await source_words(ctx, dut, 8, role=role))

    simulate(dut, bench)
    assert seen == [12, [7, 8, 9, 10, 11, 0, 13, 14], [-3, -2, -1, 0, 1, 2, 3, 4],
                    [0, 8, 0, 10, 11, 0, 13, 0], [0, -2, 0, 0, 1, 2, 3, 0]]


def test_what_is_read_of_the_source_stalls_with_the_search(watch):
    dut, log, random = device(PE, sized()), [], Random(3)
    words = [100 + 7 * k for k in range(64)]
    order_of_reads = [random.randrange(64) for _ in range(100)]

    async def bench(ctx):
        ctx.set(dut.identity, IDENTITY)
        await load(ctx, dut, [(LoadTarget.ACTIVATIONS, *each) for each in enumerate(words)])
        await ctx.tick()
        log.clear()
        for word in [*order_of_reads, *[0] * ActivationRegisters.LATENCY]:
            ctx.set(dut.word, word)
            for go in [0] * random.randrange(3) + [1]:
                ctx.set(dut.enable, go)
                await ctx.tick()

    simulate(dut, bench, background=[watch(log, dut.enable, dut.value)], quiet=0)
    seen = [value for go, value in log if go][ActivationRegisters.LATENCY:]
    assert seen[:100] == [words[word] for word in order_of_reads]
    assert sum(not go for go, _ in log) > len(log) / 3


def test_saturated_outputs_are_counted():
    dut, counted = device(PE, sized()), []

    async def bench(ctx):
        for flag in (1, 0, 1, 1, 0):
            ctx.set(dut.saturated, flag)
            await ctx.tick()
        counted.append(await read_counters(ctx, dut))

    simulate(dut, bench)
    assert counted == [{**dict.fromkeys(PECounter, 0), PECounter.SATURATED: 3}]


def test_clear_takes_the_counters_to_zero():
    dut, counted = device(PE, sized()), []

    async def bench(ctx):
        order(ctx, dut, computing=1)
        await ctx.tick().repeat(5)
        order(ctx, dut, computing=0)
        ctx.set(dut.clear_counters, 1)
        await ctx.tick()
        ctx.set(dut.clear_counters, 0)
        counted.append(await read_counters(ctx, dut))

    simulate(dut, bench)
    assert counted == [dict.fromkeys(PECounter, 0)]


@pytest.mark.parametrize("machine", ["paper", "zeroskip"])
def test_loads_for_others_are_ignored(machine):
    image, seen = Image([sparse(8, 2, 6)], sized(machine)), []
    dut = device(PE, image.config)
    junk = [(target, address, 0x01010101) for target in LoadTarget for address in range(40)]

    async def bench(ctx):
        await start(ctx, dut, image)
        for pe in (0, 1, 3):
            await load(ctx, dut, junk, pe)
        await load(ctx, dut, [word for word in junk if word[0] in (
            LoadTarget.BIASES, LoadTarget.DESCRIPTORS, LoadTarget.COUNTERS)])
        await broadcast(ctx, dut, image, [(0, 11)])
        for role in (1, 0):
            seen.append(await source_words(ctx, dut, 8, role=role))

    simulate(dut, bench)
    assert seen == [image.product([(0, 11)]), [0] * 8]


@EACH
def test_a_row_that_is_loaded_again_is_read_again(machine):
    config = sized(machine)
    dut, seen = device(PE, config), []
    images = [Image([sparse(8, *rows)], config) for rows in ((0, 1), (2, 3))]

    async def bench(ctx):
        for image in images:
            await start(ctx, dut, image)
            await broadcast(ctx, dut, image, [(0, 4)])
        seen.extend(await source_words(ctx, dut, 8))

    simulate(dut, bench)
    assert seen == [4, 4, 4, 4, 0, 0, 0, 0]


@EACH
def test_a_full_queue_stops_the_broadcast_and_nothing_is_lost(watch, machine):
    log = []
    image = Image([sparse(20, *range(20))] * 24, sized(machine))
    counts = assert_exact(image, [(j, j + 1) for j in range(24)],
                          background=lambda dut: [watch(log, dut.full)])
    assert any(full for full, in log)
    assert counts[PECounter.USEFUL] == 480


@pytest.mark.parametrize("latency", [0, 1, 3])
def test_what_is_under_way_when_the_queue_fills_is_taken(watch, latency):
    config = sized(broadcast_latency=latency)
    image, log, sums = Image([sparse(20, *range(20))] * 24, config), [], []
    dut = device(PE, config)

    async def bench(ctx):
        await start(ctx, dut, image)
        # What is decided in a cycle arrives so many later, and full is seen as late.
        way = 2 * latency + 2
        seen, road = [0] * latency, [None] * (way - latency)
        left = list(range(24))
        while left or any(road):
            seen.append(ctx.get(dut.full))
            road.append(None if seen.pop(0) or not left else {
                "place": image.first + left[0] * image.stride, "value": left.pop(0) + 1})
            arrives = road.pop(0)
            ctx.set(dut.i.valid, arrives is not None)
            if arrives:
                ctx.set(dut.i.payload, arrives)
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        await broadcast(ctx, dut, image, [])
        sums.extend(await source_words(ctx, dut, 20))

    simulate(dut, bench, background=[watch(log, dut.full)])
    assert sums == image.product([(j, j + 1) for j in range(24)])
    assert any(full for full, in log)


def test_built_without_counters():
    image, activations = Image(matrix(0.1).columns, sized(counters=False)), [(3, 4), (5, -6)]
    sums, counts, _ = compute(image, activations)
    assert sums == image.product(activations)
    assert set(counts.values()) == {0}
