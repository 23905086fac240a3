"""The tile: sums of any steps, rows out at the stated cycles, and sums modulo 2^32."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.tensorcore.config import SPEEDUP, TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import PATTERNS
from zeroskip.hw.tensorcore.tile import Tile
from zeroskip.sim.bench import device, simulate

EVERY = ("dense", "2:4", "1:4")
CONFIGS = {
    "2 x 3": TensorCoreConfig(rows=2, columns=3, products=4),
    "one accumulator": TensorCoreConfig(rows=1, columns=1, products=2),
    "no select": TensorCoreConfig(rows=3, columns=1, products=4, patterns=("dense",)),
    "every mode": TensorCoreConfig(rows=2, columns=2, products=2, patterns=EVERY, int4=True),
}
CASES = pytest.mark.parametrize(("config", "pattern", "int4"), [
    pytest.param(config, pattern, int4, id=f"{name}, {pattern}{', int4' * int4}")
    for name, config in CONFIGS.items() for pattern in config.patterns
    for int4 in range(1 + config.int4)])


def run(config, pattern, steps, int4=0):
    """The row at the tile's output in every cycle, for steps, one a cycle: (phase, first, last,
    weights, metadata, words), or None for a cycle without one."""
    dut, rows = device(Tile, config), []

    async def bench(ctx):
        ctx.set(dut.pattern, PATTERNS[pattern])
        ctx.set(dut.int4, int4)
        for step in steps:
            ctx.set(dut.step.valid, step is not None)
            if step is not None:
                phase, first, last, weights, metadata, words = step
                ctx.set(dut.step.payload, {"phase": phase, "first": first, "last": last})
                for row in range(config.rows):
                    ctx.set(dut.weights[row]["values"], weights[row].tolist())
                    if config.sparse:
                        ctx.set(dut.weights[row]["metadata"], metadata[row].tolist())
                ctx.set(dut.activations, words.tolist())
            await ctx.tick()
        ctx.set(dut.step.valid, 0)

    async def watch(ctx):
        async for *_, row in ctx.tick().sample(dut.row):
            rows.append([row[c] for c in range(config.columns)])

    simulate(dut, bench, background=[watch])
    return rows


def random_step(rng, config, pattern, number, last):
    """A step with any numbers: what :func:`run` takes."""
    shape = config.rows, config.products
    phase = number % (config.span // SPEEDUP[pattern])
    metadata = rng.integers(4, size=shape)
    if pattern == "2:4":
        pairs = np.array([(low, high) for high in range(4) for low in range(high)])
        metadata = pairs[rng.integers(6, size=(config.rows, config.lanes))].reshape(shape)
    elif pattern == "dense":
        metadata = np.resize([0, 1], shape) + 2 * (phase % 2)
    return (phase, number == 0, last,
            rng.integers(-128, 128, shape), metadata,
            rng.integers(-128, 128, (config.columns, config.operands)))


def products(config, pattern, step, int4):
    """What one step adds to each accumulator, int64 [rows, columns]."""
    phase, _, _, weights, metadata, words = step
    lane = np.arange(config.products) // 2
    if config.span == 1:
        at = np.broadcast_to(np.arange(config.products), weights.shape)
    elif pattern == "dense":
        at = 4 * (phase // 2 * config.lanes + lane) + metadata
    elif pattern == "2:4":
        at = 4 * (phase * config.lanes + lane) + metadata
    else:
        at = 4 * np.arange(config.products) + metadata
    chosen = words[:, at].swapaxes(0, 1)        # [rows, columns, products]
    weights = weights[:, None]
    if int4:
        low = ((weights & 15 ^ 8) - 8) * ((chosen & 15 ^ 8) - 8)
        return (low + (weights >> 4) * (chosen >> 4)).sum(axis=2)
    return (weights * chosen).sum(axis=2)


@CASES
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(1, 5), max_size=6),
       gaps=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=6)
def test_rows_of_sums_leave_at_their_cycles(config, pattern, int4, seed, lengths, gaps):
    rng = np.random.default_rng(seed)
    steps, expected, previous = [], {}, -config.rows
    for length in lengths:
        total = np.zeros((config.rows, config.columns), np.int64)
        for number in range(length):
            steps += [None] * int(gaps and rng.integers(3))
            last = number == length - 1
            if last:    # as far from the one before as the tile asks for
                steps += [None] * (previous + config.rows - len(steps))
                previous = len(steps)
            steps.append(random_step(rng, config, pattern, number, last))
            total += products(config, pattern, steps[-1], int4)
        for row in range(config.rows):
            expected[previous + Tile.latency(config) + row] = total[row].tolist()
    rows = run(config, pattern, steps, int4)
    assert {cycle: rows[cycle] for cycle in expected} == expected


def test_sums_wrap_at_32_bits():
    """1,100 steps of -128 * -128 from 128 multipliers are a little over 2^31."""
    config = TensorCoreConfig(rows=1, columns=1, products=128, patterns=("dense",))
    lowest = np.full((1, 128), -128)
    count = 1100
    rows = run(config, "dense", [
        (0, k == 0, k == count - 1, lowest, None, lowest) for k in range(count)])
    exact = count * 128 * 128 * 128
    assert exact > 1 << 31
    assert rows[count - 1 + Tile.latency(config)] == [exact - (1 << 32)]
