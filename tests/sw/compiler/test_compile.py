"""Whole networks, on either machine and on both, give in RTL what the integer reference gives; and
what the tensor core's layers are packed into."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import gemm_layout
from zeroskip.sw.compiler.compile import compile_network, storage
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.quantize import LayerReport
from zeroskip.sw.engines.payload import unpack_fields
from zeroskip.sw.engines.tensorcore.lower import compile_layers as compile_core
from zeroskip.sw.engines.tensorcore.lower import fastest
from zeroskip.sw.engines.tensorcore.packed import TensorCoreLayer
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer, LayerReport8
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import read
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.network import Conv2d, Linear, Network, Quantised
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.calibration import ranges
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

CORE = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=64, activation_words=64,
                        patterns=("dense", "2:4", "1:4"))
ARRAY = EIEConfig(pes=3)


def weights(outputs, inputs, pattern):
    """Random float weights whose zeros are exactly of this pattern."""
    rng = np.random.default_rng(inputs)
    groups = -(-inputs // 4)
    order = rng.random((outputs, groups, 4)).argsort(axis=2).reshape(outputs, -1)[:, :inputs]
    kept = {"dense": order < 4, "2:4": order < 2, "1:4": order < 1,
            "unstructured": rng.random((outputs, inputs)) < 0.4}[pattern]
    if pattern == "unstructured":
        kept[0, :4] = True, True, True, False
    values = rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)
    return np.where(kept, values, 0).astype(np.float32)


def linear(name, outputs, inputs, pattern, activation="relu"):
    bias = np.random.default_rng(outputs).normal(scale=0.1, size=outputs).astype(np.float32)
    return Linear(name, weights(outputs, inputs, pattern), bias, activation)


def conv(name, outputs, pattern):
    """A convolution of 2 x 5 x 4 to ``outputs`` x 3 x 4, with padding on one side only."""
    return Conv2d(name, weights(outputs, 12, pattern).reshape(outputs, 2, 3, 2),
                  np.linspace(-0.2, 0.2, outputs, dtype=np.float32), "relu",
                  (2, 5, 4), (2, 1), (1, 0, 1, 1), (1, 1))


def samples(net, count=5):
    return np.random.default_rng(7).normal(size=(count, net.inputs)).astype(np.float32)


def compiled_and_exact(net, *configs, **options):
    """The compiled network, every output of every layer of which is the same in RTL and in the
    reference, and near to the float network."""
    x = samples(net)
    compiled = compile_network(net, x, *configs, **options)
    integers, saturated = compiled.program.input.to_integer(x)
    assert saturated == 0
    golden = GoldenBackend(compiled.program, compiled.reference)
    verdict = verify(compiled.program, integers, (golden, backends.rtl("python")))
    assert verdict.difference is None
    assert verdict.compared == len(x) * sum(layer.outputs for layer in net.layers)

    found = compiled.program.output.to_float(verdict.results[0][-1].outputs[-1])
    expected = net.forward(x)[-1]
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()
    assert len(np.unique(expected)) > 8
    return compiled


NETWORKS = {
    # Layers, and the pattern that each is packed in.
    "2:4": ([linear("a", 9, 12, "2:4"), linear("b", 5, 9, "2:4", "none")], ["2:4", "2:4"]),
    "dense": ([linear("a", 5, 12, "dense", "none")], ["dense"]),
    "1:4": ([linear("a", 8, 12, "1:4"), linear("b", 5, 8, "2:4", "none")], ["1:4", "2:4"]),
    "K no multiple of four": (
        [linear("a", 7, 13, "2:4"), linear("b", 6, 7, "1:4"), linear("c", 5, 6, "dense", "none")],
        ["2:4", "1:4", "dense"]),
    "no pattern, so dense": ([linear("a", 5, 12, "unstructured", "none")], ["dense"]),
    "convolution": ([conv("a", 4, "2:4")], ["2:4"]),
    "dense convolution": ([conv("a", 3, "dense")], ["dense"]),
    "convolution and linear": (
        [conv("a", 3, "1:4"), linear("b", 5, 36, "2:4", "none")], ["1:4", "2:4"]),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_network_on_the_tensor_core(case):
    layers, patterns = NETWORKS[case]
    (image,) = compiled_and_exact(Network(tuple(layers)), CORE).program.images
    assert image.config == CORE
    assert [layer.pattern for layer in image.layers] == patterns


@pytest.mark.parametrize("patterns", [("2:4", "2:4"), ("unstructured", "dense")])
def test_network_on_the_array(patterns):
    net = Network(tuple(linear(name, 8, 12 if name == "a" else 8, pattern)
                        for name, pattern in zip("ab", patterns, strict=True)))
    compiled = compiled_and_exact(net, ARRAY)
    (image,) = compiled.program.images
    assert image.config == ARRAY
    assert [type(entry) for entry in compiled.report] == [LayerReport, LayerReport]
    # Of 15 centroids each k-means may merge weights, but it neither makes nor loses one.
    assert [layer.nonzeros for layer in image.layers] == [
        np.count_nonzero(layer.weight) for layer in net.layers]


SPLIT = {"c": "eie", "?": "tensorcore"}
"""Where the layers of this network go: it is too small to be worth an array's latency."""


@pytest.fixture
def both():
    """A network whose layer in the middle suits the array, and the others the tensor core."""
    return Network((linear("a", 12, 8, "2:4"), linear("b", 12, 12, "2:4"),
                    linear("c", 10, 12, "unstructured"), linear("d", 5, 10, "2:4", "none")))


def test_a_tensor_that_is_dead_between_two_engines_has_one_range(both):
    """Where the samples say nothing of it, what is on both sides of it does."""
    *others, c, d = both.layers
    net = Network((*others, replace(c, bias=c.bias - 50), d))
    assert not net.forward(samples(net))[2].any()
    _, array, core = compile_network(net, samples(net), ARRAY, CORE,
                                      wishes=SPLIT).program.images
    low, high = ranges(net, samples(net).astype(np.float32))[3]
    assert low == 0 < high < 50
    assert array.output.scale * 32767 == pytest.approx(1.1 * high, rel=1e-6)
    assert core.input.scale * 255 == pytest.approx(high, rel=1e-6)
    assert core.input.zero_point == -128


@pytest.mark.parametrize("configs", [(ARRAY, CORE), (CORE, ARRAY)])
def test_network_split_over_both_machines(both, configs):
    compiled = compiled_and_exact(both, *configs, wishes=SPLIT)
    assert [(image.engine, [layer.name for layer in image.layers])
            for image in compiled.program.images] == [
        ("tensorcore", ["a", "b"]), ("eie", ["c"]), ("tensorcore", ["d"])]
    assert [image.config for image in compiled.program.images] == [CORE, ARRAY, CORE]
    assert [type(layer) for layer in compiled.reference] == [
        Int8Layer, Int8Layer, FixedLayer, Int8Layer]
    assert [(type(entry), entry.name) for entry in compiled.report] == [
        (LayerReport8, "a"), (LayerReport8, "b"), (LayerReport, "c"), (LayerReport8, "d")]


def test_each_image_is_calibrated_by_what_reaches_it(both):
    """Scales of the later images come from the float outputs of the images before."""
    x = samples(both)
    images = compile_network(both, x, ARRAY, CORE, wishes=SPLIT).program.images
    _, second, third, _ = both.forward(x)
    assert images[1].input.scale == pytest.approx(second.max() / 32767)
    assert (images[2].input.scale, images[2].input.zero_point) == (
        pytest.approx(third.max() / 255), -128)


def test_convolution_before_the_array():
    net = Network((conv("a", 3, "2:4"), linear("b", 9, 36, "unstructured"),
                   linear("c", 5, 9, "unstructured", "none")))
    compiled = compiled_and_exact(net, ARRAY, CORE, wishes={"[bc]": "eie"})
    assert [(image.engine, len(image.layers)) for image in compiled.program.images] == [
        ("tensorcore", 1), ("eie", 2)]


@pytest.mark.parametrize(("config", "images"), [(CORE, ["tensorcore"]), (ARRAY, ["eie"])])
def test_one_machine_takes_every_layer(both, config, images):
    compiled = compiled_and_exact(both, config)
    assert [image.engine for image in compiled.program.images] == images
    assert [layer.name for layer in compiled.program.layers] == ["a", "b", "c", "d"]


def test_compiled_simulation_of_a_split_network(both):
    x = samples(both)
    program = compile_network(both, x, EIEConfig(), TensorCoreConfig(
        rows=2, columns=2, products=2, weight_words=256, activation_words=512),
        wishes=SPLIT).program
    integers, _ = program.input.to_integer(x)
    slow, fast = (run_program(program, backends.rtl(name), integers).results
                  for name in ("python", "cxxrtl"))
    for a, b in zip(slow, fast, strict=True):
        np.testing.assert_array_equal(a.outputs[-1], b.outputs[-1])
        assert a.statistics.as_json() == b.statistics.as_json()


def test_a_convolution_cannot_run_on_the_array():
    net = Network((linear("a", 40, 6, "dense"), conv("b", 3, "2:4")))
    with pytest.raises(BadInput) as error:
        compile_network(net, samples(net), ARRAY)
    assert str(error.value) == (
        "layer b is a convolution; the EIE array takes fully-connected layers only: "
        "choose a tensor core as its target")


def quantised(name, outputs, inputs):
    """A layer of a quantised model: scales 0.5 and 0.25, weights 2:4."""
    integers = np.where(weights(outputs, inputs, "2:4"), 3, 0).astype(np.int8)
    scale = np.full(outputs, 0.125)
    own = Quantised(integers, scale, np.arange(outputs),
                    TensorType((inputs,), np.dtype(np.int8), 0.5, 3),
                    TensorType((outputs,), np.dtype(np.int8), 0.25, -7))
    return Linear(name, (integers * scale[:, None]).astype(np.float32),
                  (np.arange(outputs) * 0.5 * 0.125).astype(np.float32), "none", own)


def test_a_quantised_network_needs_no_calibration():
    compiled = compile_network(Network((quantised("a", 5, 8),)), None, ARRAY, CORE)
    (image,) = compiled.program.images
    assert (image.engine, image.layers[0].pattern) == ("tensorcore", "2:4")
    assert (image.input.scale, image.input.zero_point, image.output.scale,
            image.output.zero_point) == (0.5, 3, 0.25, -7)
    assert compiled.report[0].saturated is None
    x = np.random.default_rng(1).integers(-128, 128, (4, 8)).astype(np.int8)
    golden = GoldenBackend(compiled.program, compiled.reference)
    assert verify(compiled.program, x, (golden, backends.rtl("python"))).difference is None


@pytest.mark.parametrize(("dtype", "least"), [("uint8", 0), ("int8", -128)])
def test_a_model_of_integers(tmp_path, dtype, least):
    """Its type reaches the file; its calibration samples are integers too."""
    net = Network((quantised("a", 5, 8), linear("b", 3, 5, "dense")), dtype)
    stored = np.random.default_rng(1).integers(least, least + 256, (40, 8)).astype(dtype)
    compiled = compile_network(net, stored, CORE)
    real = (stored.astype(np.float64) - least - 128 - 3) * 0.5
    expected = compile_network(Network(net.layers), real, CORE)
    compiled.save(tmp_path / "model.zsk")
    assert Program.load(tmp_path / "model.zsk").inputs[0].dtype == dtype
    assert expected.program.inputs[0].dtype == "float32"
    assert expected.program.digest(compiled.reference) == expected.program.reference
    assert compiled.program.digest(expected.reference) == compiled.program.reference
    assert compiled.program.reference != expected.program.reference
    assert compiled.report == expected.report
    with pytest.raises(BadInput, match=f"^the calibration array is float64, but the model takes "
                                       f"{dtype}; "):
        compile_network(net, real, CORE)


def test_a_quantised_layer_cannot_run_on_the_array():
    net = Network((quantised("a", 5, 8),))
    for calibration in (None, samples(net)):
        with pytest.raises(BadInput, match="layer a is quantised to int8, and the EIE array"):
            compile_network(net, calibration, ARRAY)


@pytest.mark.parametrize("configs", [(ARRAY,), (CORE,), (ARRAY, CORE)])
def test_a_float_network_needs_calibration(both, configs):
    with pytest.raises(BadInput, match="layers that are not quantised; give samples to calibrate"):
        compile_network(both, None, *configs)


def test_storage_of_a_split_network(both):
    program = compile_network(both, samples(both), ARRAY, CORE, wishes=SPLIT).program
    sizes, (first, second, third) = storage(program), [image.storage() for image in program.images]
    assert sizes["weights"] == first["weights"] + second["weights"] + third["weights"]
    assert sizes["codebooks"] == second["codebooks"]
    assert sizes["shifts"] == 12 + 12 + 5
    assert sizes["float32"] == 4 * (12 * 9 + 12 * 13 + 10 * 13 + 5 * 11)
    assert sizes["packed"] == sum(
        size for name, size in sizes.items() if name not in ("packed", "float32"))


# --- packing for the tensor core ---

@pytest.mark.parametrize(("patterns", "row", "expected"), [
    (("dense", "2:4", "1:4"), [0, 0, 5, 0, 0, 0, 0, 0], "1:4"),
    (("dense", "2:4", "1:4"), [0, 1, 5, 0, 0, 0, 0, 2], "2:4"),
    (("dense", "2:4", "1:4"), [0, 1, 5, 1, 0, 0, 0, 0], "dense"),
    (("dense", "2:4", "1:4"), [0] * 8, "1:4"),
    (("dense", "2:4"), [0, 0, 5, 0, 0, 0, 0, 0], "2:4"),
    (("dense", "1:4"), [0, 1, 5, 0, 0, 0, 0, 0], "dense"),
    (("dense",), [0, 0, 5, 0, 0, 0, 0, 0], "dense"),
    (("dense", "2:4", "1:4"), [1, 0, 0, 0, 1], "1:4"),      # a last group of one
    (("dense", "2:4", "1:4"), [1, 0, 0, 0, 1, 1], "2:4"),
    (("dense", "2:4", "1:4"), [0, 0, 0, 0, 1, 1, 1], "dense"),
])
def test_fastest_pattern(patterns, row, expected):
    config = replace(CORE, patterns=patterns)
    weight = np.array([[0] * len(row), row], np.int8)
    assert fastest(weight, config) == expected


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_of_no_sample_is_refused(batch):
    network = Network((Linear("fc", weights(3, 8, "2:4"), np.zeros(3, np.float32), "none"),))
    with pytest.raises(BadInput, match=f"^a batch must be 1 sample or more, not {batch}$"):
        compile_network(network, np.ones((2, 8), np.float32), CORE, batch=batch)


def test_the_batch_reaches_the_image():
    network = Network((Linear("fc", weights(3, 8, "2:4"), np.zeros(3, np.float32), "none"),))
    for batch, expected in ((None, 8), (3, 3)):
        (image,) = compile_network(network, np.ones((2, 8), np.float32), CORE,
                                   batch=batch).program.images
        assert image.batch == expected


def int8_layer(weight, **fields):
    weight = np.array(weight, np.int8)
    rows, columns = weight.shape
    return Int8Layer(**{
        "name": "fc", "weight": weight, "bias": np.arange(rows) - 1,
        "multiplier": np.full(rows, 1 << 30, np.int32), "shift": np.full(rows, 31, np.int32),
        "activation": "relu", "geometry": None, "input": TensorType.of(columns, np.int8, 0.5, 3),
        "output": TensorType.of(rows, np.int8, 0.25, -7), **fields})


TWO_BY_TWO = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=16, activation_words=16)


def test_packed_layer_by_hand():
    """A row is 16 bits of values and 4 of places; two steps."""
    packed = TensorCoreLayer.packed(
        int8_layer([[0, 5, 0, -3, 7], [1, 2, 0, 0, 0]]), "2:4", TWO_BY_TWO, 3)
    assert packed.weights.tolist() == [[0x201DFD05, 0x40], [0x00080007, 0xE0]]
    assert packed.channels.tolist() == [[0xFFFFFFFF, 0xC0000000, 3], [0, 0xC0000000, 3]]
    assert packed.places.tolist() == [[0, 1, 2, 3], [4, -1, -1, -1]]
    fields = unpack_fields(gemm_layout(TWO_BY_TWO), packed.command)
    assert {name: int(value[0]) for name, value in fields.items()} == {
        "rows": 2, "columns": 3, "block": 4, "chunks": 1, "steps": 2, "words": 2, "pattern": 1,
        "int4": 0, "zero_point": 249, "relu": 1, "raw": 0, "keep": 0}
    assert (packed.columns, packed.rows, packed.positions) == (5, 2, 1)


def test_a_dense_layer_keeps_its_zeros():
    packed = TensorCoreLayer.packed(int8_layer([[0, 5, 0, -3, 7]]), "dense", TWO_BY_TWO, 1)
    assert packed.weights.tolist() == [[0x40500, 0], [0xEFD00, 0], [0x40007, 0]]
    assert packed.places.tolist() == [[0, 1, 2, 3], [4, -1, -1, -1]]


@pytest.mark.parametrize("pattern", ["dense", "2:4", "1:4"])
@pytest.mark.parametrize("columns", [1, 4, 11])
def test_packed_layer_unpacks_to_its_weights(pattern, columns):
    weight = np.rint(100 * weights(6, columns, pattern)).astype(np.int8)
    packed = TensorCoreLayer.packed(int8_layer(weight), pattern, CORE, 2)
    np.testing.assert_array_equal(packed.unpacked(CORE, 2).weight, weight)


@pytest.mark.parametrize(("weight", "fields", "said"), [
    (np.ones((1 << 16, 1)), {}, "65536 rows"),
    (np.ones((1, 255 * 2048 + 1)), {}, "256 chunks of K"),
    (np.ones((1, 12)), {
        "geometry": Geometry((1, 4096, 4096), (4, 3), (1, 1), (2, 1, 1, 1), (1, 1)),
        **dict.fromkeys(("input", "output"), TensorType.of(1 << 24, np.int8, 0.5, 3))},
     "16777216 columns"),
])
def test_layer_that_is_not_one_command_is_refused(weight, fields, said):
    config = TensorCoreConfig(weight_words=512, patterns=("dense",))
    with pytest.raises(BadInput, match=f"^layer big: a GEMM with {said} is not one command .*; "
                                       "make the layer smaller"):
        compile_core((int8_layer(weight, name="big", **fields),), config)


def test_layer_of_another_pattern_is_refused():
    layer = int8_layer([[1, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 3, 4, 5]])
    for pattern, place in (("2:4", r"row 1, group 1 \(columns 4 to 7\) holds 3"),
                           ("1:4", r"row 1, group 0 \(columns 0 to 3\) holds 2")):
        with pytest.raises(BadInput, match=f"{place} non-zeros, but {pattern} keeps"):
            TensorCoreLayer.packed(layer, pattern, CORE, 1)


@pytest.mark.parametrize(("config", "said"), [
    (replace(ARRAY, weight_rows=1 << 22), "the array's memories take about .* bits, at most"),
    (replace(CORE, weight_words=1 << 18), "the core's buffers have about .* words, at most"),
])
def test_a_configuration_that_nothing_could_simulate(config, said, tmp_path):
    layer = Linear("fc", np.eye(4, dtype=np.float32), np.zeros(4, np.float32), "none")
    compiled = compile_network(Network((layer,)), np.ones((1, 4), np.float32), config)
    with pytest.raises(BadInput, match=said):
        compiled.save(tmp_path / "model.zsk")
    assert list(tmp_path.iterdir()) == []


def test_an_operator_before_a_shortcut(tmp_path):
    """The shortcut's layer runs before the operator of the main branch, though the file has it
    behind; the reference holds the layers as they run."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    weights = {name: rng.normal(size=size).astype(np.float32)
               for name, size in (("A", (8, 6)), ("B", (6, 4)), ("C", (8, 4)))}
    node = helper.make_node
    model = helper.make_model(helper.make_graph(
        [node("MatMul", ["x", "A"], ["a"], "a"), node("Tanh", ["a"], ["t"]),
         node("MatMul", ["t", "B"], ["b"], "b"), node("MatMul", ["x", "C"], ["c"], "c"),
         node("Add", ["b", "c"], ["y"])], "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 4))],
        [numpy_helper.from_array(values, name) for name, values in weights.items()]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    x = rng.normal(size=(30, 8)).astype(np.float32)
    compiled = compile_network(read(tmp_path / "m.onnx"), x, CORE)
    compiled.save(tmp_path / "m.zsk")
    program = Program.load(tmp_path / "m.zsk")
    assert [layer.name for layer in compiled.reference] == ["a", "c", "b"]
    golden = GoldenBackend(program, compiled.reference)
    y = run_program(program, golden, program.input.to_integer(x)[0]).output
    expected = np.tanh(x @ weights["A"]) @ weights["B"] + x @ weights["C"]
    assert np.abs(y - expected).max() < 0.05 * np.abs(expected).max()
