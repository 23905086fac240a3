"""The figures of ``bench tensorcore``: cycles, speed-up, and that the products are exact."""

import os
from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.tensorcore.config import CONFIGS, TensorCoreConfig
from zeroskip.sw.engines.tensorcore import golden
from zeroskip.sw.experiments import gemm_benchmarks
from zeroskip.sw.experiments.gemm_benchmarks import SHAPES, random_layer, run_gemm, steady_state
from zeroskip.sw.runtime import backends

REGRESSION = bool(os.environ.get("ZEROSKIP_REGRESSION"))
SMALL = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=16, activation_words=16,
                         patterns=("dense", "2:4", "1:4"))
M, K, N = 8, 32, 6


@pytest.fixture(scope="module")
def rtl():
    return backends.rtl("python")


@pytest.fixture(scope="module", params=["2:4", "1:4"])
def gemm(request, rtl):
    return run_gemm(M, K, N, request.param, SMALL, rtl)


@pytest.mark.parametrize(("pattern", "kept"), [("dense", 4), ("2:4", 2), ("1:4", 1)])
def test_random_layers_have_exactly_the_pattern(pattern, kept):
    layer = random_layer(20, 24, pattern)
    groups = layer.weight.reshape(20, 6, 4) != 0
    assert groups.sum(axis=2).max() == kept
    assert groups.sum() > 0.95 * 120 * kept     # a random weight is rarely zero itself
    np.testing.assert_array_equal(layer.weight, random_layer(20, 24, pattern).weight)
    assert np.any(layer.weight != random_layer(20, 24, pattern, seed=1).weight)


@pytest.mark.parametrize("pattern", ["dense", "2:4", "1:4"])
@pytest.mark.parametrize("k", sorted({k for _, k, _ in SHAPES}))
def test_outputs_are_spread_over_int8(k, pattern):
    """An error shows in them; with ReLU half of them are the zero point."""
    x = np.random.default_rng(1).integers(-128, 128, (20, k)).astype(np.int8)
    y, saturated = golden.layer(x, random_layer(50, k, pattern))
    assert 0.4 < np.mean(y == -5) < 0.6
    assert len(np.unique(y)) > 30
    assert saturated < 0.02 * y.size


def test_products_are_exact(gemm):
    assert gemm.exact


def test_speedup_is_of_cycles_from_command_to_last_output(gemm):
    factor = {"2:4": 2, "1:4": 4}[gemm.pattern]
    assert gemm.speedup == gemm.dense.cycles / gemm.sparse.cycles
    assert 0.7 * factor < gemm.speedup < factor
    assert gemm.dense.layers[0]["steps"] == factor * gemm.sparse.layers[0]["steps"]
    assert gemm.dense.layers[0]["steps"] == (M // 2) * (N // 2) * (K // 2)


def test_busy_multipliers(gemm):
    """All sizes fit the tile: a step of the array is useful to every multiplier."""
    for statistics in (gemm.dense, gemm.sparse):
        (counts,) = statistics.layers
        assert statistics.multipliers == 8
        assert statistics.utilisation == counts["steps"] / counts["cycles"]
        assert counts["gemms"] == 1
    assert gemm.dense.layers[0]["useful"] == M * K * N
    assert gemm.sparse.layers[0]["useful"] == M * K * N // {"2:4": 2, "1:4": 4}[gemm.pattern]


def test_progress(rtl):
    seen = []
    run_gemm(2, 4, 1, "2:4", SMALL, rtl, lambda *step: seen.append(step))
    assert seen == [(1, 2), (2, 2)]


class Planted:
    """The gateware, on an image where a weight of row 0 or the bias of row 1 is wrong in one
    mode."""

    name = "planted"

    def __init__(self, rtl, pattern, array):
        self._rtl, self._pattern, self._array = rtl, pattern, array

    def run(self, image, inputs, progress=None):
        (layer,) = image.layers
        if layer.pattern == self._pattern:
            wrong = getattr(layer, self._array).copy()
            wrong[1, 0] ^= np.uint32({"weights": 64, "channels": 1 << 20}[self._array])
            image = replace(image, layers=(replace(layer, **{self._array: wrong}),))
        return self._rtl.run(image, inputs, progress)


@pytest.mark.parametrize("array", ["weights", "channels"])
@pytest.mark.parametrize(("planted", "exact"), [("dense", False), ("2:4", False), ("1:4", True)])
def test_what_is_planted_in_either_mode_is_not_exact(rtl, planted, exact, array):
    run = run_gemm(4, 8, 5, "2:4", SMALL, Planted(rtl, planted, array))
    assert run.exact is exact


@pytest.mark.parametrize(("pattern", "factor"), [("2:4", 2.0), ("1:4", 4.0)])
def test_steady_state_is_the_whole_factor(monkeypatch, rtl, pattern, factor):
    """A 32nd of the rows, a 24th of K, an 8th of the columns."""
    asked = []

    def smaller(m, k, n, *others):
        asked.append((m, k, n))
        return run_gemm(m // 32, k // 24, n // 8, *others)
    monkeypatch.setattr(gemm_benchmarks, "run_gemm", smaller)
    assert steady_state(pattern, SMALL, rtl) == factor
    assert asked == [(256, 768, 64), (256, 768, 128)]


@pytest.mark.skipif(not REGRESSION, reason="a minute of simulation; set ZEROSKIP_REGRESSION=1")
@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if config.sparse])
def test_steady_state_of_the_named_configurations(name):
    config = CONFIGS[name]
    for pattern in config.patterns[1:]:
        assert steady_state(pattern, config, backends.rtl("cxxrtl")) == {
            "2:4": 2, "1:4": 4}[pattern]
