"""Quantised models of onnxruntime's own ``quantize_static``, compiled and run on golden: every
output equals that of a session on the whole file with its default options.

A sum whose real value is nearer to a tie than float32 tells may round the other way there, a few
in a million; none of these models has one.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from zeroskip.hw.tensorcore.config import CONFIGS
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.frontends.load import read
from zeroskip.sw.graph.graph import OperatorNode
from zeroskip.sw.runtime import arrays
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program

node = helper.make_node
CALIBRATION, SAMPLES = 20, 100


def conv(x, y, weights, **given):
    """A convolution, its bias and a ReLU."""
    return [node("Conv", [x, weights, f"{weights}b"], [f"{y}h"], f"conv{weights}", **given),
            node("Relu", [f"{y}h"], [y])]


def head(x):
    """Flatten and a linear layer."""
    return [node("Flatten", [x], ["flat"]),
            node("Gemm", ["flat", "Z", "Zb"], ["y"], "head", transB=1)]


SAME = {"pads": [1, 1, 1, 1]}
HALF = {"kernel_shape": [2, 2], "strides": [2, 2]}
NETS = {
    "mlp": ((12,), {"A": (16, 12), "Z": (5, 16)}, [
        node("Gemm", ["x", "A", "Ab"], ["h"], "first", transB=1), node("Relu", ["h"], ["r"]),
        *head("r")], []),
    "tokens": ((4, 12), {"A": (12, 16), "B": (16, 5)}, [
        node("MatMul", ["x", "A"], ["h"]), node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "B"], ["y"])], []),
    "pool": ((3, 8, 8), {"A": (8, 3, 3, 3), "B": (6, 8, 3, 3), "Z": (4, 24)}, [
        *conv("x", "a", "A", **SAME), node("MaxPool", ["a"], ["p"], **HALF),
        *conv("p", "b", "B"), *head("b")], ["MaxPool"]),
    "residual": ((4, 6, 6), {"A": (8, 4, 3, 3), "B": (8, 8, 3, 3), "Z": (4, 8)}, [
        *conv("x", "a", "A", **SAME), *conv("a", "b", "B", **SAME), node("Add", ["b", "a"], ["s"]),
        node("GlobalAveragePool", ["s"], ["p"]), *head("p")], ["Add", "GlobalAveragePool"]),
    "depthwise": ((4, 6, 6), {"A": (4, 1, 3, 3), "B": (8, 4, 1, 1), "Z": (4, 72)}, [
        *conv("x", "a", "A", group=4, **SAME), *conv("a", "b", "B"),
        node("AveragePool", ["b"], ["p"], **HALF), *head("p")], ["AveragePool"]),
    "pools": ((4, 8, 8), {"A": (8, 4, 3, 3), "Z": (4, 8)}, [
        *conv("x", "a", "A"), node("AveragePool", ["a"], ["p"], **HALF),
        node("GlobalAveragePool", ["p"], ["q"]), *head("q")], ["AveragePool", "GlobalAveragePool"]),
    "one dimension": ((3, 16), {"A": (8, 3, 3), "B": (6, 8, 3), "Z": (4, 42)}, [
        *conv("x", "a", "A", pads=[1, 1]), *conv("a", "b", "B", strides=[2]), *head("b")], []),
    "branches": ((3, 6, 6), {"A": (8, 3, 3, 3), "B": (6, 8, 3, 3), "C": (4, 8, 1, 1),
                             "D": (5, 10, 3, 3), "Z": (4, 20)}, [
        *conv("x", "a", "A", **SAME), *conv("a", "b", "B", **SAME), *conv("a", "c", "C"),
        node("Concat", ["b", "c"], ["d"], axis=1), *conv("d", "e", "D", strides=[2, 2]),
        *head("e")], ["Concat"]),
}
"""Shape of a sample, shapes of the weights, nodes, and the operators that stay on the host."""


class Reader(CalibrationDataReader):
    def __init__(self, samples):
        self._left = iter(samples)

    def get_next(self):
        x = next(self._left, None)
        return None if x is None else {"x": x[None]}


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """The nets before they are quantised, their calibration sets and samples."""
    folder, rng, found = tmp_path_factory.mktemp("floats"), np.random.default_rng(3), {}
    for name, (shape, sizes, nodes, _) in NETS.items():
        weights = {key: rng.normal(size=size) / np.sqrt(np.prod(size[1:]))
                   for key, size in sizes.items()}
        weights |= {f"{key}b": rng.normal(size=len(each)) for key, each in weights.items()}
        graph = helper.make_graph(
            nodes, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", *shape))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(each.astype(np.float32), key)
             for key, each in weights.items()])
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        path = folder / f"{name}.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        found[name] = path, *(rng.normal(size=(count, *shape)).astype(np.float32)
                              for count in (CALIBRATION, SAMPLES))
    return found


@pytest.mark.filterwarnings("ignore")     # onnxruntime's own
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("kind", [QuantType.QUInt8, QuantType.QInt8], ids=["uint8", "int8"])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator], ids=["QDQ", "QOperator"])
@pytest.mark.parametrize("name", NETS)
def test_every_output_equals_onnxruntime(floats, tmp_path, name, form, kind, per_channel):
    source, calibration, x = floats[name]
    path = tmp_path / "quantised.onnx"
    quantize_static(source, path, Reader(calibration), quant_format=form, activation_type=kind,
                    weight_type=QuantType.QInt8, per_channel=per_channel)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected, = session.run(None, {"x": x})
    graph = read(path)
    assert len(graph.layers) == sum(each.op_type in ("Conv", "Gemm", "MatMul")
                                    for each in NETS[name][2])
    assert all(each.layer.quantised for each in graph.layers)
    host = [each.operator for each in graph.nodes if isinstance(each, OperatorNode)]
    assert [each for each in host if each != "QuantizeLinear"] == NETS[name][3]
    compiled = compile_network(graph, None, CONFIGS["tc-64"])
    given = arrays.inputs(compiled.program, "x", x)
    run = run_program(compiled.program, GoldenBackend(compiled.program, compiled.reference),
                      given.buffers)
    found, = arrays.outputs(compiled.program, run.buffers, len(x)).values()
    assert np.count_nonzero(found != expected) == 0
    assert len(np.unique(expected)) > 20


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("scale", [0.5, 0.25], ids=["halves", "quarters"])
def test_ties_of_operators_in_a_row(tmp_path, kind, scale):
    """Every other average is a tie, which onnxruntime rounds by the type that it computes on."""
    grid = ["one", "zero", "step", "zero"], ["step", "zero", "one", "zero"]
    pools = [node("QLinearAveragePool", [x, *own], [y], domain="com.microsoft", **HALF)
             for x, own, y in (("x", grid[0], "h"), ("h", grid[1], "y"))]
    onnx_kind = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        pools, "pools", [helper.make_tensor_value_info("x", onnx_kind, (1, 8, 16, 16))],
        [helper.make_tensor_value_info("y", onnx_kind, (1, 8, 4, 4))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (
            ("one", np.float32(1)), ("step", np.float32(scale * 4)),
            ("zero", kind(np.iinfo(kind).min + 3)))])
    path = tmp_path / "pools.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]), path)
    limits = np.iinfo(kind)
    x = np.random.default_rng(0).integers(limits.min, limits.max + 1, (50, 8, 16, 16)).astype(kind)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = np.stack([session.run(None, {"x": each[None]})[0].ravel() for each in x])
    np.testing.assert_array_equal(read(path).evaluate({"x": x}, ["y"])["y"], expected)
