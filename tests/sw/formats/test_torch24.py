"""Byte equality with PyTorch, both ways."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.nm import compress, decompress
from zeroskip.sw.formats.torch24 import from_torch, to_torch

torch = pytest.importorskip("torch")
conversions = pytest.importorskip("torch.sparse._semi_structured_conversions")

PATTERN = {"float16": "2:4", "bfloat16": "2:4", "float32": "1:2", "int8": "2:4"}
STEP = {"float16": (32, 32), "bfloat16": (32, 32), "float32": (32, 16), "int8": (16, 64)}


def tensor(array):
    """The same bits as a tensor."""
    bits = torch.from_numpy(np.ascontiguousarray(array).view(f"i{array.dtype.itemsize}"))
    return bits.view(getattr(torch, array.dtype.name))


def array(tensor, dtype):
    """The same bits as an array."""
    return tensor.contiguous().view(torch.uint8).numpy().view(dtype)


def data(weight):
    """Its bytes, with one NaN for all: on a CPU PyTorch moves 16-bit floats as float32, which
    changes what a NaN carries (bfloat16: any, float16: one that signals)."""
    if weight.dtype != np.int8:
        with np.errstate(invalid="ignore"):
            weight = np.where(np.isnan(weight), np.array(np.nan, weight.dtype), weight)
    return weight.tobytes()


def halves_that_signal(weight):
    """Where a float32 has a half that PyTorch would change for the same reason: it moves them as
    two float16 when it makes a dense matrix."""
    halves = weight.view(np.uint16).reshape(*weight.shape, 2)
    return ((halves & 0x7E00 == 0x7C00) & (halves & 0x1FF != 0)).any(axis=2)


def without_minus_zero(weight):
    """PyTorch takes -0.0 for a zero."""
    if weight.dtype == np.int8:
        return weight
    bits = weight.view(f"u{weight.itemsize}")
    return np.where(bits == 1 << 8 * weight.itemsize - 1, 0, bits).view(weight.dtype)


@pytest.mark.parametrize("dtype", PATTERN)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (2, 1), (3, 2), (4, 5)])
@pytest.mark.parametrize("density", [1.0, 0.6, 0.0])
def test_bytes_of_pytorch(sparse, dtype, rows, columns, density):
    m, k = STEP[dtype]
    weight = without_minus_zero(
        sparse(dtype, m * rows, k * columns, PATTERN[dtype], rows + columns, density))
    values, metadata = to_torch(compress(weight, PATTERN[dtype]))
    expected, order = conversions.sparse_semi_structured_from_dense_cutlass(tensor(weight))
    expected = array(expected, weight.dtype)
    assert values.shape == expected.shape
    assert data(values) == data(expected)
    assert (metadata.dtype, metadata.shape) == (order.numpy().dtype, order.shape)
    assert metadata.tobytes() == order.numpy().tobytes()
    assert data(decompress(from_torch(expected, order.numpy()))) == data(weight)


@given(dtype=st.sampled_from(list(PATTERN)), rows=st.integers(1, 3), columns=st.integers(1, 4),
       density=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_pytorch_reads_ours(sparse, dtype, rows, columns, density, seed):
    m, k = STEP[dtype]
    weight = sparse(dtype, m * rows, k * columns, PATTERN[dtype], seed, density)
    if dtype == "float32":
        weight[halves_that_signal(weight)] = 1.5
    values, metadata = to_torch(compress(weight, PATTERN[dtype]))
    dense = conversions.sparse_semi_structured_to_dense_cutlass(
        tensor(values), torch.from_numpy(metadata))
    assert data(array(dense, weight.dtype)) == data(weight)
    assert decompress(from_torch(values, metadata)).tobytes() == weight.tobytes()


def test_pytorch_drops_a_third_value_silently():
    weight = np.zeros((32, 32), np.float16)
    weight[7, 12:15] = 1, 2, 3
    pair = conversions.sparse_semi_structured_from_dense_cutlass(tensor(weight))
    dense = conversions.sparse_semi_structured_to_dense_cutlass(*pair).numpy()
    assert dense[7, 12:16].tolist() == [1, 2, 0, 0]
    with pytest.raises(BadInput, match=r"row 7, group 3 \(columns 12 to 15\) holds 3 non-zeros"):
        compress(weight, "2:4")


def test_pytorch_drops_a_lone_minus_zero():
    weight = np.zeros((32, 32), np.float16)
    weight[7, 12] = -0.0
    pair = conversions.sparse_semi_structured_from_dense_cutlass(tensor(weight))
    assert not np.signbit(conversions.sparse_semi_structured_to_dense_cutlass(*pair).numpy()).any()
    values, metadata = to_torch(compress(weight, "2:4"))
    assert decompress(from_torch(values, metadata)).tobytes() == weight.tobytes()


def test_pytorch_leaves_its_buffer_where_words_are_odd():
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        conversions.sparse_semi_structured_from_dense_cutlass(
            torch.zeros((32, 16), dtype=torch.float16))


@pytest.mark.parametrize(("dtype", "rows", "columns", "steps"), [
    ("float16", 16, 32, "32 and columns in multiples of 32, not 16 x 32"),
    ("bfloat16", 32, 48, "32 and columns in multiples of 32, not 32 x 48"),
    ("float32", 32, 24, "32 and columns in multiples of 16, not 32 x 24"),
    ("int8", 8, 64, "16 and columns in multiples of 64, not 8 x 64"),
    ("int8", 16, 32, "16 and columns in multiples of 64, not 16 x 32"),
])
def test_shapes_that_pytorch_has_not_are_refused(sparse, dtype, rows, columns, steps):
    weight = sparse(dtype, rows, columns, PATTERN[dtype], 0)
    with pytest.raises(BadInput, match=f"PyTorch takes {dtype} with rows in multiples of {steps}"):
        to_torch(compress(weight, PATTERN[dtype]))


@pytest.mark.parametrize(("dtype", "pattern", "message"), [
    ("float32", "2:4", "PyTorch takes float32 as 1:2, not 2:4"),
    ("float16", "1:2", "PyTorch takes float16 as 2:4, not 1:2"),
    ("int8", "1:4", "PyTorch takes int8 as 2:4, not 1:4"),
    ("int8", "4:8", "PyTorch takes int8 as 2:4, not 4:8"),
])
def test_patterns_that_pytorch_has_not_are_refused(dtype, pattern, message):
    with pytest.raises(BadInput, match=message):
        to_torch(compress(np.zeros((32, 64), dtype), pattern))


@pytest.mark.parametrize(("values", "metadata", "message"), [
    (np.zeros((32, 16), np.float16), np.zeros((32, 2), np.uint16),
     r"metadata is uint16 \[32, 2\], but values float16 \[32, 16\] take int16 \[32, 2\]"),
    (np.zeros((32, 16), np.float16), np.zeros((32, 4), np.int16), r"take int16 \[32, 2\]"),
    (np.zeros((16, 32), np.int8), np.zeros((16, 2), np.int16), r"take int32 \[16, 2\]"),
    (np.zeros((16, 16), np.float16), np.zeros((16, 2), np.int16), "metadata of 16 rows"),
    (np.zeros((32, 16)), np.zeros((32, 2), np.int16), "tensor cores take .* not float64"),
])
def test_other_pairs_are_refused(values, metadata, message):
    with pytest.raises(BadInput, match=message):
        from_torch(values, metadata)


def test_an_illegal_nibble_is_named_where_it_describes_the_matrix():
    values, metadata = np.ones((32, 16), np.float16), np.full((32, 2), 0x4444, np.int16)
    metadata[0, 1] = 0x4454         # in memory; row 8, word 0
    with pytest.raises(BadInput, match="row 8, group 1: the nibble 0101 names place 1 twice"):
        from_torch(values, metadata)
