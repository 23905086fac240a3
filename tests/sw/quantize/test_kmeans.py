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


def start_values(weights, start):
    ordered = np.sort(weights)
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], 15)
    if start == "random":
        return np.sort(np.random.default_rng(0).choice(np.unique(ordered), 15, replace=False))
    return ordered[((np.arange(15) + 0.5) * len(ordered) / 15).astype(int)]


@pytest.mark.parametrize("start", ["density", "linear", "random"])
@pytest.mark.parametrize("distribution", ["normal", "laplace", "uniform"])
def test_inertia_of_scikit_learn_from_the_same_start(start, distribution):
    weights = getattr(np.random.default_rng(2), distribution)(size=5000).astype(np.float32)
    ours = inertia(weights, share(weights, start=start))
    reference = KMeans(15, init=start_values(weights, start)[:, None], n_init=1, max_iter=300,
                       tol=0).fit(weights[:, None].astype(float)).inertia_
    assert ours == pytest.approx(reference, rel=0.01)


@pytest.mark.parametrize("start", ["density", "linear", "random"])
def test_start(start, monkeypatch):
    monkeypatch.setattr(kmeans, "ITERATIONS", 0)
    weights = normal()
    assert np.allclose(share(weights, start=start).codebook[1:], start_values(weights, start))


@pytest.mark.parametrize("start", ["density", "linear", "random"])
@pytest.mark.parametrize("weights", [
    pytest.param(normal(), id="normal"),
    *(pytest.param(np.arange(1, count, dtype=np.float32), id=f"ties_of_{count}")
      for count in (23, 24, 38, 53)),
])
def test_result_is_a_fixed_point(weights, start):
    """Every weight has its nearest centroid, every centroid is the mean of its weights."""
    shared = share(weights, start=start)
    centroids = shared.codebook[1:].astype(float)
    assert np.all(np.diff(centroids) > 0)
    distance = np.abs(weights[:, None] - centroids)
    chosen = np.take_along_axis(distance, shared.indices[:, None] - 1, 1)[:, 0]
    assert np.all(chosen <= distance.min(axis=1) + 1e-6)
    means = [weights[shared.indices == k].mean(dtype=float) for k in range(1, 16)]
    assert np.allclose(centroids, means, rtol=1e-6, atol=1e-9)


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


@pytest.mark.parametrize("start", ["density", "linear", "random"])
def test_no_dead_centroid(start):
    """Two of the starts put several centroids where no weight is nearest."""
    weights = np.concatenate([np.full(10000, 0.5), np.linspace(0.6, 0.7, 40), [1e6]])
    shared = share(weights.astype(np.float32), start=start)
    assert set(shared.indices) == set(range(1, 16))


def test_adjacent_floats():
    """The midpoint of two adjacent floats is none itself; it must not round up."""
    weights = np.arange(2**23, 2**23 + 16, dtype=np.float32)
    shared = share(weights)
    assert set(shared.indices) == set(range(1, 16))
    assert shared.indices[0] == 1


def test_cluster_beside_a_huge_one_keeps_its_mean():
    """A prefix sum of 1e30 has lost the small weights behind it."""
    weights = np.concatenate([[-1e30] * 3, np.arange(1, 17)]).astype(np.float32)
    shared = share(weights)
    small = shared.codebook[1:][shared.codebook[1:] > -1]
    assert len(small) == 14
    assert np.all((small >= 1) & (small <= 16))


@given(values=st.lists(st.floats(-2.0**100, 2.0**100, width=32), min_size=1, max_size=60),
       centroids=st.integers(1, 15), start=st.sampled_from(["density", "linear", "random"]))
@settings(deadline=None)
def test_any_weights(values, centroids, start):
    weights = np.array(values, np.float32)
    shared = share(weights, centroids, start)
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
    ({"start": "best"}, "start must be one of density, linear, random, not 'best'"),
])
def test_refuses(arguments, message):
    with pytest.raises(BadInput, match=message):
        share(np.ones(3, np.float32), **arguments)


def test_another_seed_starts_elsewhere():
    weights = normal(300)
    first, second = (share(weights, start="random", seed=seed).codebook for seed in (1, 2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, share(weights, start="random", seed=1).codebook)
