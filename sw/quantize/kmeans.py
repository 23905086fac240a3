"""Weight sharing: k-means on the non-zero weights of one layer.

Source: Han et al., "Deep Compression", ICLR 2016, section 3; EIE (ISCA 2016, section III)
keeps 15 shared weights and the zero of the padding.
"""

from dataclasses import dataclass

import numpy as np

from zeroskip.sw.errors import BadInput

ITERATIONS = 300


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


def share(weights: np.ndarray, centroids: int = 15, start: str = "density",
          seed: int = 0) -> Shared:
    """Share the non-zero ``weights`` among at most ``centroids`` values.

    ``weights`` is a float array of any shape; float64 is rounded to float32 first. Weights that
    take no more distinct values than there are centroids keep these values exactly. Others are
    clustered by Lloyd's algorithm from a ``start`` at evenly spaced quantiles (``"density"``), at
    evenly spaced values from the least to the greatest (``"linear"``), or at distinct weights drawn
    with ``seed`` (``"random"``, Forgy's); sums are float64.
    Raises :class:`BadInput` for a NaN or an infinity.
    """
    if not 1 <= centroids <= 255:
        raise BadInput(f"centroids must be 1 to 255, not {centroids}")
    if start not in STARTS:
        raise BadInput(f"start must be one of {', '.join(STARTS)}, not {start!r}")
    with np.errstate(over="ignore"):    # becomes infinite, and is refused below
        weights = np.asarray(weights).astype(np.float32, copy=False)
    refuse_nonfinite("weight", weights)
    ordered = np.sort(weights[weights != 0])
    centres, boundaries = _distinct(ordered, centroids)
    if len(centres) > centroids:
        centres = _lloyd(ordered, STARTS[start](ordered, centroids, seed))
        boundaries = _boundaries(centres)

    codebook = np.zeros(centroids + 1, np.float32)
    codebook[1:len(centres) + 1] = centres
    indices = _assign(weights, boundaries)
    return Shared(codebook, indices, _relative_rms(weights, codebook[indices]))


def refuse_nonfinite(what: str, values: np.ndarray) -> None:
    """Raise :class:`BadInput` with the place of the first NaN or infinity in ``values``."""
    finite = np.isfinite(values)
    if not finite.all():
        place = tuple(np.argwhere(~finite)[0].tolist())
        raise BadInput(f"{what} {list(place)} is {values[place]}: it must be a finite float32")


def _density(ordered: np.ndarray, count: int, _seed: int) -> np.ndarray:
    """The middles of ``count`` equally populated ranges."""
    return ordered[((np.arange(count) + 0.5) * len(ordered) / count).astype(int)]


def _linear(ordered: np.ndarray, count: int, _seed: int) -> np.ndarray:
    return np.linspace(ordered[0], ordered[-1], count, dtype=np.float64)


def _random(ordered: np.ndarray, count: int, seed: int) -> np.ndarray:
    distinct = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    return np.sort(np.random.default_rng(seed).choice(distinct, count, replace=False))


STARTS = {"density": _density, "linear": _linear, "random": _random}


def _distinct(ordered: np.ndarray, enough: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, at most ``enough`` + 1 of them, and the boundaries between them."""
    changes = np.flatnonzero(ordered[1:] != ordered[:-1])[:enough]
    values = np.concatenate([ordered[:1], ordered[changes + 1]])
    return values, values[:-1]


def _lloyd(ordered: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Centroids, float64 ascending, from sorted float32 values and the centroids to start with.

    There are more distinct values than centroids. In one dimension a cluster is a range of the
    sorted values and its sum a difference of two prefix sums.
    """
    prefix = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    centres, cuts = centres.astype(np.float64), None
    for _ in range(ITERATIONS):
        inner = np.searchsorted(ordered, _boundaries(centres), side="right")
        previous, cuts = cuts, np.concatenate([[0], inner, [len(ordered)]])
        dead = np.flatnonzero(cuts[1:] == cuts[:-1])
        if dead.size:
            centres[dead[0]] = _farthest(ordered, centres, cuts)
            centres.sort()
        elif np.array_equal(cuts, previous):
            break
        else:
            mean = np.diff(prefix[cuts]) / np.diff(cuts)
            # Where a prefix sum dwarfs a cluster, cancellation must not move its mean outside.
            centres = np.clip(mean, ordered[cuts[:-1]], ordered[cuts[1:] - 1])
    return centres


def _boundaries(centres: np.ndarray) -> np.ndarray:
    """The greatest float32 values that are not above the midpoints of adjacent centroids."""
    middles = (centres[:-1] + centres[1:]) / 2
    nearest = middles.astype(np.float32)
    return np.where(nearest > middles, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _farthest(ordered: np.ndarray, centres: np.ndarray, cuts: np.ndarray) -> float:
    """The value farthest from its centroid; it is the first or the last of its cluster."""
    alive = np.flatnonzero(cuts[1:] > cuts[:-1])
    ends = np.concatenate([ordered[cuts[alive]], ordered[cuts[alive + 1] - 1]])
    return ends[np.argmax(np.abs(ends - np.tile(centres[alive], 2)))]


def _assign(weights: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """Cluster of each weight, from 1; 0 for a zero. A weight on a boundary is below it."""
    indices = np.ones(weights.shape, np.uint8)
    for boundary in boundaries:
        indices += weights > boundary
    return indices * (weights != 0)


def _relative_rms(weights: np.ndarray, shared: np.ndarray) -> float:
    power = np.square(weights, dtype=np.float64).sum()
    error = np.square(np.subtract(shared, weights, dtype=np.float64)).sum()
    return float(np.sqrt(error / power)) if power else 0.0
