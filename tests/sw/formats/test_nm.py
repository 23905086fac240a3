import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.nm import PATTERNS, check, compress, decompress, mask

TYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.int8]


def matrix(*rows, dtype=np.int8):
    return np.array(rows, dtype)


def test_worked_row():
    row = matrix([1, 2, 0, 0, 3, 0, 4, 0, 0, 5, 6, 0, 7, 0, 0, 8, 0, 9, 0, 10, 0, 0, 11, 12,
                  13, 0, 0, 0, 0, 0, 0, 0])
    compressed = compress(row, "2:4")
    assert compressed.values.tolist() == [[*range(1, 14), 0, 0, 0]]
    assert compressed.indices.tolist() == [[0, 1, 0, 2, 1, 2, 0, 3, 1, 3, 2, 3, 0, 2, 2, 3]]
    assert (compressed.rows, compressed.columns, compressed.groups) == (1, 32, 8)


@pytest.mark.parametrize(("pattern", "group", "values", "indices"), [
    ("2:4", [0, 0, 0, 0], [0, 0], [2, 3]),
    ("2:4", [9, 0, 0, 0], [9, 0], [0, 2]),
    ("2:4", [0, 9, 0, 0], [9, 0], [1, 2]),
    ("2:4", [0, 0, 9, 0], [9, 0], [2, 3]),
    ("2:4", [0, 0, 0, 9], [0, 9], [2, 3]),
    ("2:4", [8, 0, 0, 9], [8, 9], [0, 3]),
    ("1:4", [0, 0, 0, 0], [0], [3]),
    ("1:4", [0, 9, 0, 0], [9], [1]),
    ("1:2", [0, 0], [0], [1]),
    ("1:2", [9, 0], [9], [0]),
    ("4:8", [0] * 8, [0] * 4, [2, 3]),
    ("4:8", [0, 0, 0, 9, 0, 0, 0, 0], [0, 9, 0, 0], [1, 2]),
    ("4:8", [1, 2, 0, 0, 0, 0, 3, 0], [1, 2, 3, 0], [0, 3]),
])
def test_kept_places(pattern, group, values, indices):
    compressed = compress(matrix(group), pattern)
    assert compressed.values.tolist() == [values]
    assert compressed.indices.tolist() == [indices]
    assert compressed.indices.dtype == np.uint8


@given(dtype=st.sampled_from(TYPES), pattern=st.sampled_from(list(PATTERNS)),
       rows=st.integers(1, 9), groups=st.integers(1, 9), density=st.floats(0, 1),
       seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150)
def test_round_trip_gives_the_same_bits(sparse, dtype, pattern, rows, groups, density, seed):
    weight = sparse(dtype, rows, groups * PATTERNS[pattern].columns, pattern, seed, density)
    compressed = compress(weight, pattern)
    rule = PATTERNS[pattern]
    assert compressed.values.shape == (rows, groups * rule.kept * rule.unit)
    assert compressed.values.dtype == dtype
    dense = decompress(compressed)
    assert (dense.dtype, dense.shape) == (weight.dtype, weight.shape)
    assert dense.tobytes() == weight.tobytes()
    assert decompress(compress(dense, pattern)).tobytes() == weight.tobytes()


def test_minus_zero_is_kept_where_fillers_would_not_reach():
    weight = matrix([-0.0, 0, 0, 0], dtype=np.float16)
    compressed = compress(weight, "2:4")
    assert compressed.indices.tolist() == [[0, 2]]
    assert np.signbit(decompress(compressed)).tolist() == [[True, False, False, False]]


def test_a_matrix_that_is_not_contiguous():
    weight = np.zeros((4, 8), np.float32)
    weight[0, 1] = 5
    assert np.array_equal(decompress(compress(weight.T, "2:4")), weight.T)


@given(dtype=st.sampled_from(TYPES), pattern=st.sampled_from(list(PATTERNS)),
       rows=st.integers(1, 9), groups=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_mask_keeps_the_largest(dtype, pattern, rows, groups, seed):
    rule = PATTERNS[pattern]
    weight = np.random.default_rng(seed).integers(-128, 128, (rows, groups * rule.columns))
    weight = weight.astype(dtype)
    chosen = mask(weight, pattern)
    assert (chosen.dtype, chosen.shape) == (bool, weight.shape)
    for row, own in zip(weight.astype(int), chosen, strict=True):
        for at in range(0, len(row), rule.columns):
            sizes = [sum(abs(row[unit:unit + rule.unit]))
                     for unit in range(at, at + rule.columns, rule.unit)]
            best = sorted(range(rule.of), key=lambda unit: (-sizes[unit], unit))[:rule.kept]
            expected = np.repeat([unit in best for unit in range(rule.of)], rule.unit)
            assert np.array_equal(own[at:at + rule.columns], expected)
    check(np.where(chosen, weight, np.zeros(1, dtype)), pattern)


@pytest.mark.parametrize(("pattern", "row", "kept"), [
    ("2:4", [5, 5, 5, 5], [0, 1]),
    ("2:4", [0, 0, 0, 0], [0, 1]),
    ("2:4", [1, -2, 2, 2], [1, 2]),
    ("2:4", [127, 127, -128, 127], [0, 2]),
    ("1:4", [3, -3, 3, 3], [0]),
    ("1:2", [-1, 1], [0]),
    ("4:8", [4, 0, 0, 4, 2, 2, 5, 0], [0, 1, 6, 7]),
])
def test_of_equal_magnitudes_the_lowest_columns_are_kept(pattern, row, kept):
    assert np.flatnonzero(mask(matrix(row), pattern)).tolist() == kept


def test_mask_of_infinities_and_minus_zero():
    weight = matrix([0.0, -0.0, -np.inf, np.inf], [-0.0, 0, 0, 1], dtype=np.float32)
    assert mask(weight, "2:4").tolist() == [[False, False, True, True], [True, False, False, True]]


@pytest.mark.parametrize("bits", [0x7F81, 0xFFC0], ids=["signals", "quiet"])
def test_mask_refuses_nan(bits):
    weight = np.zeros((3, 8), ml_dtypes.bfloat16)
    weight.view(np.uint16)[2, 5] = bits
    with pytest.raises(BadInput, match="row 2, column 5 is NaN, which has no magnitude"):
        mask(weight, "2:4")


def test_nans_too_many_are_refused():
    weight = np.zeros((3, 8), ml_dtypes.bfloat16)
    weight.view(np.uint16)[2, 5:] = 0x7F81
    with pytest.raises(BadInput, match="row 2, group 1 .* holds 3 non-zeros, .* prune it"):
        check(weight, "2:4")


@pytest.mark.parametrize(("pattern", "columns", "message"), [
    ("2:4", [4, 5, 6], r"row 1, group 1 \(columns 4 to 7\) holds 3 non-zeros, but 2:4 keeps 2; "
                       "prune it to 2:4 first"),
    ("2:4", [8, 9, 10, 11], r"row 1, group 2 \(columns 8 to 11\) holds 4 non-zeros"),
    ("1:4", [4, 7], r"group 1 \(columns 4 to 7\) holds 2 non-zeros, but 1:4 keeps 1"),
    ("1:2", [14, 15], r"group 7 \(columns 14 to 15\) holds 2 non-zeros, but 1:2 keeps 1"),
    ("4:8", [8, 11, 14], r"row 1, group 1 \(columns 8 to 15\) holds 3 pairs with non-zeros"),
])
def test_a_group_with_too_many_is_refused(pattern, columns, message):
    weight = np.zeros((3, 16), np.int8)
    weight[1, columns] = -128
    for refuses in (check, compress):
        with pytest.raises(BadInput, match=message):
            refuses(weight, pattern)


def test_minus_zeros_too_many_are_refused_with_the_remedy():
    weight = matrix([1, -0.0, 2, 0], dtype=np.float16)
    with pytest.raises(BadInput, match="holds 3 non-zeros.* some are -0.0, which counts: add 0.0"):
        check(weight, "2:4")
    check(weight + np.float16(0), "2:4")
    with pytest.raises(BadInput, match="prune it"):
        check(matrix([1, -0.0, 2, 3], dtype=np.float16), "2:4")


@pytest.mark.parametrize("function", [mask, check, compress])
@pytest.mark.parametrize(("weight", "pattern", "message"), [
    (np.zeros((2, 6), np.int8), "2:4", "6 columns are no whole groups of 4; add columns of zeros"),
    (np.zeros((2, 4), np.int8), "4:8", "4 columns are no whole groups of 8"),
    (np.zeros((2, 4), np.int8), "3:4", "there is no pattern '3:4'; choose one of 2:4, 1:4"),
    (np.zeros((2, 4)), "2:4", "weight must be a matrix of float16, bfloat16.* not float64"),
    (np.zeros(4, np.int8), "2:4", r"not int8 \[4\]"),
    (np.zeros((0, 4), np.int8), "2:4", "not empty"),
])
def test_other_input_is_refused(function, weight, pattern, message):
    with pytest.raises(BadInput, match=message):
        function(weight, pattern)


@pytest.mark.parametrize("places", [[1, 1], [3, 2], [0, 4]])
def test_decompress_refuses_indices(places):
    compressed = compress(np.zeros((3, 12), np.int8), "2:4")
    indices = compressed.indices.copy()
    indices[1, 4:] = places
    with pytest.raises(BadInput, match=rf"row 1, group 2: the indices \[{places[0]}, {places[1]}\] "
                                       "are not ascending places below 4"):
        decompress(dataclasses.replace(compressed, indices=indices))


@pytest.mark.parametrize(("changes", "message"), [
    ({"pattern": "2:5"}, "there is no pattern '2:5'"),
    ({"values": np.zeros((3, 5), np.int8)}, "values of 5 columns are no whole groups of 2"),
    ({"values": np.zeros((3, 6))}, "values must be a matrix of float16"),
    ({"indices": np.zeros((3, 4), np.uint8)}, r"indices are uint8 \[3, 4\], but .* \[3, 6\]"),
    ({"indices": np.zeros((3, 6), np.int8)}, r"indices are int8"),
    ({"pattern": "4:8"}, "values of 6 columns are no whole groups of 4"),
])
def test_parts_that_do_not_fit_are_refused(changes, message):
    compressed = compress(np.zeros((3, 12), np.int8), "2:4")
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(compressed, **changes)
