from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from zeroskip.sw.errors import BadInput
from zeroskip.sw.quantize import kmeans
from zeroskip.sw.quantize.kmeans import share


def normal(size=5000, seed=0):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def inertia(weights, shared):
    return np.square(shared.codebook[shared.indices].astype(float) - weights).sum()


def least_inertia(values, counts, clusters):
    """The least that so many ranges of sorted values can have: every last range is tried."""
    def error(i, j):
        mean = np.average(values[i:j], weights=counts[i:j])
        return np.sum(counts[i:j] * (values[i:j] - mean)**2)
    ranges = np.array([[error(i, j) if i < j else np.inf for i in range(len(values))]
                       for j in range(1, len(values) + 1)])
    best = ranges[:, 0]
    for _ in range(clusters - 1):
        best = np.min(ranges + np.append(np.inf, best[:-1]), axis=1)
    return best[-1]


def least_of_all_partitions(values, clusters):
    """The same by every set of boundaries."""
    return min(sum(np.sum((part - part.mean())**2) for part in np.split(values, cuts))
               for cuts in combinations(range(1, len(values)), clusters - 1))


@given(values=st.lists(st.integers(-30, 30).filter(bool), min_size=5, max_size=9),
       power=st.sampled_from([1, 3]), clusters=st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_no_partition_is_better(values, power, clusters):
    """Also with values that are far from most, and with ties."""
    weights = np.sort(np.array(values, float))**power
    expected = least_of_all_partitions(weights, clusters)
    assert inertia(weights, share(weights, clusters)) == pytest.approx(
        expected, rel=1e-6, abs=1e-6)


DISTRIBUTIONS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "laplace": lambda rng, size: rng.laplace(size=size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size),
    "outliers": lambda rng, size: np.append(rng.normal(size=size - 2), [900, -1e6]),
    "two groups": lambda rng, size: rng.normal(np.repeat([-1, 3], size // 2), 0.02),
}


@pytest.mark.parametrize("centroids", [1, 2, 15])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_optimum_of_some_hundred_values(name, centroids):
    """It is that of a programme that tries each last range, in quadratic time."""
    weights = DISTRIBUTIONS[name](np.random.default_rng(3), 200).astype(np.float32)
    values, counts = np.unique(weights, return_counts=True)
    expected = least_inertia(values.astype(float), counts, centroids)
    assert inertia(weights, share(weights, centroids)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_bins_are_within_two_percent_of_the_optimum(name, monkeypatch):
    weights = DISTRIBUTIONS[name](np.random.default_rng(4), 40000).astype(np.float32)
    binned = inertia(weights, share(weights))
    monkeypatch.setattr(kmeans, "EXACT", len(weights))
    exact = inertia(weights, share(weights))
    assert exact < binned < 1.02 * exact


def test_bins_of_200000_values_are_within_two_percent_of_the_optimum(monkeypatch):
    weights = normal(200000)
    binned = inertia(weights, share(weights))
    monkeypatch.setattr(kmeans, "EXACT", len(weights))
    assert binned < 1.02 * inertia(weights, share(weights))


def test_bins_hold_their_number_and_no_distant_values():
    """Floats of every exponent, and so many of one that all bins cannot be theirs."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 2**32, 200000, dtype=np.uint32).view(np.float32)
    values = np.unique(np.concatenate([wide[np.isfinite(wide)], rng.normal(1, 1e-3, 200000)])
                       .astype(np.float32))
    first = kmeans._bins(values)
    assert 32768 < len(first) <= 65536
    assert first[0] == 0
    least, greatest = np.split(np.stack([values[first],
                                         values[np.append(first[1:], len(values)) - 1]]), 2)
    normal = np.minimum(abs(least), abs(greatest)) >= np.finfo(np.float32).tiny
    assert np.all(np.sign(least) == np.sign(greatest))
    assert np.all((abs(greatest - least) <= abs(least) / 32)[normal])


@pytest.mark.parametrize("weights", [
    pytest.param(normal(), id="normal"),
    *(pytest.param(np.arange(1, count, dtype=np.float32), id=f"ties_of_{count}")
      for count in (23, 24, 38, 53)),
])
def test_result_is_a_fixed_point(weights):
    """Every weight has its nearest centroid, every centroid is the mean of its weights."""
    shared = share(weights)
    centroids = shared.codebook[1:].astype(float)
    assert np.all(np.diff(centroids) > 0)
    distance = np.abs(weights[:, None] - centroids)
    chosen = np.take_along_axis(distance, shared.indices[:, None] - 1, 1)[:, 0]
    assert np.all(chosen <= distance.min(axis=1) + 1e-6)
    means = [weights[shared.indices == k].mean(dtype=float) for k in range(1, 16)]
    assert np.allclose(centroids, means, rtol=1e-6, atol=1e-9)


def test_no_worse_than_scikit_learn():
    weights = normal()
    found = KMeans(15, n_init=3, random_state=0).fit(weights[:, None].astype(float))
    assert inertia(weights, share(weights)) <= found.inertia_


def test_few_distinct_values_are_the_codebook():
    values = np.array([-3.25, -1e-30, 0.1, np.nextafter(np.float32(0.1), np.float32(1))],
                      np.float32)
    weights = np.random.default_rng(0).choice([*values, 0], (20, 30)).astype(np.float32)
    shared = share(weights)
    assert np.array_equal(shared.codebook[1:5], values)
    assert not shared.codebook[5:].any()
    assert np.array_equal(shared.codebook[shared.indices], weights)
    assert shared.rms == 0


def test_as_many_distinct_values_as_centroids():
    weights = np.linspace(-1, 1, 14, dtype=np.float32).repeat(3)
    weights = np.append(weights, np.float32(100))
    shared = share(weights)
    assert np.array_equal(shared.codebook[shared.indices], weights)
    assert shared.codebook[15] == 100


def test_one_distinct_value_too_many():
    weights = np.arange(1, 17, dtype=np.float32)
    shared = share(weights)
    assert set(shared.indices) == set(range(1, 16))
    assert inertia(weights, shared) == 0.5          # one pair shares its mean


def test_all_zero_weights():
    shared = share(np.zeros((3, 4), np.float32))
    assert not shared.indices.any()
    assert shared.indices.shape == (3, 4)
    assert not shared.codebook.any()
    assert shared.rms == 0


def test_zeros_keep_index_0_and_do_not_move_centroids():
    weights = normal()
    sparse = np.zeros((2, 5000), np.float32)
    sparse[1] = weights
    shared, alone = share(sparse), share(weights)
    assert np.array_equal(shared.codebook, alone.codebook)
    assert np.array_equal(shared.indices, [np.zeros(5000), alone.indices])
    assert shared.indices.dtype == np.uint8


def test_rms():
    weights = normal()
    shared = share(weights)
    error = shared.codebook[shared.indices].astype(float) - weights
    expected = np.sqrt(np.mean(error**2) / np.mean(weights.astype(float)**2))
    assert shared.rms == pytest.approx(expected)
    assert 0 < shared.rms < 0.12


def test_no_dead_centroid():
    """Most weights are equal, and one is far away."""
    weights = np.concatenate([np.full(10000, 0.5), np.linspace(0.6, 0.7, 40), [1e6]])
    shared = share(weights.astype(np.float32))
    assert set(shared.indices) == set(range(1, 16))


def test_adjacent_floats():
    """The midpoint of two adjacent floats is none itself; it must not round up."""
    weights = np.arange(2**23, 2**23 + 16, dtype=np.float32)
    shared = share(weights)
    assert set(shared.indices) == set(range(1, 16))
    assert shared.indices[0] == 1


def test_cluster_beside_a_huge_one_keeps_its_mean():
    """A sum with 1e30 in it has lost the small weights."""
    weights = np.concatenate([[-1e30] * 3, np.arange(1, 17)]).astype(np.float32)
    shared = share(weights)
    small = shared.codebook[1:][shared.codebook[1:] > -1]
    assert len(small) == 14
    assert np.all((small >= 1) & (small <= 16))


@given(values=st.lists(st.floats(-2.0**100, 2.0**100, width=32), min_size=1, max_size=60),
       centroids=st.integers(1, 15))
@settings(deadline=None)
def test_any_weights(values, centroids):
    weights = np.array(values, np.float32)
    shared = share(weights, centroids)
    assert np.array_equal(shared.indices == 0, weights == 0)
    assert shared.codebook.shape == (centroids + 1,)
    assert shared.codebook[0] == 0
    distinct = len(set(weights[weights != 0].tolist()))
    assert len(set(shared.indices[weights != 0].tolist())) == min(centroids, distinct)
    if distinct <= centroids:
        assert np.array_equal(shared.codebook[shared.indices], weights)


def test_float64_is_rounded_to_float32():
    weights = np.random.default_rng(0).normal(size=300)
    wide, narrow = share(weights), share(weights.astype(np.float32))
    assert np.array_equal(wide.codebook, narrow.codebook)
    assert wide.codebook.dtype == np.float32


@pytest.mark.parametrize(("value", "shown"), [
    (np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e300, "inf")])
def test_refuses_what_is_not_finite(value, shown):
    weights = np.ones((3, 4))
    weights[2, 1] = value
    with pytest.raises(BadInput, match=rf"weight \[2, 1\] is {shown}: it must be"):
        share(weights)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"centroids": 0}, "centroids must be 1 to 255, not 0"),
    ({"centroids": 256}, "centroids must be 1 to 255, not 256"),
])
def test_refuses(arguments, message):
    with pytest.raises(BadInput, match=message):
        share(np.ones(3, np.float32), **arguments)
