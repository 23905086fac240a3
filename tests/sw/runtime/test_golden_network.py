"""A whole network: layers in a row, and what becomes of integers between two engines."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.engines.eie import golden as eie
from zeroskip.sw.engines.eie.layer import EIELayer
from zeroskip.sw.engines.tensorcore import golden as tensorcore
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import golden_network as network
from zeroskip.sw.runtime.golden_network import Units


def array(rows, columns, input_scale, output_scale, seed=0):
    rng = np.random.default_rng(seed)
    return EIELayer(
        name="array", activation="relu", shift=3,
        weight=rng.integers(-50, 51, (rows, columns)).astype(np.int16),
        bias=rng.integers(-99, 100, rows), input=TensorType.of(columns, np.int16, input_scale),
        output=TensorType.of(rows, np.int16, output_scale))


def core(rows, columns, seed=1, **fields):
    rng = np.random.default_rng(seed)
    return Int8Layer(**{
        "name": "core", "weight": rng.integers(-128, 128, (rows, columns)).astype(np.int8),
        "bias": rng.integers(-999, 999, rows), "multiplier": np.full(rows, 1 << 30, np.int32),
        "shift": np.full(rows, 36, np.int32), "activation": "none", "geometry": None,
        "input": TensorType.of(columns, np.int8, 8.0, 5),
        "output": TensorType.of(rows, np.int8, 0.25, -7)} | fields)


def exactly(value, units):
    """The integer of a real value in exact arithmetic; a tie to even."""
    limits = np.iinfo(units.dtype)
    return min(max(round(Fraction(value) / Fraction(units.scale)) + units.zero_point,
                   int(limits.min)), int(limits.max))


@given(q=st.integers(-32768, 32767), scale=st.sampled_from([0.5, 1.0, 2.0**-7, 2.0**5]),
       zero_point=st.integers(-128, 127))
@settings(deadline=None, max_examples=200)
def test_conversion_equals_fractions(q, scale, zero_point):
    """With scales that are powers of two float64 is exact, ties included."""
    before, after = Units(np.int16, 2.0**-8, 0), Units(np.int8, scale, zero_point)
    y, saturated = after.integers(before.real(np.array([[q]], np.int16)))
    assert y.dtype == np.int8
    wanted = exactly(q * 2.0**-8, after)
    assert y.item() == wanted
    assert saturated == (round(Fraction(q, 256) / Fraction(scale)) + zero_point != wanted)


@pytest.mark.parametrize(("real", "expected"), [
    (0.5, 3), (1.5, 5), (2.5, 5), (-0.5, 3), (-1.5, 1), (1e30, 127), (-1e30, -128)])
def test_a_tie_rounds_to_even_before_the_zero_point(real, expected):
    y, saturated = Units(np.int8, 1.0, 3).integers(np.array([real]))
    assert (y.item(), saturated) == (expected, int(abs(real) > 100))


def test_range_of_real_values():
    assert Units(np.int8, 0.5, 28).range() == (-78.0, 49.5)


def test_layers_follow_one_another():
    """Array, core, array: each conversion by its own scale and zero point; sums at the end."""
    layers = (array(6, 7, 0.5, 2.0), core(5, 6), array(4, 5, 0.125, 1.0, seed=2),
              core(3, 4, seed=3, input=TensorType.of(4, np.int8, 1.0, 5),
                   output=TensorType.of(3, np.int32, 1.0)))
    x = np.random.default_rng(4).integers(-99, 100, (9, 7)).astype(np.int16)
    found = list(network.run(layers, x))
    assert [each.layer for each in found] == list(layers)
    np.testing.assert_array_equal(found[0].x, x)
    for before, after in pairwise(found):
        units = network.inputs(after.layer)
        real = network.outputs(before.layer).real(before.y)
        wanted = [[exactly(value, units) for value in row] for row in real.tolist()]
        assert after.x.tolist() == wanted
        assert after.inputs_saturated == np.count_nonzero(
            np.rint(real / units.scale) + units.zero_point != wanted)
    for each in found:
        golden = tensorcore.layer(each.x, each.layer) if isinstance(each.layer, Int8Layer) \
            else eie.layer(each.x, each.layer.weight, each.layer.bias, 3, "relu")
        np.testing.assert_array_equal(each.y, golden[0])
        assert each.saturated == golden[1]
    assert found[-1].y.dtype == np.int32
    assert sum(each.saturated for each in found) > 0
    assert sum(each.inputs_saturated for each in found) > 0


def test_equal_units_are_passed_on():
    """A scale whose quotients are inexact is not divided by."""
    same = TensorType.of(6, np.int8, 0.1, 5)
    first = core(6, 6, input=same, output=same)
    second = replace(first, name="second")
    before, after = network.run((first, second), np.arange(6, dtype=np.int8)[None])
    assert after.x is before.y
    assert after.inputs_saturated == 0


def test_a_convolution_between_arrays():
    geometry = Geometry((1, 2, 3), (2, 2), (1, 1), (0, 0, 0, 0), (1, 1))
    layers = (array(6, 7, 1.0, 1.0), core(
        2, 4, geometry=geometry, input=TensorType.of(6, np.int8, 8.0, 5),
        output=TensorType.of(4, np.int8, 0.25, -7)),
              array(3, 4, 1.0, 1.0))
    found = list(network.run(layers, np.ones((2, 7), np.int16)))
    assert [each.y.shape for each in found] == [(2, 6), (2, 4), (2, 3)]
