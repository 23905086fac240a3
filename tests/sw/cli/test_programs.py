"""``run`` and ``verify`` on programs of several parts and of a tensor core, and the notice where
only the slow engine is there."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw import reference
from zeroskip.sw.cli import engine
from zeroskip.sw.compiler.compile import REFERENCE, Compiled
from zeroskip.sw.compiler.eie import compile_layers
from zeroskip.sw.golden import eie, tensorcore
from zeroskip.sw.parts.tensorcore import TensorCoreLayer, TensorCorePart
from zeroskip.sw.program import Program
from zeroskip.sw.quantize.int8 import Int8Layer

SMALL = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=16, activation_words=16)


def core(name, outputs, inputs, **fields):
    """A dense tensor-core layer: as the machine has it, and its reference."""
    rng = np.random.default_rng(21)
    weight = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    bias = rng.integers(-99, 99, outputs)
    common = {
        "name": name, "activation": "none", "geometry": None, "inputs": inputs,
        "outputs": outputs, "input_scale": 64.0, "input_zero_point": 3, "output_scale": 1.0,
        "output_zero_point": 0, "raw": False,
        "multiplier": rng.integers(1 << 24, 1 << 30, outputs).astype(np.int32),
        "shift": np.full(outputs, 36, np.int32), **fields}
    layer = TensorCoreLayer(pattern="dense", values=weight, bias=bias.astype(np.int32),
                            indices=np.zeros((outputs, 0), np.uint8), **common)
    return layer, Int8Layer(weight=weight, bias=bias, **common)


def write(folder, parts, layers):
    """``model.zsk`` and its reference."""
    Compiled(Program(parts, reference.digest(layers)), layers, ()).save(folder / "model.zsk")


@pytest.fixture
def split(tmp_path):
    """A folder with a program of an array and a tensor core, and its input; and the layers."""
    (fixed,) = random_layers(np.random.default_rng(5), (7, 6), 0.6)
    layer, integer = core("core", 5, 6)
    layers = (*reference.from_layers((fixed,)), integer)
    write(tmp_path, (compile_layers((fixed,), EIEConfig(pes=2)),
                     TensorCorePart(SMALL, (layer,))), layers)
    np.save(tmp_path / "x.npy", np.random.default_rng(6).integers(-99, 99, (3, 7)).astype(np.int16))
    return tmp_path, layers


@pytest.fixture
def sums(tmp_path):
    """A folder with a program of one raw layer, and its input; and the layer."""
    layer, integer = core("sums", 5, 6, raw=True, multiplier=np.zeros(5, np.int32))
    write(tmp_path, (TensorCorePart(SMALL, (layer,)),), (integer,))
    x = np.random.default_rng(7).integers(-128, 128, (3, 6))
    np.save(tmp_path / "x.npy", x.astype(np.int8))
    return tmp_path, integer


def run(cli, folder, *options):
    return cli("run", folder / "model.zsk", "--input", folder / "x.npy",
               "--output", folder / "y.npy", *options)


def test_run_of_a_split_program(cli, split):
    folder, (first, second) = split
    done = run(cli, folder, "--raw", "--engine", "golden", "--json")
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
    done = run(cli, folder, "--engine", "python", "--json").json
    first, second = done["statistics"]
    assert first["cycles"] > 0
    assert second["cycles"] > 0
    assert done["cycles_per_image"] == (first["cycles"] + second["cycles"]) / 3
    low, high = sorted([first["utilisation"], second["utilisation"]])
    assert low <= done["utilisation"] <= high


def test_verify_of_a_split_program(cli, split):
    folder, _ = split
    done = cli("verify", folder / "model.zsk", "--input", folder / "x.npy",
               "--engines", "golden,python")
    assert done == (0, "golden,python: 33 outputs of 2 layers and 3 images are equal\n", "")


def test_verify_names_the_row_of_the_tile(cli, split):
    folder, _ = split
    program = Program.load(folder / "model.zsk")
    array, part = program.parts
    bias = part.layers[0].bias.copy()
    bias[3] += 1 << 16
    broken = TensorCorePart(SMALL, (replace(part.layers[0], bias=bias),))
    replace(program, parts=(array, broken)).save(folder / "model.zsk")
    done = cli("verify", folder / "model.zsk", "--input", folder / "x.npy",
               "--engines", "golden,python")
    assert done.code == 1
    assert "image 0, layer core, row 3 (tile row 1, cycle " in done.stdout


def test_raw_inputs_of_a_tensor_core_are_int8(cli, sums):
    folder, _ = sums
    np.save(folder / "x.npy", np.array([[0, 0, 0, 0, 0, 128]]))
    done = run(cli, folder, "--raw", "--engine", "golden")
    assert done.code == 2
    assert "--raw takes integers from -128 to 127" in done.stderr


def test_float_inputs_of_a_tensor_core(cli, sums):
    folder, integer = sums
    integers = np.load(folder / "x.npy")
    integers[0, 0] = 127
    x = (integers - 3.0) * 64
    x[0, 0] = 1e9
    np.save(folder / "x.npy", x)
    done = run(cli, folder, "--raw", "--engine", "golden")     # floats are no integers
    assert done.code == 2
    done = run(cli, folder, "--engine", "golden", "--json")
    assert done.json["inputs_saturated"] == 1
    np.testing.assert_array_equal(np.load(folder / "y.npy"),
                                  tensorcore.layer(integers, integer)[0])


@pytest.mark.parametrize("raw", [["--raw"], []])
def test_sums_of_32_bits_stay_integers(cli, sums, raw):
    folder, integer = sums
    x = np.load(folder / "x.npy")
    if not raw:
        np.save(folder / "x.npy", (x - 3.0) * 64)
    assert run(cli, folder, "--engine", "golden", *raw).code == 0
    y = np.load(folder / "y.npy")
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, tensorcore.layer(x, integer)[0])


def test_reference_without_a_layer(cli, split):
    folder, layers = split
    reference.save(folder / REFERENCE, layers[:1])
    done = run(cli, folder, "--engine", "golden")
    assert done.code == 2
    assert "belongs to another program" in done.stderr


# --- the notice ---

@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(engine.engines, "default", lambda: "python")


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
    assert done.stderr.count("\n") == 1
    assert "engine python runs" in done.stderr
    assert "install g++" in done.stderr
    assert "engine python runs" not in done.stdout


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("option", ["-q", "--json"])
def test_no_announcement_where_it_is_not_wanted(cli, command, option):
    done = cli(*command, option)
    assert (done.code, done.stderr) == (0, "")


@pytest.mark.usefixtures("without_compiler")
def test_no_announcement_of_an_engine_that_was_asked_for(cli, folder):
    assert run(cli, folder, "--engine", "python").stderr == ""
