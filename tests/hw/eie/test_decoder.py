"""The weight decoder: every entry, gaps that add up to rows, padding, passes and codebooks."""

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.decoder import WeightDecoder
from zeroskip.sim.bench import device, simulate

# Room for a column of 16 entries, each with the widest gap before it, behind any destination.
CONFIG = EIEConfig(act_depth=8192, codebooks=3)
WIDEST = 16 * 16 + 15
RANDOM = random.Random(5)
BOOKS = [[0, -32768, 32767, *(RANDOM.randint(-32768, 32767) for _ in range(13))]
         for _ in range(CONFIG.codebooks)]
LATENCY = WeightDecoder.LATENCY


def entry(v, gap, *, first, value=7):
    return {"v": v, "gap": gap, "first": first, "value": value}


def rows_of(gaps, destination=0):
    """The row of each entry of a column: all zeros and entries before it."""
    return [destination + sum(gaps[:k + 1]) + k for k in range(len(gaps))]


@pytest.fixture(scope="session")
def decode(fill, feed, watch):
    """``decode(items)``: (row, weight, value, padding) or None for each cycle's item."""
    def decode(items, *, book=0, books=BOOKS, destination=0, config=CONFIG):
        dut, log = device(WeightDecoder, config), []
        words = {16 * k + v: weight % 65536
                 for k, each in enumerate(books) for v, weight in enumerate(each)}

        async def bench(ctx):
            await fill(ctx, dut.load, words)
            ctx.set(dut.codebook, book)
            ctx.set(dut.destination, destination)
            await feed(ctx, dut.i, items)

        simulate(dut, bench, background=[watch(log, dut.o.valid, dut.o.payload, dut.padding)])
        seen = [(op["row"], op["weight"], op["value"], padding) if valid else None
                for valid, op, padding in log]
        start = len(words) + LATENCY
        assert set(seen[:start] + seen[start + len(items):]) == {None}
        return seen[start:start + len(items)]
    return decode


@pytest.mark.parametrize("book", range(CONFIG.codebooks))
def test_every_weight_after_every_gap_of_one_byte(decode, book):
    every = list(product(range(16), repeat=2))
    seen = decode([entry(v, gap, first=1) for v, gap in every], book=book)
    assert seen == [(gap, BOOKS[book][v], 7, int(v == 0)) for v, gap in every]


def test_every_gap(decode):
    gaps = range(WIDEST + 1)
    seen = decode([entry(1, gap, first=first) for gap in gaps for first in (1, 0)],
                  destination=100)
    assert [row for row, *_ in seen] == [
        row for gap in gaps for row in rows_of([gap, gap], destination=100)]


COLUMN = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15) | st.integers(0, WIDEST)),
                  min_size=1, max_size=16)


@given(columns=st.lists(st.tuples(COLUMN, st.integers(-32768, 32767)), max_size=6),
       destination=st.integers(0, 3000), idle=st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_gaps_add_up_to_rows_in_each_column(decode, columns, destination, idle):
    items, expected = [], []
    for column, value in columns:
        rows = rows_of([gap for _, gap in column], destination)
        for k, (v, gap) in enumerate(column):
            pause = [None] * (idle.random() < 0.3)
            items += [*pause, entry(v, gap, first=int(k == 0), value=value)]
            expected += [*pause, (rows[k], BOOKS[1][v], value, int(v == 0))]
    assert decode(items, book=1, destination=destination) == expected


def test_the_example_of_the_paper(decode):
    # [0, 0, 1, 2, 0 x 18, 3]: v = [1, 2, 0, 3], z = [2, 0, 15, 2]
    seen = decode([entry(1, 2, first=1), entry(2, 0, first=0), entry(0, 15, first=0),
                   entry(3, 2, first=0)])
    assert [row for row, *_ in seen] == [2, 3, 19, 22]
    assert [padding for *_, padding in seen] == [0, 0, 1, 0]
    assert seen[2][1] == 0


def test_a_padding_pair_moves_on_by_272_rows(decode):
    seen = decode([entry(1, 0, first=1), entry(0, WIDEST, first=0), entry(1, 5, first=0)])
    assert [row for row, *_ in seen] == [0, 272, 272 + 6]
    assert [padding for *_, padding in seen] == [0, 1, 0]


@pytest.mark.parametrize("destination", [0, 1, 255])
def test_a_pass_ends_at_the_last_word(decode, destination):
    gaps = [255 - destination] if destination == 255 else [0, 255 - destination - 1]
    seen = decode([entry(1, gap, first=int(k == 0)) for k, gap in enumerate(gaps)],
                  destination=destination, config=EIEConfig(act_depth=256, codebooks=3))
    assert seen[-1][0] == 255


@pytest.mark.parametrize("destination", [0, 40])
def test_a_column_starts_at_the_destination_again(decode, destination):
    seen = decode([entry(1, 9, first=1), entry(1, 4, first=1)], destination=destination)
    assert [row for row, *_ in seen] == [destination + 9, destination + 4]


def test_a_gap_is_not_lost_while_nothing_comes(decode):
    seen = decode([entry(1, 9, first=1), *[None] * 5, entry(1, 4, first=0)])
    assert seen[-1][0] == 14


def test_the_last_of_the_most_codebooks(decode):
    books = [[0] * 16] * 31 + [list(range(-16, 0))]
    seen = decode([entry(v, 0, first=1) for v in range(16)], book=31, books=books,
                  config=EIEConfig(codebooks=32))
    assert [weight for _, weight, *_ in seen] == list(range(-16, 0))


def test_a_single_codebook(decode):
    seen = decode([entry(v, 0, first=1) for v in range(16)], books=BOOKS[:1],
                  config=EIEConfig(codebooks=1))
    assert [weight for _, weight, *_ in seen] == BOOKS[0]
