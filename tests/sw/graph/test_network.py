"""Float outputs of layers against torch."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph import network as module
from zeroskip.sw.graph.network import Conv2d, Linear, Network, as_samples

torch.set_num_threads(1)
SHAPE = (3, 6, 5)


def rng():
    return np.random.default_rng(0)


def conv(kernel=(3, 2), activation="none", **changes):
    weight = rng().standard_normal((4, SHAPE[0], *kernel)).astype(np.float32)
    return Conv2d(**{"name": "conv", "weight": weight,
                     "bias": np.array([1, -2, 0, 0.5], np.float32), "activation": activation,
                     "input_shape": SHAPE, "stride": (1, 1), "padding": (0, 0, 0, 0),
                     "dilation": (1, 1), **changes})


def torch_conv(layer, x):
    top, left, bottom, right = layer.padding
    padded = functional.pad(torch.from_numpy(x).reshape(-1, *layer.input_shape),
                            (left, right, top, bottom))
    y = functional.conv2d(padded, torch.from_numpy(layer.weight), torch.from_numpy(layer.bias),
                          stride=layer.stride, dilation=layer.dilation)
    return (torch.relu(y) if layer.activation == "relu" else y).numpy()


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding", "activation"), list(product(
    [(1, 1), (3, 2)], [(1, 1), (2, 3)], [(1, 1), (2, 1)],
    [(0, 0, 0, 0), (1, 2, 0, 1), (3, 1, 2, 0)], ["none", "relu"])))
def test_conv_equals_torch(kernel, stride, dilation, padding, activation):
    layer = conv(kernel, activation, stride=stride, dilation=dilation, padding=padding)
    x = rng().standard_normal((3, layer.inputs)).astype(np.float32)
    expected = torch_conv(layer, x)
    y = layer.forward(x)
    assert y.dtype == np.float32
    assert layer.output_shape == expected.shape[1:]
    assert y.shape == (3, layer.outputs)
    np.testing.assert_allclose(y, expected.reshape(3, -1), rtol=1e-5, atol=1e-5)


def test_samples_in_blocks_change_nothing(monkeypatch):
    layer, x = conv(), rng().standard_normal((7, 90)).astype(np.float32)
    expected = torch_conv(layer, x).reshape(7, -1)
    for block in (1, 2 * layer.geometry.positions * 18):
        monkeypatch.setattr(module, "BLOCK", block)
        np.testing.assert_allclose(layer.forward(x), expected, rtol=1e-5, atol=1e-5)


def test_linear_equals_torch():
    weight = rng().standard_normal((4, 6)).astype(np.float32)
    layer = Linear("fc", weight, np.array([1, -9, 0, 3], np.float32), "relu")
    x = rng().standard_normal((5, 6)).astype(np.float32)
    expected = torch.relu(functional.linear(*map(torch.from_numpy, (x, weight, layer.bias))))
    np.testing.assert_allclose(layer.forward(x), expected.numpy(), rtol=1e-5, atol=1e-6)
    assert (layer.inputs, layer.outputs, layer.geometry) == (6, 4, None)
    assert layer.matrix is layer.weight


def test_chain_of_both():
    """A flat vector between the layers is what torch's flatten makes of an image."""
    first = conv(activation="relu", padding=(1, 1, 1, 1), stride=(2, 2))
    second = Linear("fc", rng().standard_normal((2, first.outputs)).astype(np.float32),
                    np.zeros(2, np.float32), "none")
    network = Network((first, second))
    x = rng().standard_normal((3, *SHAPE)).astype(np.float32)
    outputs = network.forward(x)
    image = torch_conv(first, x.reshape(3, -1))
    np.testing.assert_allclose(outputs[0], image.reshape(3, -1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs[1], image.reshape(3, -1) @ second.weight.T, rtol=1e-4,
                               atol=1e-4)
    assert (network.inputs, network.outputs) == (90, 2)


def test_matrix_runs_over_channel_row_column():
    layer = conv(weight=np.arange(4 * 18, dtype=np.float32).reshape(4, 3, 3, 2))
    assert layer.matrix.tolist() == np.arange(72).reshape(4, 18).tolist()
    assert layer.kernel == (3, 2)


@pytest.mark.parametrize(("change", "message"), [
    ({"weight": np.zeros((4, 2, 3, 3), np.float32)},
     r"layer conv: the weight must be \[out, 3, kernel rows, kernel columns\], not \[4, 2, 3, 3\]"),
    ({"weight": np.zeros((4, 3), np.float32)}, "the weight must be"),
    ({"stride": (0, 1)}, "stride must be"),
    ({"dilation": (3, 1)}, "does not fit"),
])
def test_refuses_a_convolution(change, message):
    with pytest.raises(BadInput, match=message):
        conv(**change)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 60)])
def test_samples_are_flat_or_have_the_models_shape(shape):
    values = np.arange(120.0).reshape(shape)
    np.testing.assert_array_equal(as_samples("x", values, (3, 4, 5)),
                                  np.arange(120.0).reshape(2, 60))


@pytest.mark.parametrize(("shape", "remedy"), [
    ((2, 4, 5, 3), "bring its axes into this order"), ((2, 3, 20), "bring its axes"),
    ((2, 60, 1), "bring its axes"), ((2, 61), "give samples of this size"),
    ((60,), "give samples of this size"), ((0, 60), "give samples of this size"),
    ((0, 3, 4, 5), "give samples of this size")])
def test_samples_of_another_shape(shape, remedy):
    with pytest.raises(BadInput, match=r"x is .* batch first: \[batch, 3, 4, 5\], or flat "
                                       rf"\[batch, 60\]; {remedy}"):
        as_samples("x", np.zeros(shape), (3, 4, 5))


def test_samples_of_a_flat_model_are_flat():
    with pytest.raises(BadInput, match=r"batch first: \[batch, 12\]; flatten its samples"):
        as_samples("x", np.zeros((6, 3, 4)), (12,))


def test_shapes_of_a_network_are_those_of_its_ends_unless_it_says_more():
    conv = Conv2d("c", np.ones((2, 3, 2, 2), np.float32), np.zeros(2, np.float32), "none",
                  (3, 4, 5), (1, 1), (0, 0, 0, 0), (1, 1))
    full = Linear("f", np.ones((6, 24), np.float32), np.zeros(6, np.float32), "none")
    for network, first, last in (
            (Network((conv,)), (3, 4, 5), (2, 3, 4)), (Network((conv, full)), (3, 4, 5), (6,)),
            (Network((full,)), (24,), (6,)),
            (Network((conv,), input_shape=(60,), output_shape=(24,)), (3, 4, 5), (24,)),
            (Network((full,), input_shape=(2, 3, 4)), (2, 3, 4), (6,))):
        assert (network.input_shape, network.output_shape) == (first, last)
