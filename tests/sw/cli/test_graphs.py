"""Commands on models that are no chain: branches, operators, several inputs and outputs."""

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper

FLOAT = TensorProto.FLOAT
node = helper.make_node


def save(path, nodes, inputs, outputs, **constants):
    path.write_bytes(helper.make_model(helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info(name, FLOAT, shape)
                        for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(c), name) for name, c in constants.items()]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


@pytest.fixture(scope="module")
def two(tmp_path_factory, cli):
    """A model of two inputs and outputs, its inputs, and its program for ``tc-8``."""
    folder, rng = tmp_path_factory.mktemp("two"), np.random.default_rng(0)
    save(folder / "m.onnx", [
        node("MatMul", ["x", "A"], ["a"], "one"), node("MatMul", ["y", "B"], ["b"], "two"),
        node("Add", ["a", "b"], ["c"], "join"), node("Sigmoid", ["c"], ["p"], "gate"),
        node("MatMul", ["p", "C"], ["q"], "three")],
        {"x": ("n", 6), "y": ("n", 4)}, {"p": ("n", 8), "q": ("n", 3)},
        **{name: rng.normal(size=size).astype(np.float32)
           for name, size in (("A", (6, 8)), ("B", (4, 8)), ("C", (8, 3)))})
    np.savez(folder / "x.npz", x=rng.normal(size=(12, 6)).astype(np.float32),
             y=rng.normal(size=(12, 4)).astype(np.float32))
    assert cli("compile", folder / "m.onnx", "--calibration", folder / "x.npz", "--target", "tc-8",
               "--engine", "tensorcore", "-o", folder / "m.zsk", "-q") == (0, "", "")
    return folder


def test_inspect_shows_what_runs_on_the_host(cli, two):
    rows = cli("inspect", two / "m.onnx", "--json").json["layers"]
    assert [(row["name"], row["kind"], row["engine"], row["macs"]) for row in rows] == [
        ("one", "linear", "tensorcore", 48), ("two", "linear", "tensorcore", 32),
        ("join", "Add", "host", None), ("gate", "Sigmoid", "host", None),
        ("three", "linear", "tensorcore", 24)]
    assert rows[2]["reason"] == "It runs on the host."


@pytest.mark.parametrize("backend", ["golden", "cxxrtl"])
def test_outputs_by_name(cli, two, tmp_path, backend):
    done = cli("run", two / "m.zsk", "--input", two / "x.npz", "-o", tmp_path / "y.npz",
               "--backend", backend, "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["images"] == 12
    x, y = np.load(two / "x.npz"), np.load(tmp_path / "y.npz")
    assert {name: y[name].shape for name in y.files} == {"p": (12, 8), "q": (12, 3)}
    weights = {each.name: numpy_helper.to_array(each) for each in
               load(two / "m.onnx").graph.initializer}
    expected = 1 / (1 + np.exp(-(x["x"] @ weights["A"] + x["y"] @ weights["B"])))
    assert np.abs(y["p"] - expected).max() < 0.05


def test_verify_with_the_model(cli, two):
    done = cli("verify", two / "m.zsk", "--input", two / "x.npz", "--backend", "golden,cxxrtl",
               "--model", two / "m.onnx", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["equal"] is True
    assert done.json["compared"] == 12 * (8 + 8 + 3)
    assert done.json["model"]["disagreement"] is None
    assert [layer["layer"] for layer in done.json["model"]["layers"]] == ["one", "two", "three"]


@pytest.mark.parametrize(("args", "message"), [
    (("run", "--input", "x.npz", "-o", "y.npy"), "the outputs p, q; give a name that ends in .npz"),
    (("run", "--input", "x.npy", "-o", "y.npz"), "one array, but the model has the inputs x, y"),
    (("run", "--input", "z.npz", "-o", "y.npz"), "has x, z, but the model has the inputs x, y"),
    (("run", "--input", "n.npz", "-o", "y.npz"), "arrays of different numbers of samples"),
    (("run", "--input", "t.npz", "-o", "y.npz"), "'y' is not an array of numbers"),
])
def test_arrays_that_do_not_fit(cli, two, tmp_path, args, message):
    x = np.load(two / "x.npz")
    np.save(tmp_path / "x.npy", x["x"])
    np.savez(tmp_path / "z.npz", x=x["x"], z=x["y"])
    np.savez(tmp_path / "n.npz", x=x["x"], y=x["y"][:5])
    np.savez(tmp_path / "t.npz", x=x["x"], y=np.array(["text"]))
    np.savez(tmp_path / "x.npz", **x)
    command, *rest = args
    done = cli(command, two / "m.zsk", *(tmp_path / each if "." in each else each for each in rest),
               "--backend", "golden")
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "y.npz").exists()


def test_sizes_that_the_file_leaves_open(cli, tmp_path):
    save(tmp_path / "m.onnx", [node("Conv", ["x", "K"], ["y"], "conv")],
         {"x": ("n", 2, "h", "w")}, {"y": ("n", 3, "a", "b")},
         K=np.ones((3, 2, 3, 3), np.float32))
    done = cli("inspect", tmp_path / "m.onnx")
    assert (done.code, done.stdout) == (2, "")
    assert "such as x:1,2,8,8" in done.stderr
    rows = cli("inspect", tmp_path / "m.onnx", "--input-shape", "x:1,2,6,5", "--json").json
    assert rows["layers"][0]["macs"] == 4 * 3 * 3 * 2 * 9


@pytest.mark.parametrize(("shape", "message"), [
    ("x", "takes a name and sizes, such as image:1,3,64,64, not 'x'"),
    ("x:1,2,a", "takes a name and sizes"), ("x:1,2,0,5", "takes a name and sizes"),
    ("x:1,2,,5", "takes a name and sizes"), ("y:1,2,6,5", "has no input 'y'; its inputs are x"),
    ("x:1,3,6,5", "is [n, 2, h, w], which cannot be [1, 3, 6, 5]"),
    ("x:1,2,6", "cannot be [1, 2, 6]"),
])
def test_shapes_that_do_not_fit(cli, tmp_path, shape, message):
    save(tmp_path / "m.onnx", [node("Conv", ["x", "K"], ["y"], "conv")],
         {"x": ("n", 2, "h", "w")}, {"y": ("n", 3, "a", "b")},
         K=np.ones((3, 2, 3, 3), np.float32))
    done = cli("inspect", tmp_path / "m.onnx", "--input-shape", shape)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr
