"""ONNX files: what is read equals the reference evaluator; what cannot be read says why."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from zeroskip.sw.compiler.placement import inspect
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.frontends.chain import Chain, Reject
from zeroskip.sw.frontends.load import read, to_onnx
from zeroskip.sw.graph.network import Conv2d, Linear, Network, Quantised
from zeroskip.sw.graph.types import TensorType

RNG = np.random.default_rng(0)
W = RNG.standard_normal((3, 8)).astype(np.float32)
B = RNG.standard_normal(3).astype(np.float32)
V = RNG.standard_normal((2, 3)).astype(np.float32)
K = RNG.standard_normal((3, 2, 3, 2)).astype(np.float32)
F = RNG.standard_normal((2, 3 * 5 * 5)).astype(np.float32)
NORM = {"g": np.float32([1, -2, 0.5]), "o": np.float32([0, 1, -3]), "m": np.float32([2, 0, -1]),
        "v": np.float32([1, 4, 0.25])}
node = helper.make_node


def model(nodes, shape=("n", 8), opset=17, inputs=("x",), outputs=("y",), **constants):
    """A model from ``x`` to ``y`` with ``constants`` as initializers."""
    def value(name, dims):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    graph = helper.make_graph(
        nodes, "test", [value(name, shape) for name in inputs],
        [value(name, ("n", "m")) for name in outputs],
        [numpy_helper.from_array(np.asarray(c), name) for name, c in constants.items()])
    return helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid("acme", 1)])


@pytest.fixture
def save(tmp_path):
    def write(nodes, **rest):
        path = tmp_path / "model.onnx"
        path.write_bytes(model(nodes, **rest).SerializeToString())
        return path
    return write


def constant(name, values):
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(values)))


GEMM = node("Gemm", ["x", "W", "B"], ["h"], name="fc", transB=1)
CHAINS = {
    "gemm": ([node("Gemm", ["x", "W"], ["y"], transB=1)], {"W": W}),
    "gemm, not transposed": ([node("Gemm", ["x", "W"], ["y"])], {"W": W.T}),
    "alpha and beta": (
        [node("Gemm", ["x", "W", "B"], ["y"], transB=1, alpha=0.5, beta=-2.0)], {"W": W, "B": B}),
    "scalar bias": ([node("Gemm", ["x", "W", "B"], ["y"], transB=1)], {"W": W, "B": B[0]}),
    "bias [1]": ([node("Gemm", ["x", "W", "B"], ["y"], transB=1)], {"W": W, "B": B[:1]}),
    "bias [1, out]": ([node("Gemm", ["x", "W", "B"], ["y"], transB=1)], {"W": W, "B": B[None]}),
    "matmul": ([node("MatMul", ["x", "W"], ["y"])], {"W": W.T}),
    "matmul + bias": (
        [node("MatMul", ["x", "W"], ["h"]), node("Add", ["h", "B"], ["y"])], {"W": W.T, "B": B}),
    "bias + matmul": (
        [node("MatMul", ["x", "W"], ["h"]), node("Add", ["B", "h"], ["y"])], {"W": W.T, "B": B}),
    "two layers": (
        [GEMM, node("Relu", ["h"], ["r"]), node("Gemm", ["r", "V"], ["y"], transB=1)],
        {"W": W, "B": B, "V": V}),
    "two ReLUs": (
        [GEMM, node("Relu", ["h"], ["r"]), node("Relu", ["r"], ["y"])], {"W": W, "B": B}),
    "constants as nodes": (
        [constant("W", W), node("Identity", ["W"], ["shared"]),
         node("Gemm", ["x", "shared"], ["y"], transB=1)], {}),
    "vanishing nodes": (
        [GEMM, node("Dropout", ["h"], ["d"]), node("Identity", ["d"], ["i"]),
         node("Relu", ["i"], ["y"])], {"W": W, "B": B}),
    "float16 weights": ([node("Gemm", ["x", "W"], ["y"], transB=1)],
                        {"W": W.astype(np.float16)}),
    "exact double weights": ([node("Gemm", ["x", "W"], ["y"], transB=1)],
                             {"W": W.astype(np.float64)}),
}


@pytest.mark.parametrize("name", CHAINS)
def test_equals_the_reference_evaluator(save, name):
    nodes, constants = CHAINS[name]
    path = save(nodes, **constants)
    x = RNG.standard_normal((5, 8)).astype(np.float32)
    expected, = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_allclose(read(path).forward(x)[-1], expected, rtol=1e-5, atol=1e-6)


FLATTENS = {
    "flatten": [node("Flatten", ["x"], ["f"])],
    "reshape, batch kept": [constant("s", [0, -1]), node("Reshape", ["x", "s"], ["f"])],
    "reshape, allowzero without a zero": [
        constant("s", [-1, 8]), node("Reshape", ["x", "s"], ["f"], allowzero=1)],
    "reshape, features given": [constant("s", [-1, 8]), node("Reshape", ["x", "s"], ["f"])],
    "reshape, list of ints": [node("Constant", [], ["s"], value_ints=[0, 8]),
                              node("Reshape", ["x", "s"], ["f"])],
}


@pytest.mark.parametrize("name", FLATTENS)
def test_flattens_images(save, name):
    path = save([*FLATTENS[name], node("Gemm", ["f", "W"], ["y"], transB=1)],
                shape=("n", 2, 2, 2), W=W)
    x = RNG.standard_normal((5, 2, 2, 2)).astype(np.float32)
    expected, = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_allclose(read(path).forward(x)[-1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "first", "last", "taken"), [
    ((None, 2, 4), 1, -1, True), ((None, 2, 4), 1, 2, True), ((None, 2, 4), -2, 2, True),
    ((None, 2, 4), 1, 1, False), ((None, 2, 4), 1, 0, False), ((None, 2, 4), 2, -1, False),
    ((None, 2, 4), -1, -1, False), (None, 1, -1, True), (None, 1, 2, False), (None, -2, -1, False)])
def test_flatten_of_dimensions(shape, first, last, taken):
    chain = Chain("model", "x", {"x": shape})
    if taken:
        chain.flatten(first, last)
        assert chain.shape == (shape and (None, 8))
    else:
        with pytest.raises(Reject, match="flatten everything behind the batch dimension"):
            chain.flatten(first, last)


CONV = node("Conv", ["x", "K", "B"], ["h"], name="conv")
FLAT = [node("Flatten", ["r"], ["f"]), node("Gemm", ["f", "F"], ["y"], transB=1)]
CONVS = {
    "plain": ([node("Conv", ["x", "K"], ["y"])], {"K": K}),
    "bias": ([node("Conv", ["x", "K", "B"], ["y"])], {"K": K, "B": B}),
    "every side padded differently": (
        [node("Conv", ["x", "K"], ["y"], pads=[1, 2, 3, 0], kernel_shape=[3, 2])], {"K": K}),
    "strides and dilations": (
        [node("Conv", ["x", "K"], ["y"], strides=[2, 3], dilations=[1, 2])], {"K": K}),
    "VALID": ([node("Conv", ["x", "K"], ["y"], auto_pad="VALID")], {"K": K}),
    "VALID and strides": (
        [node("Conv", ["x", "K"], ["y"], auto_pad="VALID", strides=[2, 1])], {"K": K}),
    "constant per channel": (
        [node("Conv", ["x", "K"], ["h"]), node("Add", ["h", "C"], ["y"])],
        {"K": K, "C": B.reshape(1, 3, 1, 1)}),
    "constant per channel, no batch": (
        [CONV, node("Add", ["C", "h"], ["y"])], {"K": K, "B": B, "C": B.reshape(3, 1, 1)}),
    "one constant": (
        [node("Conv", ["x", "K"], ["h"]), node("Add", ["h", "C"], ["y"])], {"K": K, "C": B[:1]}),
    "batch norm": (
        [CONV, node("BatchNormalization", ["h", "g", "o", "m", "v"], ["y"], epsilon=0.5)],
        {"K": K, "B": B, **NORM}),
    "conv, ReLU, flatten, gemm": (
        [CONV, node("Relu", ["h"], ["r"]), *FLAT], {"K": K, "B": B, "F": F}),
    "two convolutions": (
        [CONV, node("Relu", ["h"], ["r"]), node("Conv", ["r", "L"], ["y"], strides=[1, 2])],
        {"K": K, "B": B, "L": V.reshape(2, 3, 1, 1)}),
}
for padding in ("SAME_UPPER", "SAME_LOWER"):
    for strides in ([1, 1], [2, 3], [3, 2]):
        CONVS[f"{padding} {strides}"] = (
            [node("Conv", ["x", "K"], ["y"], auto_pad=padding, strides=strides)], {"K": K})


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_equal_the_reference_evaluator(save, name):
    nodes, constants = CONVS[name]
    path = save(nodes, shape=("n", 2, 7, 6), **constants)
    x = RNG.standard_normal((5, 2, 7, 6)).astype(np.float32)
    expected, = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_allclose(read(path).forward(x)[-1], expected.reshape(5, -1), rtol=1e-5,
                               atol=1e-5)


def test_image_from_a_flat_input(save):
    path = save([constant("s", [0, 2, -1, 6]), node("Reshape", ["x", "s"], ["i"]),
                 node("Conv", ["i", "K"], ["y"])], shape=("n", 84), K=K)
    assert read(path).layers[0].input_shape == (2, 7, 6)


def test_shapes_of_one_sample(save):
    """Without the batch; of an image that is flattened first, the image's."""
    network = read(save([node("Conv", ["x", "K"], ["y"])], shape=("n", 2, 7, 6), K=K))
    assert (network.input_shape, network.output_shape) == ((2, 7, 6), (3, 5, 5))
    network = read(save([node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "W"], ["y"], transB=1)],
                        shape=("n", 2, 4), W=W))
    assert (network.input_shape, network.output_shape) == ((2, 4), (3,))


def test_batch_norm_behind_a_linear_layer(save):
    path = save([GEMM, node("BatchNormalization", ["h", "g", "o", "m", "v"], ["y"])],
                W=W, B=B, **NORM)
    x = RNG.standard_normal((5, 8)).astype(np.float32)
    expected, = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_allclose(read(path).forward(x)[-1], expected, rtol=1e-5, atol=1e-5)


REJECTED_CONVS = {
    "groups": ([node("Conv", ["x", "G"], ["y"], name="bad", group=2)],
               "2 groups: write the grouped convolution as"),
    "channels": ([node("Conv", ["x", "G"], ["y"], name="bad")], "takes 1 channels, but 2 reach"),
    "1-d": ([node("Conv", ["x", "K1"], ["y"], name="bad")], "only 2-d convolutions can run"),
    "3-d": ([node("Conv", ["x", "K3"], ["y"], name="bad")], "only 2-d convolutions can run"),
    "transposed": ([node("ConvTranspose", ["x", "K"], ["y"], name="bad")],
                   "a transposed convolution cannot run"),
    "bias": ([node("Conv", ["x", "K", "V"], ["y"], name="bad")], r"its bias has shape \[2, 3\]"),
    "kernel shape": ([node("Conv", ["x", "K"], ["y"], name="bad", kernel_shape=[3, 3])],
                     r"its kernel_shape is \[3, 3\]"),
    "auto_pad": ([node("Conv", ["x", "K"], ["y"], name="bad", auto_pad="SAME")],
                 "its padding is 'SAME'"),
    "too large": ([node("Conv", ["x", "K"], ["y"], name="bad", dilations=[4, 1])],
                  "does not fit into an image"),
    "strides": ([node("Conv", ["x", "K"], ["y"], name="bad", strides=[1, 1, 1])],
                "stride must be 2 whole numbers"),
    "strides of SAME": (
        [node("Conv", ["x", "K"], ["y"], name="bad", auto_pad="SAME_UPPER", strides=[1, 0])],
        "its stride is"),
    "pads": ([node("Conv", ["x", "K"], ["y"], name="bad", pads=[1, -1, 0, 0])],
             "padding must be 4 whole numbers of at least 0"),
    "flat": ([node("Flatten", ["x"], ["f"]), node("Conv", ["f", "K"], ["y"], name="bad")],
             r"its input has 2 dimensions, not \[batch, channels, height, width\]"),
    "not flat": ([CONV, node("Gemm", ["h", "F"], ["y"], name="bad", transB=1)],
                 "its input has 4 dimensions, .*: flatten it first"),
    "constant per position": ([CONV, node("Add", ["h", "P"], ["y"], name="bad")],
                              "its bias has shape"),
    "batch norm behind ReLU": (
        [CONV, node("Relu", ["h"], ["r"]),
         node("BatchNormalization", ["r", "g", "o", "m", "v"], ["y"], name="bad")],
        "it normalises, but not directly after"),
    "batch norm in training": (
        [CONV, node("BatchNormalization", ["h", "g", "o", "m", "v"], ["y", "a", "b"], name="bad",
                    training_mode=1)], "evaluation mode"),
    "batch norm of others": (
        [CONV, node("BatchNormalization", ["h", "g", "o", "m", "v2"], ["y"], name="bad")],
        "not one per output of the 3 before it"),
    "pooling": ([CONV, node("MaxPool", ["h"], ["y"], name="bad", kernel_shape=[2, 2])],
                "a stride in its place"),
}


@pytest.mark.parametrize("name", REJECTED_CONVS)
def test_names_the_convolution_that_cannot_run(save, name):
    nodes, reason = REJECTED_CONVS[name]
    path = save(nodes, shape=("n", 2, 7, 6), K=K, B=B, F=F, V=V, G=K[:2, :1], K1=K[..., 0],
                K3=K[..., None], P=np.ones((5, 5), np.float32) * [[1], [1], [2], [1], [1]],
                v2=np.ones(2, np.float32), **NORM)
    with pytest.raises(BadInput, match=f"bad .*{reason}") as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("shape", [("n", 2, "h", 6), ("n", 2, 7, "w")])
def test_image_of_unknown_size(save, shape):
    with pytest.raises(BadInput, match="height and width of its input are not known: export the "
                                       "model with an input of fixed size"):
        read(save([CONV], shape=shape, outputs=("h",), K=K, B=B))


def test_convolution_behind_a_node_that_cannot_run(save):
    """The shape is known from the file, so only that node is in the way."""
    path = save([CONV, node("MaxPool", ["h"], ["p"], name="pool", kernel_shape=[2, 2]),
                 node("Conv", ["p", "L"], ["y"], name="last")], shape=("n", 2, 7, 6),
                K=K, B=B, L=V.reshape(2, 3, 1, 1))
    assert [(row["name"], row["engine"]) for row in inspect(path)] == [
        ("conv", "tensorcore"), ("pool", None), ("last", "tensorcore")]


def test_names_come_from_nodes_that_have_their_own(save):
    path = save([GEMM, node("Gemm", ["h", "V"], ["y"], transB=1)], W=W, B=B, V=V)
    assert [layer.name for layer in read(path).layers] == ["fc", "y"]


REJECTED = {
    "Softmax": (node("Softmax", ["h"], ["y"]), "leave it out"),
    "Sigmoid": (node("Sigmoid", ["h"], ["y"]), "train with ReLU"),
    "LeakyRelu": (node("LeakyRelu", ["h"], ["y"]), "train with ReLU"),
    "Transpose": (node("Transpose", ["h"], ["y"]), "take it out of the model"),
    "transA": (node("Gemm", ["h", "V"], ["y"], transA=1), "transA"),
    "weights first": (node("Gemm", ["V", "h"], ["y"]), "first operand"),
    "bias per sample": (node("Gemm", ["h", "V", "C"], ["y"], transB=1), "bias has shape"),
    "joined": (node("Add", ["h", "h"], ["y"]), "joins"),
    "branch": (node("Gemm", ["x", "V"], ["y"], transB=1), "a branch"),
    "width": (node("Gemm", ["h", "W"], ["y"], transB=1), "takes 8 inputs, but 3"),
    "integer weights": (node("Gemm", ["h", "I"], ["y"]), "float32 weights"),
    "flatten everything": (node("Flatten", ["h"], ["y"], axis=0), "behind the batch"),
    "reshape to nothing": (node("Reshape", ["h", "Z"], ["y"], allowzero=1),
                           r"reshapes to \[0, 3\] with allowzero = 1"),
    "reshape the batch": (node("Reshape", ["h", "S"], ["y"]), "not provably"),
    "constant only": (node("Transpose", ["V"], ["y"]), "constant folding"),
    "custom domain": (node("Gemm", ["h"], ["y"], domain="acme"), "acme::Gemm +only linear"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_names_the_node_that_cannot_run(save, name):
    bad, reason = REJECTED[name]
    bad.name = "culprit"
    path = save([GEMM, bad], W=W, B=B, V=V, C=np.ones((4, 1), np.float32),
                I=np.ones((3, 2), np.int32), S=np.array([-1, 1]), Z=np.array([0, 3]))
    with pytest.raises(BadInput, match=f"culprit.*{reason}"):
        read(path)


def test_rank_3_input_must_be_flattened(save):
    path = save([node("MatMul", ["x", "W"], ["y"], name="fc")], shape=("n", 4, 8), W=W.T)
    with pytest.raises(BadInput, match=r"fc .*flatten it first"):
        read(path)


def test_relu_before_the_first_layer(save):
    path = save([node("Relu", ["x"], ["r"]), node("Gemm", ["r", "W"], ["y"], transB=1)], W=W)
    with pytest.raises(BadInput, match="ReLU before the first layer"):
        read(path)


def test_dropout_in_training_mode(save):
    path = save([GEMM, node("Dropout", ["h", "", "T"], ["y"])], W=W, B=B, T=np.array(True))
    with pytest.raises(BadInput, match="evaluation mode"):
        read(path)


def residual(save):
    """conv - gemm - softmax, and an addition around the gemm."""
    return save([node("Conv", ["x", "K"], ["c"], name="conv1"),
                 node("Gemm", ["c", "W", "B"], ["h"], name="fc", transB=1),
                 node("Softmax", ["h"], ["s"], name="soft"),
                 node("Add", ["s", "c"], ["y"], name="skip")],
                W=W, B=B, K=np.ones((1, 8, 1), np.float32))


def test_one_table_lists_every_unsupported_node(save):
    with pytest.raises(BadInput) as caught:
        read(residual(save))
    sentence, header, *rows = str(caught.value).splitlines()
    assert sentence.endswith("has 3 nodes that the engine cannot run; change the model as the "
                             "table says and export it again.")
    assert header.split() == ["node", "operator", "reason"]
    assert [row.split()[:2] for row in rows] == [
        ["conv1", "Conv"], ["soft", "Softmax"], ["skip", "Add"]]


def test_table_cuts_long_names(save):
    with pytest.raises(BadInput) as caught:
        read(save([node("Softmax", ["x"], ["y"], name="s" * 120)]))
    assert str(caught.value).splitlines()[-1].split()[:2] == ["s" * 100, "Softmax"]


def test_inspect_shows_supported_and_unsupported(save):
    rows = inspect(residual(save))
    assert [(r["name"], r["kind"], r["engine"]) for r in rows] == [
        ("conv1", "Conv", None), ("fc", "linear", "tensorcore"), ("soft", "Softmax", None),
        ("skip", "Add", None)]
    assert rows[1]["shape"] == [3, 8]
    assert rows[1]["density"] == 1.0
    assert all(set(r) == {"name", "kind", "shape", "density", "pattern", "engine", "reason"}
               for r in rows)


PATTERNS = {
    "no zero": ([1, 2, 3, 4, 5, 6], "dense", "dense"),
    "one zero in four": ([1, 2, 0, 4], "unstructured", "unstructured"),
    "half": ([1, 0, 0, 4, 5, 6], "2:4", "2:4"),
    "three in a group": ([1, 0, 3, 4, 0, 0], "unstructured", "unstructured"),
    "the padded group counts": ([1, 0, 0, 0, 5], "1:4", "1:4"),
    "one in a group": ([0, 0, 3, 0, 0, 6, 0, 0], "1:4", "1:4"),
    "a quarter in 2:4": ([1, 2, 0, 0, 0, 0, 0, 0], "unstructured", "2:4"),
    "an eighth in 1:4": ([1, 0, 0, 0, 0, 0, 0, 0], "unstructured", "1:4"),
    "nothing": ([0, 0, 0, 0], "unstructured", "1:4"),
}


def row_layer(row, kind, quantised=None):
    """A layer of one output with these weights."""
    weight, bias = np.array([row], np.float32), np.zeros(1, np.float32)
    if kind == "linear":
        return Linear("fc", weight, bias, "none", quantised)
    return Conv2d("conv", weight.reshape(1, -1, 1, 1), bias, "none", (len(row), 3, 3), (1, 1),
                  (0, 0, 0, 0), (1, 1), quantised)


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name):
    row, linear, conv = PATTERNS[name]
    rows = inspect(Network((row_layer(row, "linear"),))) + inspect(
        Network((row_layer(row, "conv2d"),)))
    assert [each["pattern"] for each in rows] == [linear, conv]


@pytest.mark.parametrize(("name", "kind", "engine", "reason"), [
    ("no zero", "linear", "tensorcore", "dense mode: few weights are zero"),
    ("no zero", "conv2d", "tensorcore", "dense mode: few weights are zero"),
    ("half", "linear", "tensorcore", "2:4 skips 2 of 4 weights"),
    ("one in a group", "conv2d", "tensorcore", "1:4 skips 3 of 4 weights"),
    ("three in a group", "linear", "eie", "every zero weight is skipped"),
    ("three in a group", "conv2d", "tensorcore", "a convolution skips them only in a pattern"),
])
def test_engine_of_a_layer(name, kind, engine, reason):
    row, = inspect(Network((row_layer(PATTERNS[name][0], kind),)))
    assert (row["kind"], row["engine"]) == (kind, engine)
    assert reason in row["reason"]


def test_quantised_layers_are_for_the_tensor_core():
    weights = PATTERNS["three in a group"][0]
    own = Quantised(np.array([weights], np.int8), np.ones(1), np.zeros(1, np.int64),
                    TensorType((len(weights),), np.dtype(np.int8), 1.0),
                    TensorType((1,), np.dtype(np.int8), 1.0))
    row, = inspect(Network((row_layer(weights, "linear", own),)))
    assert (row["pattern"], row["engine"]) == ("unstructured", "tensorcore")
    assert "a quantised layer skips them only in a pattern" in row["reason"]


def test_two_inputs(save):
    path = save([node("MatMul", ["x", "z"], ["y"])], inputs=("x", "z"))
    with pytest.raises(BadInput, match=r"2 inputs \(x, z\); export a model with exactly one"):
        read(path)


def test_two_outputs(save):
    path = save([GEMM, node("Relu", ["h"], ["y"])], outputs=("h", "y"), W=W, B=B)
    with pytest.raises(BadInput, match="2 outputs"):
        read(path)


def test_nodes_behind_the_output(save):
    path = save([GEMM, node("Relu", ["h"], ["r"])], outputs=("h",), W=W, B=B)
    with pytest.raises(BadInput, match="ends in 'r', but its output is 'h'"):
        read(path)


def test_no_layer(save):
    with pytest.raises(BadInput, match="holds no linear layer"):
        read(save([node("Identity", ["x"], ["y"])]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weight_that_is_not_finite(save, value):
    weight = W.copy()
    weight[2, 5] = value
    path = save([node("Gemm", ["x", "W"], ["y"], name="fc", transB=1)], W=weight)
    with pytest.raises(BadInput, match=r"weight of layer 'fc' is (nan|inf) at \[2, 5\]"):
        read(path)


def test_bias_that_is_not_finite(save):
    path = save([GEMM], outputs=("h",), W=W, B=np.array([0, np.nan, 0], np.float32))
    with pytest.raises(BadInput, match=r"bias of layer 'fc' is nan at \[1\]"):
        read(path)


def test_alpha_that_overflows(save):
    path = save([node("Gemm", ["x", "W"], ["y"], transB=1, alpha=3e38)], W=100 * W)
    with pytest.raises(BadInput, match=r"weight of layer 'y' is -?inf"):
        read(path)


@pytest.mark.parametrize("value", [0.1, 1e300])
def test_double_that_float32_cannot_hold(save, value):
    weight = W.astype(np.float64)
    weight[1, 4] = value
    with pytest.raises(BadInput, match=r"'W' holds a double at \[1, 4\]"):
        read(save([node("Gemm", ["x", "W"], ["y"], transB=1)], W=weight))


def test_old_opset(save):
    path = save([node("Gemm", ["x", "W", "B"], ["y"], transB=1)], opset=6, W=W, B=B)
    with pytest.raises(BadInput, match="opset 6; export it with opset 7"):
        read(path)


def test_operator_that_does_not_exist(save):
    with pytest.raises(BadInput, match="not a valid ONNX model"):
        read(save([node("Nonsense", ["x"], ["y"])]))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("empty.onnx", b"", "is empty"),
    ("text.onnx", b"hello world", "not a valid ONNX model"),
    ("model.txt", b"hello", "no model file by its name"),
])
def test_file_that_is_no_model(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read(tmp_path / name)


def test_missing_file_and_directory(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(BadInput, match="No such file"):
        read(tmp_path / "missing.onnx")
    with pytest.raises(BadInput, match="Is a directory"):
        read(tmp_path / "folder.onnx")


def test_damaged_files_never_raise_anything_else(save):
    small = node("Conv", ["x", "L", "B"], ["h"], auto_pad="SAME_UPPER", strides=[2, 1], group=1)
    path = save([small, node("BatchNormalization", ["h", "g", "o", "m", "v"], ["n"]),
                 node("Relu", ["n"], ["r"]), constant("s", [0, -1]),
                 node("Reshape", ["r", "s"], ["f"]), node("Gemm", ["f", "G"], ["y"], transB=1)],
                shape=("n", 2, 3, 2), L=K[:, :, :2], B=B, G=F[:, :12], **NORM)
    original = path.read_bytes()
    damaged = [original[:n] for n in range(1, len(original), 7)]
    for _ in range(500):
        content = bytearray(original)
        content[RNG.integers(len(content))] ^= 1 << RNG.integers(8)
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read(path)
        except BadInput:
            refused += 1
    assert refused > 100


def network():
    return Network((Linear("a", W, B, "relu"), Linear("b", V, np.zeros(2, np.float32), "none")))


def images():
    """conv - conv - linear - conv: an image at both ends, and vectors between."""
    first = Conv2d("c1", K, B, "relu", (2, 7, 6), (2, 1), (1, 2, 0, 1), (1, 2))
    second = Conv2d("c2", V.reshape(2, 3, 1, 1), B[:2], "none", first.output_shape, (1, 2),
                    (0, 0, 0, 0), (1, 1))
    flat = Linear("fc", RNG.standard_normal((8, second.outputs)).astype(np.float32),
                  np.zeros(8, np.float32), "relu")
    last = Conv2d("c3", K[:, :, :2, :2].copy(), B, "none", (2, 2, 2), (1, 1), (0, 1, 0, 0), (1, 1))
    return Network((first, second, flat, last))


@pytest.mark.parametrize("make", [network, images])
def test_written_file_reads_back_the_same(tmp_path, make):
    path, given = tmp_path / "out.onnx", make()
    to_onnx(given, path)
    onnx.checker.check_model(str(path), full_check=True)
    for before, after in zip(given.layers, read(path).layers, strict=True):
        assert type(before) is type(after)
        assert (before.name, before.activation) == (after.name, after.activation)
        assert before.geometry == after.geometry
        np.testing.assert_array_equal(before.weight, after.weight)
        np.testing.assert_array_equal(before.bias, after.bias)


def test_written_file_computes_the_same(tmp_path):
    path, given = tmp_path / "out.onnx", images()
    to_onnx(given, path)
    x = RNG.standard_normal((3, 2, 7, 6)).astype(np.float32)
    y, = ReferenceEvaluator(str(path)).run(None, {"input": x})
    assert y.shape == (3, *given.layers[-1].output_shape)
    np.testing.assert_allclose(y.reshape(3, -1), given.forward(x)[-1], rtol=1e-4, atol=1e-4)


def test_quantised_layers_are_not_written(tmp_path):
    own = Quantised(np.ones((1, 1), np.int8), np.ones(1), np.zeros(1, np.int64),
                    TensorType((1,), np.dtype(np.int8), 1.0),
                    TensorType((1,), np.dtype(np.int8), 1.0))
    with pytest.raises(BadInput, match="layer fc is quantised, and only float networks can be"):
        to_onnx(Network((row_layer([1], "linear", own),)), tmp_path / "out.onnx")


def test_write_into_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none/out\.onnx"):
        to_onnx(network(), tmp_path / "none" / "out.onnx")


def test_without_torch(monkeypatch):
    monkeypatch.setattr(frontend, "find_spec", lambda _name: None)
    with pytest.raises(ToolMissing, match=r"pip install 'zeroskip\[train\]'"):
        frontend.from_torch(None)


def test_reading_imports_no_torch():
    code = ("import sys, zeroskip.sw.frontends.load, zeroskip.sw.prune.recipe, "
            "zeroskip.sw.experiments.digits; sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
