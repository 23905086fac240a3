import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.engines.eie.pack import Packed, pack, spread, unpack, whole, width
from zeroskip.sw.errors import BadInput


def column(*values):
    """One column of a matrix on one PE."""
    return np.array(values, np.uint8)[:, None]


def entries(packed, pe=0):
    """(v, z) of every byte of one PE."""
    return [(entry & 15, entry >> 4) for entry in packed.entries[pe].tolist()]


def random_indices(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    indices = rng.integers(1, 16, (rows, columns), dtype=np.uint8)
    indices[rng.random(indices.shape) >= density] = 0
    return indices


@pytest.fixture(params=[False, True], ids=["padding", "escapes"])
def escapes(request):
    return request.param


def test_papers_example():
    packed = pack(column(0, 0, 1, 2, *[0] * 18, 3), 1, escapes=False)
    assert entries(packed) == [(1, 2), (2, 0), (0, 15), (3, 2)]
    assert packed.starts.tolist() == [[0, 4]]


def test_papers_example_with_an_escape():
    packed = pack(column(0, 0, 1, 2, *[0] * 18, 3), 1, escapes=True)
    assert entries(packed) == [(1, 2), (2, 0), (0, 0), (3, 2)]
    assert packed.starts.tolist() == [[0, 4]]


@pytest.mark.parametrize(("gap", "padded", "escaped"), [
    (0, [(9, 0)], [(9, 0)]),
    (15, [(9, 15)], [(9, 15)]),
    (16, [(0, 15), (9, 0)], [(0, 0), (9, 0)]),
    (31, [(0, 15), (9, 15)], [(0, 0), (9, 15)]),
    (32, [(0, 15), (0, 15), (9, 0)], [(0, 1), (9, 0)]),
    (271, [(0, 15)] * 16 + [(9, 15)], [(0, 15), (9, 15)]),
    (272, [(0, 15)] * 17 + [(9, 0)], [(0, 15), (0, 15), (9, 0)]),
    (288, [(0, 15)] * 18 + [(9, 0)], [(0, 15), (0, 15), (0, 0), (9, 0)]),
    (543, [(0, 15)] * 33 + [(9, 15)], [(0, 15), (0, 15), (0, 15), (9, 15)]),
    (544, [(0, 15)] * 34 + [(9, 0)], [(0, 15)] * 4 + [(9, 0)]),
])
@pytest.mark.parametrize("lead", [[], [7]], ids=["from_the_top", "after_an_entry"])
def test_gap(gap, padded, escaped, lead, escapes):
    indices = column(*lead, *[0] * gap, 9)
    packed = pack(indices, 1, escapes=escapes)
    assert entries(packed) == [(value, 0) for value in lead] + (escaped if escapes else padded)
    assert np.array_equal(unpack(packed), indices)


def test_column_with_one_entry(escapes):
    packed = pack(np.array([[0, 0, 0], [0, 5, 0], [0, 0, 0]], np.uint8), 1, escapes=escapes)
    assert entries(packed) == [(5, 1)]
    assert packed.starts.tolist() == [[0, 0, 1, 1]]


def test_consecutive_empty_columns(escapes):
    packed = pack(np.array([[1, 0, 0, 0, 2], [0, 0, 0, 0, 0]], np.uint8), 1, escapes=escapes)
    assert entries(packed) == [(1, 0), (2, 0)]
    assert packed.starts.tolist() == [[0, 1, 1, 1, 1, 2]]


def test_runs_restart_at_each_column(escapes):
    packed = pack(np.array([[0, 0], [4, 0], [0, 6]], np.uint8), 1, escapes=escapes)
    assert entries(packed) == [(4, 1), (6, 2)]


def test_all_zero_matrix(escapes):
    packed = pack(np.zeros((40, 3), np.uint8), 4, escapes=escapes)
    assert [len(own) for own in packed.entries] == [0] * 4
    assert packed.starts.tolist() == [[0] * 4] * 4
    assert packed.longest == 0
    assert np.array_equal(unpack(packed), np.zeros((40, 3)))


def test_rows_not_a_multiple_of_n(escapes):
    indices = column(1, 2, 3, 4, 5, 0, 0)
    packed = pack(indices, 3, escapes=escapes)
    assert [entries(packed, pe) for pe in range(3)] == [
        [(1, 0), (4, 0)], [(2, 0), (5, 0)], [(3, 0)]]
    assert np.array_equal(unpack(packed), indices)


def test_more_pes_than_rows(escapes):
    packed = pack(column(1, 2), 4, escapes=escapes)
    assert [entries(packed, pe) for pe in range(4)] == [[(1, 0)], [(2, 0)], [], []]
    assert np.array_equal(unpack(packed), column(1, 2))


def test_zeros_are_counted_in_the_pes_own_rows(escapes):
    indices = np.zeros((64, 1), np.uint8)
    indices[60] = 8
    packed = pack(indices, 4, escapes=escapes)
    assert entries(packed) == [(8, 15)]


@given(clusters=st.integers(1, 8), groups=st.sampled_from([1, 2, 4]), rows=st.integers(1, 600),
       columns=st.integers(1, 100), density=st.floats(0, 1) | st.floats(0, 0.02),
       packs_escapes=st.booleans(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=80)
def test_round_trip(clusters, groups, rows, columns, density, packs_escapes, seed):
    indices = random_indices(rows, columns, density, seed)
    packed = pack(indices, clusters * groups, escapes=packs_escapes, groups=groups)
    assert np.array_equal(unpack(packed), indices)
    assert packed.nonzeros == np.count_nonzero(indices)
    assert packed.size == packed.nonzeros + packed.padding.sum()
    if not packs_escapes:
        for own in packed.entries:
            assert all(own[own & 15 == 0] == 0xF0)


@given(pes=st.integers(1, 8), rows=st.integers(1, 700), columns=st.integers(1, 20),
       density=st.floats(0, 0.1), more=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_spread_round_trip(pes, rows, columns, density, more, seed):
    indices = random_indices(rows, columns, density, seed)
    packed = pack(indices, pes, escapes=True)
    stride = packed.longest + more
    even = spread(packed, stride)
    assert even.starts.tolist() == [[stride * at for at in range(columns + 1)]] * pes
    assert even.size == stride * columns * pes
    assert np.array_equal(unpack(even), indices)


def test_spread_ends_columns_in_zero_bytes():
    packed = pack(np.array([[1, 0, 3], [0, 0, 4]], np.uint8), 1, escapes=True)
    even = spread(packed, 3)
    assert even.entries[0].tolist() == [1, 0, 0, 0, 0, 0, 3, 4, 0]


def lonely(packed, first):
    """(PE, column) of the columns that are an escape and its entry, in two rows of the memory."""
    return [(pe, column) for pe, column in np.ndindex(packed.pes, packed.starts.shape[1] - 1)
            if np.diff(starts := packed.starts[pe, column:column + 2].astype(int)) == 2
            and packed.entries[pe][starts[0]] & 15 == 0 and (first[pe] + starts[0]) % 8 == 7]


@given(pes=st.integers(1, 4), rows=st.integers(1, 200), columns=st.integers(1, 120),
       density=st.floats(0, 0.1), first=st.integers(0, 50), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=80)
def test_columns_of_an_escape_and_an_entry_stay_whole(pes, rows, columns, density, first, seed):
    indices = random_indices(rows, columns, density, seed)
    packed, at = pack(indices, pes, escapes=True), first + 3 * np.arange(pes)
    filled = whole(packed, at)
    np.testing.assert_array_equal(unpack(filled), indices)
    assert filled.longest == packed.longest
    assert (filled.entries[0].dtype, filled.starts.dtype) == (np.uint8, np.uint32)
    for pe, column in lonely(filled, at):
        before = np.diff(filled.starts[pe].astype(int))[:column]
        before = before[before > 0]
        assert not before.size or before[-1] == filled.longest


def test_a_zero_byte_keeps_an_escape_with_its_entry():
    """Byte 7 would be an escape, its entry byte 8. An empty column between is no place for the
    zero byte; a first column has none before it."""
    indices = np.zeros((40, 5), np.uint8)
    indices[:7, 0] = 5
    indices[30, 2:4] = 6
    indices[:9, 4] = 7
    packed = pack(indices, 1, escapes=True)
    assert packed.starts.tolist() == [[0, 7, 7, 9, 11, 20]]
    filled = whole(packed, np.array([0]))
    assert filled.starts.tolist() == [[0, 8, 8, 10, 12, 21]]
    assert entries(filled)[6:10] == [(5, 0), (0, 0), (0, 0), (6, 14)]
    assert lonely(packed, [0]) == [(0, 2)]
    assert lonely(filled, [0]) == []
    first = pack(indices[:, 2:], 1, escapes=True)
    assert whole(first, np.array([7])).starts.tolist() == first.starts.tolist()


@pytest.mark.parametrize(("columns", "expected"), [
    (1, 1), (3, 3), (4, 3), (6, 3), (7, 4), (9, 6), (11, 6), (12, 6), (13, 7)])
def test_width_of_six_pes_in_two_groups(columns, expected):
    assert width(columns, 6, 2) == expected
    assert width(columns, 6, 2) == sum(j // 3 % 2 == 0 for j in range(columns))
    assert width(columns, 6, 1) == columns


def test_groups_by_hand():
    """Two clusters of two: columns 0, 1, 4, 5 are for PEs 0 and 1, columns 2, 3, 6 for 2 and 3."""
    indices = np.array([[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14],
                        [15, 0, 0, 1, 0, 0, 0]], np.uint8)
    packed = pack(indices, 4, escapes=True, groups=2)
    assert [entries(packed, pe) for pe in range(4)] == [
        [(1, 0), (15, 0), (2, 0), (5, 0), (6, 0)],
        [(8, 0), (9, 0), (12, 0), (13, 0)],
        [(3, 0), (4, 0), (1, 0), (7, 0)],
        [(10, 0), (11, 0), (14, 0)]]
    assert packed.starts.tolist() == [
        [0, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 1, 3, 4, 4], [0, 1, 2, 3, 3]]
    assert np.array_equal(unpack(packed), indices)


def test_groups_without_a_column():
    packed = pack(column(1, 2, 3), 8, escapes=True, groups=4)
    assert [len(own) for own in packed.entries] == [2, 1, 0, 0, 0, 0, 0, 0]
    assert packed.starts.tolist() == [[0, 2], [0, 1]] + [[0, 0]] * 6
    assert np.array_equal(unpack(packed), column(1, 2, 3))


@pytest.mark.parametrize(("packs_escapes", "padding"), [(False, [0, 2]), (True, [0, 1])])
def test_counts(packs_escapes, padding):
    indices = np.zeros((70, 2), np.uint8)
    indices[[0, 65], 0] = 1, 2     # PE 0: one entry; PE 1: row 32 of its own
    packed = pack(indices, 2, escapes=packs_escapes)
    assert packed.pes == 2
    assert packed.padding.tolist() == padding
    assert (packed.nonzeros, packed.size) == (2, 2 + sum(padding))
    assert packed.longest == 1 + padding[1]


def test_a_slice_too_large_for_32_bits():
    """Row and column of the last entry share one sorted number."""
    indices = np.zeros((1 << 14, 8200), np.uint8)
    indices[[0, -1], [0, -1]] = 3, 4
    packed = pack(indices, 1, escapes=True)
    assert packed.entries[0].tolist()[-2:] == [((1 << 14) - 1) % 272 // 16 - 1 << 4, 15 << 4 | 4]
    assert packed.starts[0, [0, 1, -2]].tolist() == [0, 1, 1]
    assert packed.starts[0, -1] == len(packed.entries[0]) == 1 + 2 * ((1 << 14) // 272) + 2


@pytest.mark.parametrize(("indices", "pes", "groups", "message"), [
    (column(1), 0, 1, "pes must be at least 1, not 0"),
    (column(1), 4, 0, "groups must divide pes, which is 4, not 0"),
    (column(1), 4, 3, "groups must divide pes, which is 4, not 3"),
    (column(1).astype(np.int64), 1, 1, "must be a uint8 matrix .* not int64"),
    (np.ones(3, np.uint8), 1, 1, r"must be a uint8 matrix .* not uint8 \[3\]"),
    (np.ones((0, 3), np.uint8), 1, 1, "not empty"),
    (column(1, 15, 16), 1, 1, r"index \[2, 0\] is 16: share the weights"),
])
def test_pack_refuses(indices, pes, groups, message, escapes):
    with pytest.raises(BadInput, match=message):
        pack(indices, pes, escapes=escapes, groups=groups)


def damaged(packed, pe, starts, own):
    """The same with other starts and bytes in one PE."""
    changed = packed.starts.copy()
    changed[pe] = starts
    streams = list(packed.entries)
    streams[pe] = np.array(own, np.uint8)
    return dataclasses.replace(packed, entries=tuple(streams), starts=changed)


@pytest.mark.parametrize(("pe", "starts", "own", "message"), [
    (1, [0, 1, 2], [0x01, 0x21], "PE 1: column 1, byte 0 is for row 2 of 2"),
    (1, [0, 2, 2], [0x01, 0x21], "PE 1: column 0, byte 1 is for row 3 of 2"),
    (0, [0, 3, 2], [0x01, 0x01], "PE 0: column 0: starts 0 and 3"),
    (0, [0, 2, 1], [0x01], "PE 0: column 0: starts 0 and 2"),
    (0, [1, 1, 2], [0x01, 0x01], r"PE 0: starts run from 1 to \[2\] instead of 0 to 2"),
    (0, [0, 1, 1], [0x01, 0x01], r"PE 0: starts run from 0 to \[1\] instead of 0 to 2"),
])
def test_unpack_refuses(pe, starts, own, message, escapes):
    packed = pack(np.zeros((4, 2), np.uint8), 2, escapes=escapes)
    with pytest.raises(BadInput, match=message):
        unpack(damaged(packed, pe, starts, own))


@pytest.mark.parametrize(("packs_escapes", "own", "message"), [
    (False, [0xF0, 0x01], "byte 0 is for row 15 of 2"),
    (False, [0x01, 0x00, 0x00], "byte 2 is for row 2 of 2"),
    (True, [0x00, 0x01], "byte 1 is for row 16 of 2"),
    (True, [0xF0, 0xF0], "byte 1 is for row 271 of 2"),
    (True, [0xF0], "byte 0 is an escape, and no entry follows"),
    (True, [0x01, 0xF0, 0x00], "byte 1 is an escape, and no entry follows"),
])
def test_unpack_refuses_a_column_that_leaves_its_rows(packs_escapes, own, message):
    packed = pack(np.zeros((4, 2), np.uint8), 2, escapes=packs_escapes)
    with pytest.raises(BadInput, match=f"PE 0: column 0, {message}: pack the matrix again"):
        unpack(damaged(packed, 0, [0, len(own), len(own)], own))


def test_unpack_refuses_bytes_in_a_column_that_a_pe_does_not_own():
    packed = pack(np.ones((2, 3), np.uint8), 4, escapes=True, groups=2)
    assert packed.starts[2].tolist() == [0, 1, 1]
    with pytest.raises(BadInput, match=r"PE 2: starts run from 0 to \[1, 2\] instead of 0 to 2"):
        unpack(damaged(packed, 2, [0, 1, 2], [0x01, 0x01]))


def test_unpack_refuses_decreasing_starts(escapes):
    packed = pack(np.ones((2, 3), np.uint8), 1, escapes=escapes)
    with pytest.raises(BadInput, match="PE 0: column 1: starts 2 and 1"):
        unpack(damaged(packed, 0, [0, 2, 1, 3], [0x01, 0x01, 0x01]))


def test_unpack_refuses_starts_of_another_shape(escapes):
    packed = pack(np.ones((2, 3), np.uint8), 2, escapes=escapes)
    with pytest.raises(BadInput, match=r"starts must be \[2, 4\], not \[2, 3\]"):
        unpack(dataclasses.replace(packed, starts=packed.starts[:, :3]))


def decoded(column, rows, escapes):
    """A column of one PE byte by byte, as the array does; None where it leaves its rows."""
    dense, row, escaped = [0] * rows, 0, False
    while escapes and column and not column[-1]:
        column = column[:-1]
    for byte in column:
        value, run = byte & 15, byte >> 4
        escaped = escapes and not value and not escaped
        row += 16 * (run + 1) if escaped else run
        if not escaped:
            if row >= rows:
                return None
            dense[row] = value
            row += 1
    return None if escaped else dense


def test_unpack_reads_any_bytes_as_the_machine_does(escapes):
    rng, refused = np.random.default_rng(9), 0
    for _ in range(400):
        rows = int(rng.integers(1, 600 if escapes else 80))
        lengths = rng.integers(0, 7, 3)
        own = rng.choice([0x00, 0xF0, 0x10, 0x01, 0x23], lengths.sum()).astype(np.uint8)
        starts = np.append(0, np.cumsum(lengths))
        expected = [decoded(own[a:b].tolist(), rows, escapes)
                    for a, b in itertools.pairwise(starts)]
        packed = Packed((own,), starts[None].astype(np.uint32), rows, 3, 1, escapes)
        if None in expected:
            refused += 1
            with pytest.raises(BadInput):
                unpack(packed)
        else:
            assert unpack(packed).T.tolist() == expected
    assert 50 < refused < 350
