"""``inspect``: a model's table at 80 columns, all reasons against one, and what a program holds."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from zeroskip.sw.compiler.program import Program


def test_a_models_table_fits_80_columns(cli, compiled, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(compiled)
    done = cli("inspect", "model.onnx")
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "model.onnx; cycles and bytes are estimates"
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if "macs" in line)
    assert [word for word in head.split() if word != "┃"][-3:] == ["macs", "cycles", "bytes"]
    row = next(line for line in lines if "fc1" in line)
    assert [cell.strip() for cell in row.split("│")][5] == "108"
    assert any("Cycles a sample: " in line for line in lines)


def test_a_program(cli, compiled, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = cli("inspect", compiled / "model.zsk")
    assert (done.code, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    assert ["input", "input", "float32", "input"] in rows
    assert ["0", "eie", "eie-4", "fc1, fc2", "input", "fc2"] in rows
    assert "the host's share of the operations 0.00%" in done.stdout
    (image,) = Program.load(compiled / "model.zsk").images
    for layer in image.layers:
        (row,) = [row for row in rows if row[1:2] == [layer.name] and len(row) == 7]
        assert row[2] == f"[{layer.outputs},{layer.inputs}]"
        assert row[5:] == [str(layer.inputs * layer.outputs), str(layer.entries)]


def test_json_of_a_program(cli, compiled):
    done = cli("inspect", compiled / "model.zsk", "--json").json
    program = Program.load(compiled / "model.zsk")
    assert set(done) == {"batch", "ports", "buffers", "steps", "bytes", "totals"}
    assert [(each["buffer"], each["type"], each["shape"], each["scale"])
            for each in done["buffers"]] == [
        (name, "int16", list(kind.shape), kind.scale) for name, kind in program.buffers.items()]
    (step,) = done["steps"]
    assert (step["engine"], step["target"]) == ("eie", "eie-4")
    assert [layer["name"] for layer in step["layers"]] == ["fc1", "fc2"]
    assert done["totals"]["multiplications"] == 12 * 9 + 9 * 5


def test_a_program_has_its_shapes(refused, folder):
    assert "leave --input-shape out" in refused("inspect", folder / "model.zsk", "--input-shape",
                                                "x:1,2")


def test_a_file_that_is_no_program(refused, folder):
    (folder / "bad.zsk").write_bytes(b"no")
    assert "bad.zsk" in refused("inspect", folder / "bad.zsk")


# --- all reasons ---

LOOP = helper.make_graph(
    [helper.make_node("Identity", ["cond_in"], ["cond"]),
     helper.make_node("Relu", ["v_in"], ["v"])], "body",
    [helper.make_tensor_value_info("i", TensorProto.INT64, []),
     helper.make_tensor_value_info("cond_in", TensorProto.BOOL, []),
     helper.make_tensor_value_info("v_in", TensorProto.FLOAT, [2, 3])],
    [helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
     helper.make_tensor_value_info("v", TensorProto.FLOAT, [2, 3])])

NODES = {
    "loop": helper.make_node("Loop", ["n", "", "x"], ["looped"], "turns", body=LOOP),
    "custom": helper.make_node("Fancy", ["x"], ["fancy"], "own", domain="com.example"),
    "random": helper.make_node("RandomNormalLike", ["x"], ["noise"], "noisy"),
    "found": helper.make_node("NonZero", ["x"], ["places"], "finds"),
}
REASONS = {
    "loop": "Loop ('turns') is control flow, which is decided while the model runs",
    "custom": "com.example::Fancy ('own') is an operator that ONNX does not have",
    "random": "RandomNormalLike ('noisy') is drawn anew on each run",
    "found": "the shape of 'places' depends on the values of the inputs",
}


def model(path, names, shape=(2, 3)):
    """Some of the nodes beside one another, ahead of a sum that anything can compute."""
    nodes = [NODES[name] for name in names]
    outputs = [helper.make_node("Add", ["x", "x"], ["sum"]), *nodes]
    onnx.save(helper.make_model(helper.make_graph(
        outputs, "all", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
                         helper.make_tensor_value_info("n", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, "ab"),
         *(helper.make_tensor_value_info(
             node.output[0], TensorProto.INT64 if node.op_type == "NonZero" else TensorProto.FLOAT,
             "ab") for node in nodes)], [numpy_helper.from_array(np.float32(1), "unused")]),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)],
        ir_version=10), path)
    return path


@pytest.mark.parametrize("names", [["loop"], ["custom"], ["random"], ["found"],
                                   ["loop", "custom", "random", "found"], ["random", "found"],
                                   ["custom", "found"]])
def test_all_reasons_are_told(cli, tmp_path, names):
    done = cli("inspect", model(tmp_path / "model.onnx", names))
    assert (done.code, done.stdout) == (2, "")
    for name, reason in REASONS.items():
        assert done.stderr.count(reason) == (name in names)
    many = len(names) > 1
    assert done.stderr.count("\n") == (1 + len(names) if many else 1)
    assert ("cannot run, for" in done.stderr) == many


def test_open_sizes_and_what_else_is_known_already(cli, tmp_path):
    path = model(tmp_path / "model.onnx", ["loop", "custom", "random"], shape=("n", "wide"))
    error = cli("inspect", path, "--json").json["error"]
    assert "for 3 reasons" in error
    assert "the input 'x' is [n, wide], and all but the batch must be known; say it with " \
        "--input-shape, such as x:1,8." in error
    assert REASONS["custom"] in error
    assert REASONS["random"] in error
    again = cli("inspect", path, "--input-shape", "x:2,3", "--json").json["error"]
    assert all(REASONS[name] in again for name in ("loop", "custom", "random"))


def test_every_open_input_is_told(cli, tmp_path):
    value = helper.make_tensor_value_info
    onnx.save(helper.make_model(helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])], "open",
        [value(name, TensorProto.FLOAT, ["n", name * 2]) for name in "ab"],
        [value("y", TensorProto.FLOAT, "ny")]), opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10), tmp_path / "model.onnx")
    done = cli("inspect", tmp_path / "model.onnx")
    assert done.code == 2
    assert "'a' is [n, aa]" in done.stderr
    assert "'b' is [n, bb]" in done.stderr
