import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.engines.eie import golden as eie
from zeroskip.sw.errors import BadInput


def slow_layer(x, weight, bias, shift, activation):
    """The specification in Python integers."""
    outputs, saturated = [], 0
    for vector in x.tolist():
        outputs.append([])
        for row, b in zip(weight.tolist(), bias.tolist(), strict=True):
            total = sum(w * v for w, v in zip(row, vector, strict=True)) + b
            total = (total + (2 ** (shift - 1) if shift else 0)) // 2**shift
            saturated += not -32768 <= total <= 32767
            total = min(max(total, -32768), 32767)
            outputs[-1].append(max(total, 0) if activation == "relu" else total)
    return outputs, saturated


def one(total, shift, activation="none"):
    """The layer on an accumulator that ends at ``total``."""
    y, saturated = eie.layer(np.zeros((1, 1), np.int16), np.zeros((1, 1), np.int16),
                             np.array([total]), shift, activation)
    return y.item(), saturated


@given(batch=st.integers(1, 4), rows=st.integers(1, 12), columns=st.integers(1, 40),
       shift=st.integers(0, 31), activation=st.sampled_from(["none", "relu"]),
       magnitude=st.integers(1, 32767), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_equals_python_integers(batch, rows, columns, shift, activation, magnitude, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-magnitude - 1, magnitude + 1, (batch, columns)).astype(np.int16)
    weight = rng.integers(-magnitude - 1, magnitude + 1, (rows, columns)).astype(np.int16)
    bias = rng.integers(-2**40, 2**40, rows)
    y, saturated = eie.layer(x, weight, bias, shift, activation)
    assert y.dtype == np.int16
    assert (y.tolist(), saturated) == slow_layer(x, weight, bias, shift, activation)


@pytest.mark.parametrize(("total", "shift", "expected"), [
    (3, 1, 2), (-3, 1, -1), (1, 1, 1), (-1, 1, 0), (5, 2, 1), (6, 2, 2), (-6, 2, -1), (-7, 2, -2),
    (7, 0, 7),
])
def test_half_rounds_up(total, shift, expected):
    assert one(total, shift) == (expected, 0)


@pytest.mark.parametrize(("total", "activation", "expected"), [
    (32767, "none", (32767, 0)), (32768, "none", (32767, 1)),
    (-32768, "none", (-32768, 0)), (-32769, "none", (-32768, 1)),
    (-32768, "relu", (0, 0)), (-32769, "relu", (0, 1)), (32768, "relu", (32767, 1)),
])
def test_saturation_is_counted_before_the_activation(total, activation, expected):
    assert one(total, 0, activation) == expected


def test_extreme_bias():
    assert one(2**62, 0) == (32767, 1)
    assert one(-2**62, 31) == (-32768, 1)


def test_row_blocks_and_integer_sums_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.integers(-32768, 32768, (3, 50)).astype(np.int16)
    weight = rng.integers(-32768, 32768, (17, 50)).astype(np.int16)
    bias = rng.integers(-2**31, 2**31, 17)
    expected = slow_layer(x, weight, bias, 17, "none")
    for name, value in (("BLOCK", 150), ("FLOAT64_COLUMNS", 49)):
        monkeypatch.setattr(eie, name, value)
        y, saturated = eie.layer(x, weight, bias, 17, "none")
        assert (y.tolist(), saturated) == expected


def test_longest_row_of_float64_sums_is_exact():
    """2^23 products of 2^30 reach 2^53; the least product must still tell."""
    x = np.full((1, eie.FLOAT64_COLUMNS), -32768, np.int16)
    weight = x.copy()
    x[0, -1], weight[0, -1] = 1, 1
    total = (eie.FLOAT64_COLUMNS - 1) * 2**30 + 1
    assert eie.layer(x, weight, np.array([5 - total]), 0, "none")[0].item() == 5


def test_row_too_long_for_float64_is_exact():
    x = np.full((1, eie.FLOAT64_COLUMNS + 2), -32768, np.int16)
    weight = x.copy()
    x[0, -1], weight[0, -1] = 1, 1
    total = (eie.FLOAT64_COLUMNS + 1) * 2**30 + 1      # odd and above 2^53
    assert eie.layer(x, weight, np.array([5 - total]), 0, "none")[0].item() == 5


@pytest.mark.parametrize(("change", "message"), [
    ({"x": np.zeros((1, 2), np.int32)}, "x must be int16 with 2 dimensions, not int32"),
    ({"x": np.zeros(2, np.int16)}, r"x must be int16 with 2 dimensions, not int16 \[2\]"),
    ({"weight": np.zeros((3, 2))}, "weight must be int16"),
    ({"bias": np.zeros(3, np.int32)}, "bias must be int64"),
    ({"x": np.zeros((1, 4), np.int16)}, r"not \[1, 4\], \[3, 2\] and \[3\]"),
    ({"bias": np.zeros(4, np.int64)}, r"not \[1, 2\], \[3, 2\] and \[4\]"),
    ({"bias": np.array([0, 2**62 + 1, 0])}, r"bias\[1\] is 4611686018427387905"),
    ({"bias": np.array([0, 0, -2**62 - 1])}, r"bias\[2\] is -4611686018427387905"),
    ({"shift": 32}, "shift must be 0 to 31, not 32"),
    ({"shift": -1}, "shift must be 0 to 31, not -1"),
    ({"activation": "tanh"}, "activation must be 'none' or 'relu', not 'tanh'"),
])
def test_refuses(change, message):
    arguments = {"x": np.zeros((1, 2), np.int16), "weight": np.zeros((3, 2), np.int16),
                 "bias": np.zeros(3, np.int64), "shift": 0, "activation": "none"}
    eie.layer(**arguments)
    with pytest.raises(BadInput, match=message):
        eie.layer(**arguments | change)
