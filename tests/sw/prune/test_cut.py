"""Pruning: the cubic schedule, masks that only shrink, zeros that stay zero."""

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune import cut
from zeroskip.sw.prune.banks import bank_balanced
from zeroskip.sw.prune.criteria import CRITERIA
from zeroskip.sw.prune.cut import RAMP, Training, density_at
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.granularity import Granularity, granularity
from zeroskip.sw.prune.model import of_module

RNG = np.random.default_rng(0)
X = RNG.standard_normal((128, 16)).astype(np.float32)
DATA = Data(X, (X[:, 0] > X[:, 1]).astype(np.int64))


def prune(module, *args, start=None, **options):
    """:func:`cut.prune` of a live module, in place."""
    cut.prune(of_module(module), *args, start=start and of_module(start), **options)


def remove(module, *args, **options):
    """:func:`cut.remove` of a live module."""
    return cut.remove(of_module(module), *args, example=(torch.from_numpy(X[:2]),),
                      **options).module


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))


ELEMENT = granularity("element")
QUARTER = {"0": 0.25, "2": 0.25}


def nonzeros(module):
    return [int(module[i].weight.count_nonzero()) for i in (0, 2)]


def test_schedule():
    assert density_at(0, 0.1) == 1
    assert density_at(RAMP / 2, 0.1) == pytest.approx(0.1 + 0.9 / 8)
    assert density_at(RAMP, 0.1) == density_at(1, 0.1) == pytest.approx(0.1)
    steps = [density_at(t / 100, 0.1) for t in range(101)]
    assert steps == sorted(steps, reverse=True)


def test_one_shot():
    module, dense = mlp(), mlp()
    prune(module, ELEMENT, QUARTER)
    assert nonzeros(module) == [48, 6]
    kept = module[0].weight != 0
    assert torch.equal(module[0].weight[kept], dense[0].weight[kept])
    assert torch.equal(module[0].bias, dense[0].bias)


def test_density_by_layer():
    module, dense = mlp(), mlp()
    prune(module, ELEMENT, {"0": 0.5})
    assert nonzeros(module) == [96, 24]
    assert torch.equal(module[2].weight, dense[2].weight)


def test_training_reaches_the_density_and_learns():
    module, calls = mlp(), []
    prune(module, ELEMENT, QUARTER, training=Training(
        DATA, epochs=80, learning_rate=1e-2, progress=lambda *call: calls.append(call)))
    assert nonzeros(module) == [48, 6]
    right = module(torch.from_numpy(DATA.x)).argmax(1).numpy() == DATA.y
    assert right.mean() > 0.95
    assert calls == [(epoch, 80, "prune") for epoch in range(1, 81)]


def test_zeros_stay_zero_in_training():
    module = mlp()
    prune(module, ELEMENT, QUARTER)
    zeros = module[0].weight == 0
    prune(module, ELEMENT, QUARTER, training=Training(DATA, epochs=3))
    assert not module[0].weight[zeros].any()


def test_same_seed_same_bytes_on_any_number_of_threads():
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        module = mlp()
        prune(module, ELEMENT, QUARTER, training=Training(DATA, epochs=2, seed=7))
        results.append(module[0].weight.detach().numpy().tobytes())
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert results[0] == results[1]


def test_another_seed_differs():
    first, second = mlp(), mlp()
    prune(first, ELEMENT, QUARTER, training=Training(DATA, epochs=1, seed=1))
    prune(second, ELEMENT, QUARTER, training=Training(DATA, epochs=1, seed=2))
    assert not torch.equal(first[0].weight, second[0].weight)


@pytest.mark.parametrize("units", [ELEMENT, granularity("banks", 2)])
def test_training_that_diverges(units):
    with pytest.raises(BadInput, match=r"the loss is (nan|inf) after epoch \d+; lower learning"):
        prune(mlp(), units, QUARTER, training=Training(DATA, epochs=5, learning_rate=1e30))


def test_one_shot_in_banks():
    module, dense = mlp(), mlp()
    prune(module, granularity("banks", 4), {"0": 0.25})
    np.testing.assert_array_equal(module[0].weight.detach() != 0,
                                  bank_balanced(dense[0].weight.detach().numpy(), 4, 1))
    assert torch.equal(module[2].weight, dense[2].weight)


def test_training_in_banks_reaches_the_density_step_by_step_and_learns(monkeypatch):
    counts = []

    def counted(self, score, density=None):
        result = mask(self, score, density)
        counts.append(int(result.sum()) if len(score) == 12 else None)
        return result
    mask = Granularity.mask
    monkeypatch.setattr(Granularity, "mask", counted)
    module = mlp()
    prune(module, granularity("banks", 2), QUARTER,
          training=Training(DATA, epochs=80, learning_rate=1e-2))
    first = module[0].weight.detach().numpy() != 0
    assert first.reshape(6, 2, 16).sum(axis=0).tolist() == [[2] * 16] * 2    # of six rows two
    counts = [count for count in counts if count is not None]
    assert counts == sorted(counts, reverse=True)
    assert set(counts) == {2 * 16 * k for k in range(2, 7)}
    right = module(torch.from_numpy(DATA.x)).argmax(1).numpy() == DATA.y
    assert right.mean() > 0.95


@pytest.mark.parametrize("criterion", ["l1", "wanda"])
def test_masks_only_shrink_and_are_scored_anew(criterion, monkeypatch):
    """After every step where weights are enough, after every epoch where samples are needed."""
    taken = []

    def counted(*args, **options):
        taken.append([int(layer.weight.count_nonzero()) for layer in args[2].values()])
        return scores(*args, **options)
    scores = cut.scores
    monkeypatch.setattr(cut, "scores", counted)
    module = mlp()
    prune(module, ELEMENT, QUARTER, criterion=criterion, training=Training(DATA, epochs=8))
    assert len(taken) == {"l1": 8 * 2, "wanda": 8}[criterion]   # two batches an epoch
    assert taken == sorted(taken, reverse=True)
    assert nonzeros(module) == [48, 6]


def test_rows_that_went_stay_away():
    """A row that is zero has outputs, by its bias, that APoZ would keep."""
    module = mlp()
    with torch.no_grad():
        module[0].bias.fill_(1)
    prune(module, granularity("row"), {"0": 0.5}, criterion="apoz",
          training=Training(DATA, epochs=6, learning_rate=1e-4))
    assert int((module[0].weight != 0).any(dim=1).sum()) == 6


def test_a_pattern_is_cut_at_the_start():
    module, dense = mlp(), mlp()
    prune(module, granularity("2:4"), {"0": None}, training=Training(DATA, epochs=2))
    kept = granularity("2:4").mask(dense[0].weight.detach().abs().numpy())
    np.testing.assert_array_equal(module[0].weight.detach() != 0, kept)
    assert not torch.equal(module[0].weight[kept], dense[0].weight[kept])
    assert not torch.equal(module[2].weight, dense[2].weight)


@pytest.mark.parametrize("criterion", [
    name for name, each in CRITERIA.items() if each.needs != "norm"])
def test_every_criterion_reaches_the_density(criterion):
    module = mlp()
    prune(module, ELEMENT, QUARTER, criterion=criterion, training=Training(DATA, epochs=4))
    assert nonzeros(module) == [48, 6]


def test_rounds_cut_by_equal_factors_and_train_after_each(monkeypatch):
    taken, run = [], Training.run
    monkeypatch.setattr(Training, "run", lambda self, model, after: (
        taken.append(nonzeros(model.module)), run(self, model, after)))
    module, calls = mlp(), []
    prune(module, ELEMENT, QUARTER, rounds=2, training=Training(
        DATA, epochs=3, progress=lambda *call: calls.append(call)))
    assert taken == [[96, 12], [48, 6]]
    assert nonzeros(module) == [48, 6]
    assert len(calls) == 6


def test_rewinding_gives_survivors_their_first_weights():
    module, start = mlp(), mlp()
    with torch.no_grad():
        for layer in (start[0], start[2]):
            layer.weight.copy_(-layer.weight)
    trained = mlp()
    prune(module, ELEMENT, {"0": 0.25}, rounds=1, start=start, training=Training(DATA, epochs=0))
    kept = module[0].weight != 0
    # chosen by the trained weights, valued by the first
    assert kept.sum() == 48
    assert trained[0].weight.abs()[kept].min() >= trained[0].weight.abs()[~kept].max()
    assert torch.equal(module[0].weight[kept], start[0].weight[kept])
    assert torch.equal(module[2].weight, start[2].weight)


@pytest.mark.parametrize(("l1", "l2", "order"), [(1e-2, 0, 1), (0, 1e-2, 2)])
def test_penalties_make_weights_small(l1, l2, order):
    plain, held = mlp(), mlp()
    Training(DATA, epochs=20, learning_rate=1e-2).run(of_module(plain))
    Training(DATA, epochs=20, learning_rate=1e-2, l1=l1, l2=l2).run(of_module(held))
    assert held[0].weight.norm(order) < 0.8 * plain[0].weight.norm(order)


@pytest.mark.parametrize("method", ["sparsegpt", "least_squares"])
@pytest.mark.parametrize("units", [ELEMENT, granularity("2:4")])
def test_what_stays_makes_up_for_what_goes(method, units):
    dense, cut_only, rebuilt = mlp(), mlp(), mlp()
    density = {"0": None if units.density else 0.5, "2": None if units.density else 0.5}
    # inputs that are sums of six can stand for one another
    x = X[:, :6] @ np.random.default_rng(1).standard_normal((6, 16)).astype(np.float32)
    training = Training(Data(x, DATA.y), epochs=0)
    prune(cut_only, units, density, training=training)
    prune(rebuilt, units, density, reconstruct=method, training=training)
    assert nonzeros(rebuilt) == [96, 12]
    for module in (cut_only, rebuilt):
        for layer in (module[0], module[2]):
            np.testing.assert_array_equal(
                units.mask(layer.weight.detach().abs().numpy(), density["0"]),
                layer.weight.detach() != 0)
    x = torch.from_numpy(x)
    assert (rebuilt(x) - dense(x)).norm() < 0.8 * (cut_only(x) - dense(x)).norm()


def test_rebuilt_zeros_stay_zero_in_training():
    module = mlp()
    prune(module, ELEMENT, QUARTER, reconstruct="least_squares", training=Training(DATA, epochs=2))
    assert nonzeros(module) == [48, 6]


@pytest.mark.parametrize(("criterion", "reconstruct"), [("lasso", None), ("l1", "least_squares")])
def test_the_next_layer_makes_up_for_neurons_that_left(criterion, reconstruct):
    dense = mlp()
    training = Training(DATA, epochs=0)
    plain = remove(dense, "neuron", {"0": 0.5}, training=training)
    rebuilt = remove(dense, "neuron", {"0": 0.5}, criterion=criterion,
                     reconstruct=reconstruct, training=training)
    assert [layer.weight.shape for layer in (rebuilt[0], rebuilt[2])] == [(6, 16), (2, 6)]
    x = torch.from_numpy(DATA.x)
    assert (rebuilt(x) - dense(x)).norm() < 0.8 * (plain(x) - dense(x)).norm()


def test_channels_in_front_of_a_flattened_layer_are_made_up_for():
    torch.manual_seed(1)
    dense = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    training = Training(DATA, epochs=0)
    keep = {"1": 0.5, "3": 0.5}
    plain = remove(dense, "channel", keep, training=training)
    rebuilt = remove(dense, "channel", keep, criterion="lasso", training=training)
    assert [tuple(rebuilt[at].weight.shape) for at in (1, 3, 6)] == [
        (3, 1, 3, 3), (2, 3, 3, 3), (2, 8)]
    x = torch.from_numpy(DATA.x)
    assert (rebuilt(x) - dense(x)).norm() < 0.8 * (plain(x) - dense(x)).norm()
