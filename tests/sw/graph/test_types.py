"""Integers and real values, both ways."""

from fractions import Fraction

import numpy as np
import pytest

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.types import TensorType

INT8, INT16, INT32 = map(np.dtype, (np.int8, np.int16, np.int32))


def test_int8_by_hand():
    quantity = TensorType((), INT8, 0.5, 10)
    found, saturated = quantity.to_integer(np.array([0, 0.25, 0.75, -0.25, 58.5, 58.76, -70]))
    assert found.dtype == np.int8
    assert found.tolist() == [10, 10, 12, 10, 127, 127, -128]
    assert saturated == 2


@pytest.mark.parametrize("quantity", [
    TensorType((), INT8, 0.1, -128), TensorType((), INT8, 3.0, 127), TensorType((), INT8, 1e-3),
    TensorType((), INT16, 0.1), TensorType((), INT16, 7.3)])
def test_every_integer_comes_back(quantity):
    bounds = np.iinfo(quantity.dtype)
    every = np.arange(bounds.min, bounds.max + 1).astype(quantity.dtype)
    found, saturated = quantity.to_integer(quantity.to_float(every))
    assert saturated == 0
    assert found.dtype == quantity.dtype
    assert np.array_equal(found, every)


def test_int16_in_exact_arithmetic():
    x = np.random.default_rng(1).normal(size=(4, 50)) * 5000
    found, saturated = TensorType((50,), INT16, 0.25).to_integer(x)
    expected = [[round(Fraction(value) * 4) for value in row] for row in x.tolist()]
    assert found.tolist() == np.clip(expected, -32768, 32767).tolist()
    assert saturated == np.count_nonzero(np.clip(expected, -32768, 32767) != expected) > 0


def test_size_and_the_same_in_a_row():
    kind = TensorType((3, 4, 5), INT8, 0.5, 7)
    assert (kind.size, kind.flat) == (60, TensorType((60,), INT8, 0.5, 7))


def test_int32_as_a_real_value():
    ends = np.array([2**31 - 1, -2**31], np.int32)
    assert TensorType((), INT32, 1.0).to_float(ends).tolist() == [2**31 - 1, -2**31]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(BadInput, match=str(value)):
        TensorType((), INT8, 1.0).to_integer(np.array([[0, value]]))


def test_values_beyond_float64_saturate():
    found, saturated = TensorType((), INT8, 1e-300, 3).to_integer(np.array([1e300, -1e300]))
    assert (found.tolist(), saturated) == ([127, -128], 2)
