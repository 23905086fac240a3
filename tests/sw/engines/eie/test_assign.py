"""The assignment of rows: it holds every row once, is the best where that can be counted out, and
gives PEs equal work."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from zeroskip.sw.engines.eie.assign import COLUMN, LOAD, assign_rows


def random_pattern(rows, columns, density, skew=0, seed=0):
    """A random mask; with ``skew``, rows differ in density by a log-normal scale."""
    rng = np.random.default_rng(seed)
    scale = np.exp(skew * rng.standard_normal((rows, 1)))
    return csr_array(rng.random((rows, columns)) < density * scale / scale.mean())


def counts(pattern, order, clusters):
    """Entries of each cluster in each column, int [clusters, columns]."""
    found = np.zeros((clusters, pattern.shape[1]), int)
    dense = pattern.toarray()
    for position, row in enumerate(order):
        if row >= 0:
            found[position % clusters] += dense[row]
    return found


def group_loads(found, clusters, groups):
    """Entries of each PE, int [clusters, groups]."""
    group = np.arange(found.shape[1]) // clusters % groups
    return np.stack([found[:, group == g].sum(axis=1) for g in range(groups)], axis=1)


def objective(pattern, order, clusters, groups):
    found = counts(pattern, order, clusters)
    loads = group_loads(found, clusters, groups)
    return COLUMN * (found**2).sum() + LOAD * (loads**2).sum()


def check_order(order, pattern, clusters):
    """Each row once; in a cluster the heaviest first, of equal ones in order, holes last."""
    entries, rows = np.diff(pattern.indptr), pattern.shape[0]
    assert order.dtype == np.int32
    assert sorted(row for row in order if row >= 0) == list(range(rows))
    assert order.min() >= -1
    for cluster in range(clusters):
        mine = order[cluster::clusters]
        held = mine[mine >= 0]
        assert mine.tolist() == [*sorted(held, key=lambda row: (-entries[row], row)),
                                 *[-1] * (len(mine) - len(held))]


@given(rows=st.integers(1, 60), columns=st.integers(1, 40), clusters=st.integers(1, 9),
       groups=st.sampled_from([1, 2, 4]), density=st.floats(0, 1),
       seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_every_row_has_one_place(rows, columns, clusters, groups, density, seed):
    pattern = random_pattern(rows, columns, density, seed=seed)
    order = assign_rows(pattern, clusters, groups)
    if clusters == 1 or rows <= clusters:
        assert order.tolist() == list(range(rows))
    else:
        check_order(order, pattern, clusters)
        assert len(order) == -(-rows // clusters) * clusters


def test_same_pattern_same_order():
    pattern = random_pattern(100, 80, 0.2, 0.5)
    np.testing.assert_array_equal(assign_rows(pattern, 8, 2), assign_rows(pattern.copy(), 8, 2))


def test_the_pattern_stays_as_it_was():
    pattern = csr_array(np.diag([3, 0, 5, 7, 1]))
    before = pattern.toarray()
    assign_rows(pattern, 2, 1)
    np.testing.assert_array_equal(pattern.toarray(), before)


def test_rows_with_the_same_columns_are_set_apart():
    """Equal loads in any case; equal columns only if every PE gets one row of each kind."""
    pattern = csr_array(np.repeat([[1, 1, 0, 0], [0, 0, 1, 1]], 4, axis=0))
    assert counts(pattern, assign_rows(pattern, 4, 1), 4).tolist() == [[1, 1, 1, 1]] * 4


def test_heavy_rows_are_set_apart():
    pattern = csr_array(np.tri(8, 8, dtype=int))    # rows of 1 to 8 entries
    found = counts(pattern, assign_rows(pattern, 4, 1), 4)
    assert found.sum(axis=1).tolist() == [9, 9, 9, 9]


def test_heavy_rows_share_with_holes():
    """Five rows for three PEs of two: two of the light ones are together, the heavy ones alone
    or with a light one."""
    pattern = csr_array(np.array([[1] * 6, [1] * 6, [1] * 4 + [0] * 2, [1, 1] + [0] * 4,
                                  [0] * 4 + [1, 1]]))
    found = counts(pattern, assign_rows(pattern, 3, 1), 3)
    assert sorted(found.sum(axis=1).tolist()) == [6, 6, 8]


def test_groups_are_balanced_for_themselves():
    """Two clusters of two: columns 0, 1, 4, 5 are for the first PE of each, others for the second.
    Equal clusters are not enough."""
    left, right = [1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1]
    pattern = csr_array(np.array([left, left, right, right]))
    loads = group_loads(counts(pattern, assign_rows(pattern, 2, 2), 2), 2, 2)
    assert loads.tolist() == [[4, 4], [4, 4]]


def test_rows_without_an_entry():
    pattern = csr_array(np.array([[0] * 6] * 5 + [[1] * 6] * 3))
    found = counts(pattern, assign_rows(pattern, 3, 1), 3)
    assert found.sum(axis=1).tolist() == [6, 6, 6]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("groups", [1, 2])
def test_near_the_best_of_all(seed, groups):
    """Six rows on three clusters: all 90 ways are counted out."""
    pattern = random_pattern(6, 12, 0.4, 0.5, seed)
    found = objective(pattern, assign_rows(pattern, 3, groups), 3, groups)
    every = [objective(pattern, order, 3, groups) for order in permutations(range(6))]
    assert found <= min(every) + 0.25 * (np.mean(every) - min(every))


@pytest.mark.parametrize(("density", "skew", "most"), [
    (0.1, 0, 1.004), (0.1, 0.5, 1.004), (0.1, 1, 1.004), (0.25, 0.5, 1.004)])
def test_loads_of_large_layers(density, skew, most):
    pattern = random_pattern(1024, 1024, density, skew)
    order = assign_rows(pattern, 32, 1)
    load = counts(pattern, order, 32).sum(axis=1)
    in_turn = counts(pattern, np.arange(1024), 32).sum(axis=1)
    assert load.max() < most * load.mean()
    assert in_turn.max() > 1.02 * load.mean()


def test_loads_of_groups():
    pattern = random_pattern(600, 1024, 0.1, 0.5)
    loads = group_loads(counts(pattern, assign_rows(pattern, 16, 4), 16), 16, 4)
    assert loads.max() < 1.03 * loads.mean()


def test_columns_are_balanced_too():
    """Far below what chance gives, the variance of the entries in a column."""
    pattern = random_pattern(1024, 256, 0.1)
    found, chance = (counts(pattern, order, 16) for order in (
        assign_rows(pattern, 16, 1), np.arange(1024)))
    assert found.var(axis=0).mean() < 0.5 * chance.var(axis=0).mean()
