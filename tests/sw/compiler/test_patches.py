"""Convolutions on an engine that takes their patches: exact in integers, by a convolution of its
own, and the same in RTL."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.compiler.placement import place
from zeroskip.sw.compiler.program import EngineStep, HostStep
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

ARRAY = EIEConfig(pes=2)
CORE = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=64, activation_words=64)


def conv(name, shape, outputs, kernel=(3, 3), stride=(1, 1), padding=(1, 0, 0, 1),
         dilation=(1, 1), density=0.4, activation="relu"):
    rng = np.random.default_rng(outputs)
    weight = rng.normal(size=(outputs, shape[0], *kernel))
    weight *= rng.random(weight.shape) < density
    return Conv2d(name, weight.astype(np.float32), rng.normal(size=outputs).astype(np.float32) / 4,
                  activation, shape, stride, padding, dilation)


def by_hand(x, layer, reference):
    """Outputs of one sample, a product at a time: Python integers, the last bit of a sum rounded
    up, zeros around the image."""
    channels, height, width = layer.input_shape
    image, weight = x.reshape(layer.input_shape).tolist(), reference.weight.reshape(
        -1, channels, *layer.kernel).tolist()
    rows, columns = layer.output_shape[1:]
    found = []
    for o, r, s in product(range(len(weight)), range(rows), range(columns)):
        total = int(reference.bias[o]) + (1 << reference.shift >> 1)
        for c, i, j in product(range(channels), *map(range, layer.kernel)):
            at = (r * layer.stride[0] + i * layer.dilation[0] - layer.padding[0],
                  s * layer.stride[1] + j * layer.dilation[1] - layer.padding[1])
            if 0 <= at[0] < height and 0 <= at[1] < width:
                total += weight[o][c][i][j] * image[c][at[0]][at[1]]
        y = min(max(total >> reference.shift, -32768), 32767)
        found.append(max(y, 0) if layer.activation == "relu" else y)
    return found


def compiled(*layers, configs=(ARRAY,), samples=3):
    network = Network(layers)
    x = np.random.default_rng(1).normal(size=(samples, network.inputs)).astype(np.float32)
    made = compile_network(network, x, *configs)
    return made, made.program.input.to_integer(x)[0], x


@given(data=st.data())
@settings(deadline=None, max_examples=25, derandomize=True)
def test_a_convolution_in_integers(data):
    shape, (kernel, stride, dilation) = (2, 5, 6), (
        tuple(data.draw(st.integers(1, most)) for _ in range(2)) for most in (3, 3, 2))
    padding = tuple(data.draw(st.integers(0, 2)) for _ in range(4))
    layer = conv("a", shape, 3, kernel, stride, padding, dilation,
                 activation=data.draw(st.sampled_from(["none", "relu"])))
    made, integers, x = compiled(layer)
    run = run_program(made.program, GoldenBackend(made.program, made.reference), integers)
    assert run.output.tolist() == [by_hand(each, layer, made.reference[0]) for each in integers]
    real = made.program.output.to_float(run.output)
    expected = layer.forward(x)
    assert np.abs(real - expected).max() <= 0.15 * np.abs(expected).max()
    assert made.program.output.shape == layer.output_shape


def test_convolutions_and_a_linear_layer_in_rtl():
    first = conv("a", (2, 4, 4), 3, stride=(2, 1))
    second = conv("b", first.output_shape, 2, kernel=(1, 2), padding=(0, 0, 0, 0))
    weight = np.eye(4, second.outputs, dtype=np.float32)
    made, integers, _ = compiled(first, second, Linear("c", weight, np.ones(4, np.float32),
                                                       "none"), samples=1)
    rules = [step.rule.name if isinstance(step, HostStep) else step.image.layers[0].name
             for step in made.program.steps]
    assert rules == ["patches", "a", "permute", "patches", "b", "permute", "c"]
    golden = GoldenBackend(made.program, made.reference)
    assert verify(made.program, integers, (golden, backends.rtl("python"))).difference is None


def test_the_cycles_decide():
    """Where few weights are left the array is better, and a tensor core otherwise."""
    array = replace(ARRAY, pes=8)
    sparse = conv("a", (16, 5, 5), 32, density=0.05)
    dense = conv("b", sparse.output_shape, 4, density=0.65)
    assert place(sparse, (array, CORE)).config is array
    assert place(dense, (array, CORE)).config is CORE
    assert place(dense, (array,)).config is array
    made, integers, _ = compiled(sparse, dense, configs=(array, CORE))
    assert [step.rule.name if isinstance(step, HostStep) else step.image.engine
            for step in made.program.steps] == [
        "patches", "eie", "permute", "convert", "tensorcore"]
    run = run_program(made.program, GoldenBackend(made.program, made.reference), integers)
    rows = next(step for step in made.program.steps if isinstance(step, EngineStep)).writes
    assert run.buffers[rows[0]].shape == (3, 16 * 32)


@pytest.mark.parametrize("word", [0, 13])
def test_a_wrong_weight_is_noticed(word):
    """The reference above sees each weight of the array."""
    layer = conv("a", (2, 4, 4), 2, density=1)
    made, integers, _ = compiled(layer)
    own = made.reference[0]
    right = by_hand(integers[0], layer, own)
    own.weight.reshape(-1)[word] += 9
    assert by_hand(integers[0], layer, own) != right
