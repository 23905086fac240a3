"""A program of several images: the host converts between them, and every engine agrees."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.compiler.program import Builder, Port, Program
from zeroskip.sw.compiler.rules import Patches
from zeroskip.sw.engines.eie import golden as eie
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.engines.tensorcore import golden as golden_tensorcore
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

HALF = 0.5
"""Scale between the images: the second takes the first's outputs at half of their units."""


@pytest.fixture
def layers():
    rng = np.random.default_rng(12)
    first, second = random_layers(rng, (12, 9), 0.5), random_layers(rng, (9, 8, 5), 0.5)
    return [replace(first[0], shift=2), replace(second[0], input=replace(
        second[0].input, scale=HALF)), second[1]]


@pytest.fixture
def program(layers):
    images = (compile_layers(tuple(layers[:1]), EIEConfig(pes=2)),
             compile_layers(tuple(layers[1:]), EIEConfig(pes=3)))
    return Program.chain(images, tuple(layers))


@pytest.fixture
def golden(program, layers):
    return GoldenBackend(program, tuple(layers))


@pytest.fixture
def inputs():
    return np.random.default_rng(13).integers(-300, 300, (4, 12)).astype(np.int16)


def by_hand(layers, inputs):
    """Outputs of all layers, and how many values saturated between the images."""
    outputs, y = [], inputs
    for layer in layers:
        if layer is layers[1]:
            doubled = y.astype(np.int64) * 2
            y = np.clip(doubled, -32768, 32767).astype(np.int16)
            saturated = np.count_nonzero(doubled != y)
        y, _ = eie.layer(y, layer.weight, layer.bias, layer.shift, layer.activation)
        outputs.append(y)
    return outputs, saturated


def test_both_engines_give_what_the_layers_give(program, golden, layers, inputs):
    expected, saturated = by_hand(layers, inputs)
    assert saturated > 0
    for engine in (golden, backends.rtl("python")):
        results = run_program(program.traced(), engine, inputs).results
        found = [y for result in results for y in result.outputs]
        for y, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(y, wanted)
        assert [result.inputs_saturated for result in results] == [0, saturated]


def test_what_saturated_ahead_of_a_rule_counts_for_the_engine_behind_it(program, layers, inputs):
    """As the program, but that the second image takes patches of one value each."""
    first, second = program.images
    made = Builder({"input": first.input})
    real = made.convert(made.engine(first, "input", ["a"]), second.input, "converted")
    rule = Patches(Geometry((9, 1, 1), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), 0)
    last = made.engine(second, made.rule(rule, [real], second.input, "patches"), ["b", "c"])
    port = Port("input", "float32", "input"), Port(last, "float32", last)
    both = made.program(port[:1], port[1:], layers)
    expected, saturated = by_hand(layers, inputs)
    run = run_program(both, GoldenBackend(both, tuple(layers)), inputs)
    assert [result.inputs_saturated for result in run.results] == [0, saturated]
    np.testing.assert_array_equal(run.output, expected[-1])


def test_statistics_are_those_of_each_image(program, inputs):
    first, second = run_program(program, backends.rtl("python"), inputs).results
    assert len(first.statistics.pe["useful"]) == 2
    assert len(second.statistics.pe["useful"]) == 3
    assert first.statistics.images == second.statistics.images == 4


def test_progress_runs_over_all_images(program, golden, inputs):
    seen = []
    run_program(program, golden, inputs, lambda *step: seen.append(step))
    first, second = (image.work for image in program.images)
    assert [done / total for done, total in seen] == [first / (first + second), 1]
    assert first != second


def test_verify_compares_all_images(program, golden, inputs):
    verdict = verify(program, inputs, (golden, backends.rtl("python")))
    assert verdict.difference is None
    assert verdict.compared == 4 * (9 + 8 + 5)


def test_verify_names_a_layer_of_the_second_image(program, golden, inputs):
    second = program.images[1]
    changed = replace(second, biases=second.biases + (1 << 20))
    broken = program.with_images(program.images[0], changed)
    found = verify(broken, inputs, (golden, backends.rtl("python"))).difference
    assert found.layer == broken.traced().steps[-1].writes[0] == "layer0#2"
    owner = second.owner(second.layers[0], found.row)
    assert (found.image, found.unit, found.pe) == (0, "PE", owner)
    assert found.cycle > 0


# --- a tensor core after an array, in integers alone ---

@pytest.fixture
def core():
    """A dense int8 layer behind the first array, and its reference."""
    rng = np.random.default_rng(14)
    weight = rng.integers(-128, 128, (6, 9)).astype(np.int8)
    bias = rng.integers(-999, 999, 6)
    common = {
        "name": "core", "activation": "relu", "geometry": None,
        "input": TensorType.of(9, np.int8, 64.0, 5), "output": TensorType.of(6, np.int8, 1.0, -7),
        "multiplier": rng.integers(1 << 24, 1 << 30, 6).astype(np.int32),
        "shift": np.full(6, 36, np.int32)}
    layer = Int8Layer(weight=weight, bias=bias, **common)
    return TensorCoreImage.packed(TensorCoreConfig(), (layer, "dense")), layer


def test_int16_becomes_int8_between_the_machines(program, layers, core, inputs):
    image, layer = core
    integers = (*tuple(layers[:1]), layer)
    both = Program.chain((program.images[0], image), integers)
    golden = GoldenBackend(both, integers)
    first, second = run_program(both, golden, inputs).results
    real = np.rint(first.outputs[0] / 64) + 5
    x = np.clip(real, -128, 127).astype(np.int8)
    assert second.inputs_saturated == np.count_nonzero(real != x) > 0
    expected, _ = golden_tensorcore.layer(x, layer)
    np.testing.assert_array_equal(second.outputs[0], expected)
    assert len(np.unique(expected)) > 4


def test_difference_names_the_row_of_the_tile(core):
    image, layer = core

    class Wrong:
        """Gives an output of row 5 that is off by one."""
        name = "wrong"

        def run(self, image, inputs, progress=None):
            result = golden.run(image, inputs)
            result.outputs[0][2, 5] += 1
            return result

    program = Program.chain((image,), (layer,))
    golden = GoldenBackend(program, (layer,))
    found = verify(program, np.ones((3, 9), np.int8), (golden, Wrong())).difference
    assert str(found).startswith("image 2, layer core, row 5 (tile row 1, cycle 0): ")
    assert found.outputs == 1
