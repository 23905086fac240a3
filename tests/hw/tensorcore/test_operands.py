"""Metadata and windows: every pattern, phase and lane, and all weights in their plain order."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from zeroskip.hw.tensorcore.config import SPEEDUP, TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import PATTERNS
from zeroskip.hw.tensorcore.operands import Metadata, Windows
from zeroskip.sim.bench import plain

SPARSE = {"2:4": ("dense", "2:4"), "1:4": ("dense", "1:4"), "both": ("dense", "2:4", "1:4")}
CONFIGS = {f"{name}, {products} products": TensorCoreConfig(products=products, patterns=patterns)
           for name, patterns in SPARSE.items() for products in (2, 4, 8)}
CASES = pytest.mark.parametrize(("config", "pattern", "phase"), [
    pytest.param(config, pattern, phase, id=f"{name}, {pattern}, phase {phase}")
    for name, config in CONFIGS.items() for pattern in config.patterns
    for phase in range(config.span // SPEEDUP[pattern])])


def combined(dut, ports, **inputs):
    """The outputs of a combinational component, for these inputs."""
    found = []

    async def bench(ctx):
        for name, value in inputs.items():
            ctx.set(getattr(dut, name), value)
        found.extend(plain(ctx.get(getattr(dut, port))) for port in ports)

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def listed(array):
    """A plain array of arrays as lists."""
    return [listed(each) for each in array.values()] if isinstance(array, dict) else array


def select(config, pattern, phase, stored):
    (found,) = combined(Metadata(config), ["select"], pattern=PATTERNS[pattern], phase=phase,
                        stored=stored)
    return listed(found)


def windows(config, pattern, phase, word):
    (found,) = combined(Windows(config), ["windows"], pattern=PATTERNS[pattern], phase=phase,
                        word=word)
    return listed(found)


@CASES
def test_a_sparse_step_takes_the_stored_metadata(config, pattern, phase):
    for stored in ([k % 4 for k in range(config.products)],
                   [3 - k % 4 for k in range(config.products)]):
        expected = stored if pattern != "dense" else [
            k % 2 + 2 * (phase % 2) for k in range(config.products)]
        assert select(config, pattern, phase, stored) == expected


@CASES
def test_the_phases_go_through_all_groups_of_the_word(config, pattern, phase):
    word = list(range(config.operands))
    groups = [word[at:at + 4] for at in range(0, len(word), 4)]
    found = windows(config, pattern, phase, word)
    if config.span == 2:
        expected = groups
    elif pattern == "1:4":
        expected = [groups[at] + groups[at + 1] for at in range(0, len(groups), 2)]
    else:
        half = phase // 2 if pattern == "dense" else phase
        expected = [groups[half * config.lanes + lane] * 2 for lane in range(config.lanes)]
    assert found == expected


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_dense_phases_take_every_operand_once(config):
    word, taken = list(range(config.operands)), []
    for phase in range(config.span):
        places = np.reshape(select(config, "dense", phase, [0] * config.products), (-1, 2))
        for lane, window in enumerate(windows(config, "dense", phase, word)):
            # With 1:4 the second multiplier has the second half of the window.
            second = places[lane, 1] + (4 if config.span == 4 else 0)
            taken += [window[places[lane, 0]], window[second]]
    assert sorted(taken) == word


def test_a_core_without_select_has_its_own_two_operands_in_each_lane():
    config = TensorCoreConfig(products=8, patterns=("dense",))
    assert windows(config, "dense", 0, list(range(8))) == [[0, 1], [2, 3], [4, 5], [6, 7]]
