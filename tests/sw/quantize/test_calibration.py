"""Tensors that are zero or constant on the calibration set, as pruning leaves them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.engines.eie import golden as eie
from zeroskip.sw.engines.eie import quantize as fixed
from zeroskip.sw.engines.tensorcore import golden as tensorcore
from zeroskip.sw.engines.tensorcore import quantize as int8
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize import calibration
from zeroskip.sw.quantize.calibration import effective_bias, ranges, samples


def linear(weight, bias, activation="none"):
    return Linear("fc", np.array(weight, np.float32), np.array(bias, np.float32), activation)


LIVE = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
OFF = linear([[1, 1], [0, -1]], [-20, -4], "relu")


@pytest.mark.parametrize(("layers", "x", "expected"), [
    pytest.param([linear([[1, 1]], [1])], LIVE, [(-2, 3), (0, 4.5)], id="live"),
    pytest.param([linear([[3, -1], [0, 2]], [0.5, -8])], 0 * LIVE, [(-2, 2), (-8, 0.5)],
                 id="input: an output of 8 over rows of 4"),
    pytest.param([OFF], LIVE, [(-2, 3), (0, 21)], id="last output: the sum before ReLU"),
    pytest.param([OFF, linear([[1, 2]], [0.75])], LIVE, [(-2, 3), (0, 0.25), (0, 0.75)],
                 id="output inside: what the next one's output allows"),
    pytest.param([OFF, linear([[1, 2]], [900])], LIVE, [(-2, 3), (0, 21), (0, 900)],
                 id="output inside: its sum, which is less"),
    pytest.param([linear([[0, 0]], [0]), linear([[4]], [6])], LIVE,
                 [(-2, 3), (-1.5, 1.5), (0, 6)], id="no weights, no bias"),
    pytest.param([linear([[2, 1]], [0]), linear([[0]], [0])], LIVE * [[1, 0], [0, 0]],
                 [(0, 1), (0, 2), (-2, 2)], id="nothing behind: the input"),
    pytest.param([linear([[2, 1]], [0], "relu"), linear([[5]], [0])], 0 * LIVE,
                 [(-1, 1), (0, 3), (-15, 15)], id="nothing at all"),
    pytest.param([linear([[1, -1]], [0]), linear([[2]], [7])], LIVE[:, :1] * [1, 1],
                 [(0, 1), (-3.5, 3.5), (0, 7)], id="what cancels"),
    pytest.param([OFF, OFF, linear([[0, 2]], [8])], LIVE,
                 [(-2, 3), (0, 2), (0, 4), (0, 8)], id="two in a row"),
])
def test_ranges(layers, x, expected):
    assert ranges(Network(tuple(layers)), x) == expected


def test_range_of_a_dead_convolution():
    layer = Conv2d("conv", np.ones((1, 1, 2, 2), np.float32), np.array([-100], np.float32), "relu",
                   (1, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1))
    assert ranges(Network((layer,)), np.eye(9, dtype=np.float32)) == [(0, 1), (0, 100)]


def test_ranges_of_a_long_chain_stay_floats():
    layers = tuple(linear(np.full((3, 3), 1e38), np.zeros(3)) for _ in range(9))
    for network in (Network(layers), Network((*layers, linear(np.zeros((1, 3)), [1e-30])))):
        for low, high in ranges(network, np.zeros((1, 3), np.float32)):
            assert 1e-38 < high - low < np.inf


def test_a_sum_that_is_not_finite_before_relu():
    layer = linear([[-3e38, -3e38]], [0], "relu")
    with pytest.raises(BadInput, match=r"layer fc: output \[0, 0\] is -inf"):
        ranges(Network((layer,)), np.ones((1, 2), np.float32))


def test_effective_bias():
    weight, bias = [[2, -1], [0, 0], [1, 1]], [-100, -100, -5]
    layer = linear(weight, bias, "relu")
    assert effective_bias(layer, layer.weight, 10).tolist() == [-60, 0, -5]
    layer = linear(weight, bias)
    assert effective_bias(layer, layer.weight, 10).tolist() == bias


# --- methods ---

def affine(low, high):
    """int8, as the tensor core has it."""
    scale = (high - low) / 255
    return TensorType.of(1, np.int8, scale, -128 + round(-low / scale))


def symmetric(low, high):
    """int16, as the EIE array has it."""
    return TensorType.of(1, np.int16, max(-low, high) / 32767)


def squared(values, low, high, grid):
    """Of what the integers of a range stand for, value by value."""
    kind, total = grid(low, high), 0.0
    limits = np.iinfo(kind.dtype)
    for value in values.reshape(-1).tolist():
        integer = min(max(round(value / kind.scale) + kind.zero_point, limits.min), limits.max)
        total += ((integer - kind.zero_point) * kind.scale - value) ** 2
    return total


def span(values, peak):
    return max(float(min(values.min(), 0)), -peak), min(float(max(values.max(), 0)), peak)


values_of = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=40).map(
    lambda drawn: np.array(drawn, np.float32)[None])


@given(values_of)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_min_max_is_what_it_was(values):
    assert calibration.min_max(values, None) == (min(float(values.min()), 0.0),
                                                 max(float(values.max()), 0.0))


@given(values_of, st.sampled_from([50.0, 90.0, 99.99]))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_percentile_is_the_least_magnitude_that_keeps_enough(values, percent):
    live = [abs(value) for value in values.ravel().tolist() if value]
    enough = [peak for peak in live if 100 * sum(each <= peak for each in live)
              >= percent * len(live)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "PERCENTILE", percent)
        found = calibration.percentile(values, None)
    assert found == span(values, min(enough, default=0.0))


@pytest.mark.parametrize("grid", [affine, symmetric])
@given(values=values_of, outlier=st.sampled_from([0, -100, 3000]))
@settings(deadline=None, max_examples=25, derandomize=True)
def test_mse_is_the_best_of_the_factors(grid, values, outlier):
    values = np.append(values, np.float32(outlier))
    peak = float(np.abs(values).max())
    if not peak:
        assert calibration.mse(values, grid) == (0, 0)
        return
    tried = [squared(values, *span(values, peak * 2 ** (-step / 8)), grid) for step in range(33)]
    assert squared(values, *calibration.mse(values, grid), grid) == pytest.approx(min(tried))


def outlier(size):
    """Normal values, and one far away."""
    values = np.random.default_rng(0).normal(size=500_000).astype(np.float32)
    values[17] = size
    return values


@pytest.mark.parametrize("size", [40.0, -40.0])
def test_an_outlier_makes_min_max_coarse_and_the_others_cut_it(size):
    values = outlier(size)
    assert calibration.min_max(values, affine)[size > 0] == size
    low, high = calibration.percentile(values, affine)
    assert 3 < -low < 5
    assert 3 < high < 5
    low, high = calibration.mse(values, affine)
    near, far = sorted([-low, high])
    weight = 500_000 / 12 / 255**2      # weight * (near + far)^2 + (40 - far)^2 is least there
    assert far == pytest.approx((40 - weight * near) / (1 + weight), rel=0.06)


def test_without_an_outlier_mse_takes_about_all():
    values = np.random.default_rng(1).uniform(-1, 1, 5000).astype(np.float32)
    assert calibration.mse(values, affine) == calibration.min_max(values, affine)


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_relu_and_dead_tensors_are_as_in_min_max(method):
    for layers in ([OFF, linear([[1, 2]], [0.75])], [linear([[2, 1]], [0], "relu")]):
        for x in (LIVE, 0 * LIVE):
            network = Network(tuple(layers))
            found = ranges(network, x, method, [affine] * (len(layers) + 1))
            assert found == ranges(network, x)


def test_a_tensor_that_is_nearly_always_zero_keeps_its_range():
    values = np.zeros(100_000, np.float32)
    values[:3] = 1, 2, 3
    assert calibration.percentile(values, None) == (0, 3)
    assert calibration.mse(values, affine) == (0, 3)


def test_an_unknown_method():
    with pytest.raises(BadInput, match="no calibration method 'best'; choose one of min-max, "
                                       "percentile, mse"):
        calibration.check_method("best")


KINDS = ("live", "no weights", "no weights, no bias", "off", "no bias")


@st.composite
def cases(draw, decades):
    """A network with dead layers, and samples that may be zero or constant."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = st.integers(-decades, decades).map(lambda power: 10.0**power)
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    layers = []
    for inputs, outputs in pairwise(sizes):
        kind = draw(st.sampled_from(KINDS))
        weight = rng.normal(size=(outputs, inputs)) * draw(scale) * (not kind.startswith("no w"))
        bias = rng.normal(size=outputs) * draw(scale) * (not kind.endswith("no bias"))
        activation = "relu" if kind == "off" else draw(st.sampled_from(["relu", "none"]))
        layers.append(linear(weight, bias - 1e9 * (kind == "off"), activation))
    x = rng.normal(size=(20, sizes[0])) * draw(scale)
    x = {"live": x, "constant": x[:1].repeat(20, axis=0), "zero": 0 * x}[
        draw(st.sampled_from(["live", "constant", "zero"]))]
    return Network(tuple(layers)), x.astype(np.float32)


def check_layer(source, weight, bias, unit, scale, x, y, limits):
    """``y`` against the float layer on the real input ``x``: half a step, the rounding of the
    weights and that of the bias; and the bias against the one asked for."""
    exact = source.weight.astype(float)
    sums = x @ exact.T + source.bias
    if source.activation == "relu":
        sums = np.maximum(sums, 0)
    change = bias * unit - source.bias
    off = (source.activation == "relu") & (bias * unit + np.abs(weight) @ np.full(
        len(weight[0]), np.abs(x).max()) <= 0) & (source.bias < bias * unit)
    assert np.all((np.abs(change) <= unit / 2 * 1.000001) | off)
    allowed = scale / 2 + np.abs(x) @ np.abs(weight - exact).T + np.where(off, 0, np.abs(change))
    assert np.all(np.abs(y - np.clip(sums, *limits)) <= allowed * 1.00001 + 1e-6 * np.abs(sums))


@given(cases(decades=2))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_dead_tensors_on_the_eie_array(case):
    network, x = case
    layers, reports = fixed.quantize(network, x)
    tensors = [x, *network.forward(x)]
    y, _ = layers[0].input.to_integer(x)
    for source, layer, entry, (now, after) in zip(
            network.layers, layers, reports, pairwise(tensors), strict=True):
        before, (y, _) = y * layer.input.scale, eie.layer(y, layer.weight, layer.bias, layer.shift,
                                                          layer.activation)
        unit = layer.input.scale * entry.weight_scale
        check_layer(source, layer.weight * entry.weight_scale, layer.bias, unit,
                    layer.output.scale, before, y * layer.output.scale,
                    np.array([-32768, 32767]) * layer.output.scale)
        if not now.any() and after.any():   # nothing but the biases: a step as fine as ever
            assert layer.output.scale <= np.abs(after).max() * 1.1 / 32767 * 1.000001
            assert np.abs(y * layer.output.scale - after).max() <= layer.output.scale * 1.001


@given(cases(decades=1))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_dead_tensors_on_the_tensor_core(case):
    network, x = case
    layers, _ = int8.quantize(network, x)
    tensors = [x, *network.forward(x)]
    y, _ = layers[0].input.to_integer(x)
    for source, layer, (now, after) in zip(network.layers, layers, pairwise(tensors), strict=True):
        before = (y.astype(float) - layer.input.zero_point) * layer.input.scale
        y, _ = tensorcore.layer(y, layer)
        real = (y.astype(float) - layer.output.zero_point) * layer.output.scale
        unit = layer.multiplier * 0.5**layer.shift * layer.output.scale
        bias = layer.bias + layer.input.zero_point * layer.weight.sum(axis=1, dtype=np.int64)
        check_layer(source, layer.weight * (unit / layer.input.scale)[:, None], bias, unit,
                    layer.output.scale, before, real,
                    (np.array([-128, 127]) - layer.output.zero_point) * layer.output.scale)
        if not now.any() and after.any():
            assert layer.output.scale <= 2 * np.abs(after).max() / 255 * 1.000001
            assert np.abs(real - after).max() <= layer.output.scale * 0.6


@pytest.mark.parametrize("bias", [1e-3, 0.05, 1e6])
@pytest.mark.parametrize("weight", [0.01, 1.0, 100.0])
def test_bias_behind_a_dead_layer(weight, bias):
    """With a scale of 1.0 for the dead tensor it vanished, was off by a fifth, or was refused."""
    network = Network((OFF, linear([[weight, -weight]], [bias])))
    (_, last), _ = fixed.quantize(network, LIVE)
    y = np.zeros((1, 2), np.int16)
    y, _ = eie.layer(y, last.weight, last.bias, last.shift, "none")
    assert y * last.output.scale == pytest.approx(bias, rel=2e-4)
    layers, _ = int8.quantize(network, LIVE)
    y, _ = tensorcore.layer(np.full((1, 2), layers[1].input.zero_point, np.int8), layers[1])
    y = y.astype(float) - layers[1].output.zero_point
    assert y * layers[1].output.scale == pytest.approx(bias, rel=1 / 255)


def test_constant_by_cancellation_is_no_error():
    """The tensor core once refused it: its outputs are far smaller than a unit of its sums."""
    network = Network((linear([[1000, -1000]], [1e-3]), linear([[1]], [1])))
    x = LIVE[:, :1] * [1, 1]
    layers, _ = int8.quantize(network, x)
    assert layers[0].multiplier[0] * 0.5**layers[0].shift[0] == pytest.approx(64)
    y, _ = layers[0].input.to_integer(x)
    for layer in layers:
        y, _ = tensorcore.layer(y, layer)
    assert (y[0, 0] + 128.0) * layers[1].output.scale == pytest.approx(1, abs=0.1)


def test_output_that_a_bias_switches_off_costs_the_others_nothing():
    """A bias of -1e20 before ReLU: the other output is as exact as without it."""
    for off in (0, -1e20):
        network = Network((linear([[1, 1], [1, 0.25]], [off, 0.5], "relu"),))
        expected = network.forward(LIVE)[0]
        (layer,), _ = fixed.quantize(network, LIVE)
        x, _ = layer.input.to_integer(LIVE)
        y, _ = eie.layer(x, layer.weight, layer.bias, layer.shift, "relu")
        assert np.abs(y * layer.output.scale - expected).max() <= 5 * layer.output.scale
        (layer,), _ = int8.quantize(network, LIVE)
        x, _ = layer.input.to_integer(LIVE)
        y, _ = tensorcore.layer(x, layer)
        real = (y + 128.0) * layer.output.scale
        assert np.abs(real - expected).max() <= 1.5 * layer.output.scale


@pytest.mark.parametrize("shape", [(2,), (0, 2), (2, 3), (3, 2, 2)])
def test_samples_of_another_shape(shape):
    with pytest.raises(BadInput, match="calibration must be batch first with 2 values a sample"):
        samples(Network((OFF,)), np.zeros(shape, np.float32))
    assert samples(Network((OFF,)), np.zeros((3, 2, 1))).shape == (3, 2)
