"""The integer reference against Python's integers and fractions."""

from fractions import Fraction
from math import ceil, floor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from zeroskip.sw.engines.tensorcore import golden as tensorcore
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.im2col import Geometry

INT32 = 1 << 31


def wrap(value):
    """An integer as int32."""
    return (value + INT32) % (2 * INT32) - INT32


def nearest(value):
    """The integer nearest to a fraction, of two the even one."""
    near = sorted((floor(value), ceil(value)), key=lambda integer: (abs(integer - value),
                                                                    integer % 2))
    return near[0]


def slow_requantise(acc, multiplier, shift, zero_point, relu):
    total = nearest(Fraction(acc * multiplier, 2**shift)) + zero_point
    low = zero_point if relu else -128
    return min(max(total, low), 127), total > 127 or (total < -128 and not relu)


def one(acc, multiplier, shift, zero_point=0, relu=False):
    """One output and how many saturated."""
    y, saturated = tensorcore.requantise(
        np.array([acc], np.int32), np.array([multiplier], np.int32), np.array([shift], np.int32),
        zero_point, relu)
    assert y.dtype == np.int8
    return y.item(), saturated


def random_int8(rng, *shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


@given(m=st.integers(1, 6), k=st.integers(1, 40), n=st.integers(1, 6),
       seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_gemm_equals_python_integers(m, k, n, seed):
    rng = np.random.default_rng(seed)
    a, b = random_int8(rng, m, k), random_int8(rng, k, n)
    product = tensorcore.gemm(a, b)
    assert product.dtype == np.int32
    assert product.tolist() == [[sum(x * y for x, y in zip(row, column, strict=True))
                                 for column in b.T.tolist()] for row in a.tolist()]


@pytest.mark.parametrize("terms", [131071, 131072, 131073, 262144, 262145])
def test_gemm_wraps_modulo_2_32(terms):
    """131072 products of 2^14 are 2^31, the first sum that wraps; 262144 are 0 again."""
    a = np.full((1, terms), -128, np.int8)
    assert tensorcore.gemm(a, a.T).item() == wrap(terms << 14)


def test_gemm_in_blocks_and_in_int64_changes_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    a, b = random_int8(rng, 5, 33), random_int8(rng, 33, 17)
    expected = (a.astype(object) @ b.astype(object)).tolist()
    for name, value in (("BLOCK", 100), ("BLOCK", 1), ("FLOAT64_TERMS", 32)):
        monkeypatch.setattr(tensorcore, name, value)
        assert tensorcore.gemm(a, b).tolist() == expected


def test_most_terms_of_float64():
    assert tensorcore.FLOAT64_TERMS * 2**14 < 2**53 <= (tensorcore.FLOAT64_TERMS + 1) * 2**14


@given(acc=st.integers(-INT32, INT32 - 1), multiplier=st.integers(0, INT32 - 1),
       shift=st.integers(24, 55), zero_point=st.integers(-128, 127), relu=st.booleans())
@example(-INT32, INT32 - 1, 55, -128, False)
@example(-INT32, INT32 - 1, 24, 127, True)
@example(INT32 - 1, INT32 - 1, 24, 127, False)
@settings(deadline=None, max_examples=300)
def test_requantise_equals_fractions(acc, multiplier, shift, zero_point, relu):
    assert one(acc, multiplier, shift, zero_point, relu) == slow_requantise(
        acc, multiplier, shift, zero_point, relu)


@given(quotient=st.integers(-140, 140), offset=st.integers(-2, 2), shift=st.integers(24, 55),
       power=st.integers(0, 30), zero_point=st.integers(-3, 3))
@settings(deadline=None, max_examples=300)
def test_requantise_near_ties(quotient, offset, shift, power, zero_point):
    """Sums within two units of (quotient + 1/2) * 2^shift / 2^power."""
    acc = ((2 * quotient + 1 << shift) >> power + 1) + offset
    if not -INT32 <= acc < INT32:
        acc = wrap(acc)
    assert one(acc, 1 << power, shift, zero_point) == slow_requantise(
        acc, 1 << power, shift, zero_point, False)


@pytest.mark.parametrize("shift", [24, 31, 40, 54])
@pytest.mark.parametrize(("quotient", "expected"), [
    (0.5, 0), (-0.5, 0), (1.5, 2), (-1.5, -2), (2.5, 2), (-2.5, -2), (126.5, 126),
    (-127.5, -128)])
def test_a_tie_rounds_to_even(shift, quotient, expected):
    """With one unit more or less it is no tie, and rounds up or down."""
    power = 30 if shift > 30 else 20
    acc = int(quotient * 2 ** (shift - power))
    assert [one(acc + near, 1 << power, shift) for near in (-1, 0, 1)] == [
        (floor(quotient), 0), (expected, 0), (ceil(quotient), 0)]


@pytest.mark.parametrize(("total", "zero_point", "relu", "expected"), [
    (127, 0, False, (127, 0)), (128, 0, False, (127, 1)),
    (-128, 0, False, (-128, 0)), (-129, 0, False, (-128, 1)),
    (-1, 0, True, (0, 0)), (-129, 0, True, (0, 0)), (-4, 5, True, (5, 0)),
    (255, -128, False, (127, 0)), (256, -128, False, (127, 1)), (-1, -128, True, (-128, 0)),
    (256, -128, True, (127, 1)),
    (0, 127, True, (127, 0)), (1, 127, True, (127, 1)), (-255, 127, False, (-128, 0)),
])
def test_saturation(total, zero_point, relu, expected):
    assert one(total, 1 << 24, 24, zero_point, relu) == expected


def test_zero_multiplier():
    assert one(INT32 - 1, 0, 24, 7) == (7, 0)


def test_channels_are_the_last_axis():
    acc = np.arange(-12, 12, dtype=np.int32).reshape(2, 3, 4) * 1000
    multiplier = np.array([1 << 30, 1 << 20, 3 << 20, 0], np.int32)
    shift = np.array([36, 27, 30, 24], np.int32)
    y, saturated = tensorcore.requantise(acc, multiplier, shift, 3, False)
    expected = [slow_requantise(value, m, s, 3, False) for row in acc.reshape(-1, 4).tolist()
                for value, m, s in zip(row, multiplier.tolist(), shift.tolist(), strict=True)]
    assert y.ravel().tolist() == [value for value, _ in expected]
    assert saturated == sum(wrong for _, wrong in expected) > 0


def fully_connected(rng, raw=False, activation="none"):
    return SimpleNamespace(
        weight=random_int8(rng, 3, 10), bias=rng.integers(-5000, 5000, 3),
        multiplier=np.full(3, (1 << 30) + 12345, np.int32), shift=np.array([36, 38, 37], np.int32),
        activation=activation, geometry=None, inputs=10, outputs=3, input=SimpleNamespace(
            zero_point=0), output=SimpleNamespace(zero_point=-7), raw=raw, ties="even")


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_layer_equals_python_integers(activation):
    rng = np.random.default_rng(2)
    layer, x = fully_connected(rng, activation=activation), random_int8(rng, 20, 10)
    y, saturated = tensorcore.layer(x, layer)
    acc = x.astype(object) @ layer.weight.T.astype(object) + layer.bias.astype(object)
    expected = [[slow_requantise(value, m, s, -7, activation == "relu") for value, m, s in
                 zip(row, layer.multiplier.tolist(), layer.shift.tolist(), strict=True)]
                for row in acc.tolist()]
    assert y.tolist() == [[value for value, _ in row] for row in expected]
    assert saturated == sum(wrong for row in expected for _, wrong in row)


def test_raw_layer_wraps():
    layer = fully_connected(np.random.default_rng(3), raw=True)
    layer.weight[:] = 100
    layer.bias = np.array([INT32 - 1, -INT32, 0])
    x = np.full((2, 10), 100, np.int8)
    x[1] = -100
    y, saturated = tensorcore.layer(x, layer)
    assert (y.dtype, saturated) == (np.int32, 0)
    assert y.tolist() == [[wrap(sign * 100000 + b) for b in layer.bias.tolist()]
                          for sign in (1, -1)]


def test_convolution_pads_with_the_zero_point():
    """Equals torch's convolution of the real integers, value less zero point."""
    rng = np.random.default_rng(4)
    own, kernel = Geometry((2, 5, 4), (3, 2), (2, 1), (1, 0, 2, 1), (1, 2)), (3, 2, 3, 2)
    weight = random_int8(rng, *kernel)
    layer = fully_connected(rng, raw=True)
    layer.weight, layer.geometry, layer.inputs = weight.reshape(3, -1), own, 40
    layer.input.zero_point = -9
    layer.bias = 9 * layer.weight.sum(axis=1, dtype=np.int64) + [5, -6, 7]
    x = random_int8(rng, 3, 40)
    padded = torch.nn.functional.pad(torch.from_numpy(x.astype(np.int64) + 9).reshape(3, 2, 5, 4),
                                     (0, 1, 1, 2))
    expected = torch.nn.functional.conv2d(padded, torch.from_numpy(weight.astype(np.int64)),
                                          torch.tensor([5, -6, 7]), (2, 1), dilation=(1, 2))
    y, _ = tensorcore.layer(x, layer)
    np.testing.assert_array_equal(y, expected.reshape(3, -1).numpy())


@given(channels=st.integers(1, 3), groups=st.integers(1, 3),
       size=st.tuples(*[st.integers(1, 7)] * 2),
       kernel=st.tuples(*[st.integers(1, 3)] * 2), stride=st.tuples(*[st.integers(1, 3)] * 2),
       padding=st.tuples(*[st.integers(0, 4)] * 4), dilation=st.tuples(*[st.integers(1, 3)] * 2),
       zero_point=st.integers(-128, 127), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_convolution_equals_the_definition(channels, groups, size, kernel, stride, padding,
                                           dilation, zero_point, seed):
    """Sums over channel of the group, kernel row and kernel column, in Python's integers; flat
    outputs go channel by channel, each row by row."""
    (height, width), (top, left, bottom, right) = size, padding
    rows, columns = ((total - (k - 1) * d - 1) // s + 1 for total, k, d, s in zip(
        (top + height + bottom, left + width + right), kernel, dilation, stride, strict=True))
    assume(rows > 0 and columns > 0)
    rng = np.random.default_rng(seed)
    x = random_int8(rng, groups * channels, height, width)
    weight = random_int8(rng, 2 * groups, channels, *kernel)

    def read(c, row, column):
        inside = 0 <= row < height and 0 <= column < width
        return int(x[c, row, column]) if inside else zero_point
    expected = [sum(int(weight[o, c, i, j]) * read(
                        o // 2 * channels + c, r * stride[0] + i * dilation[0] - top,
                        s * stride[1] + j * dilation[1] - left)
                    for c, i, j in np.ndindex(channels, *kernel))
                for o in range(2 * groups) for r in range(rows) for s in range(columns)]
    found = tensorcore.convolve(
        np.stack([x, x]).reshape(2, -1), weight.reshape(2 * groups, -1),
        Geometry((groups * channels, height, width), kernel, stride, padding, dilation, groups),
        zero_point)
    assert found.tolist() == [expected] * 2


def convolutional(rng):
    """A layer of three channels of 5 x 4 outputs on an image of 2 x 6 x 5."""
    layer = fully_connected(rng)
    layer.geometry = Geometry((2, 6, 5), (2, 2), (1, 1), (0, 0, 0, 0), (1, 1))
    layer.weight, layer.inputs = random_int8(rng, 3, 8), 60
    layer.multiplier = np.array([1 << 30, 3 << 28, 5 << 27], np.int32)
    return layer


def test_channels_of_a_convolution_have_their_own_multipliers():
    layer = convolutional(np.random.default_rng(7))
    x = random_int8(np.random.default_rng(8), 2, 60)
    y, saturated = tensorcore.layer(x, layer)
    layer.raw = True
    sums, _ = tensorcore.layer(x, layer)
    expected = [slow_requantise(value, layer.multiplier[at // 20].item(),
                                layer.shift[at // 20].item(), -7, False)
                for row in sums.tolist() for at, value in enumerate(row)]
    assert y.ravel().tolist() == [value for value, _ in expected]
    assert saturated == sum(wrong for _, wrong in expected)


def test_convolution_wraps_modulo_2_32_and_runs_in_pieces(monkeypatch):
    layer = convolutional(np.random.default_rng(9))
    layer.raw, layer.bias = True, np.array([INT32 - 1, -INT32, 0])
    x = random_int8(np.random.default_rng(10), 5, 60)
    expected, _ = tensorcore.layer(x, layer)
    layer.bias = np.zeros(3, np.int64)
    sums, _ = tensorcore.layer(x, layer)
    wrapped = [wrap(value + bias) for row in sums.tolist() for value, bias in zip(
        row, np.repeat([INT32 - 1, -INT32, 0], 20).tolist(), strict=True)]
    assert expected.ravel().tolist() == wrapped
    assert (sums.dtype, sums.shape) == (np.int32, (5, 60))
    monkeypatch.setattr(tensorcore, "BLOCK", 2 * 60)
    np.testing.assert_array_equal(tensorcore.layer(x, layer)[0], sums)
    assert tensorcore.layer(x[:0], layer)[0].shape == (0, 60)


@pytest.mark.parametrize(("name", "value"), [
    ("weight", np.zeros((3, 9), np.int8)), ("inputs", 61)])
def test_weights_or_samples_that_do_not_fit_the_image(name, value):
    layer = convolutional(np.random.default_rng(11))
    setattr(layer, name, value)
    with pytest.raises(BadInput, match=r"must be \[3, 8\] and \[batch, 60\] for an image of"):
        tensorcore.layer(np.zeros((1, layer.inputs), np.int8), layer)


@pytest.mark.parametrize(("a", "b", "message"), [
    (np.zeros((2, 3)), np.zeros((3, 2), np.int8), "a must be int8 with 2 dimensions, not float64"),
    (np.zeros((2, 3), np.int8), np.zeros(3, np.int8), "b must be int8 with 2"),
    (np.zeros((2, 3), np.int8), np.zeros((2, 3), np.int8), r"not \[2, 3\] and \[2, 3\]"),
    (np.zeros((2, 0), np.int8), np.zeros((0, 3), np.int8), "must be"),
])
def test_gemm_refuses(a, b, message):
    with pytest.raises(BadInput, match=message):
        tensorcore.gemm(a, b)


@pytest.mark.parametrize(("change", "message"), [
    ({"acc": np.zeros((4, 2), np.int64)}, r"acc must be int32 \[..., 2\], not int64"),
    ({"acc": np.zeros((2, 4), np.int32)}, "acc must be int32"),
    ({"multiplier": np.zeros(2, np.int64)}, "multiplier must be int32"),
    ({"multiplier": np.array([0, -1], np.int32)}, r"multiplier\[1\] is -1"),
    ({"shift": np.array([24], np.int32)}, "must be of one length, not 2 and 1"),
    ({"shift": np.array([23, 24], np.int32)}, r"shift\[0\] is 23: it must be 24 to 55"),
    ({"shift": np.array([24, 56], np.int32)}, r"shift\[1\] is 56"),
    ({"zero_point": 128}, "the output's zero point must be -128 to 127, not 128"),
    ({"zero_point": -129}, "not -129"),
])
def test_requantise_refuses(change, message):
    arguments = {"acc": np.zeros((4, 2), np.int32), "multiplier": np.ones(2, np.int32),
                 "shift": np.full(2, 24, np.int32), "zero_point": 0, "relu": False}
    tensorcore.requantise(**arguments)
    with pytest.raises(BadInput, match=message):
        tensorcore.requantise(**arguments | change)


@pytest.mark.parametrize(("change", "message"), [
    ({"weight": np.zeros((3, 10))}, "weight must be int8"),
    ({"bias": np.zeros(3, np.int32)}, "bias must be int64"),
    ({"bias": np.zeros(2, np.int64)}, r"must be \[batch, 10\] and \[3\], not \[1, 10\] and \[2\]"),
    ({"bias": np.array([0, INT32, 0])}, r"bias\[1\] is 2147483648: it must be an int32"),
    ({"bias": np.array([0, 0, -INT32 - 1])}, r"bias\[2\] is -2147483649"),
    ({"inputs": 9}, r"must be \[batch, 9\]"),
    ({"activation": "tanh"}, "activation must be 'none' or 'relu', not 'tanh'"),
    ({"ties": "away"}, "ties must be 'even', not 'away'; compile the model again"),
    ({"activation": "relu", "raw": True}, "an int32 output takes no activation"),
    ({"input": SimpleNamespace(zero_point=128)}, "the input's zero point must be"),
])
def test_layer_refuses(change, message):
    layer, x = fully_connected(np.random.default_rng(5)), np.zeros((1, 10), np.int8)
    tensorcore.layer(x, layer)
    with pytest.raises(BadInput, match=message):
        tensorcore.layer(x, SimpleNamespace(**vars(layer) | change))


def test_layer_refuses_float_samples():
    with pytest.raises(BadInput, match="x must be int8 with 2 dimensions"):
        tensorcore.layer(np.zeros((1, 10)), fully_connected(np.random.default_rng(6)))
