"""The operand buffers: every word at its address, and what is taken and given when.

Each buffer runs several GEMMs under stalls of both sides. A model in plain Python says for
every cycle whether a word may be taken and whether the operands are there.
"""

import re
from dataclasses import replace
from random import Random

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Value
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.tensorcore.buffers import ActivationBuffer, ChannelBuffer, Ring, WeightBuffer
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.bench import Stalls, device, send, simulate

CONFIG = TensorCoreConfig(rows=3, columns=2, products=2, weight_words=5, activation_words=6)
ONE = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=2, activation_words=2)
DEEP = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=2048, activation_words=2048)
"""Each half of a buffer is a memory of its own."""

# Rows, columns, block, chunks, steps, words.
NAMED = {
    "one of each": (CONFIG, [(1, 1, 2, 1, 1, 1)]),
    "full panels and blocks": (CONFIG, [(6, 8, 4, 1, 5, 3)]),
    "a short last panel": (CONFIG, [(4, 4, 4, 1, 2, 1)]),
    "a short last block": (CONFIG, [(3, 7, 6, 1, 4, 2)]),
    "a short last strip": (CONFIG, [(3, 3, 4, 1, 2, 1)]),
    "chunks": (CONFIG, [(5, 3, 2, 3, 2, 1)]),
    "blocks of one tile": (CONFIG, [(5, 5, 2, 1, 5, 6)]),
    "many panels": (CONFIG, [(20, 4, 4, 1, 2, 1)]),
    "one GEMM behind another": (CONFIG, [(4, 3, 2, 1, 3, 2), (1, 1, 2, 1, 1, 1),
                                         (2, 9, 4, 1, 2, 3), (3, 2, 2, 4, 5, 6)]),
    "a bank for each half": (DEEP, [(3, 4, 1, 1, 2, 2), (2, 3, 1, 3, 2, 1)]),
    "one row and column": (ONE, [(3, 4, 1, 1, 2, 2), (2, 2, 2, 1, 1, 1), (2, 3, 1, 3, 2, 1)]),
}


@st.composite
def gemms(draw):
    config = draw(st.sampled_from([CONFIG, ONE]))
    numbers = []
    for _ in range(draw(st.integers(1, 3))):
        words = draw(st.integers(1, config.activation_words))
        chunks = draw(st.integers(1, 3))
        tiles = config.activation_words // words if chunks == 1 else 1
        numbers.append((draw(st.integers(1, 8)), draw(st.integers(1, 9)),
                        draw(st.integers(1, tiles)) * config.columns, chunks,
                        draw(st.integers(1, config.weight_words)), words))
    return config, numbers


def payload(random, port):
    return random.getrandbits(len(Value.cast(port.payload)))


class Reader:
    """Reads words of a buffer and knows which number each cycle has."""

    def __init__(self, ctx, dut, stalls):
        self.ctx, self.dut, self.stalls = ctx, dut, stalls
        self.now, self.expected = 0, {}

    async def tick(self):
        await self.ctx.tick()
        self.now += 1

    async def pause(self):
        for _ in range(self.stalls.cycles()):
            await self.tick()

    async def until(self, signal):
        await self.pause()
        while not self.ctx.get(signal):
            await self.tick()

    async def pulse(self, signal):
        self.ctx.set(signal, 1)
        await self.tick()
        self.ctx.set(signal, 0)

    async def read(self, address, word, **done):
        """Reads one word; what is read in this cycle is there ``LATENCY`` cycles later. ``done``
        are the ports that tell what is not needed after it."""
        await self.pause()
        self.ctx.set(self.dut.address, address)
        for name, value in done.items():
            self.ctx.set(getattr(self.dut, name), value)
        self.expected[self.now + self.dut.LATENCY] = word
        await self.tick()
        for name in done:
            self.ctx.set(getattr(self.dut, name), 0)

    async def start(self, sizes):
        await sizes.start(self.ctx, self.dut)
        self.now += 2


@pytest.fixture(scope="session")
def operate(watch, flat):
    """``operate(dut, gemms, parts, use, signals, stalls)``: the log of these signals, with
    ``start``, ``i`` (valid, ready) and ``release`` before them, and checks the words read.

    ``parts`` are lists of words, one for each GEMM and part of the buffer; ``use(reader, sizes,
    parts of one GEMM)`` uses them.
    """
    def operate(dut, gemms, parts, use, signals, stalls, background=()):
        log, readers = [], []

        async def fill(ctx):
            await send(ctx, flat(dut.i), [word for gemm in parts for part in gemm
                                          for word in part], stalls(1)[0])

        async def read(ctx):
            readers.append(Reader(ctx, dut, stalls(2)[1]))
            for sizes, own in zip(gemms, parts, strict=True):
                await readers[0].start(sizes)
                await use(readers[0], sizes, own)

        simulate(dut, fill, read, background=[*background, watch(
            log, dut.start, dut.i.valid, dut.i.ready, dut.release, Value.cast(dut.o), *signals)])
        (reader,) = readers
        assert {cycle: log[cycle][4] for cycle in reader.expected} == reader.expected
        return [(*cycle[:4], *cycle[5:]) for cycle in log]
    return operate


def check_flow(log, parts, capacity, ready):
    """Words are taken exactly while a GEMM has some to come and a part is free, but for a cycle
    behind a part that was filled in the first cycle in which it could be.

    ``ready(taken, whole, released, *signals)`` is what the buffer must say in a cycle: words
    taken, parts filled and parts released of all GEMMs, and the other signals.
    """
    totals = [sum(map(len, gemm)) for gemm in parts]
    ends = []
    for part in (part for gemm in parts for part in gemm):
        ends.append((ends[-1] if ends else 0) + len(part))
    started = taken = released = starts = 0     # a GEMM starts a cycle after its pulse
    since = 0       # the cycle from which the part could be filled
    for now, (start, valid, i_ready, release, is_ready, *cycle) in enumerate(log):
        whole = sum(end <= taken for end in ends)
        assert i_ready == (taken < sum(totals[:started]) and whole - released < capacity
                           and now >= since)
        assert is_ready == ready(taken, whole, released, *cycle)
        started, starts = started + starts, start
        taken += valid and i_ready
        if valid and i_ready and taken in ends:
            since = now + 1 + (now == since)
        if starts:
            since = now + 2
        released += release
    assert (started, taken, released) == (len(parts), sum(totals), len(ends))


# Weights: a part is a chunk of a panel, as long as the steps.

def weights(config, numbers, gemm_sizes, seed):
    random, dut = Random(seed), device(WeightBuffer, config)
    sizes = [gemm_sizes(config, *each) for each in numbers]
    return dut, sizes, [[[payload(random, dut.i) for _ in range(each.steps)]
                         for _ in each.turns()] for each in sizes]


async def use_weights(reader, _sizes, parts):
    for words in parts:
        await reader.until(reader.dut.ready)
        order = [0, *range(len(words) - 1, 0, -1)]      # any order will do
        for at in order:
            await reader.read(at, words[at], release=at == order[-1])


@pytest.fixture(scope="session")
def run_weights(operate, gemm_sizes):
    def run_weights(config, numbers, stalls, seed=0):
        dut, sizes, parts = weights(config, numbers, gemm_sizes, seed)
        log = operate(dut, sizes, parts, use_weights, [dut.ready], stalls)
        check_flow(log, parts, 2, lambda _, whole, released: whole > released)
        return log
    return run_weights


@given(gemms=gemms(), seed=st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=4)
def test_weights(run_weights, stalls, gemms, seed):
    run_weights(*gemms, stalls, seed)


@pytest.mark.parametrize("gemms", NAMED.values(), ids=NAMED)
def test_weights_by_name(run_weights, gemms):
    run_weights(*gemms, lambda seed: [Stalls(seed, 0.3), Stalls(seed, 0.3)])


def free(_seed):
    return [None, Stalls()]


def gaps(log):
    """Cycles between the first and the last word taken in which none was."""
    taken = [cycle for cycle, (_, valid, ready, *_) in enumerate(log) if valid and ready]
    return taken[-1] - taken[0] + 1 - len(taken)


def test_weights_enter_and_leave_one_step_a_cycle(run_weights):
    log = run_weights(CONFIG, [(30, 2, 2, 1, 5, 1)], free)
    assert gaps(log) == 0
    released = [cycle for cycle, (*_, release, _) in enumerate(log) if release]
    assert released == list(range(released[0], released[0] + 10 * 5, 5))


KEPT = {
    "a full half": (CONFIG, [(13, 6, 2, 1, 1, 1)]),
    "several steps a turn": (CONFIG, [(5, 7, 2, 1, 2, 1)]),
    "chunks": (CONFIG, [(6, 5, 2, 2, 1, 1)]),
    "one panel": (CONFIG, [(2, 6, 2, 1, 1, 1), (2, 3, 2, 1, 5, 1)]),
    "one block": (CONFIG, [(5, 2, 2, 1, 2, 1)]),
    "a bank for each half": (DEEP, [(3, 4, 1, 1, 2, 2), (2, 3, 1, 3, 2, 1)]),
}


@pytest.mark.parametrize("gemms", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("keeps", [(1, 1), (1, 0), (0, 1)])
def test_weights_that_are_kept(operate, gemm_sizes, gemms, keeps):
    """They are taken in the first block, two turns ahead at most, and are there in every other."""
    config, numbers = gemms
    random, dut = Random(3), device(WeightBuffer, config)
    sizes = [gemm_sizes(config, *each, keep=keep) for each in numbers for keep in keeps]
    loads = [[[payload(random, dut.i) for _ in range(each.steps)]
              for columns, *_ in ([*each.turns()][:len([*each.turns()]) // len(
                  range(0, each.columns, each.block))] if each.keep else each.turns())]
             for each in sizes]

    async def use(reader, own, parts):
        turns = len([*own.turns()])
        for turn in range(turns):
            words = parts[turn % len(parts)]
            first = turn % len(parts) * own.steps * own.keep
            await reader.until(reader.dut.ready)
            for at in range(own.steps):
                await reader.read(first + at, words[at], release=at == own.steps - 1)

    log = operate(dut, sizes, loads, use, [dut.ready], lambda seed: [Stalls(seed, 0.3)] * 2)
    assert sum(valid and ready for _, valid, ready, *_ in log) == sum(
        len(words) for parts in loads for words in parts)
    ahead = gemms_begun = 0
    for start, valid, ready, release, _ in log:
        ahead, gemms_begun = (0, gemms_begun + 1) if start else (ahead, gemms_begun)
        ahead += valid and ready
        if release and ahead > 0:
            ahead -= sizes[gemms_begun - 1].steps
        assert ahead <= 2 * sizes[gemms_begun - 1].steps if gemms_begun else not ahead


def test_kept_weights_cost_no_cycle(operate, gemm_sizes):
    """Every cycle reads a step, from the first block to the last."""
    dut, size = device(WeightBuffer, CONFIG), gemm_sizes(CONFIG, 5, 60, 2, 1, 2, 1, keep=1)
    words = [[payload(Random(turn), dut.i), payload(Random(turn + 9), dut.i)] for turn in range(2)]

    async def use(reader, _sizes, parts):
        for turn in range(60):
            await reader.until(reader.dut.ready)
            for at in range(2):
                await reader.read(turn % 2 * 2 + at, parts[turn % 2][at], release=at)

    log = operate(dut, [size], [words], use, [dut.ready], free)
    released = [cycle for cycle, (*_, release, _) in enumerate(log) if release]
    assert released == list(range(released[0], released[0] + 60 * 2, 2))


# Activations: a part is a block, or a chunk of it, strip by strip.

def activations(config, numbers, gemm_sizes, seed):
    random, dut = Random(seed), device(ActivationBuffer, config)
    sizes = [gemm_sizes(config, *each) for each in numbers]
    return dut, sizes, [
        [[payload(random, dut.i) for _ in range(each.words * -(-columns // config.columns))]
         for columns, *_ in each.turns(panels=each.chunks > 1)] for each in sizes]


async def use_activations(reader, sizes, parts):
    """Each strip of each block for each panel of rows; chunks once."""
    panels = -(-sizes.rows // sizes.config.rows) if sizes.chunks == 1 else 1
    for words in parts:
        uses = [address for _ in range(panels) for address in range(len(words))]
        for number, address in enumerate(uses, start=1):
            await reader.until(reader.dut.ready)
            await reader.read(
                address, words[address], tile_done=(address + 1) % sizes.words == 0,
                block_done=address + 1 == len(words), release=number == len(uses))


@pytest.fixture(scope="session")
def run_activations(operate, gemm_sizes):
    def run_activations(config, numbers, stalls, seed=0):
        dut, sizes, parts = activations(config, numbers, gemm_sizes, seed)
        log = operate(dut, sizes, parts, use_activations,
                      [dut.ready, dut.tile_done, dut.block_done], stalls)
        ends, before = [], [0]      # after how many words a strip ends; strips before a part
        for each, own in zip(sizes, parts, strict=True):
            for part in own:
                strips = len(part) // each.words
                last = ends[-1] if ends else 0
                ends += [last + each.words * (k + 1) for k in range(strips)]
                before.append(len(ends))

        tile = 0    # the strip that is wanted

        def ready(taken, _, released, tile_done, block_done):
            nonlocal tile
            now = sum(end <= taken for end in ends) - before[released] > tile
            tile = 0 if block_done else tile + tile_done
            return now

        check_flow(log, parts, 2, ready)
        return log
    return run_activations


@given(gemms=gemms(), seed=st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=4)
def test_activations(run_activations, stalls, gemms, seed):
    run_activations(*gemms, stalls, seed)


@pytest.mark.parametrize("gemms", NAMED.values(), ids=NAMED)
def test_activations_by_name(run_activations, gemms):
    run_activations(*gemms, lambda seed: [Stalls(seed, 0.3), Stalls(seed, 0.3)])


def test_activations_enter_and_leave_one_word_a_cycle(run_activations):
    log = run_activations(CONFIG, [(3, 60, 4, 1, 1, 3)], free)
    assert gaps(log) == 0
    released = [cycle for cycle, (*_, release, _, _, _) in enumerate(log) if release]
    assert released == list(range(released[0], released[0] + 15 * 6, 6))


def test_a_strip_is_used_before_its_block_is_complete(run_activations):
    log = run_activations(CONFIG, [(3, 6, 6, 1, 1, 2)], free)
    taken = [cycle for cycle, (_, valid, ready, *_) in enumerate(log) if valid and ready]
    assert next(cycle for cycle, (*_, ready, _, _) in enumerate(log) if ready) == taken[1] + 1
    assert len(taken) == 6


def test_strips_are_ready_while_both_halves_hold_as_many_as_they_may(run_activations):
    config = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=2, activation_words=4)
    log = run_activations(config, [(2, 16, 4, 1, 1, 1)],
                          lambda seed: [Stalls(), Stalls(seed, 0.8)])
    taken = [valid and ready for _, valid, ready, *_ in log]
    released = next(cycle for cycle, (*_, release, _, _, _) in enumerate(log) if release)
    assert sum(taken[:released]) == 2 * 4


# Channels: a part is a panel; it is claimed, and some cycles later it is read.

LATE = 5


def channels(config, numbers, gemm_sizes, seed):
    random, dut = Random(seed), device(ChannelBuffer, config)
    sizes = [gemm_sizes(config, *each) for each in numbers]
    return dut, sizes, [[[payload(random, dut.i) for _ in range(rows)]
                         for _, rows, *_ in each.turns(chunks=False)] for each in sizes]


class Claims:
    """Claims panels in one process, and reads them in another, ``LATE`` cycles later."""

    def __init__(self):
        self.claimed, self.left = [], None

    async def use(self, reader, parts):
        for words in parts:
            await reader.until(reader.dut.ready)
            self.claimed.append((reader.now + LATE, words))
            await reader.pulse(reader.dut.claim)

    def reading(self, dut):
        """A process that reads all that is claimed, until nothing is left."""
        async def read(ctx):
            late = Reader(ctx, dut, Stalls())
            while self.left:
                if not self.claimed or late.now < self.claimed[0][0]:
                    await late.tick()
                    continue
                _, words = self.claimed.pop(0)
                for at, word in enumerate(words):
                    await late.read(at, word, release=at == len(words) - 1)
                self.left -= 1
            self.expected = late.expected
        return read


@pytest.fixture(scope="session")
def run_channels(operate, gemm_sizes, watch):
    def run_channels(config, numbers, stalls, seed=0):
        dut, sizes, parts = channels(config, numbers, gemm_sizes, seed)
        claims, outputs = Claims(), []
        claims.left = sum(map(len, parts))

        async def use(reader, _sizes, own):
            await claims.use(reader, own)
            while own is parts[-1] and claims.left:
                await reader.tick()

        log = operate(dut, sizes, parts, use, [dut.ready, dut.claim], stalls, background=[
            claims.reading(dut), watch(outputs, Value.cast(dut.o))])
        assert {cycle: outputs[cycle][0] for cycle in claims.expected} == claims.expected
        assert len(claims.expected) == sum(len(part) for own in parts for part in own)

        claimed = 0

        def ready(_taken, whole, _released, claim):
            nonlocal claimed
            now, claimed = claimed, claimed + claim
            return whole > now

        check_flow(log, parts, ChannelBuffer.PANELS, ready)
        return log
    return run_channels


@given(gemms=gemms(), seed=st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=4)
def test_channels(run_channels, stalls, gemms, seed):
    run_channels(*gemms, stalls, seed)


@pytest.mark.parametrize("gemms", NAMED.values(), ids=NAMED)
def test_channels_by_name(run_channels, gemms):
    run_channels(*gemms, lambda seed: [Stalls(seed, 0.3), Stalls(seed, 0.3)])


def test_channels_enter_one_a_cycle_while_panels_are_on_their_way(run_channels):
    log = run_channels(CONFIG, [(30, 2, 2, 1, 1, 1)], free)
    # Panels of three rows: the next but one is claimed before the first has been read.
    assert gaps(log) == 0


# What the three have in common.

@pytest.mark.parametrize(("words", "banks"), [(1024, [2048]), (1025, [2048, 2048])])
def test_a_bank_has_up_to_2048_words(words, banks):
    dut = device(WeightBuffer, replace(ONE, weight_words=words))
    found = re.findall(r"^ *memory width \d+ size (\d+)", rtlil.convert(dut), re.MULTILINE)
    assert [int(size) for size in found] == banks


@pytest.mark.parametrize("make", [WeightBuffer, ActivationBuffer, ChannelBuffer])
def test_a_full_buffer_takes_nothing_and_loses_nothing(make, gemm_sizes, watch, flat):
    """Nobody reads: two parts are taken, or four panels of channels, then no word more."""
    sizes = gemm_sizes(CONFIG, 30, 30, 4, 1, 3, 2)
    dut, log = make(CONFIG), []
    parts = {WeightBuffer: 2 * 3, ActivationBuffer: 2 * 4, ChannelBuffer: 4 * 3}[make]

    async def bench(ctx):
        await sizes.start(ctx, dut)
        await send(ctx, flat(dut.i), range(parts))
        ctx.set(dut.i.valid, 1)
        for _ in range(30):
            await ctx.tick()
        ctx.set(dut.release, 1)
        await ctx.tick()
        ctx.set(dut.release, 0)

    simulate(dut, bench, background=[watch(log, dut.i.valid & dut.i.ready)])
    taken = [cycle for cycle, (taken,) in enumerate(log) if taken]
    assert taken[:parts] == list(range(2, 2 + parts))
    assert taken[parts] == parts + 33, "and goes on behind the release"


@pytest.mark.parametrize("make", [WeightBuffer, ActivationBuffer, ChannelBuffer])
def test_nothing_is_taken_before_the_start_and_after_the_end(make, gemm_sizes, watch):
    dut, log = make(CONFIG), []

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        for _ in range(10):
            await ctx.tick()
        await gemm_sizes(CONFIG, 1, 1, 2, 1, 1, 1).start(ctx, dut)

    simulate(dut, bench, background=[watch(log, dut.i.ready)])
    assert [cycle for cycle, (ready,) in enumerate(log) if ready] == [12]


@pytest.mark.parametrize("parts", [2, 4, 8])
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True, max_examples=5)
def test_a_ring_counts_what_is_filled_and_released(watch, parts, seed):
    random, dut, log, expected = Random(seed), device(Ring, parts), [], []

    async def bench(ctx):
        filled = released = 0
        for _ in range(80):
            expected.append((filled % parts, released % parts, filled - released == parts,
                             filled > released))
            fill = filled - released < parts and random.random() < 0.6
            release = filled > released and random.random() < 0.5
            ctx.set(dut.filled, fill)
            ctx.set(dut.released, release)
            filled, released = filled + fill, released + release
            await ctx.tick()

    simulate(dut, bench, background=[watch(log, dut.write, dut.read, dut.full, dut.ready)])
    assert log[:80] == expected
    assert {full for _, _, full, _ in log} == {0, 1}
