"""The demo's model: small, sparse, shared, and as accurate as the dense one."""

import numpy as np
import pytest

from zeroskip.sw import digits


@pytest.fixture(scope="module")
def stages():
    return digits.run()


def test_data():
    train, test = digits.load()
    assert (train.x.shape, test.x.shape) == ((1437, 64), (360, 64))
    assert train.x.dtype == np.float32
    assert (train.x.min(), train.x.max()) == (0, 1)
    assert set(np.bincount(test.y)) <= {34, 35, 36, 37}


def test_accuracy_survives(stages):
    assert [stage.name for stage in stages] == ["dense", "pruned", "shared"]
    dense, pruned, shared = (stage.accuracy for stage in stages)
    assert dense > 0.96
    assert pruned > dense - 0.01
    assert shared > dense - 0.01


def test_density(stages):
    assert stages[0].density == 1
    assert stages[2].density <= stages[1].density <= 0.12


def test_shared_values(stages):
    for pruned, shared in zip(stages[1].network.layers, stages[2].network.layers, strict=True):
        assert len(np.unique(shared.weight[shared.weight != 0])) <= 15
        np.testing.assert_array_equal(pruned.weight == 0, shared.weight == 0)


def test_same_seed_same_bytes(stages, monkeypatch):
    monkeypatch.setattr(digits, "EPOCHS", 2)
    first, second, other = digits.run(0), digits.run(0), digits.run(1)
    assert weights(first) == weights(second) != weights(other)
    assert weights(first) != weights(stages)


def weights(stages):
    return [layer.weight.tobytes() + layer.bias.tobytes()
            for stage in stages for layer in stage.network.layers]
