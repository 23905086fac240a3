"""The cycle model beside the RTL, and what it counts in the memories."""

import numpy as np
import pytest

from zeroskip.hw.eie.config import paper, zeroskip
from zeroskip.sim.cases import fixed_layer
from zeroskip.sw.engines.eie import cycle_model
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.experiments.benchmarks import run_layer
from zeroskip.sw.experiments.layers import random_indices, random_vector
from zeroskip.sw.runtime import backends

CONFIGS = {
    "paper": paper(4, act_depth=65, block=16, acc_depth=8),
    "zeroskip": zeroskip(4),
    "two groups": zeroskip(4, groups=2),
    "four groups": zeroskip(8, groups=4),
    "small queues": zeroskip(4, queue_depth=1, runahead=3, broadcast_latency=0),
    "far away": zeroskip(2, broadcast_latency=3),
}

LAYERS = {
    "full columns": ("random", (64, 60), 0.3, 0.4),
    "empty columns": ("random", (48, 100), 0.02, 0.5),
    "long gaps": ("random", (600, 20), 0.01, 1.0),
    "skewed": ("skewed", (64, 60), 0.2, 0.4),
    "balanced": ("balanced", (64, 60), 0.2, 0.4),
    "few activations": ("random", (40, 150), 0.2, 0.02),
    "no activations": ("random", (40, 70), 0.2, 0),
    "no weights": ("random", (10, 40), 0, 1.0),
    "smaller than the array": ("random", (2, 3), 1.0, 1.0),
}


@pytest.mark.parametrize(("config", "layer"), [
    ("paper", "full columns"), ("paper", "empty columns"), ("paper", "no activations"),
    ("zeroskip", "full columns"), ("zeroskip", "long gaps"), ("zeroskip", "balanced"),
    ("zeroskip", "no activations"), ("zeroskip", "smaller than the array"),
    ("two groups", "empty columns"), ("two groups", "few activations"),
    ("four groups", "empty columns"), ("four groups", "no weights"),
    ("small queues", "skewed"), ("far away", "skewed"),
])
def test_the_model_predicts_the_cycles_of_the_rtl(config, layer):
    mask, shape, density, activations = LAYERS[layer]
    indices = random_indices(mask, shape, density, CONFIGS[config].pes, seed=3)
    vector = random_vector(shape[1], activations, seed=4)
    run = run_layer(indices, vector, CONFIGS[config], backends.rtl("python"))
    assert run.exact
    np.testing.assert_array_equal(run.entries[:, 0], run.statistics.pe["useful"])
    np.testing.assert_array_equal(run.entries[:, 1], run.statistics.pe["padding"])
    cycles = run.statistics.cycles
    assert abs(run.model_cycles - cycles) <= max(2 * len(run.image.segments), 0.01 * cycles)


def work(config, columns):
    """Work on columns, each a list of rows out of 600 that are not zero."""
    indices = np.zeros((600, len(columns)), np.uint8)
    for column, rows in enumerate(columns):
        indices[rows, column] = 3
    image = compile_layers((fixed_layer(indices),), config)
    (found,) = cycle_model.work(image, np.arange(len(columns)))
    return found


def test_an_escape_costs_nothing_and_a_padding_entry_a_cycle():
    wide = {"act_depth": 700, "bias_depth": 700}
    columns = [[0, 1], [], [16], [0, 289], [599]]
    found = work(zeroskip(1, **wide), columns)
    np.testing.assert_array_equal(found.useful, [[2, 0, 1, 2, 1]])
    np.testing.assert_array_equal(found.padding, [[0, 0, 0, 1, 2]])
    found = work(paper(1, acc_depth=700, block=700, **wide), columns)
    np.testing.assert_array_equal(found.useful, [[2, 0, 1, 2, 1]])
    np.testing.assert_array_equal(found.padding, [[0, 0, 1, 18, 37]])
    assert not found.late.any()
    np.testing.assert_array_equal(found.found, [[-1], [1], [2], [3], [4]])


@pytest.mark.parametrize(("first", "second", "rows", "late"), [
    (7, [20], 2, 1),            # bytes: escape | entry, and no byte before the escape
    (6, [0, 20], 2, 0),         # entry, escape | entry
    (7, [20, 21], 2, 1),        # escape | entry, entry
    (6, [20], 1, 0),            # escape, entry |
    (5, [300], 2, 0),           # half of a bridge, its other half, escape | entry
])
def test_a_row_with_an_escape_alone_is_read_for_nothing(first, second, rows, late):
    config = zeroskip(1, act_depth=700, bias_depth=700)
    found = work(config, [list(range(first)), second, *[[]] * 20])
    assert (found.rows[0, 1], found.late[0, 1], found.late.sum()) == (rows, late, late)


def test_a_grouped_layer_counts_a_column_in_its_group_only():
    config = zeroskip(8, groups=4)
    indices = random_indices("random", (64, 64), 0.05)
    image = compile_layers((fixed_layer(indices),), config)
    assert image.layers[0].grouped
    vector = np.zeros(64, np.int16)
    vector[13] = 1      # cluster 1, slot 6: group 2
    (found,) = cycle_model.work(image, vector)
    entries = found.entries(config)
    assert entries[:, 0].sum() == np.count_nonzero(indices[:, 13])
    assert not entries[[0, 1, 2, 3, 6, 7]].any()
