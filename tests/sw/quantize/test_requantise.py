"""Multipliers and shifts against the real numbers that they stand for."""

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zeroskip.sw.errors import BadInput
from zeroskip.sw.quantize.requantise import multiplier_and_shift


@given(scale=st.one_of(
    st.floats(0, 127.99, allow_subnormal=False), st.floats(-70, 7).map(lambda e: 2.0**e * 0.999)))
@example(1.0)
@example(0.5)
@example(0.0)
@example(5e-324)
@example(2.0**-25)
@example(2.0**-25 * (1 - 2**-33))
@example(2.0**-26)
@settings(deadline=None, max_examples=300)
def test_multiplier_and_shift(scale):
    multiplier, shift = multiplier_and_shift(scale)
    assert 0 <= multiplier < 2**31
    assert 24 <= shift <= 55
    assert multiplier >= 2**30 or shift == 55 or scale == 0
    assert abs(Fraction(multiplier, 2**shift) - Fraction(scale)) <= Fraction(1, 2 ** (shift + 1))


def test_multiplier_that_rounds_up_to_a_power_of_two():
    assert multiplier_and_shift(2 - 2.0**-40) == (1 << 30, 29)
    assert multiplier_and_shift(128 - 2.0**-40) == ((1 << 31) - 1, 24)


@pytest.mark.parametrize("scale", [128.0, 1e300, float("inf"), float("nan"), -1.0])
def test_multiplier_refuses(scale):
    with pytest.raises(BadInput, match="the scale from sum to output is .*, not from 0 to below"):
        multiplier_and_shift(scale)
