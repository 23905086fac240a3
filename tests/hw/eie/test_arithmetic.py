"""The arithmetic unit: sums in any order of rows, right behind each other or far apart."""

from itertools import chain, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.arithmetic import ArithmeticUnit
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.registers import ActivationRegisters
from zeroskip.sim.bench import device, simulate

CONFIG = EIEConfig(act_depth=8)
LOW, HIGH = -32768, 32767
RUBBISH = -12345678


def op(row, weight=1, value=1):
    return {"weight": weight, "value": value, "row": row}


def written(steps, sums=None):
    """(cycle, row, sum) of each write, for steps of an operation or None, one a cycle."""
    sums, out = dict(sums or {}), []
    for cycle, step in enumerate(steps):
        if step is not None:
            row = step["row"]
            sums[row] = sums.get(row, 0) + step["weight"] * step["value"]
            out.append((cycle + ArithmeticUnit.LATENCY - 1, row, sums[row]))
    return out


def accumulators(dut, sums, writes):
    """A memory of ``sums``, read as late as the registers are, that logs its writes; a word that
    is written in the cycle of its read comes out as rubbish."""
    async def run(ctx):
        cycle, late = 0, [0] * (ActivationRegisters.LATENCY - 1)
        width = len(dut.data)
        signals = ctx.tick().sample(dut.address, dut.write.en, dut.write.address, dut.write.data)
        async for *_, address, en, row, data in signals:
            late.append(RUBBISH if en and row == address else sums.get(address, 0))
            ctx.set(dut.data, late.pop(0))
            if en:
                sums[row] = (data ^ 1 << width - 1) - (1 << width - 1)
                writes.append((cycle, row, sums[row]))
            cycle += 1
    return run


@pytest.fixture(scope="session")
def compute(feed):
    """``compute(steps)``: what is written, as in ``written``."""
    def compute(steps, config=CONFIG, sums=None):
        dut, writes = device(ArithmeticUnit, config), []
        simulate(dut, lambda ctx: feed(ctx, dut.i, steps),
                 background=[accumulators(dut, dict(sums or {}), writes)])
        return writes
    return compute


DISTANCE = pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 6])
BETWEEN = pytest.mark.parametrize("between", ["other rows", "nothing"])


def apart(first, second, distance, between):
    """Two steps, ``distance`` cycles from one to the other."""
    fillers = [op(row % 3 + 4, 1000) if between == "other rows" else None
               for row in range(distance - 1)]
    return [first, *fillers, second]


def test_latency(compute):
    assert compute([None, op(5, 3, 4)]) == [(1 + 4, 5, 12)]
    assert ArithmeticUnit.LATENCY == 5


@pytest.mark.parametrize("pauses", [[0], [9], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]], ids=str)
def test_what_is_under_way_before_it_is_written(feed, watch, pauses):
    dut, log = device(ArithmeticUnit, CONFIG), []
    steps = [step for pause in pauses for step in (*[None] * pause, op(1))]
    simulate(dut, lambda ctx: feed(ctx, dut.i, steps),
             background=[watch(log, dut.in_flight, dut.write.en)])
    writes = [cycle for cycle, *_ in written(steps)]
    assert [cycle for cycle, (_, write) in enumerate(log) if write] == writes
    assert [under_way for under_way, _ in log] == [
        sum((cycle + 3 - k in writes) << k for k in range(3)) for cycle in range(len(log))]


@DISTANCE
@BETWEEN
def test_two_updates_of_one_accumulator(compute, distance, between):
    steps = apart(op(3, 5, 7), op(3, -2, 11), distance, between)
    writes = compute(steps, sums={3: 100})
    assert writes == written(steps, {3: 100})
    assert writes[-1] == (distance + 4, 3, 100 + 5 * 7 - 2 * 11)


@DISTANCE
@BETWEEN
def test_three_updates_of_one_accumulator(compute, distance, between):
    """The nearest sum counts, not one that is older."""
    for second in range(1, 6):
        steps = [*apart(op(3, 1), op(3, 10), second, between),
                 *apart(op(3, 10), op(3, 100), distance, between)[1:]]
        assert compute(steps) == written(steps)


@DISTANCE
def test_a_chain_of_updates(compute, distance):
    steps = [step for k in range(1, 9) for step in [op(6, k, 10), *[None] * (distance - 1)]]
    assert compute(steps) == written(steps)


@DISTANCE
def test_what_was_offered_without_valid_is_no_update(distance, feed):
    dut, writes = device(ArithmeticUnit, CONFIG), []

    async def bench(ctx):
        ctx.set(dut.i.payload, op(3, 9, 9))
        await feed(ctx, dut.i, [*[None] * 8, op(3, 2, 3), *[None] * (distance - 1), op(3, 1, 1)])

    simulate(dut, bench, background=[accumulators(dut, {3: 50}, writes)])
    assert writes == [(8 + 4, 3, 56), (8 + 4 + distance, 3, 57)]


def test_every_order_of_updates_of_two_accumulators(compute):
    steps = [None if row is None else op(row, 1 + cycle % 1000)
             for cycle, row in enumerate(chain(*product((0, 1, None), repeat=6)))]
    assert compute(steps) == written(steps)


VALUES = st.integers(-(1 << 12), 1 << 12)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=30)
def test_random_updates_of_a_few_accumulators(compute, rows, data):
    update = st.builds(op, st.integers(0, rows - 1), VALUES, VALUES)
    sums = data.draw(st.dictionaries(st.integers(0, rows - 1), VALUES))
    steps = data.draw(st.lists(st.none() | update | update, max_size=60))
    assert compute(steps, sums=sums) == written(steps, sums)


@pytest.mark.parametrize("rows", [2, 5, 100])
def test_a_long_run_without_a_pause(compute, rows):
    steps = [op(k * k % 97 % rows, k % 61 - 30, k % 53 - 20) for k in range(2000)]
    writes = compute(steps, EIEConfig(act_depth=rows))
    assert writes == written(steps)
    assert [cycle for cycle, *_ in writes] == list(range(4, 2004))


def test_products_of_extreme_operands(compute):
    pairs = list(product([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH], repeat=2))
    writes = compute([op(row, *pair) for row, pair in enumerate(pairs)],
                     EIEConfig(act_depth=len(pairs)))
    assert [total for *_, total in writes] == [a * b for a, b in pairs]
    assert LOW * LOW in [a * b for a, b in pairs]


@pytest.mark.parametrize("width", [17, 24, 32])
def test_an_accumulator_reaches_both_ends_of_its_width(compute, width):
    top, bottom = (1 << width - 1) - 1, -(1 << width - 1)

    def reach(row, goal):
        """Updates that add up to ``goal`` without leaving the width on the way."""
        while goal:
            value = 1 << 14 if abs(goal) >= 1 << 14 else 1
            weight = max(LOW, min(HIGH, int(goal / value)))
            goal -= weight * value
            yield op(row, weight, value)

    steps = [*reach(0, top), *reach(1, bottom)]
    writes = compute(steps, EIEConfig(act_depth=8, acc_width=width))
    assert writes == written(steps)
    assert {top, bottom} <= {total for *_, total in writes}


@pytest.mark.parametrize("depth", [2, 5, 100])
def test_every_accumulator_is_its_own(compute, depth):
    steps = [*(op(row, row + 1) for row in range(depth)),
             *(op(row, 1000) for row in reversed(range(depth)))]
    assert compute(steps, EIEConfig(act_depth=depth)) == written(steps)
