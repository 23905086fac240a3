"""Costs on an EIE array: the cycles of the RTL, and bytes as the packer counts them."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from zeroskip.hw.eie.config import CONFIGS, zeroskip
from zeroskip.sw.compiler.compile import compile_network, storage
from zeroskip.sw.engines.eie import cost
from zeroskip.sw.engines.eie.lower import deepened
from zeroskip.sw.errors import BadInput
from zeroskip.sw.experiments import digits
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.model import of_module
from zeroskip.sw.prune.ratios import OneShot, priced
from zeroskip.sw.runtime import backends

RNG = np.random.default_rng(0)
X = np.abs(RNG.standard_normal((3, 20))).astype(np.float32)


def network(density, sizes=(20, 30, 7)):
    rng, layers = np.random.default_rng(1), []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
        weight[rng.random(weight.shape) >= density] = 0
        layers.append(Linear(f"fc{number}", weight, np.zeros(outputs, np.float32), "relu"))
    return Network(tuple(layers))


def test_cycles_are_those_of_the_rtl_on_the_digits_network():
    train, test = digits.load()
    one_shot = OneShot(of_module(digits.train_linear(train, 0)), granularity("element"))
    model, samples = one_shot(dict.fromkeys(one_shot.names, 0.12)), test.x[:4]
    cut = Network(tuple(node.layer for node in digits.graph(model.module).layers))
    config = CONFIGS["eie-4"]
    (image,) = compile_network(cut, samples, config).program.images
    inputs, _ = image.input.to_integer(samples)
    run = backends.rtl("cxxrtl").run(image, inputs)
    found = cost.cycles(config, samples)(cut)
    assert found == pytest.approx(run.statistics.cycles / len(samples), rel=0.01)
    # layer by layer each has scales of its own
    by_layer = priced(partial(cost.cycles, config), test.rows(slice(4)), per_sample=True)(model)
    assert by_layer == pytest.approx(found, rel=0.05)


def test_cycles_are_a_mean_over_samples():
    cut, config = network(0.3), zeroskip(4)
    # one scale for all: each set has the largest sample
    pair = [cost.cycles(config, X[[0, each]])(cut) for each in (1, 2)]
    alone, three = cost.cycles(config, X[:1])(cut), cost.cycles(config, X)(cut)
    assert three == pytest.approx((2 * sum(pair) - alone) / 3, rel=0.02)


def test_layers_get_what_the_layer_before_gives(monkeypatch):
    """Rows are assigned to PEs; each layer's vector is in that order."""
    seen = []

    def watched(_image, vector):
        seen.append(vector)
        return 0
    monkeypatch.setattr(cost, "predict", watched)
    cut, config = network(0.3), zeroskip(4)
    cost.cycles(config, X)(cut)
    compiled = compile_network(cut, X, config)
    (image,) = compiled.program.images
    first = compiled.reference[0]
    sums = seen[0].astype(np.int64) @ first.weight.T + first.bias + (1 << first.shift >> 1)
    expected = np.clip(sums >> first.shift, 0, (1 << 15) - 1)
    order = image.order[:image.layers[0].slots]
    assert not np.array_equal(order, np.arange(30))
    np.testing.assert_array_equal(seen[3], np.where(order >= 0, expected[order], 0))
    assert [len(vector) for vector in seen] == [20] * 3 + [len(order)] * 3


def test_bytes():
    cut, config = network(0.3), zeroskip(4)
    found = cost.packed_bytes(config, X)(cut)
    assert found == storage(compile_network(cut, X, config).program)["packed"]
    nonzero = sum(np.count_nonzero(layer.weight) for layer in cut.layers)
    assert found >= nonzero + 2 * 32 + 4 * 37       # a byte each, two codebooks, biases


@pytest.mark.parametrize("make", [cost.cycles, cost.packed_bytes])
def test_sparser_is_cheaper_and_no_memory_too_small(make):
    price = make(zeroskip(4), X)
    costs = [price(network(density, (20, 300, 7))) for density in (0.05, 0.3, 1.0)]
    assert costs == sorted(costs)
    assert costs[0] < costs[2] / 3
    assert price(network(0.0)) > 0


def test_refuses_a_convolution():
    layer = Conv2d("conv", np.ones((1, 1, 3, 3), np.float32), np.zeros(1, np.float32), "none",
                   (1, 4, 5), (1, 1), (0, 0, 0, 0), (1, 1))
    with pytest.raises(BadInput, match="layer conv is a convolution; the EIE array takes"):
        cost.cycles(zeroskip(4), X)(Network((layer,)))


@pytest.mark.parametrize("config", ["eie-4", "eie-16", "eie-64", "eie-paper-64"])
@pytest.mark.parametrize("density", [0.03, 0.1, 0.4])
def test_estimates_are_near_the_cycle_model_and_the_packer(config, density):
    """Of a layer that every configuration holds once its memories are deep enough."""
    cut, config = network(density, (200, 256)), deepened(CONFIGS[config])
    x = np.ones((1, 200), np.float32)
    found = cost.estimate(cut.layers[0], config)
    assert found.cycles == pytest.approx(cost.cycles(config, x)(cut), rel=0.25)
    named = replace(config, weight_rows=1024)       # a pointer is as wide as memory is deep
    assert cost.estimate(cut.layers[0], named).bytes == pytest.approx(
        cost.packed_bytes(named, x)(cut), rel=0.35)


def test_estimates_of_a_layer_in_loads_count_them():
    layer, = network(0.3, (2000, 512)).layers
    few, many = (cost.estimate(layer, CONFIGS["eie-16"], batch) for batch in (1, 8))
    assert few.basis == "no input zero, loaded for each 1 samples"
    words = layer.matrix.size * 0.3 / 4
    assert few.cycles - many.cycles == pytest.approx(7 / 8 * words, rel=0.3)
