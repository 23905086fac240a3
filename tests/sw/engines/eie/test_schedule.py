"""How segments, and places in the directories, follow from the layers of an array."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sw.engines.eie.schedule import LayerInfo, directory_places, schedule
from zeroskip.sw.graph.types import TensorType


def info(inputs=9, outputs=5, **facts):
    return LayerInfo(**{
        "name": "fc", "activation": "none", "input": TensorType.of(inputs, np.int16, 1.0),
        "output": TensorType.of(outputs, np.int16, 1.0), "nonzeros": 0, "entries": 0, "padding": 0,
        "slots": 5, "grouped": 0, "stride": 1, "balanced": 0, **facts})


@pytest.mark.parametrize(("facts", "columns", "counts", "places"), [
    ({}, 16, True, 16), ({}, 17, True, 32), ({"stride": 2}, 17, True, 48),
    ({"stride": 4}, 17, True, 80), ({}, 17, False, 17),
    ({"stride": 3, "balanced": 1}, 17, True, 51), ({"stride": 3, "balanced": 1}, 17, False, 51),
    ({"grouped": 1}, 17, True, 16), ({"grouped": 1}, 17, False, 9)])
def test_places_of_a_pass(facts, columns, counts, places):
    config = EIEConfig(pes=8, groups=2, counts=counts)
    assert info(**facts).places(config, columns) == places


def test_places_of_all_directories():
    config = EIEConfig(pes=4, acc_depth=1)
    # Two passes of 9 columns, one of 5; a balanced layer has none.
    layers = (info(), info(inputs=5, outputs=3, slots=3), info(stride=5, balanced=1))
    assert directory_places(config, layers) == 48
    assert directory_places(replace(config, counts=False), layers) == 2 * 9 + 5 + 1
    assert directory_places(config, layers[2:]) == 0
    assert directory_places(replace(config, counts=False), layers[2:]) == 0


def test_schedule_of_balanced_layers_counts_from_the_first_of_them():
    layers = (info(stride=3, balanced=1), info(inputs=5), info(stride=2, balanced=1, inputs=5))
    config = EIEConfig(pes=4, acc_depth=1)
    assert [(s.codebook, s.first, s.stride, s.balanced) for s in schedule(config, layers)] == [
        (0, 0, 3, 1), (0, 27, 3, 1), (1, 0, 1, 0), (1, 16, 1, 0), (2, 54, 2, 1), (2, 64, 2, 1)]


@pytest.mark.parametrize(("groups", "first"), [(1, [0, 2, 5]), (2, [0, 4, 9])])
def test_biases_of_a_layer_begin_behind_those_of_the_layers_before(groups, first):
    """A word of each cluster holds one bias; the last segment of a layer says where they begin."""
    layers = (info(slots=8), info(slots=10), info(slots=3))
    found = schedule(EIEConfig(pes=4, groups=groups), layers)
    assert [s.bias for s in found if s.swap] == first
