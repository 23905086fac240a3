import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.pack.eie import pack, unpack


def column(*values):
    """One column of a matrix on one PE."""
    return np.array(values, np.uint8)[:, None]


def entries(packed, pe=0):
    """(v, z) of every entry of one PE."""
    return [(entry & 15, entry >> 4) for entry in packed.entries[pe].tolist()]


def random_indices(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    indices = rng.integers(1, 16, (rows, columns), dtype=np.uint8)
    indices[rng.random(indices.shape) >= density] = 0
    return indices


def test_papers_example():
    packed = pack(column(0, 0, 1, 2, *[0] * 18, 3), 1)
    assert entries(packed) == [(1, 2), (2, 0), (0, 15), (3, 2)]
    assert packed.pointers.tolist() == [[0, 4]]


@pytest.mark.parametrize(("gap", "expected"), [
    (0, [(9, 0)]),
    (15, [(9, 15)]),
    (16, [(0, 15), (9, 0)]),
    (31, [(0, 15), (9, 15)]),
    (32, [(0, 15), (0, 15), (9, 0)]),
])
@pytest.mark.parametrize("lead", [[], [7]], ids=["from_the_top", "after_an_entry"])
def test_gap(gap, expected, lead):
    indices = column(*lead, *[0] * gap, 9)
    packed = pack(indices, 1)
    assert entries(packed) == [(value, 0) for value in lead] + expected
    assert np.array_equal(unpack(packed), indices)


def test_column_with_one_entry():
    packed = pack(np.array([[0, 0, 0], [0, 5, 0], [0, 0, 0]], np.uint8), 1)
    assert entries(packed) == [(5, 1)]
    assert packed.pointers.tolist() == [[0, 0, 1, 1]]


def test_consecutive_empty_columns():
    packed = pack(np.array([[1, 0, 0, 0, 2], [0, 0, 0, 0, 0]], np.uint8), 1)
    assert entries(packed) == [(1, 0), (2, 0)]
    assert packed.pointers.tolist() == [[0, 1, 1, 1, 1, 2]]


def test_runs_restart_at_each_column():
    packed = pack(np.array([[0, 0], [4, 0], [0, 6]], np.uint8), 1)
    assert entries(packed) == [(4, 1), (6, 2)]


def test_all_zero_matrix():
    packed = pack(np.zeros((40, 3), np.uint8), 4)
    assert [len(own) for own in packed.entries] == [0] * 4
    assert packed.pointers.tolist() == [[0] * 4] * 4
    assert np.array_equal(unpack(packed), np.zeros((40, 3)))


def test_rows_not_a_multiple_of_n():
    indices = column(1, 2, 3, 4, 5, 0, 0)
    packed = pack(indices, 3)
    assert [entries(packed, pe) for pe in range(3)] == [
        [(1, 0), (4, 0)], [(2, 0), (5, 0)], [(3, 0)]]
    assert np.array_equal(unpack(packed), indices)


def test_more_pes_than_rows():
    packed = pack(column(1, 2), 4)
    assert [entries(packed, pe) for pe in range(4)] == [[(1, 0)], [(2, 0)], [], []]
    assert np.array_equal(unpack(packed), column(1, 2))


def test_zeros_are_counted_in_the_pes_own_rows():
    indices = np.zeros((64, 1), np.uint8)
    indices[60] = 8
    packed = pack(indices, 4)
    assert entries(packed) == [(8, 15)]


@given(pes=st.integers(1, 16), rows=st.integers(1, 300), columns=st.integers(1, 300),
       density=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_round_trip(pes, rows, columns, density, seed):
    indices = random_indices(rows, columns, density, seed)
    packed = pack(indices, pes)
    assert np.array_equal(unpack(packed), indices)
    assert packed.nonzeros == np.count_nonzero(indices)
    for own in packed.entries:
        assert all(own[own & 15 == 0] == 0xF0)


def test_counts():
    indices = np.zeros((40, 2), np.uint8)
    indices[[0, 39], 0] = 1, 2     # PE 0: one entry; PE 1: row 19 of its own, one padding entry
    packed = pack(indices, 2)
    assert packed.pes == 2
    assert packed.padding.tolist() == [0, 1]
    assert packed.nonzeros == 2


@pytest.mark.parametrize(("indices", "pes", "message"), [
    (column(1), 0, "pes must be at least 1, not 0"),
    (column(1).astype(np.int64), 1, "must be a uint8 matrix .* not int64"),
    (np.ones(3, np.uint8), 1, r"must be a uint8 matrix .* not uint8 \[3\]"),
    (np.ones((0, 3), np.uint8), 1, "not empty"),
    (column(1, 15, 16), 1, r"index \[2, 0\] is 16: share the weights"),
])
def test_pack_refuses(indices, pes, message):
    with pytest.raises(BadInput, match=message):
        pack(indices, pes)


@pytest.mark.parametrize(("pe", "pointers", "own", "message"), [
    (1, [0, 1, 2], [0x01, 0x21], "PE 1, column 1, entry 1 is for row 2 of 2"),
    (1, [0, 1, 2], [0xF0, 0x01], "PE 1, column 0, entry 0 is for row 15 of 2"),
    (0, [0, 3, 2], [0x01, 0x01], "PE 0, column 0: pointers 0 and 3"),
    (0, [0, 2, 1], [0x01], "PE 0, column 0: pointers 0 and 2"),
    (0, [1, 1, 2], [0x01, 0x01], "PE 0: pointers run from 1 to 2 instead of 0 to 2"),
    (0, [0, 1, 1], [0x01, 0x01], "PE 0: pointers run from 0 to 1 instead of 0 to 2"),
])
def test_unpack_refuses(pe, pointers, own, message):
    packed = pack(np.zeros((4, 2), np.uint8), 2)
    damaged = packed.pointers.copy()
    damaged[pe] = pointers
    streams = list(packed.entries)
    streams[pe] = np.array(own, np.uint8)
    with pytest.raises(BadInput, match=message):
        unpack(dataclasses.replace(packed, entries=tuple(streams), pointers=damaged))


def test_unpack_refuses_decreasing_pointers():
    packed = pack(np.ones((1, 3), np.uint8), 1)
    pointers = np.array([[0, 2, 1, 3]], np.uint32)
    streams = (np.array([0x01, 0x01, 0x01], np.uint8),)
    damaged = dataclasses.replace(packed, rows=2, entries=streams, pointers=pointers)
    with pytest.raises(BadInput, match="PE 0, column 1: pointers 2 and 1"):
        unpack(damaged)


def test_unpack_refuses_pointers_of_another_shape():
    packed = pack(np.ones((2, 3), np.uint8), 2)
    with pytest.raises(BadInput, match=r"pointers must be \[2, 4\], not \[2, 3\]"):
        unpack(dataclasses.replace(packed, pointers=packed.pointers[:, :3]))
