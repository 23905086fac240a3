"""int8 layers: they follow the float network, and every sum is proven to fit."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.engines.tensorcore import golden as tensorcore
from zeroskip.sw.engines.tensorcore.quantize import quantize
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Conv2d, Linear, Network, Quantised
from zeroskip.sw.graph.types import TensorType


def linear(name, rows, columns, activation, seed):
    rng = np.random.default_rng(seed)
    return Linear(name, (rng.normal(size=(rows, columns)) / np.sqrt(columns)).astype(np.float32),
                  rng.normal(scale=0.1, size=rows).astype(np.float32), activation)


def conv(activation="relu"):
    rng = np.random.default_rng(1)
    return Conv2d("conv", (rng.normal(size=(4, 2, 3, 3)) / 4).astype(np.float32),
                  rng.normal(scale=0.1, size=4).astype(np.float32), activation,
                  (2, 6, 5), (2, 1), (1, 1, 1, 0), (1, 1))


@pytest.fixture
def network():
    first = conv()
    return Network((first, linear("fc1", 12, first.outputs, "relu", 2),
                    linear("fc2", 5, 12, "none", 3)))


@pytest.fixture
def calibration():
    return np.random.default_rng(4).normal(size=(100, 2, 6, 5))


def one_layer(weight, bias, activation="none"):
    return Network((Linear("fc", np.array(weight, np.float32), np.array(bias, np.float32),
                           activation),))


def run(layers, x):
    """Integer outputs of every layer."""
    y, _ = layers[0].input.to_integer(np.reshape(x, (len(x), -1)))
    outputs = []
    for layer in layers:
        y, _ = tensorcore.layer(y, layer)
        outputs.append(y)
    return outputs


def real(layer, y):
    return (y.astype(float) - layer.output.zero_point) * layer.output.scale


def test_integers_follow_the_float_network(network, calibration):
    layers, _ = quantize(network, calibration)
    for layer, y, expected in zip(layers, run(layers, calibration), network.forward(calibration),
                                  strict=True):
        assert y.shape == expected.shape
        error = real(layer, y) - expected
        assert np.abs(error).max() < 4 * layer.output.scale
        assert np.sqrt(np.mean(error**2)) < layer.output.scale


def test_fields(network, calibration):
    layers, report = quantize(network, calibration)
    scale, zero_point = layers[0].input.scale, layers[0].input.zero_point
    for layer, source, entry in zip(layers, network.layers, report, strict=True):
        assert (layer.name, layer.activation, entry.name) == (
            source.name, source.activation, source.name)
        assert (layer.weight.dtype, layer.bias.dtype, layer.multiplier.dtype,
                layer.shift.dtype) == (np.int8, np.int64, np.int32, np.int32)
        assert layer.weight.shape == source.matrix.shape
        assert (layer.geometry, layer.inputs, layer.outputs) == (
            source.geometry, source.inputs, source.outputs)
        assert (layer.input.scale, layer.input.zero_point) == (scale, zero_point)
        assert layer.raw is False
        scale, zero_point = layer.output.scale, layer.output.zero_point
        assert (zero_point == -128) == (source.activation == "relu")


def test_weights_are_symmetric_per_channel(network, calibration):
    layers, _ = quantize(network, calibration)
    for layer, source in zip(layers, network.layers, strict=True):
        peak = np.abs(source.matrix).max(axis=1).astype(float)
        assert np.abs(layer.weight).max(axis=1).tolist() == [127] * len(peak)
        error = layer.weight * peak[:, None] / 127 - source.matrix
        assert (np.abs(error).max(axis=1) <= peak / 254 * 1.000001).all()


def test_zero_point_is_folded_into_the_bias():
    """A positive range: real zero is -128, and every weight's sum with it is taken back."""
    layers, _ = quantize(one_layer([[1, -0.5], [0.25, 0.25]], [3, -3]), np.array([[0.0, 51]]))
    assert (layers[0].input.scale, layers[0].input.zero_point) == (0.2, -128)
    assert layers[0].weight.tolist() == [[126, -63], [127, 127]]
    units = [round(3 / (0.2 / 126)), round(-3 / (0.2 * 0.25 / 127))]
    assert layers[0].bias.tolist() == [units[0] + 128 * 63, units[1] + 128 * 254]


def test_multiplier_and_shift_of_every_channel(network, calibration):
    layers, _ = quantize(network, calibration)
    for layer, source in zip(layers, network.layers, strict=True):
        peak = np.abs(source.matrix).max(axis=1).astype(float)
        expected = layer.input.scale * peak / 127 / layer.output.scale
        np.testing.assert_allclose(layer.multiplier * 0.5**layer.shift, expected, rtol=2**-31)


@pytest.mark.parametrize(("low", "high", "grid"), [
    (-1.0, 1.0, (2 / 255, 0)), (0.0, 255.0, (1.0, -128)), (10.0, 255.0, (1.0, -128)),
    (-255.0, 0.0, (1.0, 127)), (-255.0, -10.0, (1.0, 127)), (-28.0, 227.0, (1.0, -100)),
    (0.0, 0.0, (2 / 255, 0))])
def test_range_of_the_input(low, high, grid):
    layers, _ = quantize(one_layer([[1]], [0]), np.array([[low], [high]]))
    assert (layers[0].input.scale, layers[0].input.zero_point) == grid


def test_zeros_stay_zero(network, calibration):
    """2:4 survives quantisation: no zero becomes a weight."""
    masked = []
    for layer in network.layers:
        weight = layer.weight.copy().reshape(len(layer.weight), -1)
        weight[:, ::4] = weight[:, 1::4] = 0
        masked.append(replace(layer, weight=weight.reshape(layer.weight.shape)))
    layers, _ = quantize(Network(tuple(masked)), calibration)
    for layer in layers:
        assert not layer.weight[:, ::4].any()
        assert not layer.weight[:, 1::4].any()
        assert layer.weight[:, 2::4].any()


@pytest.mark.parametrize("greatest", [1, 2, 5, 6, 7, 100, 126, 127])
def test_integers_times_a_scale_stay_these_integers(greatest):
    """As pruning to few bits leaves them: float32 multiples of any scale, times one factor here."""
    rng = np.random.default_rng(greatest)
    integers = rng.integers(-greatest, greatest, (64, 60), endpoint=True)
    integers[:, :2] = [1, -greatest]
    scale = np.exp(rng.normal(size=(64, 1))).astype(np.float32)
    layers, report = quantize(one_layer(integers.astype(np.float32) * scale, np.zeros(64)),
                              np.ones((1, 60)))
    assert np.array_equal(layers[0].weight, integers * (127 // greatest))
    assert report[0].rms < 2.0**-23


def test_almost_integers_are_rounded_as_any_others():
    layers, _ = quantize(one_layer([[1, 2, 3.0001]], [0]), np.ones((1, 3)))
    assert layers[0].weight.tolist() == [[42, 85, 127]]


@pytest.mark.parametrize("bias", [0.0, 0.3, -0.75])
def test_row_without_weights_keeps_its_bias(calibration, bias):
    network = one_layer(np.vstack([np.zeros(60), np.full(60, 1e-5)]), [bias, 0])
    layers, report = quantize(network, 1000 * calibration)
    y = real(layers[0], run(layers, 1000 * calibration)[0])[:, 0]
    assert np.abs(y - bias).max() <= layers[0].output.scale / 2
    assert report[0].rms < 1e-3


def test_all_zero_network(calibration):
    layers, report = quantize(one_layer(np.zeros((2, 60)), [0, 0]), calibration)
    assert (real(layers[0], run(layers, calibration)[0]) == 0).all()
    assert report[0].rms == 0


def test_bias_far_above_the_products_fits(calibration):
    """A channel that training has switched off: weights near 0, and a bias."""
    network = one_layer([[1e-20] * 60, [1.0] * 60], [0.5, 0])
    layers, report = quantize(network, calibration)
    assert layers[0].weight[0].tolist() == [0] * 60
    assert abs(layers[0].bias[0]) == 1 << 30
    assert report[0].accumulator_bits == 32
    y = real(layers[0], run(layers, calibration)[0])[:, 0]
    assert np.abs(y - 0.5).max() <= layers[0].output.scale / 2


def test_report(network, calibration):
    layers, report = quantize(network, calibration)
    for layer, source, entry in zip(layers, network.layers, report, strict=True):
        peak = np.abs(source.matrix).max(axis=1).astype(float)
        error = layer.weight * peak[:, None] / 127 - source.matrix
        rms = np.sqrt(np.mean(error**2) / np.mean(source.matrix.astype(float)**2))
        assert entry.rms == pytest.approx(rms)
        assert 0 < entry.rms < 0.01
        assert entry.saturated < 0.01


def test_saturated_share_without_what_relu_removes():
    """Half of the outputs are negative and lose nothing; one of four is above the range."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    own = Quantised(np.array([[64], [-64]], np.int8), np.full(2, 1 / 64), np.zeros(2, np.int64),
                    TensorType((1,), np.dtype(np.int8), 3 / 255, -128),
                    TensorType((2,), np.dtype(np.int8), 2 / 255, -128))
    layer = Linear("fc", np.array([[1], [-1]], np.float32), np.zeros(2, np.float32), "relu", own)
    _, report = quantize(Network((layer,)), x)
    assert report[0].saturated == 1 / 8
    _, report = quantize(Network((replace(layer, activation="none"),)), x)
    assert report[0].saturated == 4 / 8


@given(weight=st.lists(st.integers(-128, 127), min_size=1, max_size=3),
       bias=st.integers(-1000, 1000), zero_point=st.integers(-128, 127))
@settings(deadline=None, max_examples=60)
def test_bits_hold_every_sum(weight, bias, zero_point):
    """All corners of the inputs, in Python integers; the width is as small as it can be."""
    _, report = quantize(quantised(weight=[weight], bias=[bias], zero_point=zero_point), None)
    sums = [sum(w * (x - zero_point) for w, x in zip(weight, corner, strict=True)) + bias
            for corner in product((-128, 127), repeat=len(weight))]
    bits = report[0].accumulator_bits
    assert all(-1 << bits - 1 <= total < 1 << bits - 1 for total in sums)
    assert bits == 1 or not all(-1 << bits - 2 <= total < 1 << bits - 2 for total in sums)


def quantised(weight, bias, zero_point=0, raw=False, input_scale=0.25, output_scale=1.0,
              output_zero_point=0, **changes):
    """One layer of a quantised model."""
    weight = np.array(weight, np.int8)
    own = Quantised(**{
        "weight": weight, "weight_scale": np.full(len(weight), 0.5),
        "bias": np.array(bias, np.int64),
        "input": TensorType(weight.shape[1:], np.dtype(np.int8), input_scale, zero_point),
        "output": TensorType(weight.shape[:1], np.dtype(np.int32 if raw else np.int8),
                             output_scale, output_zero_point), **changes})
    return Network((Linear("fc", weight.astype(np.float32) / 2,
                           (own.bias / 8).astype(np.float32), "none", own),))


@pytest.mark.parametrize(("limit", "step", "reached"), [
    (2**31 - 1 - (127 * 127 + 128 * 128), 1, 2**31),
    (-2**31 + (127 * 128 + 128 * 127), -1, -2**31 - 1)])
def test_proof_is_tight_to_one_unit(limit, step, reached):
    weight = [[1, 0], [127, -128]]
    _, report = quantize(quantised(weight, [0, limit]), None)
    assert report[0].accumulator_bits == 32
    with pytest.raises(BadInput, match=f"layer fc, row 1: a sum can reach {reached}, which int32"):
        quantize(quantised(weight, [0, limit + step]), None)


def test_float_layer_of_too_many_inputs():
    weight = np.ones((1, 70000))
    with pytest.raises(BadInput, match=r"layer fc, row 0: a sum can reach 226\d+, which int32"):
        quantize(one_layer(weight, [0]), np.vstack([weight, 0 * weight]))


def test_quantised_layer_keeps_its_numbers():
    network = quantised([[3, -4], [127, -128]], [70, -5], 9, output_zero_point=-3)
    layers, report = quantize(network, None)
    layer, own = layers[0], network.layers[0].quantised
    assert layer.weight is own.weight
    assert layer.bias.tolist() == [70 + 9, -5 + 9]
    assert layer.multiplier.tolist() == [1 << 30] * 2
    assert layer.shift.tolist() == [33] * 2
    assert (layer.input.scale, layer.input.zero_point) == (0.25, 9)
    assert (layer.output.scale, layer.output.zero_point) == (1.0, -3)
    assert (report[0].rms, report[0].saturated) == (0, None)


def test_raw_layer():
    layers, _ = quantize(quantised([[3, -4]], [7], 2, raw=True), None)
    assert layers[0].raw
    assert (layers[0].multiplier.tolist(), layers[0].shift.tolist()) == ([0], [24])
    y, _ = tensorcore.layer(np.array([[5, 6]], np.int8), layers[0])
    assert y.tolist() == [[3 * 3 - 4 * 4 + 7]]
    _, report = quantize(quantised([[3, -4]], [7], 2, raw=True), np.ones((1, 2)))
    assert report[0].saturated == 0


def test_raw_layer_inside():
    first = quantised([[3, -4], [1, 1]], [7, 7], raw=True).layers[0]
    with pytest.raises(BadInput, match="layer fc: an int32 output can only be the network's last"):
        quantize(Network((first, linear("last", 2, 2, "none", 1))), np.ones((1, 2)))


def test_float_layers_around_a_quantised_one():
    """They take over its scales at both sides."""
    middle = quantised([[3, -4], [1, 1]], [7, 7], 5, output_zero_point=-20).layers[0]
    network = Network((linear("first", 2, 3, "none", 1), middle, linear("last", 2, 2, "none", 2)))
    layers, _ = quantize(network, np.random.default_rng(0).normal(size=(9, 3)))
    assert (layers[0].output.scale, layers[0].output.zero_point) == (0.25, 5)
    assert (layers[2].input.scale, layers[2].input.zero_point) == (1.0, -20)


def test_float_layer_without_calibration():
    with pytest.raises(BadInput, match="layers that are not quantised; give samples"):
        quantize(one_layer([[1]], [0]), None)


@pytest.mark.parametrize("changes", [{"input_scale": 0.5}, {"zero_point": 1}])
def test_neighbours_that_do_not_agree(changes):
    first, = quantised([[1, 2], [3, 4]], [0, 0], output_scale=0.25).layers
    good, = quantised([[1, 2], [3, 4]], [0, 0]).layers
    quantize(Network((first, good)), None)
    wrong, = quantised([[1, 2], [3, 4]], [0, 0], **changes).layers
    with pytest.raises(BadInput, match=r"layer fc takes scale and zero point \(0\.\d+, \d\), but "
                                       r"\(0.25, 0\) reach it"):
        quantize(Network((first, wrong)), None)


def test_scale_that_no_shift_reaches():
    with pytest.raises(BadInput, match="layer fc, channel 1: the scale from sum to output is 1000"):
        quantize(quantised([[1], [1]], [0, 0], weight_scale=np.array([1.0, 4000])), None)


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_weights_that_are_not_finite(network, calibration, part, value):
    getattr(network.layers[0], part)[-1] = value
    with pytest.raises(BadInput, match=rf"layer conv: {part} \[3.*\] is"):
        quantize(network, calibration)


def test_refuses_calibration(network, calibration):
    with pytest.raises(BadInput, match="calibration must be batch first with 60 values a sample"):
        quantize(network, calibration[:, 0])
    calibration[7, 1, 2, 3] = np.nan
    with pytest.raises(BadInput, match=r"calibration \[7, 43\] is nan"):
        quantize(network, calibration)


def test_batches_of_the_report_change_nothing(network, calibration, monkeypatch):
    _, expected = quantize(network, calibration)
    monkeypatch.setattr("zeroskip.sw.engines.tensorcore.quantize.BATCH", 7)
    assert quantize(network, calibration)[1] == expected
