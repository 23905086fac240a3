"""The arithmetic unit: sums in any order of rows, and drains right behind updates."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.arithmetic import ArithmeticUnit
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sim.bench import simulate

CONFIG = EIEConfig(acc_depth=8)
LOW, HIGH = -32768, 32767


def op(row, weight=1, value=1):
    return {"weight": weight, "value": value, "row": row}


def drained(steps, accumulators=None):
    """(cycle, value) of each drain, for steps of an operation, a row to drain, or None."""
    sums, out = accumulators or {}, []
    for cycle, step in enumerate(steps):
        if isinstance(step, dict):
            sums[step["row"]] = sums.get(step["row"], 0) + step["weight"] * step["value"]
        elif step is not None:
            out.append((cycle + ArithmeticUnit.DRAIN_LATENCY, sums.pop(step, 0)))
    return out


@pytest.fixture(scope="session")
def compute(feed, record):
    """``compute(steps)``: what leaves, as (cycle, value), for steps like ``drained``'s."""
    def compute(steps, config=CONFIG):
        dut, left = ArithmeticUnit(config), []
        simulate(
            dut,
            lambda ctx: feed(ctx, dut.i, [s if isinstance(s, dict) else None for s in steps]),
            lambda ctx: feed(ctx, dut.drain, [s if isinstance(s, int) else None for s in steps]),
            background=[record(left, dut.o)])
        return left
    return compute


DISTANCE = pytest.mark.parametrize("distance", [1, 2, 3, 4, 5])
BETWEEN = pytest.mark.parametrize("between", ["other rows", "nothing"])


def apart(first, second, distance, between):
    """Two steps, ``distance`` cycles from one to the other."""
    fillers = [op(row, 1000) if between == "other rows" else None
               for row in range(4, 4 + distance - 1)]
    return [first, *fillers, second]


@DISTANCE
@BETWEEN
def test_two_updates_of_one_accumulator(compute, distance, between):
    steps = [*apart(op(3, 5, 7), op(3, -2, 11), distance, between), *[None] * 10, 3]
    assert compute(steps) == [(len(steps) - 1 + ArithmeticUnit.DRAIN_LATENCY, 5 * 7 - 2 * 11)]


@DISTANCE
@BETWEEN
def test_a_drain_behind_an_update_has_it(compute, distance, between):
    steps = apart(op(2, 100, -3), 2, distance, between)
    assert compute(steps) == [(distance + ArithmeticUnit.DRAIN_LATENCY, -300)]


@DISTANCE
@BETWEEN
def test_a_drain_clears_for_an_update_behind_it(compute, distance, between):
    steps = [op(1, 9, 9), *[None] * 6, *apart(1, op(1, 2, 3), distance, between),
             *[None] * 6, 1]
    assert [value for _, value in compute(steps)] == [81, 6]


@DISTANCE
@BETWEEN
def test_a_drain_clears_for_a_drain_behind_it(compute, distance, between):
    steps = [op(1, 9, 9), *apart(1, 1, distance, between)]
    assert [value for _, value in compute(steps)] == [81, 0]


@DISTANCE
def test_a_chain_of_updates(compute, distance):
    chain = [op(6, k, 10) for k in range(1, 9)]
    steps = [step for update in chain for step in [update, *[None] * (distance - 1)]]
    assert compute([*steps, 6]) == drained([*steps, 6])


@pytest.mark.parametrize("order", [f"{k:06b}" for k in range(64)])
def test_every_order_of_updates_of_two_accumulators(compute, order):
    steps = [*(op(int(row), 1 << k) for k, row in enumerate(order)), 0, 1]
    assert compute(steps) == drained(steps)


VALUES = st.integers(-(1 << 12), 1 << 12)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_random_updates_and_drains_of_a_few_accumulators(compute, rows, data):
    row = st.integers(0, rows - 1)
    steps = data.draw(st.lists(st.none() | row | st.builds(op, row, VALUES, VALUES)
                               | st.builds(op, row, VALUES, VALUES), max_size=40))
    steps += range(rows)
    assert compute(steps) == drained(steps)


def test_products_of_extreme_operands(compute):
    pairs = list(product([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH], repeat=2))
    steps = [step for pair in pairs for step in (op(0, *pair), 0)]
    assert [value for _, value in compute(steps)] == [a * b for a, b in pairs]
    assert LOW * LOW in [a * b for a, b in pairs]


@pytest.mark.parametrize("width", [17, 24, 32])
def test_an_accumulator_reaches_both_ends_of_its_width(compute, width):
    top, bottom = (1 << width - 1) - 1, -(1 << width - 1)
    config = EIEConfig(acc_depth=8, acc_width=width)

    def reach(row, goal):
        """Updates that add up to ``goal`` without leaving the width on the way."""
        while goal:
            value = 1 << 14 if abs(goal) >= 1 << 14 else 1
            weight = max(LOW, min(HIGH, int(goal / value)))
            goal -= weight * value
            yield op(row, weight, value)

    steps = [*reach(0, top), *reach(1, bottom), 0, 1]
    assert [value for _, value in compute(steps, config)] == [top, bottom]


def test_throughput_is_one_drain_a_cycle(compute):
    steps = [*(op(row, row + 1) for row in range(8)), *range(8)]
    assert compute(steps) == [(8 + row + ArithmeticUnit.DRAIN_LATENCY, row + 1)
                              for row in range(8)]


@pytest.mark.parametrize("depth", [2, 5, 100])
def test_every_accumulator_is_its_own(compute, depth):
    steps = [*(op(row, row + 1) for row in range(depth)), *reversed(range(depth))]
    assert [value for _, value in compute(steps, EIEConfig(acc_depth=depth))] == list(
        range(depth, 0, -1))
