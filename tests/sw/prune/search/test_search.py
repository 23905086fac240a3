"""Searches: within the budget, better than uniform where layers differ, the same for a seed."""

import random
import sys
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.graph.network import Conv2d
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.lookup import LookUp
from zeroskip.sw.prune.losses import named as named_loss
from zeroskip.sw.prune.model import of_module
from zeroskip.sw.prune.ratios import OneShot, Task, macs, uniform
from zeroskip.sw.prune.search import SEARCHES, amc, named, netadapt

SIZES = {"fc1": (20, 30), "fc2": (10, 20), "fc3": (4, 10)}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 30)).astype(np.float32)
DATA = Data(X, (X[:, 0] > X[:, 1]).astype(np.int64))
MACS = macs(DATA.rows(slice(0, 1)))


def accuracy(model, data):
    return model.judge(data, named_loss("cross_entropy"))["accuracy"]


def network(sizes=SIZES):
    rng = np.random.default_rng(0)
    parts = {}
    for name, shape in sizes.items():
        parts[name], parts[f"{name}_relu"] = nn.Linear(*shape[::-1]), nn.ReLU()
        with torch.no_grad():
            parts[name].weight.copy_(torch.from_numpy(rng.standard_normal(shape)))
            parts[name].bias.zero_()
    return of_module(nn.Sequential(OrderedDict(parts)))


def kept(cut):
    return {name: int(layer.weight.count_nonzero()) / layer.weight.numel()
            for name, layer in cut.layers.items()}


def peak(**best):
    """An accuracy that falls by the distance of each layer's density from its best one."""
    def evaluate(cut):
        return 1 - sum(abs(kept(cut)[name] - each) for name, each in best.items()) / 3
    return evaluate


def task(share=0.3, evaluate=None, cost=None, **options):
    evaluate = evaluate or peak(fc1=0.2, fc2=0.5, fc3=0.8)
    cost = cost or MACS
    cut = OneShot(network(), granularity("element"), data=DATA)
    return Task(cut, cost, share * cost(cut.model), evaluate, **options)


def run(name, asked, tries=40, **options):
    """A quick search."""
    quick = {"netadapt": {"data": DATA, "steps": 4, "epochs": 1}, "random": {"evaluations": tries},
             "amc": {"evaluations": tries}}[name]
    return named(name)(asked, **quick | options)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_budget_is_met_and_used(name, share):
    asked = task(share)
    densities, trials = run(name, asked)
    assert list(densities) == list(SIZES)
    assert all(asked.low <= each <= 1 for each in densities.values())
    assert asked.budget - 4 <= asked.price(densities) <= asked.budget
    if name != "netadapt":      # which comes down to the budget in steps
        assert max(trial.cost for trial in trials) <= asked.budget * 1.001
        assert len(trials) == 40


@pytest.mark.parametrize("name", SEARCHES)
def test_better_than_uniform_where_layers_differ(name):
    asked = task()
    densities, trials = run(name, asked, 60)
    found, alike = (asked.evaluate(asked.cut(each)) for each in (densities, uniform(asked)))
    assert found > alike
    if name != "netadapt":
        best = max(trials, key=lambda trial: trial.accuracy)
        assert best.accuracy == asked.evaluate(asked.cut(best.densities))


@pytest.mark.parametrize("name", SEARCHES)
def test_same_seed_same_densities_on_any_number_of_threads(name):
    threads, found = torch.get_num_threads(), []
    for count, seed in ((1, 5), (2, 5), (1, 6)):
        torch.set_num_threads(count)
        found.append(run(name, task(), 24, seed=seed))
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert found[0] == found[1]
    if name != "netadapt":      # the accuracy of this task has no training in it
        assert found[0] != found[2]


@pytest.mark.parametrize("name", SEARCHES)
def test_progress(name):
    calls = []
    run(name, task(), 12, progress=lambda *call: calls.append(call))
    total = 4 if name == "netadapt" else 12
    assert [call[:2] for call in calls][:total] == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_budget_that_cannot_be_met(name):
    with pytest.raises(BadInput, match="budget of 8.4"):
        run(name, task(0.01, low=0.1), 12)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_budget_above_the_dense_network(name):
    densities, _ = run(name, task(2.0), 12)
    assert set(densities.values()) == {1.0}


def test_unknown_search():
    with pytest.raises(BadInput, match="no search 'grid'; choose one of netadapt, amc, random"):
        named("grid")


@pytest.mark.parametrize("missing", ["gymnasium", "stable_baselines3"])
def test_amc_without_its_packages(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "zeroskip.sw.prune.search.amc")
    with pytest.raises(ToolMissing, match=rf"{missing} is not installed; get it with: pip inst"):
        named("amc")


def test_amc_leaves_the_global_generators_as_they_are():
    asked = task()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    run("amc", asked, 8)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected


def test_amc_state_and_bounds():
    """Greatest density first: what is left must still bring the budget in reach."""
    episodes = amc._Episodes(task(0.5, low=0.1), lambda _done: None)
    state, _ = episodes.reset()
    assert state[1:] == pytest.approx([1, 1, *[1] * 4, 1, 0, 240 / 840, 1], abs=0.01)
    state, reward, done, _, _ = episodes.step(np.array([1.0]))
    # 420 must go, of which the others can save 180 and 36
    assert episodes._densities["fc1"] == pytest.approx(1 - 204 / 600, abs=0.01)
    assert (reward, done) == (0, False)
    assert state == pytest.approx([0.5, 0.5, 2 / 3, *[1] * 4, 1 / 3, 204 / 756, 36 / 756,
                                   1 - 204 / 600], abs=0.01)
    episodes.step(np.array([1.0]))
    _, reward, done, _, _ = episodes.step(np.array([0.0]))
    assert done
    assert list(episodes._densities.values())[1:] == pytest.approx([0.1, 0.1], abs=0.01)
    (trial,) = episodes.trials
    assert reward == trial.accuracy - 1
    assert trial.cost == pytest.approx(task(0.5).budget, abs=2)


def test_look_up_of_an_additive_cost():
    table = task().table
    assert table.dense == 840
    assert table.most("fc1") == pytest.approx(600 - 12, abs=1)     # a density of 0.02
    assert table.saving("fc2", 1.0) == 0
    for density in (0.05, 0.3, 0.8):
        assert table.saving("fc1", density) == pytest.approx(600 * (1 - density), abs=2)
        assert table.density("fc1", 600 * (1 - density)) == pytest.approx(density, abs=0.01)
    assert table.density("fc1", 0) == 1
    assert table.density("fc1", -5) == 1
    assert table.density("fc1", 700) == 0.02
    assert table.price({"fc1": 0.5, "fc2": 0.5, "fc3": 1.0}) == pytest.approx(440, abs=2)


def test_look_up_of_a_cost_with_steps_and_rises():
    """Half a layer is saved at once; a density that costs more than a greater one saves as much."""
    def cost(cut):
        share = kept(cut)["fc1"]
        return 100.0 if share > 0.5 else 50 + 10 * (share < 0.1)
    table = LookUp(task(cost=cost).price, list(SIZES), 0.02)
    assert table.most("fc1") == 50
    assert table.most("fc2") == 0
    assert table.density("fc1", 50) <= 0.5
    assert table.density("fc2", 1) == 0.02


def test_netadapt_spends_its_steps_where_they_cost_nothing():
    asked = task(0.5, peak(fc2=1.0, fc3=1.0))
    densities, trials = run("netadapt", asked)
    assert densities["fc2"] == densities["fc3"] == 1
    assert densities["fc1"] == pytest.approx(0.3, abs=0.02)
    assert trials[0].densities["fc1"] == pytest.approx(1 - 105 / 600, abs=0.01)


def test_netadapt_where_the_last_step_is_more_than_any_layer_can_save():
    asked = task(0.105, low=0.1)
    densities, trials = run("netadapt", asked)
    assert trials
    assert trials[-1].cost > asked.budget
    assert asked.budget - 4 <= asked.price(densities) <= asked.budget


def test_netadapt_tunes_for_the_task():
    """Networks in the middle of the search are better than those that are only cut."""
    asked = task(0.3, lambda cut: accuracy(cut, DATA))
    densities, trials = run("netadapt", asked, epochs=20, learning_rate=1e-2)
    assert trials[-1].accuracy > accuracy(asked.cut(densities), DATA) + 0.2


def test_fine_tuning_holds_zeros_and_learns():
    cut = task().cut(dict.fromkeys(SIZES, 0.3))
    tuned = cut.copy()
    netadapt.fine_tune(tuned, DATA, 20, 1e-2, seed=0)
    assert accuracy(tuned, DATA) > accuracy(cut, DATA)
    for before, after in zip(cut.layers.values(), tuned.layers.values(), strict=True):
        assert not after.weight[before.weight == 0].any()
        assert not torch.equal(before.weight, after.weight)


def test_amc_needs_samples():
    asked = task()
    asked = replace(asked, cut=replace(asked.cut, data=None))
    with pytest.raises(BadInput, match="amc looks at what reaches each layer; give samples"):
        run("amc", asked, 4)


@pytest.mark.parametrize("evaluations", [1, 2, 5])
@pytest.mark.parametrize("name", ["amc", "random"])
def test_few_evaluations(name, evaluations):
    asked = task()
    densities, trials = run(name, asked, evaluations)
    assert len(trials) == evaluations
    assert asked.price(densities) <= asked.budget


def test_amc_state_of_a_convolution():
    convolution = Conv2d("conv", np.ones((6, 2, 3, 1), np.float32), np.zeros(6, np.float32), "relu",
                         (2, 9, 5), (2, 1), (0, 0, 0, 0), (1, 1))
    assert amc._shape(convolution) == (6, 2, 9, 5, 2, 3)


def test_the_table_is_measured_once():
    calls = []
    asked = task(cost=lambda cut: calls.append(cut) or MACS(cut))
    table, measured = asked.table, len(calls)
    assert measured > 15 * len(SIZES)
    assert asked.table is table
    assert len(calls) == measured


def test_the_table_is_fitted_to_layers_that_are_cut_together():
    """A cost that grows with the product of two layers saves less than the sum."""
    asked = task(cost=lambda cut: 100 * kept(cut)["fc1"] * kept(cut)["fc2"])
    alike = uniform(asked)
    assert asked.table.price({}) == 100
    assert asked.table.price(alike) == pytest.approx(asked.price(alike))
    plain = LookUp(asked.price, list(SIZES), asked.low)
    assert plain.price(alike) < asked.price(alike) - 20
