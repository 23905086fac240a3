"""Memory that reading a model takes, measured in a process of its own."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

MEGABYTES = 50
CODE = """
import re, sys
from pathlib import Path
from zeroskip.sw.frontends import load
status = Path("/proc/self/status")
load.read(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")   # the peak begins anew
before = int(re.search(r"VmRSS:\\s+(\\d+)", status.read_text())[1])
graph = load.read(sys.argv[2])
print(int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) - before, len(graph.layers))
"""


def saved(path, width, layers, external=False, transposed=False):
    """Layers of ``width`` squared weights."""
    rng, names = np.random.default_rng(0), [f"W{i}" for i in range(layers)]
    nodes, current = [], "x"
    for i, name in enumerate(names):
        if transposed:
            nodes.append(helper.make_node("Transpose", [name], [f"{name}t"]))
        nodes.append(helper.make_node("MatMul", [current, f"{name}t" if transposed else name],
                                      [f"h{i}"]))
        current = f"h{i}"
    value = helper.make_tensor_value_info
    model = helper.make_model(helper.make_graph(
        nodes, "large", [value("x", TensorProto.FLOAT, ["n", width])],
        [value(current, TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(rng.random((width, width), np.float32), name)
         for name in names]), ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data")
    return path


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("layers", "more"), [
    (4, {}), (4, {"external": True}), (4, {"transposed": True}), (1, {})],
    ids=["inside", "external", "transposed", "one tensor"])
def test_at_most_three_times_the_file(tmp_path, layers, more):
    width = int((MEGABYTES * 1e6 / 4 / layers) ** 0.5)
    small, large = saved(tmp_path / "small.onnx", 8, 1), saved(tmp_path / "l.onnx", width, layers,
                                                               **more)
    done = subprocess.run([sys.executable, "-c", CODE, small, large], capture_output=True,
                          text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    kilobytes, found = map(int, done.stdout.split())
    assert found == layers
    # 2.3 times; 3 if what was read from the file were kept
    assert MEGABYTES / 2 < kilobytes * 1024 / 1e6 < 2.75 * MEGABYTES
