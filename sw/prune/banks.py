"""Bank-balanced masks: in every column each bank of rows keeps the same number of weights.

A bank is what one PE of the EIE array holds: of N banks, bank b has the rows i with i mod N = b.
With equal counts a PE needs no pointers to its columns, and all PEs end a column together.

An entry of a column says in 4 bits how many of its bank's rows are skipped before it, 0 to 15. One
entry of a column may have another byte for that, and skip up to 271; so may the mask, and no more.

Source: Cao et al., "Efficient and Effective Sparse LSTM on FPGA with Bank-Balanced Sparsity",
FPGA 2019; there the banks divide a row, and the rule for gaps is this project's.
"""

from itertools import pairwise

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.types import refuse_nonfinite

NEAR = 16
"""Rows from one entry to the next, at most, with the entry's own 4 bits."""
FAR = 272
"""The same where a byte more says it; once in a bank's column."""
LANES = 1 << 14
"""Columns of banks that are chosen at a time."""
SUMS = 1 << 20
"""Sums of the dynamic programme that are held at a time."""


def entries(outputs: int, banks: int, density: float) -> int:
    """How many weights of a column each of ``banks`` banks keeps to come near ``density``.

    That is the nearest number from 1 to the rows of the largest bank, of ``outputs`` rows in all.
    """
    return max(1, round(density * -(-outputs // banks)))


def bank_balanced(weight: np.ndarray, banks: int, k: int) -> np.ndarray:
    """The weights to keep: in each bank and column ``k``, of the greatest sum of magnitudes.

    Between the first row of a bank and its last kept one, at most one gap is longer than 15 rows,
    and none longer than 271; under this rule the sum is the greatest there is. Where the rule
    does not matter these are the ``k`` largest, of equal ones the first.

    Parameters
    ----------
    weight : float array [out, in]
    banks : int
        At least 1.
    k : int
        At least 1. A bank of fewer rows keeps all that it has.

    Returns
    -------
    mask : bool array [out, in]
        Zeros are kept where a bank has nothing larger to fill its ``k`` with.

    Raises
    ------
    BadInput
        For a NaN or an infinity, or arguments unlike these.
    """
    _check(weight, banks, k)
    outputs, inputs = weight.shape
    rows = -(-outputs // banks)
    if k >= rows:
        return np.ones(weight.shape, bool)
    # Row i becomes [i // banks, i % banks]. The last banks may lack a row: it loses to any other.
    magnitude = np.full((rows * banks, inputs), -1, weight.dtype)
    np.abs(weight, out=magnitude[:outputs])
    magnitude = magnitude.reshape(rows, -1)
    mask = np.empty(magnitude.shape, bool)
    for start in range(0, mask.shape[1], LANES):
        lanes = slice(start, start + LANES)
        mask[:, lanes] = _choose(np.ascontiguousarray(magnitude[:, lanes].T), k).T
    return mask.reshape(-1, inputs)[:outputs]


def _check(weight: np.ndarray, banks: int, k: int) -> None:
    if weight.dtype.kind != "f" or weight.ndim != 2 or not weight.size:
        raise BadInput("weight must be a matrix of floats [out, in] that is not empty, "
                       f"not {weight.dtype} {list(weight.shape)}")
    if banks < 1 or k < 1:
        raise BadInput(f"banks and k must be at least 1, not {banks} and {k}")
    refuse_nonfinite("weight", weight)


def _choose(magnitude: np.ndarray, k: int) -> np.ndarray:
    """The mask of ``magnitude`` [lanes, rows], in which each lane is a bank's part of a column."""
    mask = _largest(magnitude, k)
    place = np.nonzero(mask)[1].reshape(-1, k)
    step = np.diff(place, prepend=-1)
    # one step too far for any byte counts as two
    wrong = np.flatnonzero((step > NEAR).sum(axis=1) + (step > FAR).sum(axis=1) > 1)
    at_once = max(1, SUMS // ((k + 1) * (magnitude.shape[1] + 1)))
    for start in range(0, len(wrong), at_once):
        lanes = wrong[start:start + at_once]
        mask[lanes] = _best(magnitude[lanes].T, k).T
    return mask


def _largest(magnitude: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` largest of each lane [lanes, rows], of equal ones the first."""
    least = np.partition(magnitude, -k, axis=1)[:, -k, None]
    above, equal = magnitude > least, magnitude == least
    left = k - above.sum(axis=1, keepdims=True)
    return above | equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= left)


def _best(magnitude: np.ndarray, k: int) -> np.ndarray:
    """The mask [rows, lanes] of the greatest sum under the rule for gaps.

    A dynamic programme: ``best[j, far, r]`` is the greatest sum of j weights of which the last
    is in row r - 1, after ``far`` steps of more than ``NEAR`` rows; row -1 is the start.
    """
    rows, lanes = magnitude.shape
    best = np.full((k + 1, 2, rows + 1, lanes), -np.inf)
    best[0, 0, 0] = 0
    for last, new in pairwise(best):
        near = _running_max(last, 1, NEAR)
        far = _running_max(near[0], NEAR, FAR - NEAR)
        new[:, 1:] = near[:, :-1]
        np.maximum(new[1, NEAR + 1:], far[:-NEAR - 1], out=new[1, NEAR + 1:])
        new[:, 1:] += magnitude
    return _trace(best)


def _running_max(values: np.ndarray, known: int, width: int) -> np.ndarray:
    """For each row of ``values`` [..., rows, lanes], the greatest of ``width`` rows up to it.

    ``values`` are that already for a width of ``known``; ``width`` is this times a power of two.
    """
    while known < width:
        wider = values.copy()
        np.maximum(values[..., known:, :], values[..., :-known, :], out=wider[..., known:, :])
        values, known = wider, 2 * known
    return values


def _trace(best: np.ndarray) -> np.ndarray:
    """The mask [rows, lanes] of the greatest final sum, from its last row back to its first."""
    rows, lanes = best.shape[2], np.arange(best.shape[3])
    mask = np.zeros((rows, len(lanes)), bool)
    far, row = np.divmod(best[-1].reshape(-1, len(lanes)).argmax(axis=0), rows)
    for last in best[-2::-1]:
        mask[row, lanes] = True
        step = row - np.arange(rows)[:, None]
        sums = np.where(step > NEAR, last[0], last[far, :, lanes].T)
        sums[(step < 1) | (step > np.where(far, FAR, NEAR))] = -np.inf
        previous = sums.argmax(axis=0)
        far, row = far - (row - previous > NEAR), previous
    return mask[1:]
