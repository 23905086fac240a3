"""Arrays that go into commands and come out of them: shape, axes, range; what has no counter."""


import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.compiler.compile import Compiled
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.graph.network import Conv2d, Linear, Network

SHAPE = (3, 4, 5)
WRONG = {"channels last": (2, 4, 5, 3), "transposed": (2, 3, 5, 4), "no batch": (3, 4, 5),
         "one row": (2, 1, 60), "merged": (2, 3, 20), "one more": (2, 3, 4, 5, 1)}


def conv(name, outputs, channels, height, width, rng):
    return Conv2d(name, rng.normal(size=(outputs, channels, 2, 2)).astype(np.float32),
                  np.zeros(outputs, np.float32), "none", (channels, height, width), (1, 1),
                  (0, 0, 0, 0), (1, 1))


def full(outputs, inputs, rng):
    return Linear("fc", rng.normal(size=(outputs, inputs)).astype(np.float32),
                  np.zeros(outputs, np.float32), "none")


def models():
    """By name: a network that takes images [3, 4, 5], and the shape of its outputs."""
    rng = np.random.default_rng(0)
    return {
        "convolution": (Network((conv("a", 2, 3, 4, 5, rng),)), (2, 3, 4)),
        "two": (Network((conv("a", 4, 3, 4, 5, rng), conv("b", 2, 4, 3, 4, rng))), (2, 2, 3)),
        "classifier": (Network((conv("a", 4, 3, 4, 5, rng), full(6, 48, rng))), (6,)),
        # they begin with Flatten, and end with it
        "flattened": (Network((full(6, 60, rng),), input_shape=SHAPE), (6,)),
        "flat outputs": (Network((conv("a", 2, 3, 4, 5, rng),), output_shape=(24,)), (24,)),
    }


@pytest.fixture(scope="module")
def compiled_models(tmp_path_factory, cli):
    """A folder with each of the models and its program, and arrays; nobody changes it."""
    folder = tmp_path_factory.mktemp("arrays")
    x = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    np.save(folder / "image.npy", x)
    np.save(folder / "flat.npy", x.reshape(2, -1))
    for name, shape in WRONG.items():
        np.save(folder / f"{name}.npy", np.resize(x, shape))
    for name, (network, _) in models().items():
        frontend.to_onnx(network, folder / f"{name}.onnx")
        assert cli("compile", folder / f"{name}.onnx", "--calibration", folder / "image.npy",
                   "-o", folder / f"{name}.zsk", "--engine",
                   "eie" if name == "flattened" else "tensorcore", "-q") == (0, "", "")
    return folder


@pytest.mark.parametrize("name", models())
def test_outputs_have_the_shape_of_the_model(cli, compiled_models, tmp_path, name):
    folder, found = compiled_models, {}
    network, shape = models()[name]
    for given in ("image", "flat"):
        out = tmp_path / f"{given}.npy"
        assert cli("run", folder / f"{name}.zsk", "--input", folder / f"{given}.npy", "-o", out,
                   "--backend", "golden", "-q") == (0, "", "")
        found[given] = np.load(out)
    np.testing.assert_array_equal(found["image"], found["flat"])
    assert found["image"].shape == (2, *shape)
    expected = network.forward(np.load(folder / "image.npy"))[-1]
    assert np.abs(found["image"].reshape(2, -1) - expected).max() < 0.2 * np.abs(expected).max()


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", models())
def test_an_array_of_another_shape_is_refused(cli, compiled_models, tmp_path, name, wrong):
    folder = compiled_models
    array, program, out = folder / f"{wrong}.npy", folder / f"{name}.zsk", tmp_path / "y.npy"
    for args in (["run", program, "--input", array, "-o", out, "--backend", "golden"],
                 ["run", program, "--input", array, "-o", out, "--raw"],
                 ["verify", program, "--input", array],
                 ["compile", folder / f"{name}.onnx", "--calibration", array,
                  "-o", tmp_path / "new.zsk"]):
        code, stdout, stderr = cli(*args)
        assert (code, stdout) == (2, "")
        assert (f"array is {list(WRONG[wrong])}, but the model takes 60 values per sample, batch "
                "first: [batch, 3, 4, 5], or flat [batch, 60]; ") in stderr
        assert stderr.endswith("; bring its axes into this order\n" if wrong != "no batch"
                               else "; give samples of this size\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["prune", "scan", "search"])
def test_data_of_another_shape_are_refused(cli, compiled_models, tmp_path, command):
    pytest.importorskip("torch")
    options = {"prune": ["-o", tmp_path / "new.onnx"], "scan": [],
               "search": ["--method", "uniform", "--budget", "0.5", "--cost", "macs",
                          "-o", tmp_path / "new.toml"]}[command]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('density = 0.5\ndata = "data.npz"\n')
    for shape, good in (((4, 3, 4, 5), True), ((4, 60), True), ((4, 4, 5, 3), False)):
        np.savez(tmp_path / "data.npz", x=np.ones(shape), y=np.arange(4))
        done = cli(command, compiled_models / "classifier.onnx", "--recipe", recipe, *options,
                   "-q")
        assert done.code == (0 if good else 2)
        if not good:
            assert "x is [4, 4, 5, 3], but the model takes 60 values" in done.stderr


@pytest.mark.parametrize("name", ["flattened", "flat outputs", "two"])
def test_a_pruned_model_takes_the_same_arrays(cli, compiled_models, tmp_path, name):
    pytest.importorskip("torch")
    (tmp_path / "recipe.toml").write_text("density = 0.5\n")
    assert cli("prune", compiled_models / f"{name}.onnx", "--recipe", tmp_path / "recipe.toml",
               "-o", tmp_path / "new.onnx", "-q") == (0, "", "")
    before, after = (frontend.read(path).network() for path in (
        compiled_models / f"{name}.onnx", tmp_path / "new.onnx"))
    assert (after.input_shape, after.output_shape) == (before.input_shape, before.output_shape)
    assert (after.input_shape, after.output_shape) == (SHAPE, models()[name][1])


@pytest.mark.parametrize(("shapes", "message"), [
    (((3, 4, 5), (7,)), r"'flattened|fc.*' is \[7\]"), (((60.0,), (6,)), r"'input' is \[60.0\]"),
    (((-3, -20), (6,)), "'input' is"), (((60, *[1] * 63), (6,)), "'input' is"),
    (((60,), (6,)), "shapes or images are not those of the reference"),
])
def test_a_program_with_shapes_of_other_sizes_is_refused(compiled_models, tmp_path, shapes,
                                                         message):
    from dataclasses import replace

    from zeroskip.sw.errors import BadInput

    program = Program.load(compiled_models / "flattened.zsk")
    assert (program.input.shape, program.output.shape) == (SHAPE, (6,))
    (first, x), (last, y) = program.buffers.items()
    replace(program, buffers={first: replace(x, shape=shapes[0]), last: replace(y, shape=shapes[1])}
            ).save(tmp_path / "a.zsk")
    with pytest.raises(BadInput, match=message):
        Program.load(tmp_path / "a.zsk")


# --- inputs far outside the calibrated range ---

def run(cli, folder, tmp_path, x, *options, name="flattened"):
    np.save(tmp_path / "x.npy", x)
    return cli("run", folder / f"{name}.zsk", "--input", tmp_path / "x.npy",
               "-o", tmp_path / "y.npy", "--backend", "golden", *options)


@pytest.mark.parametrize("name", ["flattened", "convolution"])
def test_inputs_far_outside_are_announced(cli, compiled_models, tmp_path, name):
    x = np.load(compiled_models / "image.npy")
    done = run(cli, compiled_models, tmp_path, x, name=name)
    assert (done.code, done.stderr) == (0, "")
    program = Program.load(compiled_models / f"{name}.zsk")
    low, high = program.input.to_float([np.iinfo(program.input.dtype).min,
                                        np.iinfo(program.input.dtype).max])
    assert 1.01 * low <= x.min() < x.max() <= 1.01 * high
    many = 100 * x
    far = np.count_nonzero((many < low - (high - low) / 2) | (many > high + (high - low) / 2))
    assert far > 50
    done = run(cli, compiled_models, tmp_path, many, name=name)
    assert done.code == 0
    assert done.stderr.startswith(
        f"zeroskip: warning: {far} of 120 inputs lie far outside {low:.4g} to {high:.4g}, the "
        "range that the program takes, and are cut to it; ")
    assert done.stderr.count("\n") == 1
    assert run(cli, compiled_models, tmp_path, many, "-q", name=name) == (0, "", "")
    done = run(cli, compiled_models, tmp_path, many, "--json", name=name)
    assert done.stderr == ""
    assert done.json["inputs_far_outside"] == far
    assert done.json["input_range"] == [low, high]
    assert done.json["inputs_saturated"] >= far


@pytest.mark.parametrize(("factor", "far"), [(1.01, 0), (1.99, 0), (2.01, 1)])
def test_far_is_more_than_half_the_range_outside(cli, compiled_models, tmp_path, factor, far):
    x = np.zeros((1, 60))
    x[0, 7] = factor * Program.load(compiled_models / "flattened.zsk").input.scale * 32767.5
    done = run(cli, compiled_models, tmp_path, x, "--json").json
    assert (done["inputs_saturated"], done["inputs_far_outside"]) == (1, far)


def test_integers_are_never_far_outside(cli, compiled_models, tmp_path):
    x = np.full((1, 60), 32767, np.int16)
    done = run(cli, compiled_models, tmp_path, x, "--raw", "--json").json
    assert done["inputs_far_outside"] == 0


# --- counters that a configuration does not have ---

@pytest.fixture
def uncounted(tmp_path):
    """A program on an array without counters, and its input."""
    layers = random_layers(np.random.default_rng(5), (7, 6), 0.6)
    integers = tuple(layers)
    image = compile_layers(layers, EIEConfig(pes=1, counters=False))
    Compiled(Program.chain((image,), integers), integers, ()).save(
        tmp_path / "model.zsk")
    np.save(tmp_path / "x.npy", np.ones((3, 7), np.int16))
    return ["run", tmp_path / "model.zsk", "--input", tmp_path / "x.npy", "--raw",
            "-o", tmp_path / "y.npy", "--backend", "python"]


def test_a_configuration_without_counters_has_null_for_them(cli, uncounted):
    done = cli(*uncounted, "--json").json
    for key in ("cycles_per_image", "utilisation", "outputs_saturated", "statistics"):
        assert done[key] is None


def test_a_configuration_without_counters_has_a_dash_for_them(cli, uncounted):
    lines = cli(*uncounted).stdout.splitlines()
    found = [line.split("│")[2].strip() for line in lines
             if any(key in line for key in ("cycles_per", "utilisation", "outputs_sat"))]
    assert found == ["-"] * 3


def test_a_program_that_is_counted_in_part_has_no_sums(cli, tmp_path):
    layers = random_layers(np.random.default_rng(5), (7, 6, 5), 0.6)
    images = tuple(compile_layers((layer,), EIEConfig(pes=1, counters=counted))
                  for layer, counted in zip(layers, (True, False), strict=True))
    integers = tuple(layers)
    Compiled(Program.chain(images, integers), integers, ()).save(tmp_path / "m.zsk")
    np.save(tmp_path / "x.npy", np.ones((3, 7), np.int16))
    done = cli("run", tmp_path / "m.zsk", "--input", tmp_path / "x.npy", "--raw",
               "-o", tmp_path / "y.npy", "--backend", "python", "--json")
    assert done.json["cycles_per_image"] is None
    first, second = done.json["statistics"]
    assert first["cycles"] > 0
    assert second is None
