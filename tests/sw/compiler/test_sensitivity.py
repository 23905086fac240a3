"""One layer at a time in integers: what each costs, against a network built by hand."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import CONFIGS
from zeroskip.sw.compiler.placement import place
from zeroskip.sw.compiler.sensitivity import sensitivity
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.graph.network import Linear, Network, Quantised
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.calibration import ranges

CORE = CONFIGS["tc-8"]


def network():
    """Three layers, between the first two of which an outlier makes int8 coarse."""
    rng = np.random.default_rng(4)
    layers = [Linear(name, rng.normal(size=(8, 8)).astype(np.float32) / 3, np.zeros(8, np.float32),
                     "none") for name in "abc"]
    layers[0].bias[2] = 300
    layers[1].weight[:, 2] = 0
    return Network(tuple(layers))


def rms(errors):
    """A metric; the greater, the better."""
    return {"rms": -float(np.sqrt(np.mean(errors ** 2)))}


def samples(count, seed=0):
    return {"input": np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)}


def test_the_worst_layer_is_first_and_the_numbers_are_those_of_its_golden():
    net, engine = network(), registry.engine("tensorcore")
    x, given = samples(50), samples(20, 1)
    wanted = net.forward(given["input"])[-1]
    rows = sensitivity(Graph.of(net), [CORE], x, given, 20, lambda y: rms(wanted - y))
    assert {rows[0]["layer"], rows[1]["layer"], rows[2]["layer"]} == set("abc")
    assert rows[2]["layer"] == "c"
    assert rows[1]["error"] > 5 * rows[2]["error"]
    assert [row["loss"] for row in rows] == sorted((row["loss"] for row in rows), reverse=True)
    for row in rows:
        before, y = x["input"], given["input"]
        for layer in net.layers:
            if layer.name == row["layer"]:
                alone = Network((layer,))
                (golden,), _ = engine.quantise(alone, before, ranges(alone, before), CORE)
                y = golden.output.to_float(engine.golden(golden, golden.input.to_integer(y)[0])[0])
                y = y.astype(np.float32)
            else:
                y = layer.forward(y)
            before = layer.forward(before)
        assert row["rms"] == pytest.approx(rms(wanted - y)["rms"], rel=1e-3)
        assert row["loss"] == pytest.approx(-row["rms"], abs=1e-6)
        assert row["error"] == pytest.approx(
            np.sqrt(np.mean((y - wanted) ** 2)) / np.sqrt(np.mean(wanted ** 2)), rel=1e-4)


def test_each_layer_on_the_engine_that_suits_it():
    net = network()
    sparse = replace(net.layers[1], weight=np.where(
        np.random.default_rng(0).random((8, 8)) < 0.3, net.layers[1].weight, 0))
    net = Network((net.layers[0], sparse, net.layers[2]))
    configs = [CORE, EIEConfig(pes=2)]
    wanted = {layer.name: registry.of(place(layer, configs).config).name for layer in net.layers}
    rows = sensitivity(Graph.of(net), configs, samples(50), samples(20), 20, rms)
    assert {row["layer"]: row["engine"] for row in rows} == wanted


def test_of_a_quantised_model_there_is_nothing_to_say():
    own = Quantised(np.ones((2, 2), np.int8), np.ones(2), np.zeros(2, np.int64),
                    TensorType.of(2, np.int8, 1.0), TensorType.of(2, np.int8, 1.0))
    layer = Linear("a", np.ones((2, 2), np.float32), np.zeros(2, np.float32), "none", own)
    with pytest.raises(BadInput, match="has no float layer; give the model before it was"):
        sensitivity(Graph.of(Network((layer,))), [CORE], {}, {}, 1, rms)
