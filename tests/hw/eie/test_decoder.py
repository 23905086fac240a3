"""The weight decoder: every entry, runs that add up to rows, padding, and codebooks."""

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.decoder import WeightDecoder
from zeroskip.sim.bench import simulate

CONFIG = EIEConfig(acc_depth=256, codebooks=3)
RANDOM = random.Random(5)
BOOKS = [[0, -32768, 32767, *(RANDOM.randint(-32768, 32767) for _ in range(13))]
         for _ in range(CONFIG.codebooks)]
LATENCY = 1


def entry(v, z, *, first, value=7):
    return {"packed": {"v": v, "z": z}, "first": first, "value": value}


def rows_of(runs):
    """The row of each entry of a column: all zeros and entries before it."""
    return [sum(runs[:k + 1]) + k for k in range(len(runs))]


@pytest.fixture(scope="session")
def decode(fill, feed, watch):
    """``decode(items)``: (row, weight, value, padding) or None for each cycle's item."""
    def decode(items, *, book=0, books=BOOKS, config=CONFIG):
        dut, log = WeightDecoder(config), []
        words = {16 * k + v: weight % 65536
                 for k, each in enumerate(books) for v, weight in enumerate(each)}

        async def bench(ctx):
            await fill(ctx, dut.load, words)
            ctx.set(dut.codebook, book)
            await feed(ctx, dut.i, items)

        simulate(dut, bench, background=[watch(log, dut.o.valid, dut.o.payload, dut.padding)])
        seen = [(op["row"], op["weight"], op["value"], padding) if valid else None
                for valid, op, padding in log]
        start = len(words) + LATENCY
        assert set(seen[:start] + seen[start + len(items):]) == {None}
        return seen[start:start + len(items)]
    return decode


@pytest.mark.parametrize("book", range(CONFIG.codebooks))
def test_every_weight_after_every_run(decode, book):
    every = list(product(range(16), repeat=2))
    seen = decode([entry(v, z, first=1) for v, z in every], book=book)
    assert seen == [(z, BOOKS[book][v], 7, int(v == 0)) for v, z in every]


COLUMN = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=16)


@given(columns=st.lists(st.tuples(COLUMN, st.integers(-32768, 32767)), max_size=6),
       gaps=st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_runs_add_up_to_rows_in_each_column(decode, columns, gaps):
    items, expected = [], []
    for column, value in columns:
        rows = rows_of([z for _, z in column])
        for k, (v, z) in enumerate(column):
            idle = [None] * (gaps.random() < 0.3)
            items += [*idle, entry(v, z, first=int(k == 0), value=value)]
            expected += [*idle, (rows[k], BOOKS[1][v], value, int(v == 0))]
    assert decode(items, book=1) == expected


def test_the_example_of_the_paper(decode):
    # [0, 0, 1, 2, 0 x 18, 3]: v = [1, 2, 0, 3], z = [2, 0, 15, 2]
    seen = decode([entry(1, 2, first=1), entry(2, 0, first=0), entry(0, 15, first=0),
                   entry(3, 2, first=0)])
    assert [row for row, *_ in seen] == [2, 3, 19, 22]
    assert [padding for *_, padding in seen] == [0, 0, 1, 0]
    assert seen[2][1] == 0


def test_the_last_row_is_reached(decode):
    seen = decode([entry(1, 15, first=int(k == 0)) for k in range(16)])
    assert seen[-1][0] == 255


def test_a_column_starts_at_row_zero_again(decode):
    seen = decode([entry(1, 9, first=1), entry(1, 4, first=1)])
    assert [row for row, *_ in seen] == [9, 4]


def test_the_last_of_the_most_codebooks(decode):
    books = [[0] * 16] * 31 + [list(range(-16, 0))]
    seen = decode([entry(v, 0, first=1) for v in range(16)], book=31, books=books,
                  config=EIEConfig(codebooks=32))
    assert [weight for _, weight, *_ in seen] == list(range(-16, 0))


def test_a_single_codebook(decode):
    seen = decode([entry(v, 0, first=1) for v in range(16)], books=BOOKS[:1],
                  config=EIEConfig(codebooks=1))
    assert [weight for _, weight, *_ in seen] == BOOKS[0]
