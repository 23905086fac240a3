"""``eval``: float model, golden and a simulator on the same samples."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from zeroskip.sw.frontends.load import read, to_onnx
from zeroskip.sw.graph.network import Network

SAMPLES = 40


@pytest.fixture
def folder(cli, folder):
    """The 12-9-5 model with samples, their classes by the float model but for some, and more."""
    rng = np.random.default_rng(1)
    network = read(folder / "model.onnx").network()
    x = rng.normal(size=(SAMPLES, 12)).astype(np.float32)
    y = network.forward(x)[-1]
    labels = y.argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 5
    np.savez(folder / "test.npz", x=x, labels=labels)
    np.savez(folder / "numbers.npz", x=x, targets=y + 0.1)
    np.savez(folder / "pairs.npz", x=np.concatenate([x, x]),
             labels=np.arange(2 * SAMPLES) % SAMPLES)
    np.save(folder / "x.npy", x)
    cli("compile", folder / "model.onnx", "--calibration", folder / "x.npy", "-o",
        folder / "model.zsk", "--engine", "tensorcore", "--target", "tc-8")
    return folder


def rows(cli, folder, *options, data="test"):
    done = cli("eval", folder / "model.zsk", "--data", folder / f"{data}.npz", "--json", *options)
    assert (done.code, done.stderr) == (0, "")
    return done.json["rows"]


def test_accuracy_of_all_three(cli, folder):
    found = rows(cli, folder, "--model", folder / "model.onnx", "--backend", "python",
                 "--samples", "3")
    assert [row["backend"] for row in found] == [str(folder / "model.onnx"), "golden", "python"]
    assert [row["samples"] for row in found] == [SAMPLES, SAMPLES, 3]
    assert found[0]["accuracy"] == 0.75
    assert abs(found[1]["accuracy"] - 0.75) <= 0.05
    assert found[2]["accuracy"] in (0, 1 / 3)     # the first labels are wrong
    assert found[2]["cycles"] > 10
    assert found[2]["as_golden"] is True
    assert found[0]["cycles"] is found[1]["cycles"] is None


def test_regression_is_of_the_golden_outputs(cli, folder):
    found, = rows(cli, folder, "--task", "regression", "--samples", "0", data="numbers")
    cli("run", folder / "model.zsk", "--input", folder / "x.npy", "-o", folder / "y.npy",
        "--backend", "golden")
    with np.load(folder / "numbers.npz") as data:
        error = np.load(folder / "y.npy") - data["targets"]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(error ** 2)))
    assert 0.9 < found["r2"] < 1


def test_retrieval_finds_what_is_equal(cli, folder):
    found = rows(cli, folder, "--task", "retrieval", "--samples", "2", "--backend", "python",
                 data="pairs")
    assert found[0]["recall_1"] == found[0]["recall_5"] == 1
    assert found[1]["recall_1"] is None
    assert found[1]["as_golden"] is True


def test_sensitivity(cli, folder):
    done = cli("eval", folder / "model.zsk", "--data", folder / "test.npz", "--json", "--samples",
               "0", "--sensitivity", "--model", folder / "model.onnx", "--calibration",
               folder / "x.npy")
    assert done.code == 0
    found = done.json["sensitivity"]
    assert {row["layer"] for row in found} == {"fc1", "fc2"}
    assert found[0]["loss"] >= found[1]["loss"]
    assert all(0 < row["error"] < 0.1 for row in found)


def test_tables_for_people(cli, folder):
    done = cli("eval", folder / "model.zsk", "--data", folder / "test.npz", "--samples", "0",
               "--sensitivity", "--model", folder / "model.onnx",
               "--calibration", folder / "x.npy")
    assert (done.code, done.stderr) == (0, "")
    assert "accuracy" in done.stdout
    assert "each layer alone in integers, the worst first" in done.stdout


def test_inputs_far_outside_are_a_warning(cli, folder):
    with np.load(folder / "test.npz") as data:
        np.savez(folder / "test.npz", x=data["x"] * 1000, labels=data["labels"])
    done = cli("eval", folder / "model.zsk", "--data", folder / "test.npz", "--samples", "0")
    assert done.code == 0
    assert "inputs lie far outside" in done.stderr


def test_a_fixed_batch_whose_last_run_is_not_full(cli, folder):
    """Of an export for 3 samples at a time, with an operator for the host."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(12, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("MatMul", ["s", "W"], ["y"])],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 12))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 5))],
        [numpy_helper.from_array(weight, "W")])
    onnx.save(helper.make_model(graph, ir_version=10,
                                opset_imports=[helper.make_opsetid("", 21)]), folder / "b.onnx")
    cli("compile", folder / "b.onnx", "--calibration", folder / "x.npy", "-o", folder / "b.zsk")
    x = np.load(folder / "x.npy")
    y = 1 / (1 + np.exp(-x)) @ weight
    np.savez(folder / "b.npz", x=x, targets=y)
    done = cli("eval", folder / "b.zsk", "--data", folder / "b.npz", "--task", "regression",
               "--model", folder / "b.onnx", "--samples", "0", "--json")
    own, golden = done.json["rows"]
    assert own["samples"] == golden["samples"] == SAMPLES
    assert own["rmse"] < 1e-5 < golden["rmse"] < 0.1


@pytest.mark.parametrize(("options", "message"), [
    (("--task", "sort"), "there is no task 'sort'"),
    (("--samples", "-1"), "--samples must be 0 or more"),
    (("--backend", "golden"), "--backend names golden, which runs anyway"),
    (("--backend", "fast"), "there is no backend 'fast'"),
    (("--sensitivity",), "--sensitivity quantises the float model's layers"),
    (("--calibration", "x.npy"), "--calibration is for --sensitivity"),
    (("--task", "regression"), "has no array 'targets'"),
])
def test_bad_options(refused, folder, options, message):
    assert message in refused("eval", folder / "model.zsk", "--data", folder / "test.npz",
                              "-q", *options)


def test_bad_files(refused, folder):
    def check(data):
        return refused("eval", folder / "model.zsk", "--data", folder / data, "-q")
    assert "give an .npz file with an array for each input, and 'labels'" in check("x.npy")
    np.savez(folder / "l.npz", labels=np.zeros(3, int))
    assert "has only 'labels'; add an array for each input" in check("l.npz")
    np.savez(folder / "s.npz", x=np.zeros((3, 11)), labels=np.zeros(3, int))
    assert "the model takes 12 values per sample" in check("s.npz")
    to_onnx(Network(read(folder / "model.onnx").network().layers[:1]), folder / "other.onnx")
    assert "has outputs of [9] values, but the program one of 5" in refused(
        "eval", folder / "model.zsk", "--data", folder / "test.npz", "-q", "--model",
        folder / "other.onnx")


def test_a_program_of_several_outputs(refused, cli, folder):
    weight = np.eye(12, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"]), helper.make_node("Tanh", ["y"], ["z"])],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 12))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 12)) for name in "yz"],
        [numpy_helper.from_array(weight, "W")])
    onnx.save(helper.make_model(graph, ir_version=10,
                                opset_imports=[helper.make_opsetid("", 21)]), folder / "two.onnx")
    cli("compile", folder / "two.onnx", "--calibration", folder / "x.npy", "-o",
        folder / "two.zsk")
    assert "the program has the outputs y, z, and only one can be judged" in refused(
        "eval", folder / "two.zsk", "--data", folder / "test.npz", "-q")
