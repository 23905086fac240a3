"""Sums as the host's models begin with them."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from zeroskip.sw.graph.graph import Graph, LayerNode, OperatorNode, RuleNode, ValueType, ViewNode
from zeroskip.sw.graph.network import Linear
from zeroskip.sw.graph.session import Session
from zeroskip.sw.graph.sums import Sums

FLOAT = np.dtype(np.float32)
LAYER = Linear("layer", np.eye(6, dtype=np.float32), np.zeros(6, np.float32), "none")


def graph(dtype, *operators):
    """A layer that writes ``h`` [1, 2, 3], which operators in a row read."""
    names = ["h", *(f"v{i}" for i in range(len(operators)))]
    nodes = [helper.make_node(op, [a], [b]) for op, a, b in
             zip(operators, names, names[1:], strict=False)]
    types = dict.fromkeys(names, ValueType((1, 2, 3), np.dtype(dtype)))
    return Graph("the test", (LayerNode(LAYER, ("x",), ("h",)), *(
        OperatorNode(node.name, node, (node.input[0],), (node.output[0],)) for node in nodes)),
        types | {"x": ValueType((1, 6), FLOAT)}, ("x",), (names[-1],),
        opsets=(helper.make_opsetid("", 21),))


def model_of(dtype, sums, *operators):
    made = graph(dtype, *operators)
    content, reads, writes = made.host_model(made.groups[1], sums)
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    return content, reads, writes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("axis", "units"), [(-1, [0.5, 0.25, 2.0]), (-2, [0.5, 4.0])])
def test_a_model_makes_real_values_of_sums(dtype, relu, axis, units):
    sums = Sums(np.float32(units), axis, relu)
    content, reads, writes = model_of(dtype, {"h": sums}, "Neg", "Abs")
    assert (reads, writes) == (["h"], ["v1"])
    values = np.arange(-3, 3, dtype=np.int32)[None] * 1000
    y, = Session(content).run([values], 1)
    real = values.reshape(2, 3) * (np.array(units) if axis == -1 else np.array(units)[:, None])
    wanted = np.abs(np.maximum(real, 0) if relu else real)
    assert y.dtype == dtype
    assert y.reshape(2, 3).tolist() == wanted.tolist()
    assert Session(content).check("step 1") == (
        [(6, np.dtype(np.int32))], [(6, np.dtype(dtype))])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("relu", [False, True])
def test_what_a_model_makes_of_sums_is_read_again(dtype, relu):
    """A ReLU of the model's own is none of the layer's."""
    sums = Sums(np.float32([0.5, 4.0]), -2, relu)
    content, _, _ = model_of(dtype, {"h": sums}, "Relu", "Neg")
    found = Sums.of(content, 0)
    assert (found.units.tolist(), found.axis, found.relu) == ([0.5, 4.0], -2, relu)


def test_floats_are_no_sums():
    content, reads, _ = model_of(np.float32, {"other": Sums(np.float32([1]), -1, False)}, "Neg")
    assert reads == ["h"]
    assert Sums.of(content, 0) is None


def test_a_rule_runs_alone_and_is_its_operators_in_float():
    """Between operators of the host; what it stands for reads a view."""
    names = ["h", "q", "s", "r", "t"]
    protos = [helper.make_node("Reshape", ["h", "shape"], ["q"]),
              helper.make_node("Add", ["q", "q"], ["s"]), helper.make_node("Relu", ["s"], ["r"]),
              helper.make_node("Neg", ["r"], ["t"])]
    add, relu, last = (OperatorNode(f"node {i}", proto, (proto.input[0],), (proto.output[0],))
                       for i, proto in enumerate(protos[1:]))
    whole = Graph(
        "the test", (LayerNode(LAYER, ("x",), ("h",)), ViewNode(protos[0], ("h",), ("q",)),
                     RuleNode((add, relu), ("q", "q"), ("r",), None), last),
        dict.fromkeys(names[1:], ValueType((1, 3, 2), FLOAT))
        | dict.fromkeys("xh", ValueType((1, 6), FLOAT)), ("x",), ("t",),
        constants={"shape": numpy_helper.from_array(np.array([1, 3, 2]), "shape")},
        opsets=(helper.make_opsetid("", 21),))
    assert [[type(node) for node in group] for group in whole.groups] == [
        [LayerNode], [RuleNode], [OperatorNode]]
    assert [len(whole.readers[name]) for name in ("x", "h", "r", "t")] == [1, 1, 1, 0]
    x = np.float32([[1, -2, 3, -4, 5, -6]])
    found = whole.evaluate({"x": x}, ["r", "t"])
    assert found["r"].tolist() == [[2, 0, 6, 0, 10, 0]]
    assert (found["t"] == -found["r"]).all()
    assert whole.groups[1][0].name == "node 0"
