"""Commands from the user's side: results, exit codes, messages."""

import importlib.metadata
import json
import os
import re
import shutil
import zlib
from dataclasses import replace
from unittest import mock

import numpy as np
import onnx
import pytest
import scipy.sparse
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from zeroskip.sw.cli import screen
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.formats.tensorfile import read_safetensors
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.graph.network import Linear, Network


def by_hand(reference, x):
    """Outputs of every layer for float inputs, by numpy alone; and the scale of the last."""
    tensors = load_file(reference)
    layers = json.loads(safe_open(reference, "numpy").metadata()["layers"])
    y = np.clip(np.rint(x.astype(np.float64) / layers[0]["input_scale"]), -32768, 32767)
    y, outputs = y.astype(np.int64), []
    for i, layer in enumerate(layers):
        weight, bias, shift = (tensors[f"layer{i}.{name}"].astype(np.int64)
                               for name in ("weight", "bias", "shift"))
        y = np.clip((y @ weight.T + bias + (1 << shift >> 1)) >> shift, -32768, 32767)
        y = np.maximum(y, 0) if layer["activation"] == "relu" else y
        outputs.append(y)
    return outputs, layers[-1]["output_scale"]


def save_raw(folder):
    """The model's input in integers, as ``raw.npy``."""
    scale = Program.load(folder / "model.zsk").input.scale
    np.save(folder / "raw.npy", np.rint(np.load(folder / "x.npy") / scale).astype(np.int16))
    return folder / "raw.npy"


def save_model(path, **changes):
    """A model of one layer, 4 inputs and 3 outputs, with ``changes``."""
    layer = Linear("fc", np.ones((3, 4), np.float32), np.zeros(3, np.float32), "none")
    frontend.to_onnx(Network((replace(layer, **changes),)), path)
    np.save(path.with_name("x4.npy"), np.ones((2, layer.weight.shape[1]), np.float32))
    return path, path.with_name("x4.npy")


# --- what the commands do ---

def test_entry_point_is_main():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="zeroskip")
    assert script.value == "zeroskip.sw.cli.entry:main"
    assert script.load()


def test_inspect_shows_every_layer(cli, compiled):
    code, stdout, stderr = cli("inspect", compiled / "model.onnx")
    assert (code, stderr) == (0, "")
    assert "fc1" in stdout
    assert "fc2" in stdout


def test_inspect_json(cli, compiled):
    layers = cli("inspect", compiled / "model.onnx", "--json").json["layers"]
    assert [list(layer) for layer in layers] == 2 * [
        ["name", "kind", "shape", "density", "pattern", "engine", "macs", "cycles", "bytes",
         "reason"]]
    assert [(layer["name"], layer["shape"], layer["engine"]) for layer in layers] == [
        ("fc1", [9, 12], "tensorcore"), ("fc2", [5, 9], "tensorcore")]


def test_inspect_names_what_the_host_runs(cli, folder):
    layers = cli("inspect", operators_model(folder), "--json").json["layers"]
    assert [(layer["kind"], layer["engine"], layer["macs"]) for layer in layers] == [
        ("linear", "tensorcore", 16), ("Sigmoid", "host", None), ("Softmax", "host", None)]


def test_compile_writes_program_and_reference(cli, folder):
    (folder / "new").mkdir()
    done = cli("compile", folder / "model.onnx", "--calibration", folder / "x.npy",
               "-o", folder / "new/other.zsk")
    assert (done.code, done.stderr) == (0, "")
    assert sorted(path.name for path in (folder / "new").iterdir()) == [
        "other.reference.safetensors", "other.zsk"]


def test_compile_for_a_named_target(cli, folder):
    done = cli("compile", folder / "model.onnx", "--calibration", folder / "x.npy",
               "-o", folder / "model.zsk", "--target", "eie-16")
    assert done.code == 0
    assert Program.load(folder / "model.zsk").images[0].config.pes == 16


def test_run_gives_what_numpy_gives(cli, folder):
    done = cli("run", folder / "model.zsk", "--input", folder / "x.npy",
               "--output", folder / "y.npy", "--backend", "cxxrtl")
    assert (done.code, done.stderr) == (0, "")
    outputs, scale = by_hand(folder / "model.reference.safetensors", np.load(folder / "x.npy"))
    y = np.load(folder / "y.npy")
    assert (y.dtype, y.shape) == (np.float32, (3, 5))
    assert np.array_equal(y, (outputs[-1] * scale).astype(np.float32))


def test_run_is_near_the_float_model(cli, folder):
    x = np.load(folder / "x.npy")
    cli("run", folder / "model.zsk", "--input", folder / "x.npy", "--output", folder / "y.npy",
        "--backend", "golden")
    expected = frontend.read(folder / "model.onnx").network().forward(x)[-1]
    assert np.abs(np.load(folder / "y.npy") - expected).max() < 0.2 * np.abs(expected).max()


@pytest.mark.parametrize("backend", ["golden", "python"])
def test_run_raw_gives_integers(cli, folder, backend):
    done = cli("run", folder / "model.zsk", "--input", save_raw(folder), "--raw",
               "--output", folder / "y.npy", "--backend", backend)
    assert done.code == 0
    outputs, _ = by_hand(folder / "model.reference.safetensors", np.load(folder / "x.npy"))
    y = np.load(folder / "y.npy")
    assert y.dtype == np.int16
    assert np.array_equal(y, outputs[-1])


def test_run_needs_no_reference(cli, folder):
    (folder / "model.reference.safetensors").unlink()
    done = cli("run", folder / "model.zsk", "--input", folder / "x.npy",
               "--output", folder / "y.npy", "--backend", "cxxrtl")
    assert done.code == 0


def test_run_reports_saturated_inputs(cli, folder):
    x = np.load(folder / "x.npy")
    x[1, :2] = 1000
    np.save(folder / "large.npy", x)
    done = cli("run", folder / "model.zsk", "--input", folder / "large.npy",
               "--output", folder / "y.npy", "--backend", "golden", "--json")
    assert done.json["inputs_saturated"] == 2


def test_verify_equal_backends(cli, compiled):
    done = cli("verify", compiled / "model.zsk", "--input", compiled / "x.npy",
               "--backend", "golden,cxxrtl")
    assert done == (0, "golden,cxxrtl: 42 outputs of 2 layers and 3 images are equal\n", "")


def test_verify_raw(cli, folder):
    done = cli("verify", folder / "model.zsk", "--input", save_raw(folder), "--raw",
               "--backend", "golden,cxxrtl")
    assert done.code == 0


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))),
                    reason="no C++ compiler")
def test_verify_compiled_simulation(cli, compiled):
    done = cli("verify", compiled / "model.zsk", "--input", compiled / "x.npy",
               "--backend", "python,cxxrtl")
    assert done.code == 0


def test_prune_without_data(cli, folder):
    pytest.importorskip("torch")
    done = cli("prune", folder / "model.onnx", "--recipe", recipe(folder),
               "-o", folder / "pruned.onnx", "--json")
    assert (done.code, done.stderr) == (0, "")
    pruned = frontend.read(folder / "pruned.onnx").network()
    assert [np.count_nonzero(layer.weight) for layer in pruned.layers] == [27, 11]
    assert all(len(np.unique(layer.weight)) <= 16 for layer in pruned.layers)
    assert [layer["density"] for layer in done.json["after"]] == [27 / 108, 11 / 45]


def recipe(folder):
    (folder / "recipe.toml").write_text("density = 0.25\ncentroids = 15\n")
    return folder / "recipe.toml"


def test_prune_shows_what_left_the_network(cli, folder):
    pytest.importorskip("torch")
    (folder / "recipe.toml").write_text('density = 0.5\ngranularity = "neuron"\n')
    done = cli("prune", folder / "model.onnx", "--recipe", folder / "recipe.toml",
               "-o", folder / "small.onnx")
    assert (done.code, done.stderr) == (0, "")
    shapes = [re.findall(r"\[\d+,\d+\]", line) for line in done.stdout.splitlines()]
    assert [each for each in shapes if each] == [["[9,12]", "[4,12]"], ["[5,9]", "[5,4]"]]


def test_prune_with_rounds_and_rewinding(cli, folder):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    np.savez(folder / "train.npz", x=rng.random((20, 12), np.float32), y=np.arange(20) % 5)
    (folder / "recipe.toml").write_text(
        'density = 0.25\nrounds = 2\nrewind = "model.onnx"\ndata = "train.npz"\nepochs = 1\n')
    done = cli("prune", folder / "model.onnx", "--recipe", folder / "recipe.toml",
               "-o", folder / "pruned.onnx", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert [stage["name"] for stage in done.json["stages"]] == ["dense", "pruned"]
    pruned = frontend.read(folder / "pruned.onnx").network()
    assert [np.count_nonzero(layer.weight) for layer in pruned.layers] == [27, 11]
    weights = load_file(folder / "pruned.safetensors")
    np.testing.assert_array_equal(weights["fc1.weight"], pruned.layers[0].weight)


def test_prune_with_data_and_a_loss_of_the_command_line(cli, folder, monkeypatch):
    """In place of the recipe's; what they were is in the result."""
    rng = np.random.default_rng(0)
    np.savez(folder / "train.npz", inputs=rng.random((20, 12), np.float32),
             targets=rng.random((20, 5), np.float32))
    (folder / "recipe.toml").write_text('density = 0.25\ndata = "none.npz"\nepochs = 2\n')
    (folder / "own_loss.py").write_text("def far(outputs, targets):\n"
                                    "    return (outputs - targets).abs().mean()\n")
    monkeypatch.chdir(folder)
    found = []
    for loss in ("mse", "own_loss:far"):
        done = cli("prune", "model.onnx", "--recipe", "recipe.toml", "--data", "train.npz",
                   "--loss", loss, "-o", "pruned.onnx", "--json")
        assert (done.code, done.stderr) == (0, "")
        found.append([stage["loss"] for stage in done.json["stages"]])
        assert [stage["accuracy"] for stage in done.json["stages"]] == [None, None]
        notes, _ = read_safetensors(folder / "pruned.safetensors")
        assert f'loss = "{loss}"' in notes["recipe"]
        assert 'data = "train.npz"' in notes["recipe"]
        assert json.loads(notes["history"])[-1]["loss"] == found[-1][-1]
    assert found[0] != found[1]


def test_a_recipe_runs_no_python(refused, folder):
    (folder / "recipe.toml").write_text('density = 0.25\ndata = "a.npz"\nloss = "os:system"\n')
    assert "a recipe runs no Python; give 'os:system' by --loss" in refused(
        "prune", folder / "model.onnx", "--recipe", folder / "recipe.toml")


def test_prune_writes_the_kind_of_file_that_it_reads(refused, folder):
    assert "in the format that it has; give a name that ends in .onnx" in refused(
        "prune", folder / "model.onnx", "--recipe", recipe(folder), "-o", folder / "pruned.pt2")


def test_dry_run_of_a_recipe(cli, folder):
    before = sorted(folder.iterdir())
    done = cli("prune", folder / "model.onnx", "--recipe", recipe(folder), "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["layers"][0] == {
        "layer": "fc1", "shape": [9, 12], "units": 108, "kept": 27, "reason": None}
    (folder / "recipe.toml").write_text('density = 0.5\ngranularity = "kernel"\n')
    done = cli("prune", folder / "model.onnx", "--recipe", folder / "recipe.toml")
    assert done.code == 1
    assert "dry run" in done.stdout
    assert "has no kernels" in " ".join(done.stdout.split())
    (folder / "recipe.toml").unlink()
    assert sorted(folder.iterdir()) == before


# --- options of every command ---

COMMANDS = {
    "inspect": (["model.onnx"], {"layers"}),
    "prune": (["model.onnx", "--recipe", "recipe.toml", "-o", "new.onnx"],
              {"before", "after", "stages"}),
    "compile": (["model.onnx", "--calibration", "x.npy", "-o", "model.zsk"],
                {"layers", "bytes", "targets"}),
    "run": (["model.zsk", "--input", "x.npy", "--output", "y.npy", "--backend", "cxxrtl"],
            {"backend", "images", "inputs_saturated", "inputs_far_outside", "input_range",
             "outputs_saturated", "cycles_per_image", "utilisation", "statistics"}),
    "verify": (["model.zsk", "--input", "x.npy", "--backend", "golden,cxxrtl"],
               {"backends", "equal", "compared", "inputs_saturated", "inputs_far_outside",
                "input_range", "outputs_saturated", "difference", "model"}),
    "doctor": ([], {"tools", "default_backend"}),
}


@pytest.fixture(params=COMMANDS)
def command(request, folder, monkeypatch):
    """Arguments of a command in its folder, and the keys of its result."""
    if request.param == "prune":
        pytest.importorskip("torch")
    recipe(folder)
    monkeypatch.chdir(folder)
    args, keys = COMMANDS[request.param]
    return [request.param, *args], keys


def test_json_is_one_object_on_stdout_and_nothing_else(cli, command):
    args, keys = command
    done = cli(*args, "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert set(done.json) == keys


def test_quiet_prints_nothing(cli, command):
    assert cli(*command[0], "-q") == (0, "", "")


def test_json_beats_quiet(cli, command):
    args, keys = command
    assert set(cli(*args, "--json", "-q").json) == keys


def test_without_options_a_table_on_stdout(cli, command):
    done = cli(*command[0])
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.fixture
def slow(cli, compiled, monkeypatch):
    """``slow(*options)``: a ``verify`` that shows its progress from the start."""
    monkeypatch.setattr(screen, "DELAY", 0)
    args = ("verify", compiled / "model.zsk", "--input", compiled / "x.npy",
            "--backend", "golden,cxxrtl")
    return lambda *options: cli(*args, *options)


def test_progress_on_a_terminal(slow, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = slow()
    assert done.code == 0
    assert "verify" in done.stderr


@pytest.mark.parametrize("option", ["-q", "--json"])
def test_no_progress_where_it_is_not_wanted(slow, monkeypatch, option):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert slow(option).stderr == ""


def test_no_progress_without_a_terminal(slow):
    assert slow().stderr == ""


def test_golden_has_no_statistics(cli, folder):
    done = cli("run", folder / "model.zsk", "--input", folder / "x.npy",
               "--output", folder / "y.npy", "--backend", "golden", "--json")
    assert done.json["statistics"] is None
    assert done.json["outputs_saturated"] == 0
    assert "cycles_per_image" not in done.json


def test_json_of_an_all_zero_model(cli, tmp_path):
    model, x = save_model(tmp_path / "zero.onnx", weight=np.zeros((3, 4), np.float32))
    done = cli("compile", model, "--calibration", x, "-o", tmp_path / "zero.zsk", "--engine", "eie",
               "--json")
    assert done.json["layers"][0]["nonzeros"] == 0


# --- verify finds a planted bit ---

def places(image):
    """(PE, address, output, input) of every entry of the second layer, as the array reads them; its
    gaps need no escapes."""
    before, own = np.split(image.order, [image.layers[0].slots])
    starts, stops = image.spans(image.segments[1])
    for pe, column in np.ndindex(starts.shape):
        word = 0
        for address in range(starts[pe, column], stops[pe, column]):
            word += image.entries[pe, address] >> 4
            yield pe, address, int(own[word * image.config.pes + pe]), int(before[column])
            word += 1


def plant(folder, name, at, bit):
    """Flips one bit of a memory of the program; its CRC-32 is good again."""
    program = Program.load(folder / "model.zsk")
    memory = getattr(program.images[0], name).copy()
    memory[at] ^= memory.dtype.type(1 << bit)
    image = replace(program.images[0], **{name: memory})
    program.with_images(image).save(folder / "model.zsk")


def used_entry(folder):
    """Where an entry lies that multiplies an activation which is not zero; see ``places``."""
    hidden = by_hand(folder / "model.reference.safetensors", np.load(folder / "x.npy"))[0][0]
    return next(place for place in places(Program.load(folder / "model.zsk").images[0])
                if hidden[0, place[3]])


def verify_unchecked(cli, folder, *options):
    """``verify`` refuses the program; this is what it says without the checks of a file."""
    args = ("verify", folder / "model.zsk", "--input", folder / "x.npy",
            "--backend", "golden,cxxrtl", *options)
    assert cli(*args).code == 2
    with mock.patch.object(Program, "_check"):
        return cli(*args)


def check_found(cli, folder, row=r"\d+", pe=r"\d+"):
    """``verify`` fails, naming the second layer, ``row``, ``pe`` and a cycle."""
    done = verify_unchecked(cli, folder)
    assert (done.code, done.stderr) == (1, "")
    assert re.fullmatch(rf"golden,cxxrtl: image \d, layer fc2, row {row} \(PE {pe}, "
                        rf"cycle [1-9]\d*\): -?\d+ against -?\d+; \d+ outputs differ in all\n",
                        done.stdout)
    return done


def test_planted_bit_in_an_entry(cli, folder):
    pe, address, row, _ = used_entry(folder)
    plant(folder, "entries", (pe, address), 3)
    check_found(cli, folder, row, pe)


def test_planted_bit_in_a_count(cli, folder):
    """A column of one entry loses it to its neighbour."""
    (image,) = Program.load(folder / "model.zsk").images
    starts, stops = image.spans(image.segments[1])
    used, address, *_ = used_entry(folder)
    pe, column = next((pe, column) for pe, column in np.argwhere(stops - starts == 1)
                      if (pe, starts[pe, column]) >= (used, address))
    nibble = image.segments[1].first + column * image.layers[1].stride
    word, at = divmod(int(nibble), 16)
    plant(folder, "pointers", (pe, 3 * word + 1 + at // 8), 4 * (at % 8))
    check_found(cli, folder, pe=pe)


def test_planted_bit_in_the_codebook(cli, folder):
    pe, address, *_ = used_entry(folder)
    index = Program.load(folder / "model.zsk").images[0].entries[pe, address] & 15
    plant(folder, "codebooks", (1, index), 13)
    check_found(cli, folder)


def test_planted_bit_in_a_bias(cli, folder):
    (image,) = Program.load(folder / "model.zsk").images
    plant(folder, "biases", (2, 3), 20)      # PE 2: three rows of the first layer, then its second
    check_found(cli, folder, image.order[image.layers[0].slots + 2], 2)


def test_difference_as_json(cli, folder):
    pe, address, row, _ = used_entry(folder)
    plant(folder, "entries", (pe, address), 3)
    done = verify_unchecked(cli, folder, "--json")
    assert (done.code, done.stderr) == (1, "")
    assert (done.json["equal"], done.json["compared"]) == (False, 42)
    difference = done.json["difference"]
    assert (difference["layer"], difference["row"], difference["pe"]) == ("fc2", row, pe)
    assert difference["cycle"] > 0
    assert difference["values"][0] != difference["values"][1]
    assert set(difference) == {"image", "layer", "row", "unit", "pe", "cycle", "values",
                               "outputs"}


def test_difference_is_exit_code_only_when_quiet(cli, folder):
    pe, address, _, _ = used_entry(folder)
    plant(folder, "entries", (pe, address), 3)
    assert verify_unchecked(cli, folder, "-q") == (1, "", "")


# --- bad input: exit 2, one message, nothing written ---

def run_args(folder, **changes):
    """Arguments of ``run`` on the folder's program."""
    options = {"input": folder / "x.npy", "output": folder / "y.npy", "backend": "golden"} | changes
    return ["run", folder / "model.zsk",
            *(word for name, value in options.items() for word in (f"--{name}", value))]


def compile_args(folder, model="model.onnx", calibration="x.npy", out="new.zsk"):
    return ["compile", folder / model, "--calibration", folder / calibration, "-o", folder / out]


def test_truncated_program(refused, folder):
    content = (folder / "model.zsk").read_bytes()
    (folder / "model.zsk").write_bytes(content[:-1])
    assert "model.zsk" in refused(*run_args(folder))


def test_bit_flipped_program(refused, folder):
    content = bytearray((folder / "model.zsk").read_bytes())
    content[-1] ^= 1
    (folder / "model.zsk").write_bytes(content)
    assert "damaged" in refused(*run_args(folder))


def test_wrong_version(refused, folder):
    path = folder / "model.zsk"
    text = safe_open(path, "numpy").metadata()["zeroskip"].replace('"version": 6', '"version": 7')
    save_file(load_file(path), path, {"zeroskip": text, "crc32": str(zlib.crc32(text.encode()))})
    assert "version 7" in refused(*run_args(folder))


def test_program_that_is_a_model(refused, folder):
    shutil.copy(folder / "model.onnx", folder / "model.zsk")
    assert "safetensors" in refused(*run_args(folder))


@pytest.mark.parametrize("shape", [
    (3, 11), (12,), (36,), (0, 12), (3, 12, 2), (3, 4, 3), (3, 12, 1)])
def test_wrong_input_shape(refused, folder, shape):
    np.save(folder / "x.npy", np.zeros(shape, np.float32))
    message = f"is {list(shape)}, but the model takes 12 values per sample, batch first: "
    for args in (run_args(folder), compile_args(folder),
                 ["verify", folder / "model.zsk", "--input", folder / "x.npy"]):
        assert message in refused(*args)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("args", [run_args, compile_args])
def test_input_with_nan_or_infinity(refused, folder, value, args):
    x = np.load(folder / "x.npy")
    x[1, 2] = value
    np.save(folder / "x.npy", x)
    assert str(value) in refused(*args(folder))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor", ["weight", "bias"])
def test_model_with_nan_or_infinity(refused, folder, tensor, value):
    values = np.ones({"weight": (3, 4), "bias": 3}[tensor], np.float32)
    values[-1] = value
    save_model(folder / "bad.onnx", **{tensor: values})
    message = refused(*compile_args(folder, "bad.onnx", "x4.npy"))
    assert "'fc'" in message
    assert str(value) in message


def test_layer_that_is_larger_than_its_target(cli, folder):
    """64 activations in each of 4 PEs."""
    save_model(folder / "large.onnx", weight=np.ones((300, 4), np.float32),
               bias=np.zeros(300, np.float32))
    args = (*compile_args(folder, "large.onnx", "x4.npy"), "--target", "eie-4")
    (row,) = cli(*args, "--json").json["layers"]
    assert {name: row["reload"][name] for name in ("samples", "loads")} == {
        "samples": 8, "loads": 10}
    assert (f"layer fc is larger than eie-4: 10 loads, {row['reload']['bytes']:,} bytes, for each "
            "8 samples\n") in cli(*args).stdout


def operators_model(folder):
    """A linear layer between operators that the array does not have."""
    nodes = [helper.make_node("Gemm", ["x", "W"], ["a"], "fc", transB=1),
             helper.make_node("Sigmoid", ["a"], ["b"], "gate"),
             helper.make_node("Softmax", ["b"], ["y"], "top")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], [
        numpy_helper.from_array(np.ones((4, 4), np.float32), "W")])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]),
              folder / "other.onnx")
    return folder / "other.onnx"


def test_a_model_of_any_operators_is_pruned(cli, folder):
    path = operators_model(folder)
    (folder / "recipe.toml").write_text("density = 0.5\n")
    done = cli("prune", path, "--recipe", folder / "recipe.toml", "-o", folder / "new.onnx",
               "--json")
    assert (done.code, done.stderr) == (0, "")
    assert [row["density"] for row in done.json["before"] + done.json["after"]] == [1, 0.5]
    before, after = onnx.load(path), onnx.load(folder / "new.onnx")
    assert before.graph.node == after.graph.node
    assert before.graph.input == after.graph.input


@pytest.mark.parametrize("name", ["other.onnx", "other.pt2", "other.txt", "other"])
@pytest.mark.parametrize("content", [b"", b"no model", bytes(range(256))])
def test_file_that_is_no_model(refused, folder, name, content):
    if name.endswith(".pt2"):
        pytest.importorskip("torch")
    (folder / name).write_bytes(content)
    assert name in refused("inspect", folder / name)


@pytest.mark.parametrize("content", [
    b"", b"1, 2, 3", b"PK\3\4 archive", b"\x93NUMPY",
    b"\x93NUMPY\1\0\x76\0{'descr': (" + bytes(99)],
    ids=["empty", "text", "archive", "short", "header"])
@pytest.mark.parametrize("args", [run_args, compile_args])
def test_file_that_is_no_array(refused, folder, content, args):
    (folder / "x.npy").write_bytes(content)
    assert "x.npy: not a readable .npy array" in refused(*args(folder))


def test_truncated_array(refused, folder):
    (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-1])
    assert "not a readable .npy array" in refused(*run_args(folder))


def test_archive_of_arrays(refused, folder, cli):
    x = np.load(folder / "x.npy")
    np.savez(folder / "x.npz", x=x)
    assert cli(*run_args(folder, input=folder / "x.npz")).code == 0
    np.savez(folder / "two.npz", x=x, z=x)
    assert "has x, z, but the model" in refused(*run_args(folder, input=folder / "two.npz"))
    shutil.copy(folder / "x.npz", folder / "x.npy")
    assert "not a readable .npy array" in refused(*run_args(folder))


@pytest.mark.parametrize("values", [
    np.array(["text"]), np.array(1.5), np.ones((3, 12), complex), np.ones((3, 12), bool)],
    ids=["text", "scalar", "complex", "bool"])
def test_array_of_no_numbers(refused, folder, values):
    np.save(folder / "x.npy", values)
    assert "not an array of numbers" in refused(*run_args(folder))


def test_array_that_holds_a_pickle(refused, folder):
    np.save(folder / "x.npy", np.array([{}]), allow_pickle=True)
    assert "x.npy" in refused(*run_args(folder))


def test_raw_takes_no_floats(refused, folder):
    assert "--raw" in refused(*run_args(folder), "--raw")


@pytest.mark.parametrize("value", [32768, -32769])
def test_raw_beyond_16_bits(refused, folder, value):
    np.save(folder / "x.npy", np.full((3, 12), value))
    assert "-32768 to 32767" in refused(*run_args(folder), "--raw")


@pytest.mark.parametrize("name", ["model.zsk", "x.npy", "model.reference.safetensors"])
def test_missing_file_of_run(refused, folder, name):
    (folder / name).unlink()
    assert f"{name}: there is no such file" in refused(*run_args(folder))


@pytest.mark.parametrize("name", ["model.onnx", "x.npy"])
def test_missing_file_of_compile(refused, folder, name):
    (folder / name).unlink()
    assert name in refused(*compile_args(folder))


@pytest.mark.parametrize("name", ["model.zsk", "x.npy"])
def test_folder_in_place_of_a_file(refused, folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refused(*run_args(folder))


def test_missing_recipe(refused, folder):
    assert "recipe.toml" in refused("prune", folder / "model.onnx", "--recipe",
                                    folder / "recipe.toml", "-o", folder / "new.onnx")


def test_pruned_model_that_is_no_onnx(refused, folder):
    assert "new.txt" in refused("prune", folder / "model.onnx", "--recipe", recipe(folder),
                                "-o", folder / "new.txt")


def test_layers_that_cannot_be_pruned_so(refused, folder):
    (folder / "recipe.toml").write_text('density = 0.5\ngranularity = "banks"\nsize = 8\n')
    assert "layer fc2 has 5 outputs, too few for 8 banks" in refused(
        "prune", folder / "model.onnx", "--recipe", folder / "recipe.toml",
        "-o", folder / "new.onnx")
    (folder / "recipe.toml").write_text(
        'density = 0.5\nrounds = 1\nrewind = "none.onnx"\ndata = "train.npz"\n')
    np.savez(folder / "train.npz", x=np.zeros((5, 12), np.float32), y=np.arange(5))
    assert "none.onnx cannot be read" in refused(
        "prune", folder / "model.onnx", "--recipe", folder / "recipe.toml",
        "-o", folder / "new.onnx")


def test_unknown_backend(refused, folder):
    assert "golden, python, cxxrtl, verilator" in refused(*run_args(folder, backend="verilog"))


@pytest.mark.parametrize("names", ["golden", "golden,verilog", "golden,python,cxxrtl", ""])
def test_unknown_backends_of_verify(refused, folder, names):
    refused("verify", folder / "model.zsk", "--input", folder / "x.npy", "--backend", names)


@pytest.mark.parametrize("names", ["golden,golden", "python, python"])
def test_a_backend_beside_itself(refused, folder, names):
    message = refused("verify", folder / "model.zsk", "--input", folder / "x.npy",
                      "--backend", names)
    assert f"names {names.split(',')[0]} twice" in message
    assert "name two different ones, such as golden,cxxrtl" in message


def test_unknown_target(refused, folder):
    message = refused(*compile_args(folder), "--target", "eie-5")
    assert "eie-4, eie-16" in message
    assert "tc-64, tc-64-dense" in message


def test_unknown_machine(refused, folder):
    assert "'gpu'" in refused("verilog", "gpu", "-o", folder / "gpu.v")


def test_unknown_configuration(refused, folder):
    assert "eie-4, eie-16" in refused("verilog", "eie", "-o", folder / "e.v", "--config", "eie-5")


def test_output_folder_that_does_not_exist(refused, folder):
    for args in (run_args(folder, output=folder / "missing/y.npy"),
                 compile_args(folder, out="missing/new.zsk"),
                 ["prune", folder / "model.onnx", "--recipe", recipe(folder),
                  "-o", folder / "missing/new.onnx"],
                 ["verilog", "eie", "-o", folder / "missing/eie.v"]):
        assert "missing does not exist" in refused(*args)


def test_output_that_is_a_folder(refused, folder):
    (folder / "there.npy").mkdir()
    assert "this is a folder" in refused(*run_args(folder, output=folder / "there.npy"))


@pytest.mark.parametrize("name", ["y.csv", "y", "y.NPY", "y.npy.txt"])
def test_outputs_go_into_an_npy_file(refused, folder, name):
    assert "give a name that ends in .npy" in refused(*run_args(folder, output=folder / name))


@pytest.mark.parametrize("name", ["new", "new.safetensors", "model.reference.safetensors"])
def test_a_program_goes_into_a_zsk_file(refused, folder, name):
    assert "give a name that ends in .zsk" in refused(*compile_args(folder, out=name))


def without_work(monkeypatch):
    """Whatever reads a model or a program, or computes, fails."""
    def work(*_args, **_options):
        raise AssertionError("work was done before the check")
    monkeypatch.setattr(frontend, "read", work)
    monkeypatch.setattr(Program, "load", work)


def unwritable(monkeypatch):
    """Nothing can be made in the folder, also for those whom no permission stops."""
    def fails(*_args, **_options):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("tempfile.TemporaryFile", fails)


@pytest.mark.parametrize("args", [
    lambda folder: run_args(folder), lambda folder: compile_args(folder),
    lambda folder: ["prune", folder / "model.onnx", "--recipe", recipe(folder),
                    "-o", folder / "new.onnx"],
    lambda folder: ["verilog", "eie", "-o", folder / "eie.v"],
    lambda folder: ["search", folder / "model.onnx", "--recipe", recipe(folder), "--method",
                    "uniform", "--budget", "0.5", "-o", folder / "new.toml"],
    lambda folder: ["convert", folder / "model.reference.safetensors", "--to", "dense",
                    "-o", folder / "new.safetensors"],
], ids=["run", "compile", "prune", "verilog", "search", "convert"])
def test_a_folder_that_cannot_be_written_to(refused, folder, monkeypatch, args):
    args = args(folder)
    without_work(monkeypatch)
    unwritable(monkeypatch)
    assert f"the folder {folder} cannot be written to (Permission denied)" in refused(*args)


def test_a_file_that_may_not_be_overwritten(refused, folder, monkeypatch):
    without_work(monkeypatch)
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    assert "x.npy: this file cannot be written to" in refused(
        *run_args(folder, output=folder / "x.npy"))


@pytest.mark.parametrize("make", [
    lambda path: path.mkdir(), lambda path: save_file({"w": np.zeros(3)}, path, {"history": "[]"}),
    lambda path: path.write_bytes(b"notes")], ids=["folder", "weights", "text"])
def test_what_is_no_reference_is_not_overwritten(refused, folder, monkeypatch, make):
    shutil.copy(folder / "model.zsk", folder / "new.zsk")
    make(folder / "new.reference.safetensors")
    without_work(monkeypatch)
    message = refused(*compile_args(folder))
    assert "new.reference.safetensors" in message
    assert "was not written by compile" in message or "not a readable safetensors" in message


def test_the_reference_of_another_program_is_not_overwritten(refused, folder, monkeypatch):
    (folder / "model.zsk").rename(folder / "best.zsk")
    without_work(monkeypatch)
    assert "model.reference.safetensors would be overwritten and belongs to another program, as " \
        "model.zsk is not there" in refused(*compile_args(folder, out="model.zsk"))


def test_reference_of_another_program(cli, refused, folder):
    model, x = save_model(folder / "other.onnx")
    assert cli("compile", model, "--calibration", x, "-o", folder / "other.zsk", "-q").code == 0
    shutil.copy(folder / "other.reference.safetensors", folder / "model.reference.safetensors")
    assert "another program" in refused(*run_args(folder))
    assert cli(*compile_args(folder, out="model.zsk"), "-q").code == 0      # the remedy works
    assert cli(*run_args(folder), "-q").code == 0


def test_many_programs_live_in_one_folder(cli, folder):
    before = {path.name: path.read_bytes() for path in folder.glob("model.*")}
    model, x = save_model(folder / "other.onnx")
    for name in ("other.zsk", "model.v2.zsk"):
        assert cli("compile", model, "--calibration", x, "-o", folder / name, "-q").code == 0
        assert cli("verify", folder / name, "--input", x, "--backend", "golden,python").code == 0
    assert sorted(path.name for path in folder.glob("*.reference.safetensors")) == [
        "model.reference.safetensors", "model.v2.reference.safetensors",
        "other.reference.safetensors"]
    assert before.items() <= {path.name: path.read_bytes()
                              for path in folder.glob("model.*")}.items()
    assert cli(*run_args(folder), "-q").code == 0


def test_verilog_goes_into_a_verilog_file(refused, folder):
    assert ".v or .sv" in refused("verilog", "eie", "-o", folder / "ports.json")


def test_names_from_a_model_are_not_markup(cli, tmp_path):
    model, _ = save_model(tmp_path / "[bold]x[nope].onnx")
    done = cli("inspect", model)
    assert (done.code, done.stderr) == (0, "")
    assert "[bold]x[nope].onnx" in "".join(done.stdout.split())


@pytest.mark.parametrize(("name", "content", "message"), [
    ("text", b"hello", "not a scipy sparse matrix"),
    ("cut", b"PK\x03\x04", "not a scipy sparse matrix"),
])
def test_bench_of_a_file_that_is_no_matrix(refused, folder, name, content, message):
    path = folder / f"{name}.npz"
    path.write_bytes(content)
    assert message in refused("bench", "eie", "--matrix", path)


def test_bench_of_an_array_that_is_no_matrix(refused, folder):
    assert "not a scipy sparse matrix" in refused("bench", "eie", "--matrix", folder / "x.npy")


@pytest.mark.parametrize(("matrix", "message"), [
    (np.zeros((0, 5)), "rows and columns"),
    (np.array([[1.0, np.nan]]), "not finite real"),
    (np.array([[1j, 2]]), "not finite real"),
])
def test_bench_of_a_matrix_that_cannot_be_used(refused, folder, matrix, message):
    path = folder / "matrix.npz"
    scipy.sparse.save_npz(path, scipy.sparse.csc_matrix(matrix))
    assert message in refused("bench", "eie", "--matrix", path)


def test_bench_runs_a_given_matrix(cli, folder):
    path = folder / "matrix.npz"
    rng = np.random.default_rng(3)
    scipy.sparse.save_npz(path, scipy.sparse.random_array((40, 30), density=0.2, rng=rng))
    row = cli("bench", "eie", "--matrix", path, "--pes", "3", "--backend", "python",
              "--json").json["rows"][0]
    assert row["exact"]
    assert row["utilisation"] == pytest.approx(row["ideal_cycles"] / row["cycles"])


def test_a_compiler_that_fails_is_a_missing_tool(cli, folder, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    code, stdout, stderr = cli(*run_args(folder, backend="cxxrtl"))
    assert (code, stdout) == (3, "")
    assert "'false' failed" in stderr


def test_missing_option(cli):
    code, stdout, stderr = cli("run", "model.zsk")
    assert (code, stdout) == (2, "")
    assert "--input" in stderr


def test_unknown_command(cli):
    code, stdout, stderr = cli("fly")
    assert (code, stdout) == (2, "")
    assert "fly" in stderr


def test_missing_tool(cli, folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, stdout, stderr = cli(*run_args(folder, backend="cxxrtl"))
    assert (code, stdout) == (3, "")
    assert stderr.count("\n") == 1
    assert "install" in stderr
