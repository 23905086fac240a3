"""Ratios: densities that meet a budget, all alike or by what each layer's cut loses."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.model import of_module
from zeroskip.sw.prune.pipeline import prune
from zeroskip.sw.prune.ratios import (
    ALLOCATORS,
    OneShot,
    Task,
    _lowest,
    macs,
    priced,
    scan,
    seen,
    sensitivity,
    uniform,
)
from zeroskip.sw.prune.recipe import Recipe

SIZES = {"fc1": (20, 30), "fc2": (10, 20), "fc3": (4, 10)}
DATA = Data(np.random.default_rng(1).standard_normal((40, 30)).astype(np.float32))


def network(sizes=SIZES):
    rng = np.random.default_rng(0)
    parts = {}
    for name, shape in sizes.items():
        parts[name], parts[f"{name}_relu"] = nn.Linear(*shape[::-1]), nn.ReLU()
        with torch.no_grad():
            parts[name].weight.copy_(torch.from_numpy(rng.standard_normal(shape)))
            parts[name].bias.zero_()
    return of_module(nn.Sequential(OrderedDict(parts)))


def one_shot(**options):
    return OneShot(network(), granularity("element"), **options)


def kept(cut):
    return {name: int(layer.weight.count_nonzero()) / layer.weight.numel()
            for name, layer in cut.layers.items()}


def loses(**weights):
    """An accuracy that falls by the square of what a layer loses, times its weight here."""
    def evaluate(cut):
        return 1 - sum(weight * (1 - kept(cut)[name]) ** 2 for name, weight in weights.items())
    return evaluate


def task(share, evaluate=None, **options):
    evaluate = evaluate or loses(fc1=0.01, fc2=0.01, fc3=0.9)
    return Task(one_shot(), macs(DATA), share * 840, evaluate, **options)


def test_costs_by_hand():
    convolution = nn.Conv2d(1, 2, (1, 3))
    grouped = nn.Conv1d(2, 4, 3, groups=2, padding=1, stride=3)
    last = nn.Linear(8, 4)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[[[1, 0, 2]]], [[[0, 0, 3]]]]))
        grouped.weight.fill_(1)
        last.weight.copy_(torch.eye(4, 8))
    model = of_module(nn.Sequential(convolution, nn.Flatten(2), grouped, nn.Flatten(), last))
    data = Data(np.ones((3, 1, 2, 5), np.float32))
    # three weights at 2 x 3 positions, then 12 at two
    assert macs(data)(model) == 3 * 6 + 12 * 2 + 4
    assert model.density() == (3 + 12 + 4) / (6 + 12 + 32)


def test_a_price_is_that_of_each_layer_for_what_reaches_it():
    """Tokens count each; what is paid once does not."""
    asked = []

    def price(rows):
        asked.append(rows.shape)
        return lambda chain: float(np.count_nonzero(chain.layers[0].weight))
    model = of_module(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2)))
    data = Data(np.ones((6, 5, 3), np.float32))
    assert priced(price, data, per_sample=True)(model) == 12 * 5 + 40
    assert priced(price, data, per_sample=False)(model) == 12 + 40
    assert asked == [(30, 3), (6, 20)] * 2


def test_layers_as_an_engine_takes_them_compute_the_same():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, (3, 2), 2, (1, 0), groups=2), nn.Flatten(2),
                           nn.Conv1d(4, 3, 2, dilation=2, padding="same"), nn.Flatten(),
                           nn.Linear(18, 5))
    x = torch.randn(4, 2, 5, 5)
    found = seen(of_module(module), Data(x.numpy()))
    wanted = []
    for layer in (module[0], module[2], module[4]):
        layer.register_forward_hook(lambda _m, _i, y: wanted.append(y.detach().flatten(1).numpy()))
    module(x)
    for (layer, rows), expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(layer.forward(rows), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("criterion", ["l1", "wanda"])
def test_one_shot_cuts_like_a_recipe_without_training(criterion):
    densities = {"fc1": 0.3, "fc3": 0.5}
    cut = one_shot(criterion=criterion, data=DATA)(densities)
    assert kept(cut) == {"fc1": 0.3, "fc2": 1.0, "fc3": 0.5}
    if criterion == "l1":
        expected, _ = prune(network(), Recipe(densities))
        for ours, theirs in zip(cut.layers.values(), expected.layers.values(), strict=True):
            assert torch.equal(ours.weight, theirs.weight)


def test_a_weight_that_is_zero_goes_first():
    """Even where a criterion scores the row and not the weight."""
    given_network = network()
    with torch.no_grad():
        given_network.layers["fc1"].weight[:, ::2] = 0
    cut = OneShot(given_network, granularity("element"), "apoz", DATA)({"fc1": 0.5})
    assert kept(cut)["fc1"] == kept(given_network)["fc1"] == 0.5


@pytest.mark.parametrize(("make", "message"), [
    (lambda: OneShot(network(), granularity("2:4")), "'2:4' says how many weights stay, and"),
    (lambda: OneShot(network(), granularity("banks", 8)), "layer fc3 has 4 outputs, too few for 8"),
    (lambda: one_shot()({"fc9": 0.5}), "no layer 'fc9'; the layers are fc1, fc2, fc3"),
    (lambda: one_shot()({"fc1": 0.0}), "density must be above 0 and at most 1, not 0.0"),
    (lambda: one_shot(criterion="wanda")({"fc1": 0.5}), "criterion wanda needs samples; give data"),
    (lambda: task(0.5, low=0), "low must be above 0 and below 1, not 0"),
    (lambda: task(0.5, low=1.0), "low must be above 0 and below 1, not 1.0"),
])
def test_bad_input(make, message):
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize("allocate", ALLOCATORS.values())
def test_a_budget_below_the_lowest_densities(allocate):
    with pytest.raises(BadInput, match=r"the budget of 8.4 is below 84, what the network costs at "
                                       "its lowest densities; raise the budget"):
        allocate(task(0.01, low=0.1), None)


@pytest.mark.parametrize("allocate", ALLOCATORS.values())
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.03, 1.1))
def test_the_budget_is_met_and_used(allocate, share):
    asked = task(share)
    cost = asked.price(allocate(asked, None))
    assert cost <= asked.budget
    assert cost >= min(asked.budget, 840) - 8       # a layer counts whole weights


def test_uniform():
    assert set(uniform(task(2)).values()) == {1.0}
    densities = uniform(task(0.25))
    assert len(set(densities.values())) == 1
    assert densities["fc1"] == pytest.approx(0.25, abs=0.01)


def test_scaled_keeps_ratios_within_low_and_one():
    densities = task(0.3).scaled({"fc1": 0.1, "fc2": 0.2, "fc3": 0.9})
    assert densities["fc2"] == pytest.approx(2 * densities["fc1"])
    assert densities["fc3"] == 1
    assert task(0.3, low=0.25).scaled({"fc1": 0.01, "fc2": 0.9, "fc3": 0.9})["fc1"] == 0.25


def test_scan_cuts_each_layer_alone():
    calls, weights = [], {"fc1": 0.1, "fc2": 0.2, "fc3": 0.4}
    table = scan(one_shot(), [0.5, 1.0], loses(**weights), lambda *call: calls.append(call))
    assert table == {name: [pytest.approx(1 - weight / 4), 1.0]
                     for name, weight in weights.items()}
    assert calls == [(done, 6, "scan") for done in range(1, 7)]


def test_sensitivity_spares_the_layer_that_loses_most():
    asked = task(0.3)
    densities = sensitivity(asked)
    assert densities["fc3"] > 0.8 > densities["fc1"]
    # all are at the same loss
    assert densities["fc1"] == pytest.approx(densities["fc2"], abs=0.05)
    accuracy = asked.evaluate(asked.cut(densities))
    assert accuracy > asked.evaluate(asked.cut(uniform(asked)))


def test_sensitivity_of_a_network_that_loses_nothing():
    """The threshold is 0 then, and all are at the lowest density that was scanned."""
    assert set(sensitivity(task(0.3, lambda _cut: 0.5)).values()) == {0.02}


@pytest.mark.parametrize(("losses", "threshold", "expected"), [
    ([0.4, 0.2, 0.0], 0.5, 0.25),
    ([0.4, 0.2, 0.0], 0.4, 0.25),
    ([0.4, 0.2, 0.0], 0.3, 0.375),
    ([0.4, 0.2, 0.0], 0.2, 0.5),
    ([0.4, 0.2, 0.0], 0.0, 1.0),
    ([0.4, 0.0, 0.0], 0.0, 0.5),
    ([0.4, 0.4, 0.0], 0.1, 0.875),
    ([0.0, 0.0, 0.0], 0.0, 0.25),
])
def test_lowest_density_within_a_threshold(losses, threshold, expected):
    assert _lowest(np.array([0.25, 0.5, 1.0]), np.array(losses), threshold) == (
        pytest.approx(expected))
