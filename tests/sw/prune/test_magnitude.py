"""Magnitude pruning: exact masks, the cubic schedule, zeros that stay zero."""

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.magnitude import RAMP, density_at, mask, prune

RNG = np.random.default_rng(0)
X = RNG.standard_normal((128, 16)).astype(np.float32)
DATA = Data(X, (X[:, 0] > X[:, 1]).astype(np.int64))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))


def nonzeros(module):
    return [int(module[i].weight.count_nonzero()) for i in (0, 2)]


@pytest.mark.parametrize("density", [0.001, 0.1, 0.25, 0.5, 1.0])
def test_mask_keeps_the_greatest_exactly(density):
    weight = torch.randn(9, 11, generator=torch.Generator().manual_seed(0))
    kept = mask(weight, density)
    assert int(kept.sum()) == max(1, round(density * 99))
    assert weight[kept].abs().min() >= weight[~kept].abs().max() if density < 1 else kept.all()


def test_mask_of_equal_magnitudes_keeps_the_first():
    assert mask(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), 0.5).tolist() == [
        [True, True], [False, False]]


def test_schedule():
    assert density_at(0, 0.1) == 1
    assert density_at(RAMP / 2, 0.1) == pytest.approx(0.1 + 0.9 / 8)
    assert density_at(RAMP, 0.1) == density_at(1, 0.1) == pytest.approx(0.1)
    steps = [density_at(t / 100, 0.1) for t in range(101)]
    assert steps == sorted(steps, reverse=True)


def test_one_shot():
    module, dense = mlp(), mlp()
    prune(module, 0.25)
    assert nonzeros(module) == [48, 6]
    kept = module[0].weight != 0
    assert torch.equal(module[0].weight[kept], dense[0].weight[kept])
    assert torch.equal(module[0].bias, dense[0].bias)


def test_density_by_layer():
    module, dense = mlp(), mlp()
    prune(module, {"0": 0.5})
    assert nonzeros(module) == [96, 24]
    assert torch.equal(module[2].weight, dense[2].weight)


def test_training_reaches_the_density_and_learns():
    module, calls = mlp(), []
    prune(module, 0.25, data=DATA, epochs=80, learning_rate=1e-2,
          progress=lambda *call: calls.append(call))
    assert nonzeros(module) == [48, 6]
    right = module(torch.from_numpy(DATA.x)).argmax(1).numpy() == DATA.y
    assert right.mean() > 0.95
    assert calls == [(epoch, 80, "prune") for epoch in range(1, 81)]


def test_zeros_stay_zero_in_training():
    module = mlp()
    prune(module, 0.25)
    zeros = module[0].weight == 0
    prune(module, 0.25, data=DATA, epochs=3)
    assert not module[0].weight[zeros].any()


def test_same_seed_same_bytes_on_any_number_of_threads():
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        module = mlp()
        prune(module, 0.25, data=DATA, epochs=2, seed=7)
        results.append(module[0].weight.detach().numpy().tobytes())
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert results[0] == results[1]


def test_another_seed_differs():
    first, second = mlp(), mlp()
    prune(first, 0.25, data=DATA, epochs=1, seed=1)
    prune(second, 0.25, data=DATA, epochs=1, seed=2)
    assert not torch.equal(first[0].weight, second[0].weight)


def test_training_that_diverges():
    with pytest.raises(BadInput, match=r"the loss is (nan|inf) after epoch \d+; lower learning"):
        prune(mlp(), 0.25, data=DATA, epochs=5, learning_rate=1e30)
