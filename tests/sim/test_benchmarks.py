"""The figures of ``bench``: where the cycles went, by counters and by hand."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.sim import benchmarks, engines


@pytest.fixture(scope="module")
def run():
    indices, vector = benchmarks.random_layer(128, 96, 0.12, 0.4)
    return benchmarks.run_layer(indices, vector, replace(benchmarks.PAPER, pes=8),
                                engines.rtl("python"))


def test_the_layer_is_exact(run):
    assert run.exact


def test_work_counted_from_the_matrix_equals_the_counters(run):
    np.testing.assert_array_equal(run.work[:, 0], run.statistics.pe["useful"])
    np.testing.assert_array_equal(run.work[:, 1], run.statistics.pe["padding"])


def test_both_explanations_add_up_to_one(run):
    assert sum(run.by_hand().values()) == pytest.approx(1)
    assert sum(run.loss().values()) + run.statistics.utilisation == pytest.approx(1)
    assert run.by_hand()["useful"] == pytest.approx(run.statistics.utilisation)
    assert min(run.by_hand().values()) >= 0


def test_random_layers_have_exactly_the_density_asked_for():
    indices, vector = benchmarks.random_layer(100, 50, 0.09, 0.36)
    assert np.count_nonzero(indices) == 450
    assert np.count_nonzero(vector) == 18
    again, _ = benchmarks.random_layer(100, 50, 0.09, 0.36)
    np.testing.assert_array_equal(indices, again)


def test_bits_per_nonzero_by_hand(run):
    entries = sum(layer.entries for layer in run.part.layers)
    pointers = 8 * 97 * run.part.config.pointer_width
    nonzeros = run.part.layers[0].nonzeros
    assert run.bits_per_nonzero() == pytest.approx((8 * entries + pointers) / nonzeros, abs=0.02)
