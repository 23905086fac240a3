"""Bank-balanced masks: equal counts, the rule for gaps, the greatest sum there is."""

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune import banks as banks_module
from zeroskip.sw.prune.banks import bank_balanced, entries


def random(outputs, inputs, number=0):
    return np.random.default_rng(number).standard_normal((outputs, inputs)).astype(np.float32)


def lanes(matrix, banks):
    """Every bank's part of every column."""
    return [matrix[bank::banks, column] for bank in range(banks)
            for column in range(matrix.shape[1])]


def gaps(kept):
    """Zeros before each kept entry of a bank's column."""
    return np.diff(np.flatnonzero(kept), prepend=-1) - 1


def spare_bytes(kept):
    """Bytes beside the entries; 2 stands for more than a column may have."""
    long = gaps(kept)[gaps(kept) > 15]
    return 2 if (long > 271).any() else len(long)


def column(rows, values):
    """One column of one bank, zero but at the places in ``values``."""
    weight = np.zeros((rows, 1), np.float32)
    for row, value in values.items():
        weight[row] = value
    return weight


def kept_rows(weight, k):
    return np.flatnonzero(bank_balanced(weight, 1, k)).tolist()


def brute_force(magnitude, k):
    """The greatest sum of k magnitudes under the rule."""
    places = np.array(list(combinations(range(len(magnitude)), k)))
    skipped = np.diff(places, axis=1, prepend=-1) - 1
    good = ((skipped > 15).sum(axis=1) <= 1) & (skipped <= 271).all(axis=1)
    return magnitude[places[good]].astype(np.float64).sum(axis=1).max()


@seed(0)
@settings(max_examples=80, deadline=None)
@given(outputs=st.integers(1, 300), inputs=st.integers(1, 5), banks=st.integers(1, 9),
       k=st.integers(1, 20), number=st.integers(0, 1000))
def test_every_bank_keeps_k_and_the_rule(outputs, inputs, banks, k, number):
    weight = random(outputs, inputs, number)
    mask = bank_balanced(weight, banks, k)
    assert (mask.dtype, mask.shape) == (bool, weight.shape)
    for own, kept in zip(lanes(weight, banks), lanes(mask, banks), strict=True):
        assert kept.sum() == min(k, len(own))
        # a bank that keeps all it has leaves no gap
        assert spare_bytes(kept) <= 1
        largest = np.zeros(len(own), bool)
        largest[np.argsort(-np.abs(own), kind="stable")[:k]] = True
        if spare_bytes(largest) <= 1:
            np.testing.assert_array_equal(kept, largest)


@seed(1)
@settings(max_examples=40, deadline=None)
@given(rows=st.integers(34, 60), k=st.integers(1, 3), number=st.integers(0, 1000),
       late=st.booleans())
def test_the_sum_is_the_greatest_there_is(rows, k, number, late):
    weight = random(rows * 2, 3, number)
    if late:    # what is large lies far from the start and far apart
        weight *= np.where(np.arange(rows * 2) // 2 % 17 == 16, 9, 1)[:, None].astype(np.float32)
    mask = bank_balanced(weight, 2, k)
    for own, kept in zip(lanes(np.abs(weight), 2), lanes(mask, 2), strict=True):
        assert spare_bytes(kept) <= 1
        assert own[kept].astype(np.float64).sum() == pytest.approx(brute_force(own, k), rel=1e-12)


@pytest.mark.parametrize("number", range(4))
def test_the_sum_is_the_greatest_where_a_bank_is_deeper_than_the_longest_gap(number):
    weight = random(330, 4, number)
    weight[[280, 300, 320]] *= 5
    mask = bank_balanced(weight, 1, 2)
    for own, kept in zip(lanes(np.abs(weight), 1), lanes(mask, 1), strict=True):
        assert own[kept].astype(np.float64).sum() == pytest.approx(brute_force(own, 2), rel=1e-12)


def test_one_long_gap_is_allowed():
    assert kept_rows(column(64, {40: 3, 50: 2}), 2) == [40, 50]


def test_two_long_gaps_are_not():
    assert kept_rows(column(64, {16: 3, 33: 2, 34: 1.5}), 2) == [33, 34]
    assert kept_rows(column(64, {15: 3, 32: 2, 33: 1}), 2) == [15, 32]
    assert kept_rows(column(64, {16: 3, 32: 2, 33: 1}), 2) == [16, 32]


def test_a_small_weight_bridges_to_a_large_one():
    assert kept_rows(column(64, {20: 5, 25: 2, 40: 5, 30: 1}), 3) == [20, 25, 40]
    assert kept_rows(column(64, {20: 5, 22: 2, 40: 5, 30: 1}), 3) == [20, 30, 40]


def test_zeros_after_the_last_entry_do_not_count():
    assert kept_rows(column(1000, {0: 2, 100: 3}), 2) == [0, 100]


def test_the_longest_gap_is_271():
    assert kept_rows(column(400, {271: 2}), 1) == [271]
    assert kept_rows(column(400, {272: 2, 5: 1}), 1) == [5]
    assert kept_rows(column(400, {3: 1, 275: 2}), 2) == [3, 275]
    assert kept_rows(column(400, {3: 1, 276: 2, 4: 0.5}), 2) == [4, 276]


def test_of_equal_magnitudes_the_first_are_kept():
    weight = np.where(np.arange(12) % 2, -1, 1).astype(np.float32)[:, None]
    assert np.flatnonzero(bank_balanced(weight, 3, 2)).tolist() == [0, 1, 2, 3, 4, 5]
    assert kept_rows(column(20, {7: 1}), 3) == [0, 1, 7]


def test_equal_magnitudes_under_the_rule_give_the_same_mask_each_time():
    weight = column(80, dict.fromkeys((20, 40, 60, 79), 1))
    first = kept_rows(weight, 3)
    assert first == kept_rows(weight.copy(), 3)
    assert kept_rows(np.tile(weight, 3), 3) == [3 * row + at for row in first for at in range(3)]


def test_rows_of_a_bank_lie_banks_apart():
    weight = np.array([[9], [1], [8], [7], [2], [3]], np.float32)
    assert np.flatnonzero(bank_balanced(weight, 2, 1)).tolist() == [0, 3]


def test_a_bank_of_fewer_rows_keeps_all_it_has():
    mask = bank_balanced(random(7, 3), 4, 2)    # banks of 2, 2, 2 and 1 rows
    assert mask.all()


def test_banks_without_rows():
    assert bank_balanced(random(3, 2), 8, 1).all()


def test_a_missing_row_is_never_one_of_the_kept():
    weight = random(4 * 50 - 1, 20)     # the last bank has 49 rows
    weight[3::4] /= 1000
    for kept in lanes(bank_balanced(weight, 4, 48), 4):
        assert kept.sum() == 48
    for own, kept in zip(lanes(np.zeros_like(weight), 4),
                         lanes(bank_balanced(np.zeros_like(weight), 4, 49), 4), strict=True):
        assert kept.sum() == min(49, len(own))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types(dtype):
    weight = random(80, 6).astype(dtype)
    np.testing.assert_array_equal(bank_balanced(weight, 2, 3),
                                  bank_balanced(weight.astype(np.float64), 2, 3))


def test_the_weights_stay_as_they_are_and_may_be_a_view():
    weight = random(6, 90)
    before = weight.copy()
    np.testing.assert_array_equal(bank_balanced(weight.T, 2, 3),
                                  bank_balanced(np.ascontiguousarray(weight.T), 2, 3))
    np.testing.assert_array_equal(weight, before)


def test_parts_are_chosen_independently(monkeypatch):
    """However many lanes are chosen at a time, the mask is the same."""
    weight = random(200, 11)
    whole = bank_balanced(weight, 3, 5)
    monkeypatch.setattr(banks_module, "LANES", 4)
    monkeypatch.setattr(banks_module, "SUMS", 1)
    np.testing.assert_array_equal(bank_balanced(weight, 3, 5), whole)


def test_the_paper_s_largest_layer_takes_seconds():
    weight = random(4096, 1152)     # an eighth of its columns
    began = time.process_time()
    mask = bank_balanced(weight, 64, 6)
    assert time.process_time() - began < 5
    assert (mask.reshape(64, 64, -1).sum(axis=0) == 6).all()


@pytest.mark.parametrize(("weight", "banks", "k", "message"), [
    (np.array([[1, np.nan]], np.float32), 1, 1, r"weight \[0, 1\] is nan: it must be a finite"),
    (np.array([[1], [-np.inf]], np.float32), 1, 1, r"weight \[1, 0\] is -inf"),
    (np.ones((2, 2), int), 1, 1, r"matrix of floats .*not int64 \[2, 2\]"),
    (np.ones(2, np.float32), 1, 1, r"not float32 \[2\]"),
    (np.ones((0, 2), np.float32), 1, 1, r"that is not empty, not float32 \[0, 2\]"),
    (np.ones((2, 2), np.float32), 0, 1, "banks and k must be at least 1, not 0 and 1"),
    (np.ones((2, 2), np.float32), 1, 0, "banks and k must be at least 1, not 1 and 0"),
])
def test_refuses(weight, banks, k, message):
    with pytest.raises(BadInput, match=message):
        bank_balanced(weight, banks, k)


@pytest.mark.parametrize(("outputs", "banks", "density", "expected"), [
    (128, 4, 0.25, 8), (128, 4, 0.12, 4), (128, 16, 0.06, 1), (10, 4, 0.12, 1), (10, 4, 1, 3),
    (4096, 64, 0.09, 6), (5, 5, 1e-9, 1)])
def test_entries(outputs, banks, density, expected):
    assert entries(outputs, banks, density) == expected
