import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.bitmask import from_bitmask, to_bitmask
from zeroskip.sw.formats.nm import compress, decompress

TYPES = ["float16", "bfloat16", "float32", "int8"]


def test_worked_row():
    row = [1, 2, 0, 0, 3, 0, 4, 0, 0, 5, 6, 0, 7, 0, 0, 8, 0, 9, 0, 10, 0, 0, 11, 12,
           13, 0, 0, 0, 0, 0, 0, 0]
    values, bitmask = to_bitmask(compress(np.array([row], np.float16), "2:4"))
    assert values.tolist() == [[*range(1, 14), 0, 0, 0]]
    assert bitmask.tobytes() == bytes.fromhex("5396cac5")


@pytest.mark.parametrize(("group", "bits"), [
    ([0, 0, 0, 0], 0b1100), ([9, 0, 0, 0], 0b0101), ([0, 9, 0, 0], 0b1010),
    ([0, 0, 9, 0], 0b1100), ([0, 0, 0, 9], 0b1100), ([0, 8, 9, 0], 0b0110)])
def test_bits_of_a_group(group, bits):
    compressed = compress(np.array([group], np.int8), "2:4")
    values, bitmask = to_bitmask(compressed)
    assert bitmask.tolist() == [[bits]]
    found = from_bitmask(values, bitmask, 4)
    assert np.array_equal(found.indices, compressed.indices)
    assert np.array_equal(found.values, compressed.values)


def test_two_rows_do_not_share_a_byte():
    weight = np.array([[1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 5, 6], [0] * 12], np.int8)
    _, bitmask = to_bitmask(compress(weight, "2:4"))
    assert bitmask.tolist() == [[0x33, 0x0C], [0xCC, 0x0C]]


@given(dtype=st.sampled_from(TYPES), rows=st.integers(1, 9), groups=st.integers(1, 9),
       density=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_round_trip_gives_the_same_bits(sparse, dtype, rows, groups, density, seed):
    weight = sparse(dtype, rows, 4 * groups, "2:4", seed, density)
    values, bitmask = to_bitmask(compress(weight, "2:4"))
    assert bitmask.shape == (rows, -(-groups // 2))
    assert decompress(from_bitmask(values, bitmask, 4 * groups)).tobytes() == weight.tobytes()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("columns", [4, 12, 64, 256])
def test_bytes_of_compressed_tensors(dtype, columns):
    """compressed-tensors keeps the two that ``abs().topk(2)`` of PyTorch gives."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(columns)
    weight = rng.integers(-127, 128, (64, columns))
    order = rng.permuted(np.tile(np.arange(4), (64, columns // 4, 1)), axis=2)
    weight[order.reshape(weight.shape) >= 2] = 0
    weight[rng.random(weight.shape) < 0.4] = 0

    groups = torch.from_numpy(weight).to(getattr(torch, dtype)).view(-1, 4)
    kept = torch.zeros(groups.shape, dtype=torch.bool)
    kept.scatter_(1, groups.abs().topk(2, dim=1).indices, True)
    kept = kept.numpy().reshape(weight.shape)
    values, bitmask = to_bitmask(compress(weight.astype(dtype), "2:4"))
    assert np.array_equal(values.astype(int), weight[kept].reshape(64, -1))
    assert np.array_equal(bitmask, np.packbits(kept, axis=1, bitorder="little"))


def test_another_pattern_is_refused():
    with pytest.raises(BadInput, match="sparse-24-bitmask holds 2:4, not 1:4"):
        to_bitmask(compress(np.zeros((1, 4), np.int8), "1:4"))


@pytest.mark.parametrize(("values", "bitmask", "columns", "message"), [
    (np.zeros((2, 4), np.int8), np.full((2, 1), 0x33, np.uint8), 6,
     r"values are \[2, 4\], but 2:4 of 6 columns keeps \[rows, 3\]"),
    (np.zeros(4, np.int8), np.full((2, 1), 0x33, np.uint8), 8, r"values are \[4\]"),
    (np.zeros((2, 4), np.int8), np.full((2, 2), 0x33, np.uint8), 8,
     r"the bitmask is uint8 \[2, 2\], expected uint8 \[2, 1\]"),
    (np.zeros((2, 4), np.int8), np.full((2, 1), 0x33, np.int8), 8, "the bitmask is int8"),
    (np.zeros((2, 4), np.int8), np.array([[0x33], [0x73]], np.uint8), 8,
     "row 1, group 1: the bitmask has 3 bits, expected 2"),
    (np.zeros((2, 4), np.int8), np.array([[0x31], [0x33]], np.uint8), 8,
     "row 0, group 0: the bitmask has 1 bits"),
    (np.zeros((2, 2), np.int8), np.array([[0x03], [0x13]], np.uint8), 4,
     "row 1: the bitmask has bits behind the last of 4 columns"),
    (np.zeros((0, 0), np.int8), np.zeros((0, 0), np.uint8), 0,
     r"values are \[0, 0\], but a matrix that is not empty is needed"),
    (np.zeros((0, 4), np.int8), np.zeros((0, 1), np.uint8), 8, r"values are \[0, 4\], but a"),
    (np.zeros((3, 0), np.int8), np.zeros((3, 0), np.uint8), 0, r"values are \[3, 0\], but a"),
    (np.zeros((2, 4)), np.full((2, 1), 0x33, np.uint8), 8, "values must be a matrix of float16"),
])
def test_parts_that_do_not_fit_are_refused(values, bitmask, columns, message):
    with pytest.raises(BadInput, match=message):
        from_bitmask(values, bitmask, columns)
