"""The column directory: counts and bases by hand, and both kinds back and forth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.engines.eie.directory import (
    nibbles_for,
    pack_counts,
    unpack_counts,
    unpack_pointers,
    words_for,
)
from zeroskip.sw.errors import BadInput


def starts_of(counts, base=0):
    """Where columns with these counts start, and the last one ends: [1, columns + 1]."""
    return base + np.concatenate([[0], np.cumsum(counts)])[None]


def machine(words, nibbles, place):
    """Start and end of the column at a nibble's place, in Python integers, nibble by nibble."""
    base, low, high = words[3 * (place // 16):][:3]
    lanes = [(low | high << 32) >> 4 * lane & 15 for lane in range(16)]
    counts = [sum(lanes[at + k] << 4 * k for k in range(nibbles)) for at in range(0, 16, nibbles)]
    lane = place % 16 // nibbles
    start = base + sum(counts[:lane])
    return start, start + counts[lane]


@pytest.mark.parametrize(("longest", "nibbles"), [
    (0, 1), (1, 1), (15, 1), (16, 2), (255, 2), (256, 4), (65535, 4)])
def test_nibbles_of_a_count(longest, nibbles):
    assert nibbles_for(longest) == nibbles


def test_a_count_beyond_four_nibbles_is_refused():
    with pytest.raises(BadInput, match="a column takes 65536 bytes in one PE, and a count holds at "
                                       "most 65535: choose a target with more PEs"):
        nibbles_for(65536)


@pytest.mark.parametrize(("columns", "nibbles", "words"), [
    (1, 1, 1), (16, 1, 1), (17, 1, 2), (8, 2, 1), (9, 2, 2), (4, 4, 1), (5, 4, 2)])
def test_number_of_words(columns, nibbles, words):
    assert words_for(columns, nibbles) == words


def test_words_of_single_nibbles():
    packed = pack_counts(starts_of([1, 0, 15, *[0] * 5, 2, *[0] * 6, 3, 7], base=1000), 1)
    assert packed.dtype == np.uint32
    assert packed.tolist() == [[1000, 0x00000F01, 0x30000002, 1021, 7, 0]]


def test_words_of_two_nibbles():
    packed = pack_counts(starts_of([16, 255, 0, 0, 0xAB, 0, 0, 0, 1]), 2)
    assert packed.tolist() == [[0, 0xFF10, 0xAB, 16 + 255 + 0xAB, 1, 0]]


def test_words_of_four_nibbles():
    packed = pack_counts(starts_of([256, 65535, 0x1234, 5, 6]), 4)
    assert packed.tolist() == [[0, 0xFFFF0100, 0x00051234, 256 + 65535 + 0x1234 + 5, 6, 0]]


def test_each_pe_has_its_own():
    starts = np.concatenate([starts_of([3, 4]), starts_of([0, 15], 9)])
    assert pack_counts(starts, 1).tolist() == [[0, 0x43, 0], [9, 0xF0, 0]]


@given(pes=st.integers(1, 4), columns=st.integers(1, 70), most=st.sampled_from([15, 255, 65535]),
       seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_round_trip(pes, columns, most, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most + 1, (pes, columns)) * rng.integers(0, 2, (pes, columns))
    starts = np.pad(counts.cumsum(axis=1), ((0, 0), (1, 0))) + rng.integers(0, 1000, (pes, 1))
    nibbles = nibbles_for(most)
    packed = pack_counts(starts, nibbles)
    assert packed.shape == (pes, 3 * words_for(columns, nibbles))
    found = unpack_counts(packed, nibbles, columns)
    for each, expected in zip(found, (starts[:, :-1], starts[:, 1:]), strict=True):
        assert each.dtype == np.int64
        np.testing.assert_array_equal(each, expected)
    for pe, words in enumerate(packed.tolist()):
        for column in range(columns):
            assert machine(words, nibbles, column * nibbles) == tuple(
                starts[pe, column:column + 2].tolist())


def test_words_of_other_layers_may_follow():
    packed = pack_counts(starts_of([1, 2, 3]), 1)
    starts, stops = unpack_counts(np.concatenate([packed, packed + 9], axis=1), 1, 3)
    assert (starts.tolist(), stops.tolist()) == ([[0, 1, 3]], [[1, 3, 6]])


def test_a_wrong_base_is_seen():
    """Every word is read from its own base, as the array does."""
    packed = pack_counts(starts_of([1] * 17), 1)
    packed[0, 3] += 5
    starts, stops = unpack_counts(packed, 1, 17)
    assert (starts[0, 15:].tolist(), stops[0, 15:].tolist()) == ([15, 21], [16, 22])


def test_pointers():
    starts, stops = unpack_pointers(np.array([[0, 2, 2, 1 << 31]], np.uint32))
    assert (starts.tolist(), stops.tolist()) == ([[0, 2, 2]], [[2, 2, 1 << 31]])
