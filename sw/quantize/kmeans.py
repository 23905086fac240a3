"""Weight sharing: the best few values for the non-zero weights of one layer.

In one dimension k-means has an optimum that can be computed: a cluster is a range of the sorted
values, and dynamic programming finds the ranges. Sources: Han et al., "Deep Compression", ICLR
2016, section 3; EIE (ISCA 2016, section III) keeps 15 shared weights and the zero of the padding;
Wang and Song, "Ckmeans.1d.dp", The R Journal 2011, for the programme, and Grønlund et al., "Fast
Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D", 2017, for its halves.
"""

from dataclasses import dataclass

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.types import refuse_nonfinite

EXACT = 1 << 14
"""Distinct values up to which clusters are the best there are; more are put into bins first."""
BINS = 1 << 16
"""Bins at most."""
PART = 1 << 22
"""Weights that are widened at a time."""


@dataclass(frozen=True, eq=False)
class Shared:
    """Shared weights.

    Attributes
    ----------
    codebook : float32 array [centroids + 1]
        Entry 0 is 0.0, then the centroids in ascending order; unused entries at the end are 0.0.
    indices : uint8 array, shape of the weights
        0 exactly where a weight is zero.
    rms : float
        RMS of (shared - weight) over RMS of weight; 0 for all-zero weights.
    """

    codebook: np.ndarray
    indices: np.ndarray
    rms: float


def share(weights: np.ndarray, centroids: int = 15) -> Shared:
    """Share the non-zero ``weights`` among at most ``centroids`` values.

    ``weights`` is a float array of any shape; float64 is rounded to float32 first. The sum of the
    squared errors is the least that so many values can have; of more than ``EXACT`` distinct
    weights, the least among clusters of whole bins. Weights that take no more distinct values than
    there are centroids keep these values exactly. Raises :class:`BadInput` for a NaN or an
    infinity.
    """
    if not 1 <= centroids <= 255:
        raise BadInput(f"centroids must be 1 to 255, not {centroids}")
    with np.errstate(over="ignore"):    # becomes infinite, and is refused below
        weights = np.asarray(weights).astype(np.float32, copy=False)
    refuse_nonfinite("weight", weights)
    ordered = np.sort(weights[weights != 0])
    first = _changes(ordered)
    if len(first) > centroids:
        bins = first if len(first) <= EXACT else first[_bins(ordered[first])]
        first = bins[_clusters(*_means(ordered, bins), centroids)]

    codebook = np.zeros(centroids + 1, np.float32)
    codebook[1:len(first) + 1] = means = _means(ordered, first)[0]
    # the nearest centroid, which only the edge of a bin may have kept a weight from
    indices = _assign(weights, _rounded_down((means[1:] + means[:-1]) / 2))
    return Shared(codebook, indices, _relative_rms(weights, codebook, indices))


def _changes(ordered: np.ndarray) -> np.ndarray:
    """Where each distinct value begins, in sorted values."""
    return np.flatnonzero(np.append(ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]))


def _bins(values: np.ndarray) -> np.ndarray:
    """Where each of ``BINS`` bins at most begins, in sorted distinct float32 values.

    Half of the bins begin at even steps through the values, so that they are narrow where weights
    are dense; the others where sign, exponent or the next six bits change, so that no value shares
    a bin with one far away.
    """
    half = BINS // 2
    return np.union1d(np.arange(0, len(values), -(-len(values) // half)),
                      _changes(values.view(np.uint32) // (2**32 // half)))


def _means(ordered: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, float64, and number of the values in each range that begins at ``first``."""
    counts = np.diff(first, append=len(ordered))
    sums = np.add.reduceat(ordered, first, dtype=np.float64) if len(first) else np.zeros(0)
    means = sums / counts
    # the sum of many equal values is rounded, their mean must not be
    return np.clip(means, ordered[first], ordered[first + counts - 1]), counts


def _clusters(values: np.ndarray, counts: np.ndarray, clusters: int) -> np.ndarray:
    """Where each of the best ``clusters`` ranges of sorted values begins; there are more values.

    The best k ranges of the first j values are, for some i, the best k - 1 of the first i and the
    range from there to j.
    """
    values = values - values[len(values) // 2]
    sums = np.stack([_from_middle(counts * values**power) for power in range(3)])
    ends = np.arange(1, len(values) + 1)
    errors, steps = _errors(sums, np.zeros_like(ends), ends), []
    for k in range(2, clusters + 1):
        ends = ends[1:] if k < clusters else ends[-1:]
        errors, last = _extend(errors, sums, k - 1, ends)
        steps.append((ends[0], last))
    first = [len(values)]
    for end, last in reversed(steps):
        first.append(last[first[-1] - end])
    return np.array([0, *first[:0:-1]])


def _from_middle(terms: np.ndarray) -> np.ndarray:
    """What to subtract for the sum of a range: float64 [n + 1], 0 in the middle.

    Summed from there outwards, what lies far out cannot drown what lies between.
    """
    low, high = np.split(terms, [len(terms) // 2])
    return np.concatenate([-np.cumsum(low[::-1])[::-1], [0], np.cumsum(high)])


def _errors(sums: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The sum of the squared distances from the mean, of each range."""
    count, total, square = sums[:, ends] - sums[:, begins]
    return square - total * total / count


def _extend(errors: np.ndarray, sums: np.ndarray, low: int,
            ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each end j the least of ``errors[i - low]``, i from ``low``, plus that of the range from
    i to j; and the least such i.

    That i never falls as j grows. So the middle j of all comes first, and its i bounds those of
    both halves: each round looks at about as many i as there are values.
    """
    count, total, square = sums
    gain = np.append(np.full(low, np.inf), errors)[:len(count) - 1] - square[:-1]
    least, last = np.empty(len(ends)), np.empty(len(ends), np.int64)
    step = 1 << len(ends).bit_length() - 1
    while step:
        at = np.arange(step - 1, len(ends), 2 * step)
        end = ends[at]
        bounds = np.concatenate([[low], last[at[1:] - step], [len(count)]])
        if at[-1] + step < len(ends):
            bounds[-1] = last[at[-1] + step]
        left, right = bounds[:-1], np.minimum(bounds[1:], end - 1)
        lengths = right - left + 1
        begins = np.cumsum(lengths) - lengths
        i = np.arange(lengths.sum()) + np.repeat(left - begins, lengths)
        error = np.repeat(total[end], lengths) - total[i]
        error *= error
        error /= np.repeat(count[end], lengths) - count[i]
        np.subtract(gain[i], error, out=error)
        least[at] = np.minimum.reduceat(error, begins)
        found = np.flatnonzero(error == np.repeat(least[at], lengths))
        owner = np.searchsorted(begins, found, side="right") - 1
        last[at[owner[::-1]]] = i[found[::-1]]      # of equals the first is written last
        step //= 2
    return least + square[ends], last


def _assign(weights: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """Cluster of each weight, from 1; 0 for a zero. A weight on a boundary is below it."""
    indices = np.ones(weights.shape, np.uint8)
    for boundary in boundaries:
        indices += weights > boundary
    return indices * (weights != 0)


def _rounded_down(values: np.ndarray) -> np.ndarray:
    """The greatest float32 that are not above ``values``, float64."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _relative_rms(weights: np.ndarray, codebook: np.ndarray, indices: np.ndarray) -> float:
    power = error = 0.0
    weights, indices = weights.reshape(-1), indices.reshape(-1)
    for at in range(0, weights.size, PART):
        part = weights[at:at + PART].astype(np.float64)
        power += float(part @ part)
        part -= codebook[indices[at:at + PART]]
        error += float(part @ part)
    return (error / power) ** 0.5 if power else 0.0
