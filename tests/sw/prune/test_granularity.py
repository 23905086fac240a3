"""Granularities: the greatest units stay, exactly as many as said, whatever the shape."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import nm
from zeroskip.sw.prune.banks import bank_balanced, entries
from zeroskip.sw.prune.granularity import GRANULARITIES, SIZED, granularity

LINEAR, CONVOLUTION = (st.tuples(*[st.integers(1, 11)] * 2),
                       st.tuples(st.integers(1, 6), st.integers(1, 4), *[st.integers(1, 3)] * 2))
SHAPES = st.one_of(LINEAR, CONVOLUTION)
DENSITIES = st.floats(1e-6, 1)
PATTERNS = ("2:4", "1:4", "4:8")


def random(shape, number=0, levels=None):
    """A score; of few ``levels``, many are equal."""
    rng = np.random.default_rng(number)
    values = rng.random(shape) if levels is None else rng.integers(0, levels, shape)
    return values.astype(np.float32)


def unit_of(name, size, index, shape):
    """Which unit the weight at ``index`` of a tensor of ``shape`` is in."""
    row = index[0]
    column = np.ravel_multi_index(index[1:], shape[1:])
    return {"element": (row, column), "vector": (row, column // (size or 1)),
            "block": (row // (size or 1), column // (size or 1)), "kernel": index[:2],
            "row": (row,)}[name]


def brute_force(name, size, score, density):
    """The mask, and how many units there are, weight by weight."""
    units = {}
    for index in product(*map(range, score.shape)):
        units.setdefault(unit_of(name, size, index, score.shape), []).append(index)
    first = sorted(units, key=lambda u: (-sum(float(score[i]) for i in units[u]), u))
    mask = np.zeros(score.shape, bool)
    for unit in first[:max(1, round(density * len(units)))]:
        for index in units[unit]:
            mask[index] = True
    return mask, len(units)


@seed(0)
@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from([("element", None), ("vector", 3), ("vector", 4), ("block", 2),
                             ("block", 3), ("block", 40), ("kernel", None), ("row", None)]),
       shape=SHAPES, density=DENSITIES, number=st.integers(0, 1000),
       levels=st.sampled_from([None, 1, 3]))
def test_the_greatest_units_stay(kind, shape, density, number, levels):
    if kind[0] == "kernel" and len(shape) == 2:
        shape = (*shape, 2, 3)
    score = random(shape, number, levels)
    rule = granularity(*kind)
    rule.check("layer fc", shape)
    expected, units = brute_force(*kind, score, density)
    mask = rule.mask(score, density)
    assert (mask.dtype, mask.shape) == (bool, score.shape)
    assert np.array_equal(mask, expected)
    assert rule.units(shape) == units


@seed(1)
@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(PATTERNS), shape=SHAPES, number=st.integers(0, 1000),
       levels=st.sampled_from([None, 1, 3]))
def test_every_group_keeps_its_number_of_the_largest(name, shape, number, levels):
    kept, of = map(int, name.split(":"))
    score = random(shape, number, levels)
    mask = granularity(name).mask(score)
    assert (mask.dtype, mask.shape) == (bool, score.shape)
    for row, chosen in zip(*(each.reshape(len(score), -1) for each in (score, mask)), strict=True):
        for start in range(0, len(row), of):
            first = np.argsort(-row[start:start + of], kind="stable")[:kept]
            assert np.flatnonzero(chosen[start:start + of]).tolist() == sorted(first.tolist())


@pytest.mark.parametrize("name", ["2:4", "1:4"])
@pytest.mark.parametrize("levels", [None, 2])
def test_patterns_are_those_of_the_packer(name, levels):
    score = random((33, 64), 0, levels)
    np.testing.assert_array_equal(granularity(name).mask(score), nm.mask(score, name))


def test_four_of_eight_are_single_weights_not_pairs():
    score = np.array([[4.0, 0, 3, 0, 2, 0, 1, 0]], np.float32)
    assert granularity("4:8").mask(score).tolist() == [[True, False] * 4]
    assert nm.mask(score, "4:8").tolist() == [[True] * 4 + [False] * 4]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_says_its_density_and_units(name):
    rule = granularity(name)
    assert rule.density == float(granularity(name).mask(random((6, 16))).mean())
    assert rule.units((6, 16)) == int(name[2])


@seed(2)
@settings(max_examples=60, deadline=None)
@given(shape=LINEAR, banks=st.integers(1, 5), density=DENSITIES, number=st.integers(0, 1000))
def test_every_bank_keeps_the_same_number(shape, banks, density, number):
    banks = min(banks, shape[0])
    score, rule = random(shape, number), granularity("banks", banks)
    mask, k = rule.mask(score, density), entries(shape[0], banks, density)
    np.testing.assert_array_equal(mask, bank_balanced(score, banks, k))
    for bank in range(banks):
        own = mask[bank::banks]
        assert (own.sum(axis=0) == min(k, len(own))).all()
    assert rule.units(shape) == len(mask[::banks])


@pytest.mark.parametrize(("name", "size", "density", "kept"), [
    ("element", None, 0.3, [0, 1, 2, 3, 4]), ("vector", 2, 0.4, [0, 1, 2, 3, 4, 5]),
    ("block", 2, 0.25, [0, 1, 4, 5]), ("kernel", None, 0.5, [0, 1, 2, 3, 4, 5, 6, 7]),
    ("row", None, 0.25, [0, 1, 2, 3]), ("1:4", None, None, [0, 4, 8, 12]),
])
def test_of_equal_units_the_first_stay(name, size, density, kept):
    score = np.ones((4, 1, 2, 2) if name == "kernel" else (4, 4))
    assert np.flatnonzero(granularity(name, size).mask(score, density)).tolist() == kept


def test_a_unit_at_an_edge_competes_with_what_it_has():
    score = np.array([[1.0, 1, 1, 4], [1, 1, 1, 0], [0, 5, 0, 0]], np.float32)
    assert granularity("vector", 3).mask(score, 1 / 6).astype(int).tolist() == [
        [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    assert granularity("block", 3).mask(score[:2], 1 / 2).astype(int).tolist() == [
        [1, 1, 1, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize(("name", "size", "shape", "left"), [
    ("element", None, (7, 9), 1), ("vector", 4, (7, 9), 4), ("block", 3, (9, 9), 9),
    ("kernel", None, (4, 2, 3, 3), 9), ("row", None, (4, 2, 3, 3), 18),
    ("banks", 4, (8, 5), 20)])
def test_one_unit_stays_however_low_the_density(name, size, shape, left):
    score = np.zeros(shape)
    assert int(granularity(name, size).mask(score, 1e-9).sum()) == left


def test_a_row_of_many_weights_is_summed_without_rounding():
    score = np.full((2, 1 << 17), 2.0 ** -24, np.float32)    # lost beside 1 in float32
    score[0, 0] = 1
    score[1, 0] = 1 + 2.0 ** -23
    score[0, 1:4] += 2.0 ** -24
    assert granularity("row").mask(score, 0.5)[:, 0].tolist() == [True, False]


@pytest.mark.parametrize(("name", "size", "density"), [
    ("element", None, 0.5), ("block", 2, 0.5), ("2:4", None, None), ("banks", 2, 0.5)])
def test_what_is_not_finite(name, size, density):
    """NaN is like zero, and an infinity the greatest there is: all get as many as without."""
    score, rule = random((8, 8)), granularity(name, size)
    count = rule.mask(score, density).sum()
    score[3, 3], score[3, 4] = np.nan, np.inf
    mask = rule.mask(score, density)
    assert mask[3, 4]
    assert mask.sum() == count
    assert np.array_equal(mask, rule.mask(np.nan_to_num(score), density))


def test_the_score_stays_as_it_is_and_may_be_a_view():
    score = random((8, 12))
    before = score.copy()
    for name in GRANULARITIES.keys() - {"kernel"}:
        rule = granularity(name, 2 if name in SIZED else None)
        density = None if rule.density else 0.4
        assert np.array_equal(rule.mask(score, density), rule.mask(score.T.copy().T, density))
    assert np.array_equal(score, before)


def test_equal_granularities_are_equal():
    assert granularity("vector", 4) == granularity("vector", 4) != granularity("block", 4)


@pytest.mark.parametrize(("name", "size", "message"), [
    ("columns", None, "there is no granularity 'columns'; choose one of element, vector, block, "
                      "kernel, row, 2:4, 1:4, 4:8, banks"),
    ("vector", None, "'vector' needs a size, a whole number from 1, not None"),
    ("block", 0, "'block' needs a size, a whole number from 1, not 0"),
    ("banks", True, "'banks' needs a size, a whole number from 1, not True"),
    ("banks", 2.0, "'banks' needs a size, a whole number from 1, not 2.0"),
    ("row", 2, "'row' takes no size; remove 2"),
    ("2:4", 4, "'2:4' takes no size; remove 4"),
])
def test_refuses_a_name_or_size(name, size, message):
    with pytest.raises(BadInput, match=message):
        granularity(name, size)


@pytest.mark.parametrize(("name", "size", "shape", "message"), [
    ("kernel", None, (4, 3), r"conv1 is \[4, 3\], no convolution, and has no kernels"),
    ("banks", 2, (4, 3, 2, 2), r"conv1 is \[4, 3, 2, 2\], a convolution, and the EIE array"),
    ("banks", 5, (4, 3), "conv1 has 4 outputs, too few for 5 banks; lower the size"),
])
def test_refuses_a_layer(name, size, shape, message):
    rule = granularity(name, size)
    with pytest.raises(BadInput, match=message):
        rule.check("layer conv1", shape)
    with pytest.raises(BadInput, match=message.replace("conv1", "the score")):
        rule.mask(np.ones(shape), 0.5)


@pytest.mark.parametrize(("name", "density", "message"), [
    ("element", None, "density must be above 0 and at most 1, not None"),
    ("row", 0, "not 0"), ("row", 1.5, "not 1.5"), ("row", float("nan"), "not nan"),
    ("2:4", 0.5, "'2:4' has a density of its own; remove 0.5"),
])
def test_refuses_a_density(name, density, message):
    with pytest.raises(BadInput, match=message):
        granularity(name).mask(np.ones((4, 4)), density)
