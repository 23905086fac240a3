"""Which PE computes which row: an assignment that gives every PE the same work."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

COLUMN, LOAD = 13, 7
"""Weights of the two terms of the objective: 1 - p and p at p = 0.35, the share of activations
that are not zero in the paper's fully-connected layers. Integers, so that every computer finds the
same assignment."""

SWEEPS = 6
"""More of them make no layer noticeably faster."""


def assign_rows(pattern: csr_array, clusters: int, groups: int) -> np.ndarray:
    """The row at every physical position, int32 [clusters * ceil(rows / clusters)], -1 for none.

    Position p is in cluster p mod ``clusters``, where the rows with most entries come first: a
    column's entries are then closer together, and fewer of their gaps need an escape. Column j is
    for the PE number (j // clusters) mod ``groups`` of every cluster. Where no row can choose (one
    cluster, or not more rows than clusters) the rows stay in order, and there are no other
    positions.

    Which columns will be active is not known. If each is with probability p, the expected square
    of a PE's work is p (1 - p) times the sum of n², plus p² L², where n are its entries in each
    column and L in all. The sum over the PEs is the objective: n matters since every column is
    one broadcast, L for the whole layer. First the rows are dealt out, the heaviest first, one to
    each cluster at a time; then, sweep by sweep, one row of each cluster is taken out, a
    different choice each time, and all are put back. Both steps are optimal assignments.

    Parameters
    ----------
    pattern : csr_array [rows, columns]
        What is stored is not zero.
    clusters, groups : int
        For a layer that is not grouped: the PEs, and 1.
    """
    rows = pattern.shape[0]
    if clusters == 1 or rows <= clusters:
        return np.arange(rows, dtype=np.int32)
    work = _Work(pattern, clusters, groups)
    heaviest = np.argsort(-np.diff(pattern.indptr), kind="stable")
    slots = np.stack([work.put(heaviest[start:start + clusters])
                      for start in range(0, rows, clusters)])
    for _ in range(SWEEPS):
        slots = np.stack([np.roll(mine, k) for k, mine in enumerate(slots.T)], axis=1)
        for given in slots:
            work.take(given)
            given[:] = work.put(given[given >= 0])
    rank = np.empty(rows + 1, np.int64)
    rank[heaviest], rank[-1] = np.arange(rows), rows      # a hole, -1, is behind every row
    return np.append(heaviest, -1)[np.sort(rank[slots], axis=0).reshape(-1)].astype(np.int32)


class _Work:
    """The entries of every cluster as rows come and go."""

    def __init__(self, pattern: csr_array, clusters: int, groups: int):
        rows, columns = pattern.shape
        # Counts are small: float32 is exact, and the fastest to multiply.
        self.pattern = csr_array((np.ones(pattern.nnz, np.float32), pattern.indices,
                                  pattern.indptr), pattern.shape)
        self.columns = np.split(pattern.indices, pattern.indptr[1:-1])
        row = np.repeat(np.arange(rows), np.diff(pattern.indptr))
        group = pattern.indices // clusters % groups
        self.loads = np.bincount(row * groups + group, minlength=rows * groups) \
            .reshape(rows, groups).astype(np.float64)
        self.in_column = np.zeros((columns, clusters), np.float32)
        self.load = np.zeros((clusters, groups))

    def put(self, rows: np.ndarray) -> np.ndarray:
        """Adds ``rows``, int [at most clusters], each to another cluster; gives the row that
        every cluster got, int [clusters], -1 for none."""
        cost = COLUMN * (self.pattern[rows] @ self.in_column).astype(np.float64) \
            + LOAD * (self.loads[rows] @ self.load.T)
        which, where = linear_sum_assignment(cost)
        given = np.full(len(self.load), -1)
        given[where] = rows[which]
        self._add(given, 1)
        return given

    def take(self, given: np.ndarray) -> None:
        """Takes out one row of every cluster, as :meth:`put` gave them."""
        self._add(given, -1)

    def _add(self, given: np.ndarray, sign: int) -> None:
        for cluster in np.flatnonzero(given >= 0):
            self.in_column[self.columns[given[cluster]], cluster] += sign
            self.load[cluster] += sign * self.loads[given[cluster]]
