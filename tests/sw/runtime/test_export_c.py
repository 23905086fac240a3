"""Programs as C headers; that they run is tested with the C example."""

import re

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Engine
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.engines.eie.records import load_items
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime.export_c import c_header


@pytest.fixture(scope="module")
def core():
    rng = np.random.default_rng(3)
    layer = Int8Layer(
        name="fc", weight=rng.integers(-128, 128, (5, 12)).astype(np.int8),
        bias=rng.integers(-99, 99, 5), multiplier=np.full(5, 1 << 30, np.int32),
        shift=np.full(5, 38, np.int32), activation="none", geometry=None,
        input=TensorType.of(12, np.int8, 1.0), output=TensorType.of(5, np.int8, 1.0))
    config = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=16, activation_words=16)
    return TensorCoreImage.packed(config, (layer, "dense"), batch=3)


@pytest.fixture(scope="module")
def array():
    return compile_layers(random_layers(np.random.default_rng(5), (12, 6), 0.6), EIEConfig(pes=2))


def numbers(header, name):
    """The numbers of an array."""
    return [int(word, 0) for word in re.search(rf"\b{name}\[\] = {{(.*?)}};", header,
                                               re.DOTALL)[1].split(",")]


def field(header, name):
    return re.search(rf"\.{name} = (\w+),", header)[1]


def test_a_tensor_core(core):
    header = c_header(Program.chain((core,), ()), "net")
    (layer,) = core.layers
    for name, tensor in layer.tensors().items():
        assert numbers(header, f"net_layer0_{name}") == tensor.ravel().tolist()
    schedule = layer.schedule(core.config, 3)
    assert {name: int(field(header, name)) for name in (
        "m", "n", "block", "steps", "words", "keep", "batch", "inputs", "outputs", "largest",
        "scratch", "channels_in", "rows", "columns", "operands", "output_words")} == {
        "m": 5, "n": 3, "block": schedule.block, "steps": 6, "words": 3, "keep": 0, "batch": 3,
        "inputs": 12, "outputs": 5, "largest": 15, "scratch": 36 + 15, "channels_in": 12,
        "rows": 2, "columns": 2, "operands": 4, "output_words": 3}
    # Control ports first: busy, then those of the counters; then the streams in their order.
    at = [int(field(header, f"{name}_at"), 0) for name in (
        "busy", "commands", "weights", "channels", "activations", "outputs")]
    assert at == [0, *range(at[1], at[1] + 20, 4)]


def test_an_array(array):
    header = c_header(Program.chain((array,), ()), "vector")
    assert numbers(header, "vector_load") == load_items(array).ravel().tolist()
    order = numbers(header, "vector_order")
    assert sorted(k for k in order if k >= 0) == list(range(6))
    for output, position in enumerate(array.positions(len(array.layers) - 1)):
        assert order[position] == output
    assert int(field(header, "slots")) == len(order)


def test_several_images_are_refused(core, array):
    with pytest.raises(BadInput, match="^the program has 2 images, .*; compile the model for one"):
        c_header(Program.chain((array, core), ()), "both")


@pytest.mark.parametrize("name", ["2nd", "a-b", "", "ä"])
def test_a_name_that_is_none_in_c(core, name):
    with pytest.raises(BadInput, match="is no name in C; give the header a name"):
        c_header(Program.chain((core,), ()), name)


def test_an_engine_without_c(core):
    other = registry.engine("eie")
    with pytest.raises(BadInput, match="^images of the engine eie are not written as C; compile"):
        Engine.c_source(other, core, "net", {})
