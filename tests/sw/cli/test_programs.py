"""``run`` and ``verify`` on programs of several images and of a tensor core, and the notice where
only the slow engine is there."""

from dataclasses import replace
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.cli import backend
from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.compile import Compiled
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie import golden as eie
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.engines.tensorcore import golden as tensorcore
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.graph.types import TensorType

SMALL = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=16, activation_words=16)


def core(name, outputs, inputs, output_dtype=np.int8, **fields):
    """The reference of a tensor-core layer."""
    rng = np.random.default_rng(21)
    weight = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    bias = rng.integers(-99, 99, outputs)
    return Int8Layer(weight=weight, bias=bias, **{
        "name": name, "activation": "none", "geometry": None,
        "input": TensorType.of(inputs, np.int8, 64.0, 3),
        "output": TensorType.of(outputs, output_dtype, 1.0),
        "multiplier": rng.integers(1 << 24, 1 << 30, outputs).astype(np.int32),
        "shift": np.full(outputs, 36, np.int32), **fields})


def write(folder, images, layers):
    """``model.zsk`` and its reference."""
    Compiled(Program.chain(images, layers), layers, ()).save(folder / "model.zsk")


@pytest.fixture
def split(tmp_path):
    """A folder with a program of an array and a tensor core, and its input; and the layers."""
    (fixed,) = random_layers(np.random.default_rng(5), (7, 6), 0.6)
    layer = core("core", 5, 6)
    layers = (fixed, layer)
    write(tmp_path, (compile_layers((fixed,), EIEConfig(pes=2)),
                     TensorCoreImage.packed(SMALL, (layer, "dense"))), layers)
    np.save(tmp_path / "x.npy", np.random.default_rng(6).integers(-99, 99, (3, 7)).astype(np.int16))
    return tmp_path, layers


@pytest.fixture
def sums(tmp_path):
    """A folder with a program of one raw layer, and its input; and the layer."""
    integer = core("sums", 5, 6, np.int32, multiplier=np.zeros(5, np.int32),
                   shift=np.full(5, 24, np.int32))
    write(tmp_path, (TensorCoreImage.packed(SMALL, (integer, "dense")),), (integer,))
    x = np.random.default_rng(7).integers(-128, 128, (3, 6))
    np.save(tmp_path / "x.npy", x.astype(np.int8))
    return tmp_path, integer


def run(cli, folder, *options):
    return cli("run", folder / "model.zsk", "--input", folder / "x.npy",
               "--output", folder / "y.npy", *options)


def test_run_of_a_split_program(cli, split):
    folder, (first, second) = split
    done = run(cli, folder, "--raw", "--backend", "golden", "--json")
    hidden, _ = eie.layer(np.load(folder / "x.npy"), first.weight, first.bias, first.shift,
                          first.activation)
    real = np.rint(hidden / 64) + 3
    converted = np.clip(real, -128, 127).astype(np.int8)
    expected, _ = tensorcore.layer(converted, second)
    y = np.load(folder / "y.npy")
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, expected)
    assert done.json["conversions_saturated"] == np.count_nonzero(converted != real)
    assert done.json["statistics"] == [None, None]


def test_rtl_of_a_split_program(cli, split):
    folder, _ = split
    done = run(cli, folder, "--backend", "python", "--json").json
    first, second = done["statistics"]
    assert first["cycles"] > 0
    assert second["cycles"] > 0
    assert done["cycles_per_image"] == (first["cycles"] + second["cycles"]) / 3
    low, high = sorted([first["utilisation"], second["utilisation"]])
    assert low <= done["utilisation"] <= high


def test_verify_of_a_split_program(cli, split):
    folder, _ = split
    done = cli("verify", folder / "model.zsk", "--input", folder / "x.npy",
               "--backend", "golden,python")
    assert done == (0, "golden,python: 33 outputs of 2 layers and 3 images are equal\n", "")


def test_verify_names_the_row_of_the_tile(cli, split):
    folder, _ = split
    program = Program.load(folder / "model.zsk")
    array, image = program.images
    channels = image.layers[0].channels.copy()
    channels[3, 0] ^= 1 << 16       # the bias
    broken = replace(image, layers=(replace(image.layers[0], channels=channels),))
    program.with_images(array, broken).save(folder / "model.zsk")
    command = ("verify", folder / "model.zsk", "--input", folder / "x.npy",
               "--backend", "golden,python")
    assert "images are not those of the reference" in cli(*command).stderr
    with mock.patch.object(Program, "_check"):
        done = cli(*command)
    assert done.code == 1
    assert "image 0, layer core, row 3 (tile row 1, cycle " in done.stdout


def test_raw_inputs_of_a_tensor_core_are_int8(cli, sums):
    folder, _ = sums
    np.save(folder / "x.npy", np.array([[0, 0, 0, 0, 0, 128]]))
    done = run(cli, folder, "--raw", "--backend", "golden")
    assert done.code == 2
    assert "--raw takes integers from -128 to 127" in done.stderr


def test_float_inputs_of_a_tensor_core(cli, sums):
    folder, integer = sums
    integers = np.load(folder / "x.npy")
    integers[0, 0] = 127
    x = (integers - 3.0) * 64
    x[0, 0] = 1e9
    np.save(folder / "x.npy", x)
    done = run(cli, folder, "--raw", "--backend", "golden")     # floats are no integers
    assert done.code == 2
    done = run(cli, folder, "--backend", "golden", "--json")
    assert done.json["inputs_saturated"] == 1
    np.testing.assert_array_equal(np.load(folder / "y.npy"),
                                  tensorcore.layer(integers, integer)[0])


@pytest.mark.parametrize("raw", [["--raw"], []])
def test_sums_of_32_bits_stay_integers(cli, sums, raw):
    folder, integer = sums
    x = np.load(folder / "x.npy")
    if not raw:
        np.save(folder / "x.npy", (x - 3.0) * 64)
    assert run(cli, folder, "--backend", "golden", *raw).code == 0
    y = np.load(folder / "y.npy")
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, tensorcore.layer(x, integer)[0])


def test_reference_without_a_layer(cli, split):
    folder, layers = split
    reference.save(reference.beside(folder / "model.zsk"), layers[:1])
    done = run(cli, folder, "--backend", "golden")
    assert done.code == 2
    assert "belongs to another program" in done.stderr


# --- models that take integers ---

KINDS = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8,
         np.dtype(np.int32): TensorProto.INT32}


def integer_model(folder, operator, x, operands, result):
    """A compiled model of one node on the integers ``x``, and what the model gives for them.

    ``operands`` are the node's, in order, ``x`` in place of the None.
    """
    names = ["x" if each is None else f"c{i}" for i, each in enumerate(operands)]
    onnx.save(helper.make_model(helper.make_graph(
        [helper.make_node(operator, names, ["y"])], "integers",
        [helper.make_tensor_value_info("x", KINDS[x.dtype], ["n", *x.shape[1:]])],
        [helper.make_tensor_value_info("y", KINDS[np.dtype(result)], list("nabc")[:x.ndim])],
        [numpy_helper.from_array(np.asarray(each), name)
         for name, each in zip(names, operands, strict=True) if each is not None]),
        ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), folder / "model.onnx")
    np.save(folder / "x.npy", x)
    return ReferenceEvaluator(str(folder / "model.onnx")).run(None, {"x": x})[0]


def compile_(cli, folder):
    done = cli("compile", folder / "model.onnx", "-o", folder / "model.zsk", "-q")
    assert done == (0, "", "")


@pytest.fixture
def matmul_integer(cli, tmp_path):
    """A folder with MatMulInteger of uint8, zero point 100; and its outputs."""
    rng = np.random.default_rng(11)
    expected = integer_model(
        tmp_path, "MatMulInteger", rng.integers(0, 256, (4, 6)).astype(np.uint8),
        [None, rng.integers(-128, 128, (6, 5)).astype(np.int8), np.uint8(100)], np.int32)
    compile_(cli, tmp_path)
    return tmp_path, expected


@pytest.mark.parametrize("backend", ["golden", "python"])
def test_model_of_uint8(cli, matmul_integer, backend):
    folder, expected = matmul_integer
    assert run(cli, folder, "--backend", backend).code == 0
    np.testing.assert_array_equal(np.load(folder / "y.npy"), expected)
    done = cli("verify", folder / "model.zsk", "--input", folder / "x.npy",
               "--backend", "golden,python")
    assert done.code == 0


def test_raw_inputs_of_a_model_of_uint8_are_128_less(cli, matmul_integer):
    folder, expected = matmul_integer
    np.save(folder / "x.npy", np.load(folder / "x.npy").astype(np.int16) - 128)
    assert run(cli, folder, "--backend", "golden", "--raw").code == 0
    np.testing.assert_array_equal(np.load(folder / "y.npy"), expected)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("operator", ["QLinearMatMul", "QLinearConv"])
def test_quantised_model_of_integers(cli, tmp_path, operator, kind):
    """Its outputs are the real values of what the model gives. No sum is a tie: products count in
    units of 1/3 of an output."""
    rng, low = np.random.default_rng(12), np.iinfo(kind).min
    scale, zero_point = np.float32(3 / 8), kind(low + 120)
    shape, weights = {"QLinearMatMul": ((9, 6), (6, 5)),
                      "QLinearConv": ((2, 2, 5, 4), (3, 2, 2, 2))}[operator]
    expected = integer_model(
        tmp_path, operator, rng.integers(low, low + 256, shape).astype(kind),
        [None, np.float32(0.25), kind(low + 100), rng.integers(-3, 4, weights).astype(np.int8),
         np.float32(0.5), np.int8(0), scale, zero_point], kind)
    compile_(cli, tmp_path)
    assert run(cli, tmp_path, "--backend", "golden").code == 0
    real = (expected.astype(np.float32) - int(zero_point)) * scale
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), real)
    assert run(cli, tmp_path, "--backend", "golden", "--raw").code == (2 if kind is np.uint8 else 0)
    if kind is np.uint8:
        np.save(tmp_path / "x.npy", np.load(tmp_path / "x.npy").astype(np.int16) - 128)
        assert run(cli, tmp_path, "--backend", "golden", "--raw").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected.astype(
        np.int16) - (low + 128))


@pytest.mark.parametrize("wrong", [np.float32, np.int8, np.int64])
@pytest.mark.parametrize("command", ["run", "verify"])
def test_inputs_of_another_type_than_the_model_takes(cli, matmul_integer, command, wrong):
    folder, _ = matmul_integer
    np.save(folder / "x.npy", np.load(folder / "x.npy").astype(wrong))
    output = ["--output", folder / "y.npy"] if command == "run" else []
    done = cli(command, folder / "model.zsk", "--input", folder / "x.npy", *output)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == (
        f"zeroskip: {folder / 'x.npy'}: the array is {np.dtype(wrong)}, but the model takes uint8; "
        "give the integers that the model itself takes, as uint8\n")
    assert not (folder / "y.npy").exists()


# --- the notice ---

@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(backend.backends, "default", lambda: "python")


COMMANDS = {
    "run": ["run", "model.zsk", "--input", "x.npy", "--output", "y.npy"],
    "verify": ["verify", "model.zsk", "--input", "x.npy"],
    "bench": ["bench", "eie", "--pes", "2", "--matrix", "matrix.npz"],
}


@pytest.fixture(params=COMMANDS)
def command(request, folder, monkeypatch):
    """Arguments of a command that simulates, in its folder."""
    from scipy.sparse import random_array, save_npz
    save_npz(folder / "matrix.npz", random_array((8, 9), density=0.5, rng=1))
    monkeypatch.chdir(folder)
    return COMMANDS[request.param]


@pytest.mark.usefixtures("without_compiler")
def test_the_slow_engine_is_announced_once(cli, command):
    done = cli(*command)
    assert done.code == 0
    assert done.stderr.count("backend python runs") == 1
    assert "install g++" in done.stderr
    assert "backend python runs" not in done.stdout


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("option", ["-q", "--json"])
def test_no_announcement_where_it_is_not_wanted(cli, command, option):
    done = cli(*command, option)
    assert (done.code, done.stderr) == (0, "")


@pytest.mark.usefixtures("without_compiler")
def test_no_announcement_of_an_engine_that_was_asked_for(cli, folder):
    assert run(cli, folder, "--backend", "python").stderr == ""
