"""N:M sparsity: of every group of columns only a few are kept.

A matrix is ``[M, K]``, rows are output channels. Source: Mishra et al., "Accelerating Sparse Deep
Neural Networks" (arXiv 2104.08378), section 3; the choice of what fills a group with too few
non-zeros is that of PyTorch's ``torch.sparse._semi_structured_conversions``.

**Zero is what has only zero bits.** -0.0 is a value like any other: it is kept, or the group is
refused, so that a round trip gives the same bits. PyTorch drops it; where a matrix holds none, the
results are equal.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import ml_dtypes
import numpy as np

from zeroskip.sw.errors import BadInput

DTYPES = tuple(map(np.dtype, (np.float16, ml_dtypes.bfloat16, np.float32, np.int8)))
"""Element types of a matrix. numpy has no bfloat16 of its own; ``ml_dtypes`` adds it."""


@dataclass(frozen=True)
class Pattern:
    """Of every ``of`` units, ``unit`` neighbouring columns each, at most ``kept`` are not zero."""

    kept: int
    of: int
    unit: int = 1

    @property
    def columns(self) -> int:
        """Columns of a group."""
        return self.of * self.unit


PATTERNS = {"2:4": Pattern(2, 4), "1:4": Pattern(1, 4), "1:2": Pattern(1, 2),
            "4:8": Pattern(2, 4, unit=2)}
"""1:2 is for 32-bit types; 4:8 is pair-wise, for int4."""


@dataclass(frozen=True, eq=False)
class Compressed:
    """A matrix without the columns that the pattern drops.

    Raises :class:`BadInput` where dtypes and shapes do not fit together; what the indices say is
    checked by :func:`decompress`.

    Attributes
    ----------
    values : [M, kept columns], one of ``DTYPES``
        Row by row, in column order.
    indices : uint8 [M, kept units]
        Place of each kept unit in its group, ascending within the group.
    pattern : str
        A key of ``PATTERNS``.
    """

    values: np.ndarray
    indices: np.ndarray
    pattern: str

    def __post_init__(self):
        rule = _rule(self.pattern)
        _check_dtype("values", self.values)
        if self.values.shape[1] % (rule.kept * rule.unit):
            raise BadInput(f"values of {self.values.shape[1]} columns are no whole groups of "
                           f"{rule.kept * rule.unit}, which {self.pattern} keeps; compress the "
                           "matrix again")
        expected = [self.rows, self.values.shape[1] // rule.unit]
        if self.indices.dtype != np.uint8 or list(self.indices.shape) != expected:
            raise BadInput(f"indices are {self.indices.dtype} {list(self.indices.shape)}, but "
                           f"values {list(self.values.shape)} of {self.pattern} take uint8 "
                           f"{expected}; compress the matrix again")

    @property
    def rows(self) -> int:
        """M."""
        return len(self.values)

    @property
    def columns(self) -> int:
        """K, of the dense matrix."""
        return self.groups * _rule(self.pattern).columns

    @property
    def groups(self) -> int:
        """Groups of a row."""
        rule = _rule(self.pattern)
        return self.values.shape[1] // (rule.kept * rule.unit)


def mask(weight: np.ndarray, pattern: str) -> np.ndarray:
    """The columns to keep, bool ``[M, K]``: in each group the units of largest magnitude.

    The magnitude of a pair (4:8) is the sum of its two. Of equal ones the lowest column is kept.
    Exactly the pattern's number is kept, zeros included. Apply it with ``np.where(mask, weight,
    0)``; a product with the mask leaves -0.0 behind. Raises :class:`BadInput` on NaN.
    """
    rule = _checked(weight, pattern)
    with np.errstate(invalid="ignore"):         # a NaN may signal
        nan = np.isnan(weight)
    if nan.any():
        row, column = np.argwhere(nan)[0]
        raise BadInput(f"row {row}, column {column} is NaN, which has no magnitude; replace it "
                       "before pruning")
    wide = np.int16 if weight.dtype == np.int8 else np.float32
    size = _groups(np.abs(weight.astype(wide)), rule).sum(axis=3)
    best = np.argsort(-size, axis=2, kind="stable")[:, :, :rule.kept]
    chosen = np.zeros(size.shape, bool)
    np.put_along_axis(chosen, best, True, axis=2)
    return np.repeat(chosen, rule.unit, axis=2).reshape(weight.shape)


def check(weight: np.ndarray, pattern: str) -> None:
    """Refuses a matrix that is not ``pattern``, naming the first row and group, and its count."""
    _places(weight, pattern)


def compress(weight: np.ndarray, pattern: str) -> Compressed:
    """Drops what is zero from ``weight``, one of ``DTYPES`` ``[M, K]``, bit for bit.

    A group with too few non-zeros keeps zeros beside them, at the places that PyTorch chooses: for
    2:4 and 4:8 those of places 2 and 3 that are free, the lower first (an empty group keeps 2 and
    3); for 1:2 and 1:4 an empty group keeps its last. Raises :class:`BadInput` like :func:`check`.
    """
    places = _places(weight, pattern)
    kept = np.take_along_axis(_groups(_bits(weight), _rule(pattern)), places[..., None], axis=2)
    rows = len(weight)
    return Compressed(kept.reshape(rows, -1).view(weight.dtype), places.reshape(rows, -1), pattern)


def decompress(compressed: Compressed) -> np.ndarray:
    """The dense matrix ``[M, K]``, every kept value bit for bit, zero elsewhere.

    Raises :class:`BadInput` where the indices of a group do not ascend or leave the group.
    """
    rule, shape = _rule(compressed.pattern), (compressed.rows, compressed.groups)
    places = compressed.indices.reshape(*shape, rule.kept)
    wrong = (places >= rule.of).any(axis=2) | (places[..., 1:] <= places[..., :-1]).any(axis=2)
    if wrong.any():
        row, group = np.argwhere(wrong)[0]
        raise BadInput(f"row {row}, group {group}: the indices {places[row, group].tolist()} are "
                       f"not ascending places below {rule.of}; compress the matrix again")
    bits = _bits(compressed.values)
    dense = np.zeros((*shape, rule.of, rule.unit), bits.dtype)
    np.put_along_axis(dense, places[..., None], bits.reshape(*shape, rule.kept, rule.unit), axis=2)
    return dense.reshape(compressed.rows, compressed.columns).view(compressed.values.dtype)


def _rule(pattern: str) -> Pattern:
    if pattern not in PATTERNS:
        raise BadInput(f"there is no pattern '{pattern}'; choose one of {', '.join(PATTERNS)}")
    return PATTERNS[pattern]


def _check_dtype(name: str, matrix: np.ndarray) -> None:
    if matrix.dtype not in DTYPES or matrix.ndim != 2 or not matrix.size:
        raise BadInput(f"{name} must be a matrix of {', '.join(t.name for t in DTYPES)} that is "
                       f"not empty, not {matrix.dtype} {list(matrix.shape)}; convert it first")


def _checked(weight: np.ndarray, pattern: str) -> Pattern:
    """The pattern's rule, if dtype and shape of ``weight`` suit it."""
    rule = _rule(pattern)
    _check_dtype("weight", weight)
    if weight.shape[1] % rule.columns:
        raise BadInput(f"{weight.shape[1]} columns are no whole groups of {rule.columns}; add "
                       f"columns of zeros for {pattern}")
    return rule


def _bits(matrix: np.ndarray) -> np.ndarray:
    """The same bits as unsigned integers: nothing rounds, and no NaN changes."""
    return np.ascontiguousarray(matrix).view(f"u{matrix.dtype.itemsize}")


def _groups(matrix: np.ndarray, rule: Pattern) -> np.ndarray:
    """``[M, K]`` as ``[M, groups, of, unit]``."""
    return matrix.reshape(len(matrix), -1, rule.of, rule.unit)


def _places(weight: np.ndarray, pattern: str) -> np.ndarray:
    """The kept places of every group, uint8 ``[M, groups, kept]``."""
    rule = _checked(weight, pattern)
    occupied = (_groups(_bits(weight), rule) != 0).any(axis=3)
    count = np.count_nonzero(occupied, axis=2)
    if count.max() > rule.kept:
        row, group = np.argwhere(count > rule.kept)[0]
        raise BadInput(_excess(weight, pattern, row, group, count[row, group]))
    return _table(rule)[occupied @ (1 << np.arange(rule.of))]


def _excess(weight: np.ndarray, pattern: str, row: int, group: int, count: int) -> str:
    """Why a group is refused."""
    rule = PATTERNS[pattern]
    first = group * rule.columns
    own = weight[row, first:first + rule.columns].reshape(rule.of, rule.unit)
    message = (f"row {row}, group {group} (columns {first} to {first + rule.columns - 1}) holds "
               f"{count} {'non-zeros' if rule.unit == 1 else 'pairs with non-zeros'}, but "
               f"{pattern} keeps {rule.kept}")
    with np.errstate(invalid="ignore"):         # a NaN may signal
        nonzero = (own != 0).any(axis=1)
    if np.count_nonzero(nonzero) <= rule.kept:
        return f"{message}; some are -0.0, which counts: add 0.0 to the tensor to make them 0.0"
    return f"{message}; prune it to {pattern} first"


@cache
def _table(rule: Pattern) -> np.ndarray:
    """Kept places by the occupied ones, a set of bits: uint8 ``[2 ** of, kept]``.

    Sets of more than ``kept`` places do not occur; they keep zeros.
    """
    table = np.zeros((1 << rule.of, rule.kept), np.uint8)
    for number in range(rule.kept + 1):
        for present in combinations(range(rule.of), number):
            free = [place for place in range(rule.of - rule.kept, rule.of) if place not in present]
            places = sorted([*present, *free[:rule.kept - number]])
            table[sum(1 << place for place in present)] = places
    return table
