"""Granularities: which weights of a layer stay or go together, and how many.

A *score* is a float32 array like the weight, [out, in] of a Linear or [out, in, ...] of a
Conv1d or Conv2d layer: what the loss is thought to gain by each weight, 0 or more. A *mask* is a
bool array like it, true at what stays. Both are seen as matrices [out, K], the flattened input
along K.

============ ====== ================================================================
name         size   a unit
============ ====== ================================================================
element             one weight
vector       width  so many neighbours along K
block        side   a square of the matrix
kernel              kh x kw of one filter, for one input channel; convolutions only
row                 an output neuron or a filter, all its weights
2:4 1:4 4:8         one weight; so many of each group of neighbours along K stay
banks        PEs    one weight; equally many of each PE and column stay; Linear only
============ ====== ================================================================

A unit at an edge has the weights that are left there; a last group that is not full counts as
filled with zeros that lose. This 4:8 is of single weights, that of :mod:`zeroskip.sw.formats.nm` of
pairs.

Sources: Mao et al., "Exploring the Granularity of Sparsity in Convolutional Neural Networks"
(arXiv 1705.08922), section 3, for elements, vectors, kernels and filters; Narang et al.,
"Block-Sparse Recurrent Neural Networks" (arXiv 1711.02782), section 3; Mishra et al. (arXiv
2104.08378), section 4, for N:M; :mod:`zeroskip.sw.prune.banks`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune.banks import bank_balanced

SIZED = ("vector", "block", "banks")
"""The granularities that take a size."""


@dataclass(frozen=True)
class Granularity(ABC):
    """One of ``GRANULARITIES``, built by :func:`granularity`.

    Attributes
    ----------
    name : str
    size : int or None
        At least 1, for those of ``SIZED``.
    """

    name: str
    size: int | None = None

    def __post_init__(self):
        whole = isinstance(self.size, int) and not isinstance(self.size, bool)
        if self.name in SIZED and not (whole and self.size >= 1):
            raise BadInput(f"granularity {self.name!r} needs a size, a whole number from 1, not "
                           f"{self.size!r}.")
        if self.name not in SIZED and self.size is not None:
            raise BadInput(f"granularity {self.name!r} takes no size; remove {self.size!r}.")

    @property
    def density(self) -> float | None:
        """Fraction of the weights that stay, where the pattern says it; None: choose one."""
        return None

    def check(self, what: str, shape: Sequence[int]) -> None:   # noqa: B027 - most suit any layer
        """Raises BadInput where the weight of ``what``, of ``shape``, has no such units."""

    @abstractmethod
    def units(self, shape: Sequence[int]) -> int:
        """Of how many units ``round(density * units)``, at least one, stay.

        All of the layer; for N:M those of a group, for banks those of the largest in a column.
        """

    def mask(self, score: np.ndarray, density: float | None = None) -> np.ndarray:
        """What stays: the units with the greatest sums of ``score``, of equal ones the first.

        ``density`` is above 0 and at most 1, or None where the pattern says it. A NaN counts as
        zero: training that diverges is reported by its loss. Raises BadInput like :meth:`check`,
        and for a density that does not suit.
        """
        self.check("the score", score.shape)
        if self.density is not None:
            if density is not None:
                raise BadInput(f"granularity {self.name!r} has a density of its own; remove "
                               f"{density!r}.")
            density = self.density
        if density is None or not 0 < density <= 1:
            raise BadInput(f"density must be above 0 and at most 1, not {density!r}.")
        keep = max(1, round(density * self.units(score.shape)))
        return self._choose(np.nan_to_num(score), keep).reshape(score.shape)

    @abstractmethod
    def _choose(self, score: np.ndarray, keep: int) -> np.ndarray:
        """The mask of ``score``, like it or as a matrix [out, K]."""


class Tiles(Granularity):
    """Units are equal rectangles of the matrix."""

    def check(self, what, shape):
        if self.name == "kernel" and len(shape) not in (3, 4):
            raise BadInput(f"{what} is {list(shape)}, no convolution, and has no kernels; choose "
                           "another granularity.")

    def units(self, shape):
        height, width = self._tile(shape)
        return -(-shape[0] // height) * -(-prod(shape[1:]) // width)

    def _tile(self, shape):
        """Rows and columns of a unit."""
        return {"element": (1, 1), "vector": (1, self.size), "block": (self.size, self.size),
                "kernel": (1, prod(shape[2:])), "row": (1, prod(shape[1:]))}[self.name]

    def _choose(self, score, keep):
        matrix = score.reshape(len(score), -1).astype(np.float64)
        (rows, columns), (height, width) = matrix.shape, self._tile(score.shape)
        sums = np.add.reduceat(matrix, range(0, columns, width), axis=1)
        sums = np.add.reduceat(sums, range(0, rows, height), axis=0)
        kept = _largest(sums.reshape(1, -1), keep).reshape(sums.shape)
        return kept[np.arange(rows)[:, None] // height, np.arange(columns) // width]


class Pattern(Granularity):
    """N:M: of each M weights along K, N stay."""

    @property
    def density(self):
        kept, of = map(int, self.name.split(":"))
        return kept / of

    def units(self, shape):     # noqa: ARG002 - as of the others
        return int(self.name.split(":")[1])

    def _choose(self, score, keep):
        matrix, of = score.reshape(len(score), -1), self.units(score.shape)
        rows, columns = matrix.shape
        # what fills the last group loses to any other
        full = np.pad(matrix, ((0, 0), (0, -columns % of)), constant_values=-np.inf)
        return _largest(full.reshape(-1, of), keep).reshape(rows, -1)[:, :columns]


class Banks(Granularity):
    """As many weights of every column for each PE of an EIE array."""

    def check(self, what, shape):
        if len(shape) != 2:
            raise BadInput(f"{what} is {list(shape)}, a convolution, and the EIE array, whose PEs "
                           "are the banks, takes fully-connected layers only; choose another "
                           "granularity.")
        if shape[0] < self.size:
            raise BadInput(f"{what} has {shape[0]} outputs, too few for {self.size} banks; lower "
                           "the size.")

    def units(self, shape):
        return -(-shape[0] // self.size)

    def _choose(self, score, keep):
        return bank_balanced(score, self.size, keep)


PATTERNS = ("2:4", "1:4", "4:8")
"""The granularities that say how many weights stay."""

GRANULARITIES: dict[str, type[Granularity]] = {
    **dict.fromkeys(("element", "vector", "block", "kernel", "row"), Tiles),
    **dict.fromkeys(PATTERNS, Pattern), "banks": Banks}


def granularity(name: str, size: int | None = None) -> Granularity:
    """The granularity of that ``name``, with a ``size`` where it is one of ``SIZED``.

    Raises BadInput for an unknown name, and for a size that is missing, wrong or not taken.
    """
    if not isinstance(name, str) or name not in GRANULARITIES:
        raise BadInput(f"there is no granularity {name!r}; choose one of "
                       f"{', '.join(GRANULARITIES)}.")
    return GRANULARITIES[name](name, size)


def _largest(values: np.ndarray, keep: int) -> np.ndarray:
    """Mask of the ``keep`` largest of each row of ``values`` [rows, n], of equal ones the first."""
    least = np.partition(values, -keep, axis=1)[:, -keep, None]
    above, equal = values > least, values == least
    left = keep - above.sum(axis=1, keepdims=True)
    return above | equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= left)
