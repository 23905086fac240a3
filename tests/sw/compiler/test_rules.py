"""Rules of the host against exact arithmetic of their own, written from ONNX's definitions, and
against ONNX's reference in float."""

import json
from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from zeroskip.sw.compiler import rules
from zeroskip.sw.compiler.rules import (
    Average,
    Convert,
    Join,
    Maximum,
    Patches,
    Permute,
    Sum,
)
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.types import TensorType

FEW = settings(deadline=None, max_examples=60, derandomize=True)
LIMITS = {np.int8: (-128, 127), np.int16: (-32768, 32767)}


# --- the references: Python integers and fractions, one value after another ---

def windows(geometry):
    """Of each output of a plane, in order: the places of its window."""
    _, height, width = geometry.input_shape
    top, left, bottom, right = geometry.padding
    reach = [(k - 1) * d for k, d in zip(geometry.kernel, geometry.dilation, strict=True)]
    for row in range(-top, height + bottom - reach[0], geometry.stride[0]):
        for column in range(-left, width + right - reach[1], geometry.stride[1]):
            yield [(row + i * geometry.dilation[0], column + j * geometry.dilation[1])
                   for i, j in product(*map(range, geometry.kernel))]


def inside(place, height, width, around=(0, 0, 0, 0)):
    top, left, bottom, right = around
    return -top <= place[0] < height + bottom and -left <= place[1] < width + right


def planes(x, geometry):
    """Images as nested lists of Python integers."""
    return x.reshape(geometry.input_shape).tolist()


def limited(value, dtype, low=None, high=None):
    least, greatest = LIMITS[dtype]
    return min(max(value, least if low is None else low), greatest if high is None else high)


def maxima(x, geometry):
    _, height, width = geometry.input_shape
    return [max(plane[r][s] for r, s in window if inside((r, s), height, width))
            for plane in planes(x, geometry) for window in windows(geometry)]


def averages(x, geometry, counted, before, after):
    """The nearest integers of exact means, each by the multiplier that is nearest to its divisor's
    scale."""
    _, height, width = geometry.input_shape
    found = []
    for plane in planes(x, geometry):
        for window in windows(geometry):
            total = sum(plane[r][s] - before.zero_point for r, s in window
                        if inside((r, s), height, width))
            count = sum(inside(place, height, width, counted) for place in window)
            factor = nearest(before.scale / after.scale / count)
            found.append(limited(round(total * factor) + after.zero_point, after.dtype.type))
    return found


def nearest(real):
    """The multiplier of 31 bits times a power of two, of at least 2^-55, that is nearest to a real
    number."""
    shift = 55
    while round(Fraction(real) * 2**shift) >= 1 << 31:
        shift -= 1
    return Fraction(round(Fraction(real) * 2**shift), 2**shift)


# --- data ---

def kinds(dtype):
    """Types of any scale and zero point."""
    least, greatest = LIMITS[dtype]
    return st.builds(TensorType, st.just((1,)), st.just(np.dtype(dtype)),
                     st.floats(-4, 4).map(lambda e: 2.0**e), st.integers(least, greatest))


TYPES = st.sampled_from([np.int8, np.int16]).flatmap(kinds)


@st.composite
def geometries(draw):
    size, kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(2))
                                      for most in (6, 3, 3, 2))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    try:
        found = Geometry((draw(st.integers(1, 2)), *size), kernel, stride, padding, dilation)
    except BadInput:
        assume(False)
    assume(rules.counts(found, (0, 0, 0, 0)).all())
    return found


def values(kind, count, seed, runs=2):
    """Random integers of a type, its ends among them."""
    rng = np.random.default_rng(seed)
    least, greatest = LIMITS[kind.dtype.type]
    x = rng.integers(least, greatest, (runs, count), endpoint=True)
    return np.where(rng.random(x.shape) < 0.1, rng.choice([least, greatest], x.shape),
                    x).astype(kind.dtype)


def sized(kind, count):
    return replace(kind, shape=(count,))


def outputs(geometry):
    return geometry.input_shape[0] * geometry.positions


# --- one test a rule ---

@given(geometry=geometries(), kind=TYPES, seed=st.integers(0, 99))
@FEW
def test_maximum(geometry, kind, seed):
    rule = Maximum(geometry)
    before, after = sized(kind, prod(geometry.input_shape)), sized(kind, outputs(geometry))
    rule.check([before], after)
    x = values(before, before.size, seed)
    y, saturated = rule.apply([before], after, x)
    assert (y.dtype, saturated) == (x.dtype, 0)
    assert y.tolist() == [maxima(each, geometry) for each in x]


@given(geometry=geometries(), before=TYPES, after=TYPES, seed=st.integers(0, 99),
       padding=st.booleans())
@FEW
def test_average(geometry, before, after, seed, padding):
    counted = geometry.padding if padding else (0, 0, 0, 0)
    before, after = sized(before, prod(geometry.input_shape)), sized(after, outputs(geometry))
    assume(before.scale / after.scale < 128)
    rule = Average.of(geometry, counted, before, after)
    rule.check([before], after)
    x = values(before, before.size, seed)
    y, saturated = rule.apply([before], after, x)
    expected = [averages(each, geometry, counted, before, after) for each in x]
    assert (y.dtype, y.tolist()) == (after.dtype, expected)
    least, greatest = LIMITS[after.dtype.type]
    assert saturated <= np.count_nonzero((y == least) | (y == greatest))


@given(before=st.lists(TYPES, min_size=1, max_size=4), after=TYPES, seed=st.integers(0, 99),
       ends=st.tuples(st.none() | st.integers(-128, 0), st.none() | st.integers(0, 127)))
@FEW
def test_sum(before, after, seed, ends):
    before, after = [sized(kind, 20) for kind in before], sized(after, 20)
    ratios = [Fraction(kind.scale) / Fraction(after.scale) for kind in before]
    assume(max(ratios) < 127)
    rule = Sum.of(before, after, *ends)
    rule.check(before, after)
    factors = [Fraction(each, 2**rule.shift) for each in rule.multipliers]
    for ratio, factor in zip(ratios, factors, strict=True):
        assert abs(ratio - factor) <= Fraction(1, 2 ** (rule.shift + 1)) + ratio / 2**50
    assert max(rule.multipliers) >= 1 << 30
    xs = [values(kind, 20, seed + i) for i, kind in enumerate(before)]
    y, saturated = rule.apply(before, after, *xs)
    least, greatest = LIMITS[after.dtype.type]
    expected, lost = [], 0
    for place in zip(*(x.reshape(-1).tolist() for x in xs), strict=True):
        total = round(sum((value - kind.zero_point) * factor for value, kind, factor in
                          zip(place, before, factors, strict=True))) + after.zero_point
        expected.append(limited(total, after.dtype.type, *ends))
        lost += (total < least and ends[0] is None) or (total > greatest and ends[1] is None)
    assert (y.dtype, y.reshape(-1).tolist(), saturated) == (after.dtype, expected, lost)


def test_ties_go_to_even():
    half = [TensorType.of(6, np.int8, 0.5, 3), TensorType.of(6, np.int8, 1.0, -2)]
    x = np.array([[4, 6, 8, 2, 0, -2]], np.int8)    # 0.5, 1.5, 2.5, -0.5, -1.5, -2.5
    y, _ = Sum.of(half[:1], half[1]).apply(half[:1], half[1], x)
    assert (y - half[1].zero_point).tolist() == [[0, 2, 2, 0, -2, -2]]


@pytest.mark.parametrize("shape", [(1, 2, 9), (6, 3, 1), (2, 1, 1)])
def test_join(shape):
    rows, *columns = shape
    kind = TensorType.of(1, np.int16, 0.5)
    parts = [values(sized(kind, rows * each), rows * each, each) for each in columns]
    before = [sized(kind, rows * each) for each in columns]
    after = sized(kind, rows * sum(columns))
    Join(rows).check(before, after)
    y, _ = Join(rows).apply(before, after, *parts)
    for run in range(2):
        expected = [value for row in range(rows) for part, size in zip(parts, columns, strict=True)
                    for value in part[run].tolist()[row * size:(row + 1) * size]]
        assert y[run].tolist() == expected


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
@FEW
def test_permute(shape, data):
    axes = data.draw(st.permutations(range(len(shape))))
    rule, kind = Permute(tuple(shape), tuple(axes)), TensorType.of(prod(shape), np.int8, 0.5)
    rule.check([kind], kind)
    x = np.arange(2 * prod(shape)).reshape(2, -1).astype(np.int16)
    y, _ = rule.apply([kind], kind, x)
    turned = [shape[axis] for axis in axes]
    for at in product(*map(range, turned)):
        origin = [at[axes.index(axis)] for axis in range(len(shape))]
        assert y.reshape(2, *turned)[(1, *at)] == x.reshape(2, *shape)[(1, *origin)]


@given(geometry=geometries(), zero=st.integers(-5, 5), samples=st.integers(1, 2))
@FEW
def test_patches(geometry, zero, samples):
    channels, height, width = geometry.input_shape
    inputs, cells = prod(geometry.input_shape), channels * prod(geometry.kernel)
    kind = TensorType.of(samples * inputs, np.int16, 0.5, zero)
    after = sized(kind, samples * geometry.positions * cells)
    rule = Patches(geometry, zero)
    rule.check([kind], after)
    x = values(kind, kind.size, 3)
    y, _ = rule.apply([kind], after, x)
    for run in range(2):
        images = x[run].reshape(samples, channels, height, width).tolist()
        assert y[run].tolist() == [
            image[c][r][s] if inside((r, s), height, width) else zero
            for image in images for window in windows(geometry)
            for c in range(channels) for r, s in window]


def test_sums_of_the_widest_window():
    """The greatest int16 in all of the most places, at the finest scale of the output."""
    geometry = Geometry((1, 128, 256), (128, 256), (1, 1), (0, 0, 0, 0), (1, 1))
    before, after = TensorType.of(1 << 15, np.int16, 1.0, -32768), TensorType.of(1, np.int16, 2.0)
    rule = Average.of(geometry, (0, 0, 0, 0), before, after)
    rule.check([before], after)
    y, saturated = rule.apply([before], after, np.full((1, 1 << 15), 32767, np.int16))
    assert (y.tolist(), saturated) == ([[32767]], 1)    # 65535 / 2, a tie, is 32768


@given(value=st.integers(-1 << 60, 1 << 60), shift=st.integers(1, 55))
@example(-(1 << 54), 55)
@example(3 << 54, 55)
@FEW
def test_divided(value, shift):
    found = rules.divided(np.array([value]), np.array([shift]))
    assert found.tolist() == [round(Fraction(value, 2**shift))]


# --- what a program file may not say ---

IMAGE = Geometry((2, 4, 4), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1))
BEFORE, AFTER = TensorType.of(32, np.int8, 0.5, 3), TensorType.of(8, np.int8, 0.25, -4)
SAME = TensorType.of(8, np.int8, 0.5, 3)
AVERAGE = Average.of(IMAGE, (0, 0, 0, 0), BEFORE, AFTER)
ADD = Sum.of([BEFORE, BEFORE], sized(AFTER, 32))
FLOAT = TensorType.of(8, np.float32, 1.0)


@pytest.mark.parametrize(("rule", "before", "after", "said"), [
    (Maximum(IMAGE), [BEFORE], AFTER, "of scale 0.25 .* expected the same type"),
    (Maximum(IMAGE), [BEFORE] * 2, SAME, "number of buffers that it reads is 2, expected 1 to 1"),
    (Maximum(IMAGE), [BEFORE], sized(SAME, 9), "values that it gives is 9, expected 8"),
    (Maximum(IMAGE), [sized(BEFORE, 33)], SAME, "values that it reads is 33, expected 32"),
    (Maximum(IMAGE), [BEFORE], FLOAT, "takes and gives int8 and int16, not float32"),
    (Maximum(replace(IMAGE, padding=(2, 0, 0, 0))), [BEFORE], sized(SAME, 12),
     "a window lies in its padding"),
    (Maximum(Geometry((1, 200, 200), (200, 200), (1, 1), (0, 0, 0, 0), (1, 1))),
     [sized(BEFORE, 40000)], sized(SAME, 1), "values of a window is 40000"),
    (replace(AVERAGE, counted=(0, 0, 0, 1)), [BEFORE], AFTER, "padding that counts is 1"),
    (replace(AVERAGE, counted=(0, 0)), [BEFORE], AFTER, "number of sides that count is 2"),
    (replace(AVERAGE, multipliers=((4, 1, 24),)), [BEFORE], AFTER, "its multipliers are .*4, 1"),
    (replace(AVERAGE, multipliers=()), [BEFORE], AFTER, "but its buffers make"),
    (replace(AVERAGE, zero_points=(3, -5)), [BEFORE], AFTER, "its zero_points are .*-5"),
    (replace(ADD, shift=23), [BEFORE] * 2, sized(AFTER, 32), "its shift are 23, but its buffers"),
    (replace(ADD, low=-129), [BEFORE] * 2, sized(AFTER, 32), "least value is -129"),
    (replace(ADD, low=5, high=4), [BEFORE] * 2, sized(AFTER, 32), "greatest value is 4, expected"),
    (replace(ADD, high=1.5), [BEFORE] * 2, sized(AFTER, 32), "greatest value is 1.5"),
    (ADD, [BEFORE, sized(BEFORE, 31)], sized(AFTER, 32), "values that it reads is 31"),
    (ADD, [BEFORE], sized(AFTER, 32), "its multipliers are"),
    (ADD, [], sized(AFTER, 32), "number of buffers that it reads is 0"),
    (Sum((1,), 24, (0, 0)), [replace(BEFORE, scale=1e9)], sized(AFTER, 32), "not from 0 to below"),
    (Join(3), [SAME, SAME], sized(SAME, 16), "rows is 3, expected a divisor of"),
    (Join(2.0), [SAME, SAME], sized(SAME, 16), "rows is 2.0"),
    (Join(2), [SAME, sized(AFTER, 8)], sized(SAME, 16), "expected the same type"),
    (Join(2), [SAME, SAME], sized(SAME, 15), "values that it gives is 15, expected 16"),
    (Permute((2, 4), (0, 0)), [SAME], SAME, r"axes are \[0, 0\], expected each of 2 once"),
    (Permute((2, 3), (0, 1)), [SAME], SAME, "values that it reads is 8, expected 6"),
    (Permute((1,) * 9, tuple(range(9))), [sized(SAME, 1)] * 1, sized(SAME, 1), "axes is 9"),
    (Permute((-2, -4), (0, 1)), [SAME], SAME, "size of an axis is -2"),
    (Patches(IMAGE, 4), [BEFORE], BEFORE, "zero point of the padding is 4, expected 3"),
    (Patches(IMAGE, 3), [sized(BEFORE, 33)], BEFORE, "expected a multiple of 32"),
    (Patches(IMAGE, 3), [BEFORE], sized(BEFORE, 31), "values that it gives is 31, expected 32"),
    (Convert(), [BEFORE], AFTER, "values that it gives is 8, expected 32"),
])
def test_a_rule_that_does_not_fit(rule, before, after, said):
    with pytest.raises(ValueError, match=said):
        rule.check(before, after)


@pytest.mark.parametrize("rule", [Maximum(IMAGE), AVERAGE, ADD, replace(ADD, low=-4), Join(2),
                                  Permute((2, 4), (1, 0)), Patches(IMAGE, 3), Convert()],
                         ids=lambda rule: rule.name)
def test_a_rule_in_json(rule):
    described = json.loads(json.dumps({"rule": rule.name, **rule.header()}))
    assert rules.from_file("step 1", described) == rule
    for name in rule.header():
        with pytest.raises((KeyError, TypeError, ValueError)):
            rules.from_file("step 1", {key: each for key, each in described.items() if key != name})
    with pytest.raises(ValueError, match="rule of step 1 is 'other', expected 'convert' or 'max'"):
        rules.from_file("step 1", {**described, "rule": "other"})


@pytest.mark.parametrize(("change", "said"), [
    ({"axes": [0, "1"]}, "axes is '1', expected a whole number"),
    ({"axes": [0, True]}, "axes is True, expected a whole number"),
    ({"axes": [0, {}]}, "axes is {}, expected a whole number"),
    ({"shape": 8}, "shape is 8, expected a list"),
    ({"axes": None}, "axes is None, expected a list"),
])
def test_fields_of_another_kind(change, said):
    described = {"rule": "permute", **Permute((2, 4), (1, 0)).header()}
    with pytest.raises(ValueError, match=said):
        rules.from_file("step 1", {**described, **change})
