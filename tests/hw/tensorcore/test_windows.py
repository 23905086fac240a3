"""The windows of a column's lanes: every pattern and phase, and every operand once."""

import pytest
from amaranth.sim import Simulator

from zeroskip.hw.tensorcore.config import SPEEDUP, TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import PATTERNS
from zeroskip.hw.tensorcore.windows import Windows

BUILDS = {"2:4": ("dense", "2:4"), "1:4": ("dense", "1:4"), "both": ("dense", "2:4", "1:4")}
CONFIGS = {f"{name}, {products} products": TensorCoreConfig(products=products, patterns=patterns)
           for name, patterns in BUILDS.items() for products in (2, 4, 8)}


def windows(config, pattern, phase, word):
    """The windows for these inputs, as lists."""
    dut, found = Windows(config), []

    async def bench(ctx):
        ctx.set(dut.pattern, PATTERNS[pattern])
        ctx.set(dut.phase, phase)
        ctx.set(dut.word, word)
        found.extend(list(ctx.get(window)) for window in dut.windows)

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    return found


@pytest.mark.parametrize(("config", "pattern", "phase"), [
    pytest.param(config, pattern, phase, id=f"{name}, {pattern}, phase {phase}")
    for name, config in CONFIGS.items() for pattern in config.patterns
    for phase in range(config.span // SPEEDUP[pattern])])
def test_the_phases_go_through_all_groups_of_the_word(config, pattern, phase):
    word = list(range(-64, config.operands - 64))
    groups = [word[at:at + 4] for at in range(0, len(word), 4)]
    if config.span == 2:
        expected = groups
    elif pattern == "1:4":
        expected = [groups[at] + groups[at + 1] for at in range(0, len(groups), 2)]
    else:
        half = phase // 2 if pattern == "dense" else phase
        expected = [groups[half * config.lanes + lane] * 2 for lane in range(config.lanes)]
    assert windows(config, pattern, phase, word) == expected


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_dense_phases_reach_every_operand_once(config):
    """With the metadata of dense weights: 0 and 1 in even phases, 2 and 3 in odd ones."""
    word = list(range(config.operands))
    reached = []
    for phase in range(config.span):
        for window in windows(config, "dense", phase, word):
            first = 2 * (phase % 2)
            # With 1:4 the second multiplier has the second half of the window.
            reached += [window[first], window[len(window) - 4 + first + 1]]
    assert sorted(reached) == word


def test_a_core_without_select_has_its_own_two_operands_in_each_lane():
    config = TensorCoreConfig(products=8, patterns=("dense",))
    assert windows(config, "dense", 0, list(range(8))) == [[0, 1], [2, 3], [4, 5], [6, 7]]
