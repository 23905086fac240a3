"""The figures of ``bench``: what a layer's run gives, and jobs."""

import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from zeroskip.hw.eie.config import paper, zeroskip
from zeroskip.sim.cases import fixed_layer
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.experiments.benchmarks import (
    CODEBOOK,
    Job,
    ablation,
    array_config,
    run_jobs,
    run_layer,
)
from zeroskip.sw.experiments.layers import NINE, random_indices, random_vector
from zeroskip.sw.runtime import backends


@pytest.fixture(scope="module")
def run():
    """One segment on 8 PEs, with padding: a PE has 25 rows."""
    return run_layer(random_indices("random", (200, 48), 0.06), random_vector(48, 0.4),
                     array_config("paper", 8, nine=False), backends.rtl("python"), balance=False)


def test_the_layer_is_exact(run):
    assert run.exact


def test_entries_counted_from_the_memories_equal_the_counters(run):
    np.testing.assert_array_equal(run.entries[:, 0], run.statistics.pe["useful"])
    np.testing.assert_array_equal(run.entries[:, 1], run.statistics.pe["padding"])
    assert run.entries[:, 1].any()


def test_utilisation_and_losses_add_up_to_one(run):
    assert sum(run.loss().values()) + run.statistics.utilisation == pytest.approx(1)
    assert run.statistics.utilisation == pytest.approx(
        run.ideal_cycles / run.statistics.cycles)
    assert min(run.loss().values()) >= 0


def test_bits_per_nonzero_by_hand(run):
    (layer,) = run.image.layers
    bits = 8 * layer.entries + 8 * 49 * run.image.config.pointer_width
    assert run.bits_per_nonzero() == pytest.approx(bits / layer.nonzeros, abs=0.02)


def test_layers_share_one_machine_if_its_memories_hold_them():
    config = array_config("zeroskip", 4, nine=False)
    small, other, large = (
        run_layer(random_indices("random", shape, 0.3), random_vector(shape[1], 0.5), config,
                  backends.rtl("python")).image.config
        for shape in ((20, 12), (12, 20), (16, 300)))
    assert small == other
    assert small.act_depth == config.act_depth < large.act_depth
    assert large.block == large.acc_depth == large.act_depth


def test_the_papers_machine_keeps_its_blocks_and_passes():
    config = array_config("paper", 1, nine=False)
    run = run_layer(random_indices("random", (70, 130), 0.1), random_vector(130, 0.5), config,
                    backends.rtl("python"))
    assert run.exact
    assert [(s.limit, s.destination) for s in run.image.segments] == [
        (64, 0), (128, 0), (130, 0), (64, 64), (128, 64), (130, 64)]


@pytest.mark.parametrize("mode", ["paper", "zeroskip"])
@pytest.mark.parametrize("name", ["NT-We", "NT-Wd"])
def test_the_machine_of_the_nine_layers_holds_them(mode, name):
    indices = NINE[name].weights("skewed", 64)
    layer = replace(fixed_layer(indices), codebook=CODEBOOK)
    compile_layers((layer,), array_config(mode, 64), balance=False)


def test_the_ladder_leads_from_the_papers_machine_to_this_one():
    steps = list(ablation(64))
    assert steps[0] == ("paper", array_config("paper", 64), False)
    assert steps[-1][1:] == (array_config("zeroskip", 64), True)
    assert [balance for _, _, balance in steps] == [False] * 3 + [True] * 6
    assert all(before[1:] != after[1:] for before, after in pairwise(steps))


@pytest.mark.parametrize("cores", [1, 2])
def test_jobs_run_in_this_process_or_in_several(monkeypatch, cores):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    given = random_indices("random", (12, 9), 0.3), random_vector(9, 0.5)
    jobs = [Job("one", "given", "paper", paper(2), False, given),
            Job("two", "given", "zeroskip", zeroskip(2), True, given)]
    found = dict(run_jobs(jobs, "python"))
    assert sorted(found) == [0, 1]
    assert all(figures.exact for figures in found.values())
    assert found[0].ideal_cycles == found[1].ideal_cycles
    assert found[0].bits_per_nonzero != found[1].bits_per_nonzero
