"""ONNX's own node tests of the integer products, through the reference and through the RTL."""

import importlib
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case import node as node_cases

from zeroskip.hw.tensorcore.config import CONFIGS
from zeroskip.hw.tensorcore.core import TensorCore
from zeroskip.sim import cxxrtl
from zeroskip.sw.engines.tensorcore import golden
from zeroskip.sw.engines.tensorcore.onnx_backend import backend, core, reference
from zeroskip.sw.errors import BadInput, ToolMissing

OPERATORS = {"MatMulInteger": 1, "QLinearMatMul": 8, "ConvInteger": 2, "QLinearConv": 1}


def node_tests():
    """ONNX's test cases of the four operators, as its own backend test runs them."""
    for name in OPERATORS:      # a module is made of its cases when it is imported: all take long
        importlib.import_module(f"{node_cases.__name__}.{name.lower()}")
    return [case for case in node_cases._NodeTestCases if operator(case) in OPERATORS]


def operator(case):
    nodes = case.model.graph.node if case.model else []
    return nodes[0].op_type if len(nodes) == 1 else None


CASES = node_tests()


@pytest.fixture(scope="module", params=["golden", "rtl"])
def machine(request):
    if request.param == "golden":
        return reference
    config = CONFIGS["tc-8"]
    try:
        library = cxxrtl.build(lambda: TensorCore(config), "tensorcore", config.digest())
    except ToolMissing as missing:
        pytest.skip(str(missing))
    return core(cxxrtl.Model(library), config)


def test_every_node_test_is_there():
    assert Counter(map(operator, CASES)) == OPERATORS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_node(machine, case):
    prepared = backend(machine).prepare(case.model)
    for inputs, outputs in case.data_sets:
        found, = prepared.run(inputs)
        assert found.dtype == outputs[0].dtype
        np.testing.assert_array_equal(found, outputs[0])


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("operator", ["QLinearMatMul", "QLinearConv"])
def test_ties_are_those_of_onnxruntime(machine, operator, kind):
    """A sum counts in quarters of an output, so that every fourth output is a tie. The session has
    its default options."""
    rng, (low, high) = np.random.default_rng(1), (np.iinfo(kind).min, np.iinfo(kind).max + 1)
    shape, weights = {"QLinearMatMul": ((64, 8), (8, 24)),
                      "QLinearConv": ((1, 2, 9, 9), (24, 2, 2, 2))}[operator]
    x, w = rng.integers(low, high, shape).astype(kind), rng.integers(-2, 3, weights, np.int8)
    zero, out_zero = kind(low + 100), kind(low + 121)
    operands = {"x": x, "xs": np.float32(1 / 8), "xz": zero, "w": w, "ws": np.float32(1 / 4),
                "wz": np.int8(0), "ys": np.float32(1 / 8), "yz": out_zero}
    graph = helper.make_graph(
        [helper.make_node(operator, [*operands], ["y"])], "g",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(v).dtype),
                                       np.shape(v)) for name, v in operands.items()],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(x.dtype), None)])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    operands = {name: np.asarray(value) for name, value in operands.items()}
    expected, = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, operands)
    products = []

    def compute(product):
        products.append(product)
        return machine(product)
    found, = backend(compute).prepare(model).run([*operands.values()])
    np.testing.assert_array_equal(found, expected)
    (product,) = products
    sums = golden.gemm(product.weights, product.x.T) + product.bias[:, None]
    assert np.count_nonzero(sums % 4 == 2) > expected.size // 5 > 300
    assert len(np.unique(expected)) > 100


def matmul_integer(a, b, **zeros):
    """A MatMulInteger model for these operands, run on the reference."""
    types = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8}
    operands = {"a": a, "b": b, **zeros}
    node = helper.make_node("MatMulInteger", [*operands], ["y"])
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(name, types[v.dtype.type], v.shape)
         for name, v in operands.items()],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)])
    return backend(reference).prepare(helper.make_model(graph)).run([*operands.values()])[0]


@pytest.mark.parametrize("b_zero", [0, 1, 114, 255])
def test_weights_of_nine_bits_are_exact(b_zero):
    rng = np.random.default_rng(b_zero)
    a, b = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((3, 20), (20, 4)))
    b[0], b[1] = 0, 255
    y = matmul_integer(a, b, a_zero=np.uint8(7)[...], b_zero=np.full(4, b_zero, np.uint8))
    np.testing.assert_array_equal(y, (a.astype(int) - 7) @ (b.astype(int) - b_zero))


def test_a_zero_point_per_row_of_activations_is_refused():
    a, b = np.ones((2, 4), np.int8), np.ones((4, 3), np.int8)
    with pytest.raises(BadInput, match="the first operand has 2 scales or zero points"):
        matmul_integer(a, b, a_zero=np.array([1, 2], np.int8))


def test_another_operator_is_refused():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    with pytest.raises(BadInput, match="the model has the nodes Relu; only one of MatMulInteger"):
        backend(reference).prepare(onnx.helper.make_model(graph))
