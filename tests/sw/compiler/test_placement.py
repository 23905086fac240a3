"""Which engine and which configuration a layer goes to."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from zeroskip.hw.eie.config import CONFIGS as ARRAYS
from zeroskip.hw.tensorcore.config import CONFIGS as CORES
from zeroskip.sw.compiler.placement import inspect, place, smallest
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.graph.network import SMOOTHED, Linear, Network


def layer(name, outputs, inputs, density):
    rng = np.random.default_rng(outputs)
    weight = rng.normal(size=(outputs, inputs)) * (rng.random((outputs, inputs)) < density)
    weight[0, :4] = 1, 2, 3, 0      # no pattern
    return Linear(name, weight.astype(np.float32), np.zeros(outputs, np.float32), "relu")


def net(*layers):
    return Graph.of(Network(tuple(layers)))


PAIR = (ARRAYS["eie-16"], CORES["tc-64"])


@pytest.mark.parametrize(("density", "engine"), [(0.02, "eie"), (0.1, "eie"), (0.6, "tensorcore")])
def test_fewer_cycles_win_and_both_are_said(density, engine):
    own = layer("fc", 256, 512, density)
    found = place(own, PAIR)
    assert found.config.kind == engine
    both = {config: registry.of(config).estimate(own, config).cycles for config in PAIR}
    assert found.estimate.cycles == min(both.values())
    mine, other = sorted(PAIR, key=both.get)
    names = {PAIR[0]: "eie-16", PAIR[1]: "tc-64"}
    assert f"Cycles a sample: {both[mine]:,.0f} on {names[mine]} (" in found.reason
    assert f") against {both[other]:,.0f} on {names[other]} (" in found.reason


def test_a_wish_decides_alone_and_the_first_that_fits():
    own = layer("enc.fc1", 256, 512, 0.6)
    found = place(own, PAIR, wishes={"enc.*": "eie", "*": "tensorcore"})
    assert found.config is PAIR[0]
    assert found.reason.startswith("It was placed there. It runs")
    assert place(own, PAIR, wishes={"dec.*": "eie"}).config is PAIR[1]


def test_a_wish_without_its_target():
    with pytest.raises(BadInput, match="layer a is to be placed on eie, but the targets are tc-64; "
                                       "name one of eie too"):
        place(layer("a", 9, 8, 0.5), PAIR[1:], wishes={"a": "eie"})


def arrays(*layers):
    """The name of the array that is chosen."""
    (config,) = smallest(net(*layers), [registry.engine("eie")])
    return next(name for name, own in ARRAYS.items() if own == config)


@pytest.mark.parametrize(("outputs", "inputs", "density", "expected"), [
    (64, 64, 0.3, "eie-tangnano9k"),    # the least memory of those with one PE
    (64, 1000, 0.3, "eie-8"),           # 19 KB fit one PE, but 1000 inputs do not
    (300, 100, 0.3, "eie-8"),           # 300 sums
    (3000, 300, 0.04, "eie-16"),
    (4096, 4096, 0.1, "eie-64"),
    (8192, 4096, 0.9, "eie-64"),        # none holds it
], ids=str)
def test_the_smallest_array_that_holds_it(outputs, inputs, density, expected):
    assert arrays(layer("a", outputs, inputs, density)) == expected


def test_codebooks_count():
    """An array of four holds four layers, one of 32 holds five."""
    layers = [layer(f"fc{k}", 16, 16, 0.3) for k in range(5)]
    assert [arrays(*layers[:count]) for count in (4, 5)] == ["eie-tangnano9k", "eie-8"]


def test_the_smallest_of_each_engine():
    layers = [layer("a", 64, 600, 0.1), layer("b", 8, 64, 0.9)]
    assert smallest(net(*layers), registry.engines()) == [
        ARRAYS["eie-8"], CORES["tc-64-dense"]]


def test_named_configurations_hold_what_they_are_said_to_hold():
    """What packs into the smallest is not in loads: of layers near the edge of each array."""
    from zeroskip.sw.engines.eie.blocks import lower
    from zeroskip.sw.engines.eie.engine import EIEEngine
    from zeroskip.sw.engines.eie.image import EIEImage
    from zeroskip.sw.engines.eie.quantize import quantize
    rng = np.random.default_rng(2)
    for density in (0.05, 0.1, 0.3, 0.9):
        own, = (layer("a", int(28_000 / 400 / density), 400, density),)
        config = next(config for config in ARRAYS.values() if EIEEngine().holds([own], config))
        layers, _ = quantize(Network((own,)), rng.normal(size=(2, 400)).astype(np.float32))
        assert isinstance(lower(layers, config), EIEImage), config


def test_inspect_adds_cycles_and_bytes():
    rows = inspect(net(layer("a", 64, 64, 0.1), layer("b", 8, 64, 0.9)))
    assert [list(row) for row in rows] == 2 * [
        ["name", "kind", "shape", "density", "pattern", "engine", "macs", "cycles", "bytes",
         "reason"]]
    for row in rows:
        assert f"{row['cycles']:,} on " in row["reason"]
    assert all(a["cycles"] > b["cycles"] for a, b in pairwise(rows))


def test_a_wish_holds_for_a_layer_that_was_smoothed():
    own = replace(layer("fc1", 64, 64, 0.05), name=f"fc1{SMOOTHED}")
    configs = [ARRAYS["eie-64"], CORES["tc-8"]]
    assert place(own, configs, 1).config == configs[0]
    assert place(own, configs, 1, {"fc1": "tensorcore"}).config == configs[1]
