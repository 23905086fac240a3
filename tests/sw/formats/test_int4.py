import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.int4 import compress, decompress, pack, unpack
from zeroskip.sw.formats.metadata import nibbles, to_words
from zeroskip.sw.formats.nm import Compressed


def test_the_first_value_is_in_the_low_nibble():
    assert pack(np.array([[1, 2, -8, 7, -1, 0]], np.int8)).tolist() == [[0x21, 0x78, 0x0F]]


def test_every_byte_is_a_pair():
    bytes_ = np.arange(256, dtype=np.uint8)[None]
    values = unpack(bytes_)
    assert (values.dtype, values.shape) == (np.int8, (1, 512))
    assert set(values.ravel().tolist()) == set(range(-8, 8))
    assert np.array_equal(pack(values), bytes_)


@pytest.mark.parametrize(("first", "second", "nibble"), [
    (0, 1, 0b0100), (0, 2, 0b1000), (1, 2, 0b1001), (0, 3, 0b1100), (1, 3, 0b1101),
    (2, 3, 0b1110)])
def test_the_six_nibbles_count_pairs(first, second, nibble):
    weight = np.zeros((1, 8), np.int8)
    weight[0, 2 * first + 1], weight[0, 2 * second] = -8, 5
    pairs, indices = compress(weight)
    assert pairs.tolist() == [[0x80, 0x05]]
    assert indices.tolist() == [[first, second]]
    assert nibbles(Compressed(unpack(pairs), indices, "4:8")).tolist() == [[nibble]]


def test_one_word_of_metadata_is_for_64_columns():
    pairs, indices = compress(np.zeros((1, 64), np.int8))
    codes = nibbles(Compressed(unpack(pairs), indices, "4:8"))
    assert to_words(codes, np.dtype(np.uint32)).tolist() == [[0xEEEEEEEE]]


@given(rows=st.integers(1, 9), groups=st.integers(1, 9), density=st.floats(0, 1),
       seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_round_trip(rows, groups, density, seed):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-8, 8, (rows, groups, 4, 2), dtype=np.int8)
    weight[rng.permuted(np.tile(np.arange(4), (rows, groups, 1)), axis=2) >= 2] = 0
    weight[rng.random(weight.shape) >= density] = 0
    weight = weight.reshape(rows, -1)
    pairs, indices = compress(weight)
    assert (pairs.dtype, pairs.shape) == (indices.dtype, indices.shape) == (
        np.uint8, (rows, groups * 2))
    assert np.array_equal(decompress(pairs, indices), weight)


@pytest.mark.parametrize(("weight", "message"), [
    (np.full((2, 8), 8, np.int8), "holds 4 pairs with non-zeros"),
    (np.array([[0] * 8, [0] * 7 + [8]], np.int8), "row 1, column 3 is 8, but int4 holds -8 to 7"),
    (np.zeros((2, 12), np.int8), "12 columns are no whole groups of 8"),
    (np.zeros((2, 8), np.float16), "must be an int8 matrix"),
])
def test_compress_refuses(weight, message):
    with pytest.raises(BadInput, match=message):
        compress(weight)


@pytest.mark.parametrize(("pairs", "indices", "message"), [
    (np.zeros((1, 2), np.int8), np.array([[0, 1]], np.uint8), "pairs must be a uint8 matrix"),
    (np.zeros((1, 2), np.uint8), np.array([[1, 1]], np.uint8), r"row 0, group 0: .* \[1, 1\]"),
    (np.zeros((1, 2), np.uint8), np.array([[0, 1, 2]], np.uint8), r"indices are uint8 \[1, 3\]"),
])
def test_decompress_refuses(pairs, indices, message):
    with pytest.raises(BadInput, match=message):
        decompress(pairs, indices)


@pytest.mark.parametrize(("values", "message"), [
    (np.array([[0, 0], [0, -9]], np.int8), "row 1, column 1 is -9"),
    (np.zeros((1, 3), np.int8), "an even number of columns"),
    (np.zeros(4, np.int8), r"not int8 \[4\]"),
])
def test_pack_refuses(values, message):
    with pytest.raises(BadInput, match=message):
        pack(values)


@pytest.mark.parametrize(("pairs", "found"), [
    (np.zeros(4, np.uint8), r"uint8 \[4\]"), (np.zeros((1, 4), np.int8), r"int8 \[1, 4\]")])
def test_unpack_refuses(pairs, found):
    with pytest.raises(BadInput, match=f"pairs must be a uint8 matrix, not {found}"):
        unpack(pairs)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_an_empty_matrix_is_unpacked(shape):
    values = np.zeros(shape, np.int8)
    assert unpack(pack(values)).shape == shape
