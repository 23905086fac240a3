"""Magnitude pruning: exact masks, the cubic schedule, zeros that stay zero."""

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune import magnitude
from zeroskip.sw.prune.banks import bank_balanced
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.magnitude import RAMP, bank_mask, density_at, mask, prune

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


@pytest.mark.parametrize("banks", [None, 2])
def test_training_that_diverges(banks):
    with pytest.raises(BadInput, match=r"the loss is (nan|inf) after epoch \d+; lower learning"):
        prune(mlp(), 0.25, banks=banks, data=DATA, epochs=5, learning_rate=1e30)


def test_bank_mask_keeps_the_number_that_comes_nearest_to_the_density():
    weight = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
    kept = bank_mask(weight, 0.3, 2)    # of six rows two, of five too
    assert kept[::2].sum(dim=0).tolist() == kept[1::2].sum(dim=0).tolist() == [2] * 4
    np.testing.assert_array_equal(kept, bank_balanced(weight.numpy(), 2, 2))


def test_one_shot_in_banks():
    module, dense = mlp(), mlp()
    prune(module, {"0": 0.25}, banks=4)
    np.testing.assert_array_equal(module[0].weight.detach() != 0,
                                  bank_balanced(dense[0].weight.detach().numpy(), 4, 1))
    assert torch.equal(module[2].weight, dense[2].weight)


def test_training_in_banks_reaches_the_density_step_by_step_and_learns(monkeypatch):
    counts = []

    def counted(weight, density, banks):
        result = bank_mask(weight, density, banks)
        counts.append(int(result.sum()) if len(weight) == 12 else None)
        return result
    monkeypatch.setattr(magnitude, "bank_mask", counted)
    module = mlp()
    prune(module, 0.25, banks=2, data=DATA, epochs=80, learning_rate=1e-2)
    first = module[0].weight.detach().numpy() != 0
    assert first.reshape(6, 2, 16).sum(axis=0).tolist() == [[2] * 16] * 2    # of six rows two
    counts = [count for count in counts if count is not None]
    assert counts == sorted(counts, reverse=True)
    assert set(counts) == {2 * 16 * k for k in range(2, 7)}
    right = module(torch.from_numpy(DATA.x)).argmax(1).numpy() == DATA.y
    assert right.mean() > 0.95
