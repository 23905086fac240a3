"""The column directory: from a place to a column's bytes, by pointers, by counts, by arithmetic."""

import random
import re
from itertools import accumulate, pairwise

import pytest
from amaranth.back import rtlil
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.directory import CountedColumns, PointerBanks, kind
from zeroskip.hw.memory import BlockRAM
from zeroskip.sim.bench import device, simulate

STRIDES = (1, 2, 4)
"""Nibbles that a count may take."""

LANES = 16
WIDE = 16384
"""Rows of weights whose bytes need a pointer of 18 bits."""


def span(start, stop):
    """What the directory says of a column; ``look`` counts from the last byte to ``stop``."""
    return start, stop, int(start == stop)


def pointed(pointers, places):
    """The columns that start at the pointers ``places``."""
    return [span(pointers[place], pointers[place + 1]) for place in places]


def balanced(places, stride):
    """Columns of a layer without a directory: a place is an address."""
    return [span(place, place + stride) for place in places]


def counted(words, stride, places):
    """The columns at the nibbles ``places`` of ``words``: (base, sixteen nibbles) each."""
    columns = []
    for place in places:
        base, nibbles = words[place // LANES]
        counts = [sum(nibble << 4 * k for k, nibble in enumerate(nibbles[at:at + stride]))
                  for at in range(0, LANES, stride)]
        column = place % LANES // stride
        columns.append(span(base + sum(counts[:column]), base + sum(counts[:column + 1])))
    return columns


def loads(words):
    """The load words of a directory of counts."""
    out = {}
    for k, (base, nibbles) in enumerate(words):
        packed = sum(nibble << 4 * lane for lane, nibble in enumerate(nibbles))
        out.update({4 * k: base, 4 * k + 1: packed % (1 << 32), 4 * k + 2: packed >> 32})
    return out


def directory(config):
    return device(kind(config), config)


@pytest.fixture(scope="session")
def look(fill, watch):
    """``look(config, words, layers)``: loads ``words``, then looks up one place a cycle in which
    all does not stall; ``layers`` are (stride, balanced, places). Gives (start, stop, empty) of
    every place."""
    def look(config, words, layers):
        dut = directory(config)
        log, cycles, rand = [], [], random.Random(len(layers))

        async def step(ctx):
            while stands := rand.random() < 0.2:
                ctx.set(dut.enable, not stands)
                await ctx.tick()
            ctx.set(dut.enable, 1)
            await ctx.tick()

        async def bench(ctx):
            await fill(ctx, dut.load, words)
            cycle = 0
            for stride, is_balanced, places in layers:
                ctx.set(dut.stride, stride)
                ctx.set(dut.balanced, is_balanced)
                for place in places:
                    ctx.set(dut.place, place)
                    await step(ctx)
                cycles.extend(range(cycle, cycle + len(places)))
                # Stride and kind are those of what is under way.
                for _ in range(dut.LATENCY + 1):
                    await step(ctx)
                cycle += len(places) + dut.LATENCY + 1

        simulate(dut, bench, background=[watch(log, dut.enable, dut.start, dut.last, dut.empty)])
        moves = [each for go, *each in log if go]
        seen = [moves[cycle + dut.LATENCY] for cycle in cycles]
        return [(start, (last + 1) % (1 << len(dut.last)), empty) for start, last, empty in seen]
    return look


NIBBLES = st.lists(st.integers(0, 15) | st.sampled_from([0, 15]), min_size=LANES, max_size=LANES)


def words_of(config, stride, least=1):
    """Words of counts, none of which reaches past the weight memory."""
    def fit(pair):
        share, nibbles = pair
        total = counted([(0, nibbles)], stride, [LANES - stride])[0][1]
        return int(share * max(0, config.entries - total)), nibbles

    return st.lists(st.tuples(st.floats(0, 1), NIBBLES).map(fit), min_size=least,
                    max_size=config.pointers // LANES)


# Counts of four nibbles, four in a word, add up to less than this many rows of eight.
HUGE = 4 * 65536 // 8
SMALL = EIEConfig(pointers=4 * LANES, weight_rows=HUGE)


@pytest.mark.parametrize("stride", STRIDES)
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=10)
def test_counts_of_random_words(look, stride, data):
    words = data.draw(words_of(SMALL, stride))
    places = data.draw(st.lists(st.integers(0, len(words) * LANES // stride - 1).map(
        lambda column: column * stride), min_size=1, max_size=100))
    assert look(SMALL, loads(words), [(stride, 0, places)]) == counted(
        words, stride, places)


@pytest.mark.parametrize("stride", STRIDES)
def test_every_lane_of_every_word_one_a_cycle(look, stride):
    # Each nibble alone in its word, so that none is taken for another.
    words = [(1000 * k, [9 * (lane == k) for lane in range(LANES)]) for k in range(LANES)]
    config = EIEConfig(pointers=LANES * LANES, weight_rows=HUGE)
    places = range(0, LANES * LANES, stride)
    seen = look(config, loads(words), [(stride, 0, places)])
    assert seen == counted(words, stride, places)
    assert {empty for *_, empty in seen} == {0, 1}


@pytest.mark.parametrize(("stride", "most"), [(1, 15), (2, 255), (4, 65535)])
def test_the_greatest_counts(look, stride, most):
    words = [(7, [15] * LANES)]
    places = range(0, LANES, stride)
    seen = look(SMALL, loads(words), [(stride, 0, places)])
    assert seen == [(7 + k * most, 7 + (k + 1) * most, 0) for k in range(len(places))]


def test_counts_by_hand(look):
    """Three words, written out: 3, 0 and 5 bytes from byte 100; 0x21 from 8; 0x4321 from 0."""
    words = {0: 100, 1: 0x503, 2: 0, 4: 8, 5: 0x21, 6: 0, 8: 0, 9: 0x4321, 10: 0}
    seen = look(SMALL, words,
                [(1, 0, [0, 1, 2, 3]), (2, 0, [16, 18]), (4, 0, [32, 36])])
    assert seen == [(100, 103, 0), (103, 103, 1), (103, 108, 0), (108, 108, 1),
                    (8, 8 + 33, 0), (41, 41, 1), (0, 17185, 0), (17185, 17185, 1)]


@pytest.mark.parametrize("stride", STRIDES)
def test_a_column_of_counts_may_end_with_the_memory(look, stride):
    config = EIEConfig(pointers=2 * LANES, weight_rows=4)
    last = [0] * LANES
    last[LANES - stride] = 9
    words = [(0, [0] * LANES), (32 - 9, last)]
    seen = look(config, loads(words), [(stride, 0, [2 * LANES - stride])])
    assert seen == [(23, 32, 0)]


@pytest.mark.parametrize("pointers", [16, 32, 48, 160])
def test_every_word_of_counts_is_its_own(look, pointers):
    rand = random.Random(pointers)
    words = [(16 * k, [rand.randrange(16) for _ in range(LANES)])
             for k in range(pointers // LANES)]
    places = rand.sample(range(pointers), pointers)
    seen = look(EIEConfig(pointers=pointers), loads(words), [(1, 0, places)])
    assert seen == counted(words, 1, places)


def test_layers_of_every_kind_in_one_directory(look):
    rand = random.Random(3)
    words = [(rand.randrange(1000), [rand.randrange(16) for _ in range(LANES)])
             for _ in range(4)]
    layers = [(1, 0, range(16)), (4, 0, range(16, 32, 4)), (24, 1, range(0, 480, 24)),
              (2, 0, range(32, 48, 2)), (63, 1, [5]), (1, 0, range(48, 64))]
    assert look(SMALL, loads(words), layers) == [
        column for stride, is_balanced, places in layers
        for column in (balanced(places, stride) if is_balanced
                       else counted(words, stride, places))]


KINDS = pytest.mark.parametrize("counts", [True, False])


@KINDS
def test_words_that_are_loaded_replace_the_old_ones(fill, counts):
    dut, seen = directory(EIEConfig(counts=counts)), []

    async def bench(ctx):
        ctx.set(dut.enable, 1)
        ctx.set(dut.stride, 1)
        for first, size in ((7, 3), (9, 15), (9, 2)):
            await fill(ctx, dut.load, {0: first, 1: size if counts else first + size})
            await ctx.tick().repeat(dut.LATENCY)
            seen.append((ctx.get(dut.start), ctx.get(dut.last)))

    simulate(dut, bench)
    assert seen == [(7, 9), (9, 23), (9, 10)]


@KINDS
@given(data=st.data(), stride=st.integers(0, 63))
@settings(deadline=None, derandomize=True, max_examples=8)
def test_a_balanced_layer_needs_no_directory(look, counts, stride, data):
    config = EIEConfig(counts=counts, pointers=48, weight_rows=WIDE)
    places = data.draw(st.lists(st.integers(0, config.entries - stride), min_size=1))
    rubbish = dict.fromkeys(range(8), 0x5A5A5A5A)
    assert look(config, rubbish, [(stride, 1, places)]) == balanced(places, stride)


@KINDS
@pytest.mark.parametrize("rows", [2, 3, 512])
def test_a_balanced_layer_may_end_with_the_memory(look, counts, rows):
    config = EIEConfig(counts=counts, pointers=16, weight_rows=rows)
    places = [0, config.entries - 5]
    assert look(config, {}, [(5, 1, places)]) == balanced(places, 5)


@KINDS
def test_a_configuration_gets_its_kind(look, counts):
    config = EIEConfig(counts=counts)
    assert kind(config) is (CountedColumns if counts else PointerBanks)
    assert look(config, {0: 7, 1: 0x33} if counts else {0: 7, 1: 10}, [(1, 0, [0])]) == [(7, 10, 0)]


@KINDS
def test_its_memories_have_the_bits_that_the_configuration_tells(counts):
    config = EIEConfig(pes=1, counts=counts)
    memories = re.findall(r"^ *memory width (\d+) size (\d+)",
                          rtlil.convert(kind(config)(config)), re.MULTILINE)
    assert sum(int(width) * int(size) for width, size in memories) == (
        config.memory_bits["pointers"])


def test_latencies():
    assert (PointerBanks.LATENCY, CountedColumns.LATENCY) == (
        BlockRAM.LATENCY + 1, BlockRAM.LATENCY + 5)


@pytest.mark.parametrize("pointers", [2, 4, 6, 8, 10, 34])
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=10)
def test_pointers_of_both_banks(look, pointers, data):
    config = EIEConfig(counts=False, pointers=pointers, weight_rows=WIDE)
    sizes = data.draw(st.lists(st.sampled_from([0, 0, 1, 7, 300, 2500]), min_size=pointers,
                               max_size=pointers))
    table = list(accumulate(sizes))
    places = data.draw(st.lists(st.integers(0, pointers - 2), min_size=1, max_size=40))
    assert look(config, dict(enumerate(table)), [(1, 0, places)]) == pointed(
        table, places)


@pytest.mark.parametrize("pointers", [2, 4, 34])
def test_every_column_up_to_the_last_pointer_one_a_cycle(look, pointers):
    table = [3 * k + k % 4 for k in range(pointers)]
    seen = look(EIEConfig(counts=False, pointers=pointers),
                dict(enumerate(table)), [(1, 0, range(pointers - 1))])
    assert seen == [span(*pair) for pair in pairwise(table)]


def test_pointers_reach_the_whole_weight_memory(look):
    config = EIEConfig(counts=False, weight_rows=2, pointers=4)
    assert look(config, {0: 0, 1: 0, 2: 16, 3: 16}, [(1, 0, range(3))]) == [
        (0, 0, 1), (0, 16, 0), (16, 16, 1)]


def test_pointers_and_a_balanced_layer_take_turns(look):
    table = [0, 4, 4, 9]
    seen = look(EIEConfig(counts=False, pointers=4), dict(enumerate(table)),
                [(1, 0, range(3)), (12, 1, [9, 21]), (1, 0, [2, 0])])
    assert seen == [*pointed(table, range(3)), *balanced([9, 21], 12), *pointed(table, [2, 0])]
