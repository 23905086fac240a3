"""The nine layers: their figures, and masks with exactly what they promise."""

import numpy as np
import pytest

from zeroskip.sw.experiments.layers import MASKS, NINE, random_indices, random_vector


def busiest(indices, pes):
    """Weights of the busiest PE over those of a mean one."""
    rows = np.count_nonzero(indices, axis=1)
    work = np.bincount(np.arange(len(rows)) % pes, rows)
    return work.max() / work.mean()


def test_the_nine_layers_in_order():
    assert list(NINE) == ["Alex-6", "Alex-7", "Alex-8", "VGG-6", "VGG-7", "VGG-8", "NT-We",
                          "NT-Wd", "NT-LSTM"]
    wd = NINE["NT-Wd"]
    assert (wd.inputs, wd.outputs, wd.weight_density, wd.activation_density) == (
        600, 8791, 0.11, 1.0)


@pytest.mark.parametrize("layer", NINE.values(), ids=list(NINE))
def test_the_papers_utilisation_follows_from_its_times(layer):
    useful = layer.weight_density * layer.activation_density * layer.inputs * layer.outputs
    assert useful / 64 / (800 * layer.actual_us) == pytest.approx(layer.utilisation, abs=0.006)


@pytest.mark.parametrize("mask", ["random", "skewed"])
@pytest.mark.parametrize(("density", "count"), [(0, 0), (0.09, 450), (0.333, 1665), (1, 5000)])
def test_masks_have_exactly_the_density_asked_for(mask, density, count):
    indices = random_indices(mask, (100, 50), density)
    assert (indices.dtype, indices.shape) == (np.uint8, (100, 50))
    assert np.count_nonzero(indices) == count


@pytest.mark.parametrize("mask", list(MASKS))
def test_masks_depend_on_the_seed_alone(mask):
    first, again, other = (random_indices(mask, (64, 40), 0.2, 4, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert set(np.unique(first)) == set(range(16))


def test_a_balanced_mask_has_the_same_count_in_each_bank_and_column():
    indices = random_indices("balanced", (120, 50), 0.11, 4)
    counts = np.count_nonzero(indices.reshape(30, 4, 50), axis=0)
    assert (counts == 3).all()


def test_a_skewed_mask_is_as_uneven_as_the_literature_says():
    layer = NINE["Alex-7"]
    assert 1.18 < busiest(layer.weights("skewed", 64), 64) < 1.34
    assert busiest(layer.weights("random", 64), 64) < 1.03


def test_vectors_have_exactly_the_density_asked_for():
    vector = random_vector(50, 0.36)
    assert vector.dtype == np.int16
    assert np.count_nonzero(vector) == 18
    assert vector.min() == 0
    np.testing.assert_array_equal(vector, random_vector(50, 0.36))
    assert np.count_nonzero(NINE["Alex-7"].activations()) == 1446
