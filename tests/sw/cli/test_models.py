"""``compile`` chooses machines; ``run`` and ``verify`` of what it wrote for the tensor core."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open

from zeroskip.hw.eie import config as eie
from zeroskip.hw.tensorcore import config as tensorcore
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.frontends.load import to_onnx
from zeroskip.sw.graph.network import Conv2d, Linear, Network

ENGINES = ["tensorcore", "eie", "tensorcore"]
"""Of the layers of the model below, as ``split.toml`` places them: it is too small to be worth an
array's latency."""


def sparse(rng, outputs, inputs):
    """Weights of which two of each four along the inputs are zero."""
    order = rng.random((outputs, -(-inputs // 4), 4)).argsort(axis=2).reshape(outputs, -1)
    return np.where(order[:, :inputs] < 2, rng.normal(size=(outputs, inputs)), 0) \
        .astype(np.float32)


def zeros(outputs):
    return np.zeros(outputs, np.float32)


@pytest.fixture
def folder(tmp_path):
    """A folder with ``model.onnx``, fully-connected 12-10-9-5 with the second layer without a
    pattern, ``conv.onnx``, and their inputs."""
    rng = np.random.default_rng(11)
    weight = rng.normal(size=(9, 10)).astype(np.float32) * (rng.random((9, 10)) < 0.5)
    weight[0, :4] = 1, 2, 3, 0
    (tmp_path / "split.toml").write_text('[layers]\nfc2 = "eie"\n"fc?" = "tensorcore"\n')
    to_onnx(Network((Linear("fc1", sparse(rng, 10, 12), zeros(10), "relu"),
                     Linear("fc2", weight, zeros(9), "relu"),
                     Linear("fc3", sparse(rng, 5, 9), zeros(5), "none"))), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", rng.normal(size=(4, 12)).astype(np.float32))
    to_onnx(Network((
        Conv2d("conv", sparse(rng, 6, 18).reshape(6, 2, 3, 3), zeros(6), "relu", (2, 5, 4), (2, 1),
               (1, 0, 1, 1), (1, 1)),
        Linear("fc", sparse(rng, 7, 54), zeros(7), "none"))), tmp_path / "conv.onnx")
    np.save(tmp_path / "image.npy", rng.normal(size=(3, 2, 5, 4)).astype(np.float32))
    return tmp_path


def compile_(folder, *options, model="model", x="x"):
    return ("compile", folder / f"{model}.onnx", "--calibration", folder / f"{x}.npy",
            "-o", folder / "model.zsk", *options)


def targets(*names):
    return [part for name in names for part in ("--target", name)]


def quantised(path, *shape):
    """A model of one MatMulInteger, and inputs for it."""
    weight = np.random.default_rng(2).integers(-128, 128, shape).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "W", "zero"], ["y"], "product")], "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["n", shape[1]])],
        [numpy_helper.from_array(weight, "W"), numpy_helper.from_array(np.uint8(7), "zero")])
    onnx.save(helper.make_model(graph, ir_version=10,
                                opset_imports=[helper.make_opsetid("", 21)]), path)
    return weight


# --- which engine takes a layer ---

def split(folder, *options):
    """To compile the model for both engines."""
    return compile_(folder, "--placement", folder / "split.toml", *options)


def placed(folder, options, **model):
    """To compile for the targets among ``options``, for both engines where they are of both."""
    both = ("--placement", folder / "split.toml") if "eie-4" in options else ()
    return compile_(folder, *options, *both, **model)


def test_each_layer_goes_where_it_is_placed(cli, folder):
    done = cli(*split(folder, "--json"))
    assert (done.code, done.stderr) == (0, "")
    rows = done.json["layers"]
    assert [row["name"] for row in rows] == ["fc1", "fc2", "fc3"]
    assert [row["engine"] for row in rows] == ENGINES
    assert [row["target"] for row in rows] == ["tc-8", "eie-tangnano9k", "tc-8"]
    assert done.json["targets"] == ["tc-8", "eie-tangnano9k"]
    assert [image.engine for image in Program.load(folder / "model.zsk").images] == ENGINES


def test_a_calibration_method(cli, folder, refused):
    x = np.load(folder / "x.npy")
    x[0, 0] = 1000
    np.save(folder / "x.npy", np.repeat(x, 500, axis=0)[499:])
    scales = []
    for method in ("min-max", "percentile"):
        cli(*compile_(folder, "--calibration-method", method))
        scales.append(Program.load(folder / "model.zsk").input.scale)
    assert scales[1] < scales[0] / 100
    assert "no calibration method 'max'" in refused(
        *compile_(folder, "--calibration-method", "max"))


def test_outlier_channels_are_smoothed(cli, folder, refused):
    """The weights of both layers of a pair change; and then no file has them any more."""
    rng = np.random.default_rng(2)
    first, second = (rng.normal(size=(10, 10)).astype(np.float32) for _ in "12")
    first[4] *= 200
    second[:, 4] /= 200
    to_onnx(Network((Linear("a", first, zeros(10), "relu"), Linear("b", second, zeros(10),
                                                                   "none"))), folder / "pair.onnx")
    np.save(folder / "x.npy", rng.normal(size=(20, 10)).astype(np.float32))
    options = ("--engine", "tensorcore", *targets("tc-8"), "--smooth", "--json")
    done = cli(*compile_(folder, *options, model="pair"))
    assert [row["name"] for row in done.json["layers"]] == ["a:smooth", "b:smooth"]
    verify = ("verify", folder / "model.zsk", "--input", folder / "x.npy")
    assert cli(*verify, "--json").json["equal"]
    assert "compile the model without smoothing" in refused(
        *verify, "--model", folder / "pair.onnx")


def test_each_layer_goes_where_it_takes_fewer_cycles(cli, folder):
    """As inspect says, on the smallest configurations."""
    rows = cli(*compile_(folder, "--json")).json["layers"]
    inspected = cli("inspect", folder / "model.onnx", "--json").json["layers"]
    assert [row["engine"] for row in inspected] == [row["engine"] for row in rows] \
        == ["tensorcore"] * 3
    for row in inspected:
        assert f"{row['cycles']:,} on tc-8 (" in row["reason"]
        assert " against " in row["reason"]
        assert " on eie-tangnano9k (no input zero)" in row["reason"]
    assert [row["bytes"] for row in inspected] == [60 + 15 + 90, 90 + 81, 30 + 8 + 45]


@pytest.mark.parametrize(("text", "message"), [
    ('[layers]\nfc9 = "eie"\n', "no layer is called 'fc9'; the layers are fc1, fc2, fc3"),
    ('[layers]\nfc1 = "gpu"\n', "layer 'fc1' is to be placed on 'gpu', and there is no such engine;"
                                " choose one of eie, tensorcore"),
    ('[layers]\n', "it names no layer; give a table [layers] alone"),
    ('[other]\nfc1 = "eie"\n', "it holds other; give a table [layers] alone"),
    ("fc1 = ", "not a TOML file"),
])
def test_a_placement_that_says_nothing_sensible(refused, folder, text, message):
    (folder / "split.toml").write_text(text)
    assert message in refused(*split(folder))


def test_a_placement_of_a_convolution(cli, folder):
    (folder / "split.toml").write_text('[layers]\n"c*" = "eie"\n')
    cli(*split(folder)[:1], folder / "conv.onnx", "--calibration", folder / "image.npy", "-o",
        folder / "model.zsk", "--placement", folder / "split.toml")
    assert "eie" in [image.engine for image in Program.load(folder / "model.zsk").images]


def test_a_placement_beside_the_targets(refused, folder):
    assert "layer fc2 is to be placed on eie, but the targets are tc-8; name one of eie too" \
        in refused(*split(folder, *targets("tc-8")))


def test_facts_of_each_layer(cli, folder):
    done = cli(*split(folder, "--json")).json
    first, second, third = done["layers"]
    assert set(first) == set(third) == {
        "engine", "target", "name", "inputs", "outputs", "activation", "pattern", "weights",
        "kept", "rms", "outputs_saturated", "accumulator_bits"}
    assert {"engine", "target", "name", "nonzeros", "entries", "padding", "shift"} <= set(second)
    assert (first["pattern"], first["weights"], first["kept"]) == ("2:4", 120, 60)
    assert (third["pattern"], third["weights"], third["kept"]) == ("2:4", 45, 30)
    assert 0 < first["rms"] < 0.01
    assert 8 < first["accumulator_bits"] <= 32
    assert {"weights", "indices", "biases", "multipliers", "shifts", "pointers", "codebooks",
            "packed", "float32"} == set(done["bytes"])
    assert done["bytes"]["float32"] == 4 * (10 * 13 + 9 * 11 + 5 * 10)


def test_a_table_for_each_image(cli, folder, monkeypatch):
    monkeypatch.chdir(folder)       # a title of one line
    done = cli("compile", "model.onnx", "--calibration", "x.npy", "-o", "model.zsk",
               "--placement", "split.toml")
    assert (done.code, done.stderr) == (0, "")
    titles = [line.strip() for line in done.stdout.splitlines()
              if line.startswith(("model.zsk", "storage"))]
    assert titles == ["model.zsk, tensorcore (tc-8)", "model.zsk, eie (eie-tangnano9k)",
                      "model.zsk, tensorcore (tc-8)", "storage, bytes"]
    assert "smallest configurations: tc-8, eie-tangnano9k\n" in done.stdout


@pytest.mark.parametrize("engine", ["eie", "tensorcore"])
def test_one_machine_for_all(cli, folder, engine):
    rows = cli(*compile_(folder, "--engine", engine, "--json")).json["layers"]
    assert [row["engine"] for row in rows] == [engine] * 3
    (image,) = Program.load(folder / "model.zsk").images
    assert len(image.layers) == 3
    if engine == "tensorcore":
        assert [row["pattern"] for row in rows] == ["2:4", "dense", "2:4"]


@pytest.mark.parametrize("names", [("tc-8", "eie-16"), ("eie-16", "tc-8")])
def test_a_target_of_each_machine(cli, folder, names):
    rows = cli(*split(folder, *targets(*names), "--json")).json["layers"]
    assert [row["target"] for row in rows] == ["tc-8", "eie-16", "tc-8"]
    assert [image.config for image in Program.load(folder / "model.zsk").images] == [
        tensorcore.CONFIGS["tc-8"], eie.CONFIGS["eie-16"], tensorcore.CONFIGS["tc-8"]]


@pytest.mark.parametrize(("name", "engine"), [("tc-8", "tensorcore"), ("eie-16", "eie")])
@pytest.mark.parametrize("named", [False, True])
def test_a_target_of_one_machine(cli, folder, name, engine, named):
    options = [*targets(name), *(["--engine", engine] if named else [])]
    rows = cli(*compile_(folder, *options, "--json")).json["layers"]
    assert [(row["engine"], row["target"]) for row in rows] == [(engine, name)] * 3


def test_a_convolution_goes_to_the_tensor_core(cli, folder):
    rows = cli(*compile_(folder, "--json", model="conv", x="image")).json["layers"]
    assert [(row["engine"], row["pattern"], row["inputs"], row["outputs"]) for row in rows] == [
        ("tensorcore", "2:4", 40, 54), ("tensorcore", "2:4", 54, 7)]


@pytest.mark.parametrize(("options", "message"), [
    (targets("tc-9"), "there is no configuration 'tc-9'; choose one of eie-4, eie-16"),
    (["--engine", "tensorcore", *targets("tc-9")], "'tc-9'; choose one of tc-64, "),
    (["--engine", "tensorcore", *targets("eie-4")], "'eie-4'; choose one of tc-64, "),
    (["--engine", "eie", *targets("tc-8")], "'tc-8'; choose one of eie-4, "),
    (targets("tc-8", "tc-64"), "two configurations of tensorcore are named; name one"),
    (targets("eie-4", "tc-8", "eie-16"), "two configurations of eie are named; name one"),
    (targets("eie-4", "eie-4"), "two configurations of eie are named; name one"),
    (["--engine", "gpu"], "there is no engine 'gpu'; choose one of eie, tensorcore"),
])
def test_targets_that_do_not_go_together(refused, folder, options, message):
    assert message in refused(*compile_(folder, *options))


def test_a_convolution_for_the_array_alone(cli, folder):
    """Its rows are places of the image, of which the array takes the patches."""
    rows = cli(*compile_(folder, "--engine", "eie", "--json", model="conv", x="image")).json
    assert [(row["engine"], row["inputs"], row["outputs"]) for row in rows["layers"]] == [
        ("eie", 18, 6), ("eie", 54, 7)]
    assert cli("verify", folder / "model.zsk", "--input", folder / "image.npy",
               "--backend", "golden,python").code == 0


@pytest.mark.parametrize("options", [[], ["--engine", "eie"], ["--engine", "tensorcore"]])
def test_a_float_model_needs_calibration(refused, folder, options):
    message = refused("compile", folder / "model.onnx", "-o", folder / "new.zsk", *options)
    assert "layers that are not quantised; give samples to calibrate" in message


def test_a_quantised_model_needs_no_calibration(cli, folder):
    weight = quantised(folder / "quantised.onnx", 9, 5)
    done = cli("compile", folder / "quantised.onnx", "-o", folder / "model.zsk",
               *targets("tc-8"), "--json")
    assert (done.code, done.stderr) == (0, "")
    (row,) = done.json["layers"]
    assert (row["pattern"], row["rms"], row["outputs_saturated"]) == ("dense", 0, None)

    x = np.random.default_rng(3).integers(0, 256, (4, 9)).astype(np.uint8)
    np.save(folder / "x8.npy", (x.astype(int) - 128).astype(np.int8))
    done = cli("run", folder / "model.zsk", "--input", folder / "x8.npy", "--raw",
               "--output", folder / "y.npy", "--backend", "python")
    assert done.code == 0
    y = np.load(folder / "y.npy")
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, (x.astype(int) - 7) @ weight)


def test_a_quantised_model_for_the_array_alone(refused, folder):
    quantised(folder / "quantised.onnx", 9, 5)
    assert "is quantised to int8, and the EIE array takes" in refused(
        "compile", folder / "quantised.onnx", "-o", folder / "new.zsk", "--engine", "eie")


# --- what the program gives ---

def raw_input(folder, x):
    """The model's inputs in integers, as ``raw.npy``; and the integers."""
    program = Program.load(folder / "model.zsk")
    values = np.load(folder / f"{x}.npy").reshape(-1, program.input.size)
    integers = np.rint(values.astype(np.float64) / program.input.scale) + program.input.zero_point
    np.save(folder / "raw.npy", integers.astype(program.input.dtype))
    return integers.astype(int)


def patches(x, layer):
    """The patches of a convolution's flat inputs, one by one: [batch * positions, K]."""
    (channels, height, width), (tall, wide) = layer["input_shape"], layer["kernel"]
    top, left, bottom, right = layer["padding"]
    image = np.pad(x.reshape(-1, channels, height, width),
                   ((0, 0), (0, 0), (top, bottom), (left, right)),
                   constant_values=layer["input_zero_point"])
    (down, along), (dy, dx) = layer["stride"], layer["dilation"]
    return np.array([
        [image[n, c, i + dy * k, j + dx * m]
         for c in range(channels) for k in range(tall) for m in range(wide)]
        for n in range(len(image))
        for i in range(0, image.shape[2] - dy * (tall - 1), down)
        for j in range(0, image.shape[3] - dx * (wide - 1), along)])


def by_hand(reference, x):
    """Outputs of the last layer of a tensor core, from the description of the reference alone."""
    batch = len(x)
    with safe_open(reference, "np") as file:
        layers = json.loads(file.metadata()["layers"])
        for i, layer in enumerate(layers):
            w, b, m, s = (file.get_tensor(f"layer{i}.{name}").astype(np.int64)
                          for name in ("weight", "bias", "multiplier", "shift"))
            p = ((patches(x, layer) if "kernel" in layer else x) @ w.T + b).astype(np.int32) * m
            zero = layer["output_zero_point"]
            low = zero if layer["activation"] == "relu" else -128
            y = np.clip(np.sign(p) * (np.abs(p) + (1 << s - 1) >> s) + zero, low, 127)
            # Of a convolution a row is a position; an image lies channel by channel.
            x = y.reshape(batch, -1, len(w)).swapaxes(1, 2).reshape(batch, -1)
    return x


@pytest.mark.parametrize(("model", "x"), [("model", "x"), ("conv", "image")])
@pytest.mark.parametrize("backend", ["golden", "python"])
def test_numpy_alone_gives_what_run_raw_gives(cli, folder, model, x, backend):
    cli(*compile_(folder, "--engine", "tensorcore", *targets("tc-8"), model=model, x=x))
    integers = raw_input(folder, x)
    done = cli("run", folder / "model.zsk", "--input", folder / "raw.npy", "--raw",
               "--output", folder / "y.npy", "--backend", backend)
    assert (done.code, done.stderr) == (0, "")
    y = np.load(folder / "y.npy")
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, by_hand(folder / "model.reference.safetensors", integers))
    assert len(np.unique(y)) > 10


def test_float_outputs_are_near_the_model(cli, folder):
    from zeroskip.sw.frontends.load import read

    cli(*compile_(folder, *targets("tc-8"), model="conv", x="image"))
    cli("run", folder / "model.zsk", "--input", folder / "image.npy", "--output",
        folder / "y.npy", "--backend", "golden")
    expected = read(folder / "conv.onnx").network().forward(np.load(folder / "image.npy"))[-1]
    y = np.load(folder / "y.npy")
    assert (y.dtype, y.shape) == (np.float32, (3, 7))
    assert np.abs(y - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(("model", "x", "options", "outputs"), [
    ("model", "x", targets("tc-8"), 4 * 24),
    ("model", "x", targets("tc-8", "eie-4"), 4 * 24),
    ("conv", "image", targets("tc-8"), 3 * (6 * 9 + 7)),
])
def test_verify_raw(cli, folder, model, x, options, outputs):
    cli(*placed(folder, options, model=model, x=x))
    raw_input(folder, x)
    done = cli("verify", folder / "model.zsk", "--input", folder / "raw.npy", "--raw",
               "--backend", "golden,python", "--json")
    assert (done.code, done.stderr) == (0, "")
    said = done.json
    counts = said["outputs_saturated"]
    assert set(counts) == {"golden", "python"}
    assert counts["golden"] == counts["python"]
    low, high = said.pop("input_range")
    assert low < 0 < high
    assert said == {"backends": ["golden", "python"], "equal": True, "compared": outputs,
                    "inputs_saturated": 0, "inputs_far_outside": 0,
                    "outputs_saturated": counts, "difference": None, "model": None}


# --- the float model as a third opinion ---

def verify(folder, *options, x="x", model="model"):
    return ("verify", folder / "model.zsk", "--input", folder / f"{x}.npy",
            "--backend", "golden,python", "--model", folder / f"{model}.onnx", *options)


@pytest.mark.parametrize(("model", "x", "options", "layers"), [
    ("model", "x", targets("tc-8", "eie-4"), {"fc1": 40, "fc2": 36, "fc3": 20}),
    ("conv", "image", targets("tc-8"), {"conv": 162, "fc": 21}),
])
def test_verify_with_the_model(cli, folder, model, x, options, layers):
    cli(*placed(folder, options, model=model, x=x))
    done = cli(*verify(folder, x=x, model=model))
    outputs = sum(layers.values())
    assert (done.code, done.stderr) == (0, "")
    assert (f"golden,{folder / model}.onnx: {outputs} outputs of {len(layers)} layers and "
            f"{len(np.load(folder / f'{x}.npy'))} images are as near as the integers "
            "allow\n") in done.stdout
    raw_input(folder, x)
    found = cli(*verify(folder, "--raw", "--json", x="raw", model=model)).json["model"]
    assert found["disagreement"] is None
    assert {layer["layer"]: layer["outputs"] for layer in found["layers"]} == layers
    assert all(0 < layer["share"] <= 1 for layer in found["layers"])


def test_verify_with_a_model_of_two_inputs(cli, folder):
    rng = np.random.default_rng(4)
    node = helper.make_node
    graph = helper.make_graph(
        [node("MatMul", ["a", "A"], ["c"], "left"), node("MatMul", ["b", "B"], ["d"], "right"),
         node("Mul", ["c", "d"], ["y"])], "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in "ab"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(rng.normal(size=(6, 4)).astype(np.float32), name)
         for name in "AB"])
    onnx.save(helper.make_model(graph, ir_version=10,
                                opset_imports=[helper.make_opsetid("", 21)]), folder / "two.onnx")
    np.savez(folder / "x.npz", **{name: rng.normal(size=(3, 6)).astype(np.float32)
                                  for name in "ab"})
    done = cli("compile", folder / "two.onnx", "--calibration", folder / "x.npz", "-o",
               folder / "model.zsk", *targets("tc-8"))
    assert (done.code, done.stderr) == (0, "")
    done = cli("verify", folder / "model.zsk", "--input", folder / "x.npz", "--backend",
               "golden,python", "--model", folder / "two.onnx")
    assert (done.code, done.stderr) == (0, "")
    assert "two.onnx: 24 outputs of 2 layers and 3 images are as near as the" in done.stdout


def test_verify_with_a_model_of_other_weights(cli, folder):
    cli(*compile_(folder, *targets("tc-8")))
    other = onnx.load(folder / "model.onnx")
    (bias,) = (each for each in other.graph.initializer if each.name == "fc2.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(9, 9, np.float32), bias.name))
    onnx.save(other, folder / "other.onnx")
    done = cli(*verify(folder, model="other"))
    assert (done.code, done.stderr) == (1, "")
    assert f"golden,{folder / 'other.onnx'}: image " in done.stdout
    assert ", layer fc2, output " in done.stdout
    assert " apart where " in done.stdout
    done = cli(*verify(folder, "--json", model="other"))
    assert (done.code, done.json["equal"]) == (1, True)
    found = done.json["model"]["disagreement"]
    assert (found["layer"], found["tensor"]) == ("fc2", "output")
    assert found["error"] > found["bound"]


@pytest.mark.parametrize(("model", "message"), [
    ("conv.onnx", "has no layer fc1, but the program does; give the model that the program was"),
    ("none.onnx", "cannot be read"),
    ("model.pt2", "export the model with torch.onnx.export"),
    ("x.npy", "is no model file by its name"),
])
def test_verify_with_what_is_not_its_model(cli, folder, model, message):
    cli(*compile_(folder, *targets("tc-8")))
    done = cli("verify", folder / "model.zsk", "--input", folder / "x.npy", "--model",
               folder / model)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith("zeroskip: ")
    assert message in done.stderr


def test_verify_with_the_model_of_integers(cli, folder):
    """Inputs are the model's own; --raw are the core's, 128 less."""
    quantised(folder / "model.onnx", 12, 5)
    x = np.random.default_rng(3).integers(0, 256, (4, 12)).astype(np.uint8)
    cli("compile", folder / "model.onnx", "-o", folder / "model.zsk", *targets("tc-8"))
    for values, options in ((x, ()), (x.astype(np.int16) - 128, ("--raw",))):
        np.save(folder / "x.npy", values)
        done = cli(*verify(folder, "--json", *options))
        assert (done.code, done.stderr) == (0, "")
        assert done.json["model"] == {"disagreement": None, "layers": [
            {"layer": "product", "outputs": 20, "share": 0, "error": 0, "outside": 0,
             "cleaned": False}]}


@pytest.mark.parametrize("options", [targets("tc-8"), targets("tc-8", "eie-4")])
def test_golden_counts_saturated_outputs_as_the_gateware_does(cli, folder, options):
    cli(*placed(folder, options))
    np.save(folder / "x.npy", 50 * np.load(folder / "x.npy"))
    count = cli("run", folder / "model.zsk", "--input", folder / "x.npy", "--output",
                folder / "y.npy", "--backend", "golden", "--json").json["outputs_saturated"]
    assert count > 0
    done = cli("verify", folder / "model.zsk", "--input", folder / "x.npy", "--backend",
               "golden,python")
    assert f"outputs saturated: {count} on golden, {count} on python\n" in done.stdout


def test_run_of_a_split_program(cli, folder):
    cli(*split(folder, *targets("tc-8", "eie-4")))
    raw_input(folder, "x")
    done = cli("run", folder / "model.zsk", "--input", folder / "raw.npy", "--raw",
               "--output", folder / "y.npy", "--backend", "python", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["images"] == 4
    cycles = [each["cycles"] for each in done.json["statistics"]]
    assert len(cycles) == 3
    assert done.json["cycles_per_image"] == sum(cycles) / 4
    y = np.load(folder / "y.npy")
    assert (y.dtype, y.shape) == (np.int8, (4, 5))


def test_run_of_a_tensor_core_gives_its_statistics(cli, folder):
    cli(*compile_(folder, *targets("tc-8")))
    done = cli("run", folder / "model.zsk", "--input", folder / "x.npy",
               "--output", folder / "y.npy", "--backend", "python", "--json").json
    statistics = done["statistics"]
    assert [layer["gemms"] for layer in statistics["layers"]] == [1, 1, 1]
    assert done["cycles_per_image"] == statistics["cycles"] / 4
    assert done["utilisation"] == statistics["utilisation"]
    assert done["outputs_saturated"] == statistics["saturated"]
