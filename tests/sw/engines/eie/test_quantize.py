from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.sw.engines.eie import golden as eie
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.quantize import bound, prove, quantize
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Conv2d, Linear, Network, Quantised
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.kmeans import share


def linear(name, rows, columns, activation, seed, density=0.3):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, columns)) / np.sqrt(density * columns)
    weight *= rng.random(weight.shape) < density
    return Linear(name, weight.astype(np.float32),
                  rng.normal(scale=0.1, size=rows).astype(np.float32), activation)


@pytest.fixture
def network():
    return Network((linear("fc1", 40, 64, "relu", 1), linear("fc2", 30, 40, "none", 2),
                    linear("fc3", 10, 30, "none", 3)))


@pytest.fixture
def calibration():
    return np.random.default_rng(4).normal(size=(100, 8, 8))


def with_shared_weights(network):
    """The float network that the integers stand for."""
    def layer(source):
        shared = share(source.weight)
        return Linear(source.name, shared.codebook[shared.indices], source.bias,
                      source.activation)
    return Network(tuple(map(layer, network.layers)))


def run(layers, x):
    """Integer outputs of every layer, and how many values saturated."""
    x, saturated = layers[0].input.to_integer(x.reshape(len(x), -1))
    outputs = []
    for layer in layers:
        x, count = eie.layer(x, layer.weight, layer.bias, layer.shift, layer.activation)
        outputs.append(x)
        saturated += count
    return outputs, saturated


def partial_sums(weight, bias, shift, low, high):
    """Every value that an accumulator of one row takes: all inputs, all orders."""
    half = 2 ** (shift - 1) if shift else 0
    reached = {0}
    for x in product(range(low, high + 1), repeat=len(weight)):
        for order in permutations(w * v for w, v in zip(weight, x, strict=True)):
            sums = np.cumsum(order).tolist()
            reached |= {*sums, sums[-1] + bias + half}
    return reached


@given(weight=st.lists(st.integers(-9, 9), min_size=1, max_size=3), bias=st.integers(-90, 90),
       shift=st.integers(0, 5), low=st.integers(-3, 0), high=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_bound_is_reached_and_never_passed(weight, bias, shift, low, high):
    lowest, highest = bound(np.array([weight], np.int16), np.array([bias]), shift, low, high)
    reached = partial_sums(weight, bias, shift, low, high)
    assert (lowest.item(), highest.item()) == (min(reached), max(reached))


def test_bound_of_the_largest_values_is_exact():
    weight = np.full((2, 30000), -32768, np.int16)
    lowest, highest = bound(weight, np.array([2**62, -2**62]), 31, -32768, 32767)
    positive, negative = 30000 * 2**30, -30000 * 32768 * 32767
    assert highest.tolist() == [positive + 2**62 + 2**30, positive]
    assert lowest.tolist() == [negative, negative - 2**62 + 2**30]


@pytest.mark.parametrize("width", [16, 24, 32, 48])
@pytest.mark.parametrize("shift", [0, 4])
def test_proof_is_tight_to_one_unit(width, shift):
    """A row whose bias takes it exactly to an end passes; one unit more does not."""
    weight = np.array([[1, 0], [3, -2]], np.int16)
    half, largest = (8 if shift else 0), 3 * 100 + 2 * 50
    top = 2 ** (width - 1) - 1 - largest - half
    bottom = -2 ** (width - 1) + (3 * 50 + 2 * 100) - half
    for limit, step, reached in ((top, 1, 2 ** (width - 1)),
                                 (bottom, -1, -2 ** (width - 1) - 1)):
        prove("fc", weight, np.array([0, limit]), shift, -50, 100, width)
        with pytest.raises(BadInput, match=f"layer fc, row 1: a sum can reach {reached}, "
                                           f"which a {width}-bit"):
            prove("fc", weight, np.array([0, limit + step]), shift, -50, 100, width)


def test_proof_counts_sums_before_the_bias():
    """The bias brings the end result back into range; the sum before it has overflowed."""
    weight = np.full((1, 2), 100, np.int16)
    with pytest.raises(BadInput, match="can reach 32800"):
        prove("fc", weight, np.array([-1000]), 0, 0, 164, 16)


@pytest.mark.parametrize(("low", "high"), [(1, 5), (-5, -1), (-32769, 0), (0, 32768)])
def test_bound_refuses_a_range(low, high):
    with pytest.raises(BadInput, match="must be int16 and contain 0"):
        bound(np.ones((1, 1), np.int16), np.zeros(1, np.int64), 0, low, high)


@pytest.mark.parametrize("bias", [2**62 + 1, -2**62 - 1])
def test_bound_refuses_a_bias_it_cannot_add(bias):
    with pytest.raises(BadInput, match="bias must be within 2\\^62"):
        bound(np.ones((1, 1), np.int16), np.array([bias]), 0, 0, 1)


def test_to_integer_rounds_ties_to_even_and_counts_saturation():
    x = np.array([0.5, 1.5, -0.5, -2.5, 32767.4, 32767.5, -32768.5, -32768.6])
    integers, saturated = TensorType((8,), np.dtype(np.int16), 0.25).to_integer(x * 0.25)
    assert integers.tolist() == [0, 2, 0, -2, 32767, 32767, -32768, -32768]
    assert integers.dtype == np.int16
    assert saturated == 2


def test_to_integer_refuses_nan():
    with pytest.raises(BadInput, match=r"input \[1, 0\] is nan"):
        TensorType((1,), np.dtype(np.int16), 1.0).to_integer(np.array([[0.0], [np.nan]]))


def test_weight_is_the_codebook_looked_up():
    codebook = np.arange(16, dtype=np.int16) * -7
    layer = FixedLayer(
        name="fc", activation="none", indices=np.array([[0, 3], [15, 1]], np.uint8),
        codebook=codebook, bias=np.zeros(2, np.int64), shift=0,
        input=TensorType.of(2, np.int16, 1.0), output=TensorType.of(2, np.int16, 1.0))
    assert layer.weight.tolist() == [[0, -21], [-105, -7]]
    assert layer.weight.dtype == np.int16


def test_integers_follow_the_float_network_of_shared_weights(network, calibration):
    layers, _ = quantize(network, calibration)
    outputs, saturated = run(layers, calibration)
    assert saturated == 0
    floats = with_shared_weights(network).forward(calibration)
    for y, layer, expected in zip(outputs, layers, floats, strict=True):
        error = y * layer.output.scale - expected
        assert np.abs(error).max() < 2e-3 * np.abs(expected).max()


def test_scales_and_shapes(network, calibration):
    layers, reports = quantize(network, calibration)
    assert layers[0].input.scale == pytest.approx(np.abs(calibration).max() / 32767)
    scale = layers[0].input.scale
    for layer, source, report in zip(layers, network.layers, reports, strict=True):
        assert (layer.name, layer.activation) == (source.name, source.activation)
        assert (layer.indices.dtype, layer.codebook.dtype, layer.bias.dtype) == (
            np.uint8, np.int16, np.int64)
        assert layer.indices.shape == source.weight.shape
        assert layer.codebook.shape == (16,)
        assert layer.codebook[0] == 0
        assert layer.input.scale == scale
        scale = layer.output.scale
        unit = report.weight_scale * layer.input.scale
        assert layer.output.scale == pytest.approx(unit * 2**layer.shift)
        assert np.abs(layer.bias * unit - source.bias).max() <= unit * 0.500001


@pytest.mark.parametrize("width", [28, 32, 48])
def test_output_range_is_fully_used(network, calibration, width):
    """The calibrated maximum lands within int16, less the headroom of 1.1."""
    layers, _ = quantize(network, calibration, width)
    for layer, y in zip(layers, network.forward(calibration), strict=True):
        assert np.abs(y).max() / layer.output.scale == pytest.approx(32767 / 1.1, rel=1e-6)


@pytest.mark.parametrize("width", [24, 28, 32, 48])
def test_every_layer_is_proven_and_uses_codebook_or_accumulator(network, calibration, width):
    """A scale twice as fine would leave the codebook's or the accumulator's range."""
    (layers, reports), low = quantize(network, calibration, width), -32768
    for layer, report in zip(layers, reports, strict=True):
        prove(layer.name, layer.weight, layer.bias, layer.shift, low, 32767, width)
        lowest, highest = bound(layer.weight, layer.bias, layer.shift, low, 32767)
        assert report.bound == max(int(highest.max()) / (2 ** (width - 1) - 1),
                                   -int(lowest.min()) / 2 ** (width - 1))
        assert report.bound > 0.48 or np.abs(layer.codebook.astype(int)).max() > 16000
        low = 0 if layer.activation == "relu" else -32768


def test_what_a_negative_sum_takes_of_the_accumulator():
    """It may reach one further than a positive one."""
    layer = Linear("fc", -np.ones((1, 3), np.float32), np.zeros(1, np.float32), "relu")
    chain = Network((Linear("in", np.ones((3, 3), np.float32), np.zeros(3, np.float32), "relu"),
                     layer))
    layers, reports = quantize(chain, np.ones((2, 3), np.float32), 24)
    lowest, highest = bound(layers[1].weight, layers[1].bias, layers[1].shift,
                            0, 32767)
    assert int(highest.max()) < -int(lowest.min())
    assert reports[1].bound == -int(lowest.min()) / 2**23


def test_layer_after_relu_is_proven_for_its_own_range(calibration):
    """Inputs that cannot be negative leave an accumulator to one sign of weights."""
    weight = np.where(np.arange(40) % 2, 1, -1) * np.ones((3, 1))
    last = Linear("last", weight.astype(np.float32), np.zeros(3, np.float32), "none")
    scales = []
    for activation in ("relu", "none"):
        chain = Network((linear("fc1", 40, 64, activation, 1), last))
        entry = quantize(chain, calibration, 24)[1][1]
        scales.append(entry.weight_scale * entry.bound)
    assert scales[1] == pytest.approx(2 * scales[0], rel=0.02)


def test_weights_that_become_zero_are_counted_and_not_stored(calibration):
    weight = np.zeros((2, 64), np.float32)
    weight[0, :3] = 1, 1e-6, -1e-6
    network = Network((Linear("fc", weight, np.zeros(2, np.float32), "none"),))
    layers, reports = quantize(network, calibration)
    assert reports[0].vanished == 2
    assert np.count_nonzero(layers[0].indices) == 1
    assert reports[0].rms == 0
    assert np.count_nonzero(layers[0].codebook) == 1


def test_report_of_shared_weights(network, calibration):
    for layer, entry in zip(network.layers, quantize(network, calibration)[1], strict=True):
        assert entry.rms == share(layer.weight).rms
        assert entry.vanished == 0


def test_all_zero_calibration(network):
    layers, _ = quantize(network, np.zeros((2, 64)))
    greatest = network.layers[0].bias.max()
    assert layers[0].input.scale == pytest.approx(
        greatest / np.abs(network.layers[0].weight).sum(axis=1).max() / 32767)
    outputs, _ = run(layers, np.zeros((1, 64)))
    expected = with_shared_weights(network).forward(np.zeros((1, 64)))[-1]
    assert np.allclose(outputs[-1] * layers[-1].output.scale, expected, atol=1e-4)


@pytest.mark.parametrize("bias", [0.0, -0.75])
def test_all_zero_weights(calibration, bias):
    layer = Linear("fc", np.zeros((3, 64), np.float32), np.full(3, bias, np.float32), "none")
    layers, _ = quantize(Network((layer,)), calibration)
    outputs, _ = run(layers, calibration)
    assert np.allclose(outputs[0] * layers[0].output.scale, bias, rtol=1e-3)


def test_bias_far_above_the_products_fits(calibration):
    layer = Linear("fc", np.full((1, 64), 10, np.float32), np.array([1e5], np.float32), "none")
    layers, _ = quantize(Network((layer,)), calibration)
    outputs, saturated = run(layers, calibration)
    assert saturated == 0
    expected = layer.bias + 10 * calibration.reshape(100, 64).sum(axis=1, keepdims=True)
    assert np.allclose(outputs[0] * layers[0].output.scale, expected, rtol=1e-4)


@pytest.mark.parametrize(("bias", "activation"), [
    (1e20, "none"), (-1e20, "none"), (-1e20, "relu")])
def test_bias_beside_which_weights_count_nothing(calibration, bias, activation):
    """They are far below half a step of the output."""
    layer = Linear("fc", np.ones((1, 64), np.float32), np.array([bias], np.float32), activation)
    layers, reports = quantize(Network((layer,)), calibration)
    assert reports[0].vanished == 64
    y = run(layers, calibration)[0][0] * layers[0].output.scale
    assert np.allclose(y, max(bias, 0) if activation == "relu" else bias, rtol=1e-4)


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_weights_that_are_not_finite(network, calibration, part, value):
    array = getattr(network.layers[1], part)
    place = (3, 5)[:array.ndim]
    array[place] = value
    with pytest.raises(BadInput, match=rf"layer fc2: {part} \[{', '.join(map(str, place))}\] is"):
        quantize(network, calibration)


def test_refuses_calibration_that_is_not_finite(network, calibration):
    calibration[7, 1, 2] = np.nan
    with pytest.raises(BadInput, match=r"calibration \[7, 10\] is nan"):
        quantize(network, calibration)


def test_refuses_activations_that_overflow_float32(network, calibration):
    network.layers[2].weight[:] *= np.float32(1e38)
    with pytest.raises(BadInput, match=r"layer fc3: output \[\d+, \d+\] is"):
        quantize(network, calibration * 100)


@pytest.mark.parametrize("shape", [(5, 63), (0, 64), (64,)])
def test_refuses_calibration_of_another_shape(network, shape):
    with pytest.raises(BadInput, match="calibration must be batch first with 64 values a sample"):
        quantize(network, np.zeros(shape))


@pytest.mark.parametrize("width", [1, 63])
def test_refuses_a_width(network, calibration, width):
    with pytest.raises(BadInput, match=f"must be 2 to 62 bits, not {width}"):
        quantize(network, calibration, width)


def test_refuses_an_accumulator_that_no_weight_survives(network, calibration):
    with pytest.raises(BadInput, match=r"layer fc1: every weight becomes 0 .* 12-bit accumulator"):
        quantize(network, calibration, 12)


def test_weights_that_vanish_may_move_an_output_by_half_a_step(calibration):
    def layer(weight):
        return Network((Linear("fc", np.full((1, 64), weight, np.float32), np.float32([1e6]),
                               "none"),))
    (fixed,), _ = quantize(layer(0.06), calibration, 24)
    lost = 64 * 0.06 * 32768 * fixed.input.scale / fixed.output.scale
    assert 0.4 < lost < 0.5
    with pytest.raises(BadInput, match="every weight becomes 0"):
        quantize(layer(0.06 * 0.6 / lost), calibration, 24)


def test_refuses_a_convolution(calibration):
    layer = Conv2d("conv", np.ones((1, 1, 3, 3), np.float32), np.zeros(1, np.float32), "none",
                   (1, 8, 8), (1, 1), (0, 0, 0, 0), (1, 1))
    with pytest.raises(BadInput, match="layer conv is a convolution; the EIE array takes"):
        quantize(Network((layer,)), calibration)


def test_refuses_a_layer_of_a_quantised_model(calibration):
    own = Quantised(np.ones((1, 64), np.int8), np.ones(1), np.zeros(1, np.int64),
                    TensorType((64,), np.dtype(np.int8), 1.0),
                    TensorType((1,), np.dtype(np.int8), 1.0))
    layer = Linear("fc", np.ones((1, 64), np.float32), np.zeros(1, np.float32), "none", own)
    with pytest.raises(BadInput, match="layer fc is quantised to int8, and the EIE array takes"):
        quantize(Network((layer,)), calibration)
