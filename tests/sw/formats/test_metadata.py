import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.metadata import (
    check_words,
    from_words,
    lanes,
    nibbles,
    normalise,
    pattern_of,
    read,
    reorder,
    restore,
    to_indices,
    to_words,
    word_type,
)
from zeroskip.sw.formats.nm import PATTERNS, compress, decompress

U16, U32 = np.dtype(np.uint16), np.dtype(np.uint32)
ROW = [1, 2, 0, 0, 3, 0, 4, 0, 0, 5, 6, 0, 7, 0, 0, 8, 0, 9, 0, 10, 0, 0, 11, 12,
       13, 0, 0, 0, 0, 0, 0, 0]
LEGAL = {0b0100: (0, 1), 0b1000: (0, 2), 0b1001: (1, 2), 0b1100: (0, 3), 0b1101: (1, 3),
         0b1110: (2, 3)}


def test_worked_row():
    codes = nibbles(compress(np.array([ROW], np.float16), "2:4"))
    assert to_words(codes, U16).tolist() == [[0xC984, 0xE8ED]]
    assert to_words(codes, U16).tobytes() == bytes.fromhex("84c9ede8")
    assert to_words(codes, U32).tolist() == [[0xE8EDC984]]


@pytest.mark.parametrize(("code", "places"), LEGAL.items())
def test_the_six_nibbles(code, places):
    group = np.zeros((1, 4), np.int8)
    group[0, list(places)] = 7
    assert nibbles(compress(group, "2:4")).tolist() == [[code]]
    assert to_indices(np.array([[code]], np.uint8), "2:4").tolist() == [list(places)]


@pytest.mark.parametrize(("code", "group"), [(0b0100, [7, 0]), (0b1110, [0, 7])])
def test_the_two_nibbles_of_1_2(code, group):
    compressed = compress(np.array([group], np.float32), "1:2")
    assert nibbles(compressed).tolist() == [[code]]
    assert to_indices(np.array([[code]], np.uint8), "1:2").tolist() == compressed.indices.tolist()


@pytest.mark.parametrize(("pattern", "legal"), [("2:4", LEGAL), ("4:8", LEGAL), ("1:2", (4, 14))])
def test_other_nibbles_are_refused_with_their_place(pattern, legal):
    for code in set(range(16)) - set(legal):
        codes = np.full((3, 5), 0b1110, np.uint8)
        codes[1, 4] = code
        with pytest.raises(BadInput, match=f"row 1, group 4: the nibble {code:04b} is illegal, "
                                           "expected one of 0100"):
            to_indices(codes, pattern)


def test_1_4_has_no_metadata():
    compressed = compress(np.zeros((1, 4), np.int8), "1:4")
    for refused in (lambda: nibbles(compressed),
                    lambda: to_indices(np.zeros((1, 1), np.uint8), "1:4"),
                    lambda: normalise(compressed.values, np.zeros((1, 1), np.uint8), "1:4")):
        with pytest.raises(BadInput, match="no metadata for 1:4; compress the matrix as 2:4"):
            refused()


@given(word=st.sampled_from([U16, U32]), rows=st.integers(1, 9), number=st.integers(1, 5),
       seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_words_round_trip(word, rows, number, seed):
    shape = (rows, number * word.itemsize * 2)
    codes = np.random.default_rng(seed).integers(0, 16, shape, dtype=np.uint8)
    words = to_words(codes, word)
    assert (words.dtype, words.shape) == (word, (rows, number))
    assert np.array_equal(from_words(words), codes)
    # Independently: each row is one number, its first nibble the lowest.
    for own, line in zip(codes.tolist(), words, strict=True):
        value = sum(code << 4 * at for at, code in enumerate(own))
        assert line.tobytes() == value.to_bytes(shape[1] // 2, "little")


def test_a_word_that_is_not_full_is_refused():
    with pytest.raises(BadInput, match="a row has 6 groups, but a uint16 word of metadata takes 4"):
        to_words(np.full((1, 6), 4, np.uint8), U16)


# --- other encoders ---

# Kept places by the group's non-zero (None: all zero), of four encoders.
ENCODERS = {
    "torch": {None: (2, 3), 0: (0, 2), 1: (1, 2), 2: (2, 3), 3: (2, 3)},
    "CUTLASS 3": {None: (0, 0), 0: (0, 3), 1: (1, 3), 2: (2, 3), 3: (0, 3)},
    "compressed-tensors": {None: (2, 3), 0: (0, 2), 1: (1, 3), 2: (2, 3), 3: (2, 3)},
    "Vortex": {None: (0, 1), 0: (0, 1), 1: (0, 1), 2: (0, 2), 3: (0, 3)},
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("order", ["ascending", "swapped"])
def test_fillers_of_every_encoder_are_read(encoder, order):
    values, codes, dense = [], [], []
    for present, places in ENCODERS[encoder].items():
        places = places[::1 if order == "ascending" else -1]
        group = [0] * 4
        if present is not None:
            group[present] = -128
        dense += group
        values += [group[place] for place in places]
        codes.append(places[0] | places[1] << 2)
    dense = np.array([dense], np.int8)
    found = normalise(np.array([values], np.int8), np.array([codes], np.uint8), "2:4")
    own = compress(dense, "2:4")
    assert np.array_equal(decompress(found), dense)
    assert np.array_equal(found.values, own.values)
    assert np.array_equal(found.indices, own.indices)
    assert found.indices.ravel().tolist() == [
        place for places in ENCODERS["torch"].values() for place in places]


@given(dtype=st.sampled_from(["float16", "bfloat16", "int8"]), pattern=st.sampled_from(
       ["2:4", "4:8"]), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_swapped_nibbles_are_normalised_with_their_values(sparse, dtype, pattern, seed):
    unit = PATTERNS[pattern].unit
    weight = sparse(dtype, 5, 32, pattern, seed)
    compressed = compress(weight, pattern)
    swap = np.random.default_rng(seed).random((5, compressed.groups)) < 0.5
    values = compressed.values.reshape(5, -1, 2, unit).copy()
    values[swap] = values[swap][:, ::-1]
    codes = nibbles(compressed)
    codes[swap] = codes[swap] >> 2 | codes[swap] << 2 & 0xF
    found = normalise(values.reshape(5, -1), codes, pattern)
    assert decompress(found).tobytes() == weight.tobytes()
    assert np.array_equal(found.indices, compressed.indices)


@pytest.mark.parametrize("code", [0b0000, 0b0101, 0b1010, 0b1111])
def test_a_place_named_twice_must_hold_zeros(code):
    values, codes = np.zeros((3, 8), np.float16), np.full((3, 4), 0b0100, np.uint8)
    codes[2, 1] = code
    found = normalise(values, codes, "2:4")
    assert found.indices[2, 2:4].tolist() == [2, 3]
    for at, value in ((2, 1), (3, 1), (3, -0.0)):
        wrong = values.copy()
        wrong[2, at] = value
        with pytest.raises(BadInput, match=f"row 2, group 1: the nibble {code:04b} names place "
                                           f"{code & 3} twice, and a value there is not zero"):
            normalise(wrong, codes, "2:4")


def test_1_2_is_read_strictly():
    values = np.array([[1, 2]], np.float32)
    found = normalise(values, np.array([[4, 14]], np.uint8), "1:2")
    assert decompress(found).tolist() == [[1, 0, 0, 2]]
    with pytest.raises(BadInput, match="row 0, group 1: the nibble 0000 is illegal"):
        normalise(values, np.array([[4, 0]], np.uint8), "1:2")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_read_gives_what_was_written(sparse, dtype):
    pattern = pattern_of(np.dtype(dtype))
    assert pattern == ("1:2" if dtype == "float32" else "2:4")
    weight = sparse(dtype, 3, 64, pattern, 4)
    compressed = compress(weight, pattern)
    words = to_words(nibbles(compressed), word_type(weight.dtype))
    assert decompress(read(compressed.values, words)).tobytes() == weight.tobytes()


@pytest.mark.parametrize(("values", "words", "message"), [
    (np.zeros((4, 16), np.float16), np.zeros((4, 2), U32),
     r"metadata is uint32 \[4, 2\], but values float16 \[4, 16\] take uint16 \[4, 2\]"),
    (np.zeros((4, 16), np.float16), np.zeros((4, 1), U16), r"\[4, 1\], but .* uint16 \[4, 2\]"),
    (np.zeros((4, 16), np.float32), np.zeros((4, 2), U16), r"take uint16 \[4, 4\]"),
    (np.zeros((4, 16), np.int8), np.zeros((3, 1), U32), r"take uint32 \[4, 1\]"),
    (np.zeros((4, 12), np.float16), np.zeros((4, 1), U16), "a multiple of 8; compress"),
    (np.zeros(16, np.float16), np.zeros((4, 1), U16), r"values \[16\] of 2:4 must be a matrix"),
    (np.zeros((0, 16), np.float16), np.zeros((0, 2), U16), r"values \[0, 16\] .* not empty"),
    (np.zeros((4, 0), np.float16), np.zeros((4, 0), U16), r"values \[4, 0\] .* not empty"),
    (np.zeros((4, 16)), np.zeros((4, 2), U16), "tensor cores take float16.* not float64"),
])
def test_words_that_do_not_fit_are_refused(values, words, message):
    with pytest.raises(BadInput, match=message):
        check_words(values, words, word_type(values.dtype))


# --- the order in memory and in the threads ---

SHAPES = [(U16, 32, 2), (U16, 32, 6), (U16, 96, 4), (U32, 16, 2), (U32, 48, 6)]


def random_words(word, rows, number, seed=0):
    return np.random.default_rng(seed).integers(
        0, 1 << 8 * word.itemsize, (rows, number), dtype=word)


@pytest.mark.parametrize(("word", "rows", "number"), SHAPES)
def test_restore_undoes_reorder(word, rows, number):
    words = random_words(word, rows, number)
    assert np.array_equal(restore(reorder(words)), words)
    assert not np.array_equal(reorder(words), words)


@pytest.mark.parametrize(("word", "rows", "number"), SHAPES)
def test_lanes_are_the_buffer_read_as_32_bits(word, rows, number):
    words = random_words(word, rows, number)
    held = lanes(words)
    assert held.dtype == U32
    assert held.shape == (number // 2, rows // (32 if word == U16 else 16), 32)
    assert np.array_equal(held.ravel(), reorder(words).ravel().view(U32))


@pytest.mark.parametrize("function", [reorder, restore, lanes])
@pytest.mark.parametrize(("word", "rows", "number"), [
    (U16, 16, 2), (U16, 32, 3), (U32, 8, 2), (U32, 16, 1)])
def test_shapes_without_an_order_are_refused(function, word, rows, number):
    with pytest.raises(BadInput, match=f"metadata of {rows} rows and {number} {word} words a row"):
        function(np.zeros((rows, number), word))


@pytest.mark.parametrize("function", [from_words, reorder, restore, lanes])
@pytest.mark.parametrize("words", [
    np.zeros((16, 2), np.int32), np.zeros((32, 2), np.uint8), np.zeros((32, 2), np.float16),
    np.zeros(32, U16), np.zeros((1, 32, 2), U32), np.zeros((0, 2), U16), np.zeros((32, 0), U16)])
def test_words_of_other_types_and_shapes_are_refused(function, words):
    found = re.escape(f"not {words.dtype} {list(words.shape)};")
    with pytest.raises(BadInput, match=f"must be a uint16 or uint32 matrix.*{found}"):
        function(words)


def product_f16(values, held, selector, b):
    """``mma.sp.m16n8k32`` of f16: values [16, 16], metadata of 32 threads, b [32, N].

    From the fragment tables of the PTX ISA, one register element after the other.
    """
    d = np.zeros((16, b.shape[1]))
    for lane in range(32):
        g, t = divmod(lane, 4)
        for i in range(8):
            row = g + 8 * (i in (2, 3, 6, 7))
            first = 4 * t + 16 * (i >= 4)
            meta = int(held[4 * g + 2 * selector + (first >= 16)])
            half = meta >> 16 if row >= 8 else meta & 0xFFFF
            place = half >> first % 16 + 2 * (i % 2) & 3
            d[row] += float(values[row, first // 2 + i % 2]) * b[first + place]
    return d


def product_int8(values, held, b):
    """``mma.sp.m16n8k64`` of int8: values [16, 32], metadata of 32 threads, b [64, N]."""
    d = np.zeros((16, b.shape[1]))
    for lane in range(32):
        g, t = divmod(lane, 4)
        for i in range(16):
            row = g + 8 * (4 <= i < 8 or i >= 12)
            first = 8 * t + 32 * (i >= 8)
            group = first + i % 4 // 2 * 4
            meta = int(held[4 * g + 2 * (first >= 32) + (row >= 8)])
            place = meta >> group % 32 + 2 * (i % 2) & 3
            d[row] += float(values[row, first // 2 + i % 4]) * b[group + place]
    return d


@pytest.mark.parametrize("seed", range(3))
def test_threads_select_the_right_columns_f16(seed):
    rng = np.random.default_rng(seed)
    dense = rng.integers(-50, 50, (64, 64))
    b = rng.integers(-50, 50, (64, 8))
    pruned = np.where(rng.permuted(np.tile(np.arange(4), (64, 16, 1)), axis=2) < 2,
                      dense.reshape(64, 16, 4), 0).reshape(64, 64)
    compressed = compress(pruned.astype(np.float16), "2:4")
    held = lanes(to_words(nibbles(compressed), U16))
    d = np.zeros((64, 8))
    for step in range(2):
        for at in range(4):
            rows = slice(16 * at, 16 * at + 16)
            d[rows] += product_f16(compressed.values[rows, 16 * step:16 * step + 16],
                                   held[step, at // 2], at % 2, b[32 * step:32 * step + 32])
    assert np.array_equal(d, pruned @ b)


@pytest.mark.parametrize("seed", range(3))
def test_threads_select_the_right_columns_int8(seed):
    rng = np.random.default_rng(seed)
    dense = rng.integers(-128, 128, (32, 128))
    b = rng.integers(-128, 128, (128, 8))
    pruned = np.where(rng.permuted(np.tile(np.arange(4), (32, 32, 1)), axis=2) < 2,
                      dense.reshape(32, 32, 4), 0).reshape(32, 128)
    compressed = compress(pruned.astype(np.int8), "2:4")
    held = lanes(to_words(nibbles(compressed), U32))
    d = np.zeros((32, 8))
    for step in range(2):
        for at in range(2):
            rows = slice(16 * at, 16 * at + 16)
            d[rows] += product_int8(compressed.values[rows, 32 * step:32 * step + 32],
                                    held[step, at], b[64 * step:64 * step + 64])
    assert np.array_equal(d, pruned @ b)
