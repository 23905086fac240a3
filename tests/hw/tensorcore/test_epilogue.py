"""Requantisation against exact integers: any number, and every shift at its ties and ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.tensorcore.epilogue import Requantise
from zeroskip.sim.bench import device, simulate

LOW, HIGH = -(1 << 31), (1 << 31) - 1
SHIFTS = range(24, 56)
MOST = (1 << 31) - 1


@pytest.fixture(scope="session")
def requantise(watch):
    """``requantise(items, zero_point=, relu=, raw=)``: (value, saturated) for items (accumulator,
    bias, multiplier, shift), one a cycle."""
    def requantise(items, **constants):
        dut, log = device(Requantise), []

        async def bench(ctx):
            for name, value in constants.items():
                ctx.set(getattr(dut, name), value)
            for accumulator, bias, multiplier, shift in items:
                ctx.set(dut.accumulator, accumulator)
                ctx.set(dut.channel, {"bias": bias, "multiplier": multiplier,
                                      "shift": shift - 24})
                await ctx.tick()

        simulate(dut, bench, background=[watch(log, dut.o)])
        return [(o["value"], bool(o["saturated"]))
                for o, in log[Requantise.LATENCY:Requantise.LATENCY + len(items)]]
    return requantise


@pytest.fixture(scope="session")
def check(requantise, requantised):
    """``check(items, zero_point=, relu=)``: every item gives what exact integers give."""
    def check(items, **constants):
        assert requantise(items, **constants) == [
            requantised(accumulator + bias, multiplier, shift, **constants)
            for accumulator, bias, multiplier, shift in items]
    return check


INT32 = st.integers(LOW, HIGH) | st.integers(-1000, 1000)
ITEMS = st.lists(st.tuples(INT32, INT32, st.integers(0, MOST), st.integers(24, 55)),
                 min_size=1, max_size=50)


@given(items=ITEMS, zero_point=st.integers(-128, 127), relu=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_any_numbers(check, items, zero_point, relu):
    check(items, zero_point=zero_point, relu=relu)


@st.composite
def fitting(draw):
    """Numbers whose output is near or inside 8 bits, as a layer has them."""
    shift = draw(st.integers(24, 55))
    multiplier = draw(st.integers(1, MOST))
    goal = draw(st.integers(-300 << shift, 300 << shift)) // multiplier
    accumulator = max(LOW, min(HIGH, goal))
    bias = draw(st.integers(-(1 << 20), 1 << 20))
    return accumulator - bias if LOW <= accumulator - bias <= HIGH else accumulator, \
        bias if LOW <= accumulator - bias <= HIGH else 0, multiplier, shift


@given(items=st.lists(fitting(), min_size=1, max_size=50), zero_point=st.integers(-128, 127),
       relu=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_outputs_inside_and_around_8_bits(check, items, zero_point, relu):
    check(items, zero_point=zero_point, relu=relu)


def near_ties(shift):
    """Sums and multipliers whose product is an odd number of halves, and its neighbours: for the
    large shifts the sum alone does not reach a half, so that the multiplier has the rest."""
    for multiplier in (1 << max(0, shift - 25), 3 << max(0, shift - 26), MOST):
        for halves in (1, 3, 5, 253, 254, 255, 256, 257, 259):
            total = (halves << shift - 1) // multiplier
            for near in (total - 1, total, total + 1):
                if near <= HIGH:
                    yield near, multiplier
                    yield -near, multiplier


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("zero_point", [-128, -1, 0, 3, 127])
def test_every_shift_at_its_ties_of_both_signs(check, zero_point, relu):
    items = [(total, 0, multiplier, shift) for shift in SHIFTS
             for total, multiplier in near_ties(shift)]
    assert any(2 * abs(total * multiplier) % (2 << shift) == 1 << shift
               for total, _, multiplier, shift in items)
    check(items, zero_point=zero_point, relu=relu)


@pytest.mark.parametrize(("zero_point", "relu"), [(-128, False), (0, False), (127, False),
                                                  (-3, True)])
def test_every_tie_of_8_bits(check, zero_point, relu):
    """And of all that saturates with a zero point; 52 is the greatest shift where int32 sums reach
    them."""
    check([((halves << shift - 1) // multiplier + near, 0, multiplier, shift)
           for shift, multiplier in ((24, 1 << 20), (52, 1 << 30)) for halves in range(-511, 512, 2)
           for near in (-1, 0, 1)], zero_point=zero_point, relu=relu)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_tie_is_rounded_to_the_even_neighbour(requantise, shift):
    """1/2, 3/2 and 5/2, and the sums below and above them."""
    unit = 1 << min(28, shift - 1)      # with the multiplier, half of an output
    multiplier = (1 << shift - 1) // unit
    assert unit * multiplier == 1 << shift - 1
    items = [(halves * unit + near, 0, multiplier, shift) for halves in (1, 3, 5)
             for near in (-1, 0, 1)]
    negative = [(-total, *rest) for total, *rest in items]
    expected = [0, 0, 1, 1, 2, 2, 2, 2, 3]
    assert [value for value, _ in requantise(items)] == expected
    assert [value for value, _ in requantise(negative)] == [-value for value in expected]


@pytest.mark.parametrize("shift", SHIFTS)
def test_one_bit_anywhere_below_a_tie_makes_it_none(requantise, shift):
    """1/2 and 5/2, which as ties round down, and one bit more of the product."""
    items, expected = [], []
    for halves in (1, 5):
        for bit in range(shift - 1):
            power = min(30, bit)
            total = (halves << shift - 1 - power) + (1 << bit - power)
            if total <= HIGH:
                items += [(sign * total, 0, 1 << power, shift) for sign in (1, -1)]
                expected += [halves // 2 + 1, -(halves // 2 + 1)]
    assert len(items) > 70
    assert [value for value, _ in requantise(items)] == expected


def test_extremes_of_everything(check):
    sums = [LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH]
    items = [(accumulator, bias, multiplier, shift) for accumulator in sums
             for bias in (LOW, -1, 0, 1, HIGH) for multiplier in (0, 1, 1 << 30, MOST)
             for shift in (24, 25, 40, 54, 55)]
    check(items)
    check(items, zero_point=127, relu=True)
    check(items, zero_point=-128)


def test_the_sum_with_the_bias_wraps(requantise):
    items = [(HIGH, 1, 1 << 24, 24), (LOW, -1, 1 << 24, 24), (LOW, LOW, 1 << 24, 24)]
    assert requantise(items, raw=1) == [(LOW, False), (HIGH, False), (0, False)]
    assert requantise(items) == [(-128, True), (127, True), (0, False)]


def test_a_multiplier_of_0_gives_the_zero_point(requantise):
    items = [(total, bias, 0, shift) for total in (LOW, -1, 0, HIGH) for bias in (LOW, 0, HIGH)
             for shift in SHIFTS]
    assert set(requantise(items, zero_point=-5)) == {(-5, False)}


@given(sums=st.lists(st.tuples(INT32, INT32), min_size=1, max_size=40), relu=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=20)
def test_raw_hands_all_32_bits_on(requantise, sums, relu):
    found = requantise([(*pair, 1 << 24, 24) for pair in sums], raw=1, relu=relu)
    assert found == [((sum(pair) - LOW) % (1 << 32) + LOW, False) for pair in sums]


def one_to_one(*outputs):
    """Items whose rounded product is this."""
    return [(output, 0, 1 << 24, 24) for output in outputs]


def test_saturated_is_what_is_too_large_or_without_relu_too_small(requantise):
    items = one_to_one(-129, -128, 0, 127, 128)
    assert requantise(items) == [
        (-128, True), (-128, False), (0, False), (127, False), (127, True)]
    assert requantise(items, relu=1) == [
        (0, False), (0, False), (0, False), (127, False), (127, True)]
    assert requantise(items, zero_point=1) == [
        (-128, False), (-127, False), (1, False), (127, True), (127, True)]


@pytest.mark.parametrize("zero_point", [-128, -5, 0, 5, 127])
def test_relu_ends_at_the_zero_point(requantise, zero_point):
    outputs = [value for value, _ in requantise(one_to_one(-400, -1, 0, 1, 2),
                                                zero_point=zero_point, relu=1)]
    assert outputs == [zero_point] * 3 + [min(127, zero_point + 1), min(127, zero_point + 2)]
