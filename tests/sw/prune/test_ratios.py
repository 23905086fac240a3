"""Ratios: densities that meet a budget, all alike or by what each layer's cut loses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.pipeline import prune
from zeroskip.sw.prune.ratios import (
    ALLOCATORS,
    OneShot,
    Task,
    _lowest,
    density,
    macs,
    scan,
    sensitivity,
    uniform,
)
from zeroskip.sw.prune.recipe import Recipe

SIZES = {"fc1": (20, 30), "fc2": (10, 20), "fc3": (4, 10)}


def network(sizes=SIZES):
    rng = np.random.default_rng(0)
    return Network(tuple(
        Linear(name, rng.standard_normal(shape).astype(np.float32), np.zeros(shape[0], np.float32),
               "relu") for name, shape in sizes.items()))


def one_shot(**options):
    return OneShot(network(), granularity("element"), **options)


def kept(cut):
    return {layer.name: np.count_nonzero(layer.weight) / layer.weight.size for layer in cut.layers}


def loses(**weights):
    """An accuracy that falls by the square of what a layer loses, times its weight here."""
    def evaluate(cut):
        return 1 - sum(weight * (1 - kept(cut)[name]) ** 2 for name, weight in weights.items())
    return evaluate


def task(share, evaluate=None, **options):
    evaluate = evaluate or loses(fc1=0.01, fc2=0.01, fc3=0.9)
    return Task(one_shot(), macs, share * 840, evaluate, **options)


def test_costs_by_hand():
    convolution = Conv2d("conv", np.array([[[[1, 0, 2]]], [[[0, 0, 3]]]], np.float32),
                         np.zeros(2, np.float32), "relu", (1, 2, 5), (1, 1), (0, 0, 0, 0), (1, 1))
    last = Linear("fc", np.eye(4, 12, dtype=np.float32), np.zeros(4, np.float32), "none")
    chain = Network((convolution, last))
    assert macs(chain) == 3 * 6 + 4     # three weights at 2 x 3 positions
    assert density(chain) == 7 / (6 + 48)


@pytest.mark.parametrize("criterion", ["l1", "wanda"])
def test_one_shot_cuts_like_a_recipe_without_training(criterion):
    densities = {"fc1": 0.3, "fc3": 0.5}
    samples = np.random.default_rng(1).standard_normal((40, 30)).astype(np.float32)
    cut = one_shot(criterion=criterion, samples=samples)(densities)
    assert kept(cut) == {"fc1": 0.3, "fc2": 1.0, "fc3": 0.5}
    if criterion == "l1":
        expected, _ = prune(network(), Recipe(densities))
        for ours, theirs in zip(cut.layers, expected.layers, strict=True):
            np.testing.assert_array_equal(ours.weight, theirs.weight)


def test_a_weight_that_is_zero_goes_first():
    """Even where a criterion scores the row and not the weight."""
    given_network = network()
    given_network.layers[0].weight[:, ::2] = 0
    samples = np.random.default_rng(1).standard_normal((100, 30)).astype(np.float32)
    cut = OneShot(given_network, granularity("element"), "apoz", samples)({"fc1": 0.5})
    assert kept(cut)["fc1"] == kept(given_network)["fc1"] == 0.5


@pytest.mark.parametrize(("make", "message"), [
    (lambda: OneShot(network(), granularity("2:4")), "'2:4' says how many weights stay, and"),
    (lambda: OneShot(network(), granularity("banks", 8)), "layer fc3 has 4 outputs, too few for 8"),
    (lambda: one_shot()({"fc9": 0.5}), "no layer 'fc9'; the layers are fc1, fc2, fc3"),
    (lambda: one_shot()({"fc1": 0.0}), "density must be above 0 and at most 1, not 0.0"),
    (lambda: one_shot(criterion="wanda")({}), "criterion wanda needs samples; give data"),
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
