"""ONNX files: what is read equals the reference evaluator, layers and operators of the host alike;
what no engine takes says why, and so does what cannot be read."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from zeroskip.sw.compiler.placement import inspect
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.frontends.load import read, to_onnx
from zeroskip.sw.graph.graph import Graph, OperatorNode
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
        helper.make_opsetid("", opset), helper.make_opsetid("acme", 1),
        helper.make_opsetid("com.microsoft", 1)])


@pytest.fixture
def save(tmp_path):
    def write(nodes, **rest):
        path = tmp_path / "model.onnx"
        path.write_bytes(model(nodes, **rest).SerializeToString())
        return path
    return write


def evaluated(path, **inputs):
    """The outputs of the graph and those of the reference evaluator, one sample after another."""
    graph, model = read(path), ReferenceEvaluator(onnx.load(path))
    found = graph.evaluate(inputs, graph.outputs)
    expected = [model.run(None, {name: x[i:i + 1] for name, x in inputs.items()})
                for i in range(len(next(iter(inputs.values()))))]
    return [(found[name], np.stack([each[at].ravel() for each in expected]))
            for at, name in enumerate(graph.outputs)]


def check(path, **inputs):
    for found, expected in evaluated(path, **inputs):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def operators(path):
    """The host's operators and why no engine takes them."""
    return [(node.operator, node.reason) for node in read(path).nodes
            if isinstance(node, OperatorNode)]


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
    "transposed by a node": (
        [node("Transpose", ["W"], ["T"]), node("MatMul", ["x", "T"], ["y"])], {"W": W}),
    "weights of half the width": (
        [node("Cast", ["W", ], ["C"], to=TensorProto.FLOAT),
         node("Gemm", ["x", "C"], ["y"], transB=1)], {"W": W.astype(np.float16)}),
    "weights of another float": (
        [node("Cast", ["W", ], ["C"], to=TensorProto.FLOAT),
         node("Gemm", ["x", "C"], ["y"], transB=1)], {"W": W.astype(ml_dtypes.bfloat16)}),
    "doubles that float32 holds": (
        [node("Cast", ["W", ], ["C"], to=TensorProto.FLOAT),
         node("Gemm", ["x", "C"], ["y"], transB=1)], {"W": W.astype(np.float64)}),
    "an initialiser that nothing reads": (
        [node("Gemm", ["x", "W"], ["y"], transB=1)], {"W": W, "unused": B}),
}
"""What is a chain of layers."""


@pytest.mark.parametrize("name", CHAINS)
def test_equals_the_reference_evaluator(save, name):
    nodes, constants = CHAINS[name]
    path = save(nodes, **constants)
    x = RNG.standard_normal((5, 8)).astype(np.float32)
    check(path, x=x)
    expected, = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_allclose(read(path).network().forward(x)[-1], expected, rtol=1e-5, atol=1e-5)


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
    np.testing.assert_allclose(read(path).network().forward(x)[-1], expected, rtol=1e-5, atol=1e-6)


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
    found = read(path).network().forward(x)[-1]
    np.testing.assert_allclose(found, expected.reshape(5, -1), rtol=1e-5, atol=1e-5)


def test_image_from_a_flat_input(save):
    path = save([constant("s", [0, 2, -1, 6]), node("Reshape", ["x", "s"], ["i"]),
                 node("Conv", ["i", "K"], ["y"])], shape=("n", 84), K=K)
    assert read(path).network().layers[0].input_shape == (2, 7, 6)


def test_shapes_of_one_sample(save):
    """Without the batch; of an image that is flattened first, the image's."""
    network = read(save([node("Conv", ["x", "K"], ["y"])], shape=("n", 2, 7, 6), K=K)).network()
    assert (network.input_shape, network.output_shape) == ((2, 7, 6), (3, 5, 5))
    network = read(save([node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "W"], ["y"], transB=1)],
                        shape=("n", 2, 4), W=W)).network()
    assert (network.input_shape, network.output_shape) == ((2, 4), (3,))


def test_batch_norm_behind_a_linear_layer(save):
    path = save([GEMM, node("BatchNormalization", ["h", "g", "o", "m", "v"], ["y"])],
                W=W, B=B, **NORM)
    x = RNG.standard_normal((5, 8)).astype(np.float32)
    expected, = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_allclose(read(path).network().forward(x)[-1], expected, rtol=1e-5, atol=1e-5)


OTHER_CONVS = {
    "groups": ([node("Conv", ["x", "G"], ["y"], group=2)], ("n", 2, 7, 6)),
    "depthwise": ([node("Conv", ["x", "G"], ["y"], group=2, strides=[2, 1], pads=[1, 0, 2, 1],
                        dilations=[1, 2])], ("n", 2, 7, 6)),
    "one dimension": ([node("Conv", ["x", "K1", "B"], ["y"])], ("n", 2, 7)),
    "one dimension, padded, strided and dilated": (
        [node("Conv", ["x", "K1"], ["y"], pads=[2, 1], strides=[2], dilations=[2])], ("n", 2, 7)),
    "one dimension, SAME": (
        [node("Conv", ["x", "K1"], ["y"], auto_pad="SAME_UPPER", strides=[2])], ("n", 2, 7)),
    "one dimension, groups": ([node("Conv", ["x", "G1"], ["y"], group=2)], ("n", 2, 7)),
    "linear over the last dimension": (
        [CONV, node("MatMul", ["h", "T"], ["y"])], ("n", 2, 7, 6)),
}


@pytest.mark.parametrize("name", OTHER_CONVS)
def test_other_convolutions_are_layers(save, name):
    nodes, shape = OTHER_CONVS[name]
    path = save(nodes, shape=shape, K=K, B=B, G=np.ascontiguousarray(K[:2, :1]), K1=K[..., 0],
                G1=np.ascontiguousarray(K[:2, :1, :, 0]), T=F[:, :5].T.copy())
    check(path, x=RNG.standard_normal((3, *shape[1:])).astype(np.float32))
    assert not operators(path)


HOST_CONVS = {
    "3-d": ([node("Conv", ["x3", "K3"], ["y"])], "convolutions over one or two dimensions can run"),
    "constant per position": ([CONV, node("Add", ["h", "P"], ["y"])], ""),
    "batch norm behind ReLU": (
        [CONV, node("Relu", ["h"], ["r"]),
         node("BatchNormalization", ["r", "g", "o", "m", "v"], ["y"])], ""),
    "pooling": ([CONV, node("MaxPool", ["h"], ["y"], kernel_shape=[2, 2])], ""),
    "computed weights": ([node("Conv", ["x", "x"], ["y"])],
                         "its second operand is computed, not weights"),
}


@pytest.mark.parametrize("name", HOST_CONVS)
def test_what_else_the_host_computes(save, name):
    nodes, reason = HOST_CONVS[name]
    path = save(([node("Unsqueeze", ["x", "axes"], ["x3"])] if name == "3-d" else []) + nodes,
                shape=("n", 2, 7, 6), K=K, B=B,
                K3=K[..., None], P=np.float32([[1] * 5, [2] * 5, *[[1] * 5] * 3]),
                axes=np.array([4]), **NORM)
    (operator, why), = operators(path)
    assert operator == nodes[-1].op_type
    assert reason in why
    assert bool(reason) == bool(why)
    check(path, x=RNG.standard_normal((3, 2, 7, 6)).astype(np.float32))


NO_CONVS = {
    "channels": node("Conv", ["x", "G"], ["y"]),
    "bias": node("Conv", ["x", "K", "V"], ["y"]),
    "kernel shape": node("Conv", ["x", "K"], ["y"], kernel_shape=[3, 3]),
    "too large": node("Conv", ["x", "K"], ["y"], dilations=[4, 1]),
    "strides": node("Conv", ["x", "K"], ["y"], strides=[1, 1, 1]),
    "strides of SAME": node("Conv", ["x", "K"], ["y"], auto_pad="SAME_UPPER", strides=[1, 0]),
    "pads": node("Conv", ["x", "K"], ["y"], pads=[1, -1, 0, 0]),
}


@pytest.mark.parametrize("name", NO_CONVS)
def test_convolutions_that_do_not_fit(save, name):
    """Some are refused when the shapes are worked out, the others when onnxruntime takes them."""
    path = save([NO_CONVS[name]], shape=("n", 2, 7, 6), K=K, B=B, V=V,
                G=np.ascontiguousarray(K[:2, :1]))
    with pytest.raises(BadInput) as caught:
        read(path).evaluate({"x": np.zeros((1, 2, 7, 6), np.float32)}, ("y",))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("shape", [("n", 2, "h", 6), ("n", 2, 7, "w")])
def test_image_of_unknown_size(save, shape):
    path = save([CONV], shape=shape, outputs=("h",), K=K, B=B)
    with pytest.raises(BadInput, match=r"'x' is \[n, 2, .*all but the batch must be known; say it "
                                       r"with --input-shape, such as x:1,2,"):
        read(path)
    given = read(path, {"x": (1, 2, 7, 6)})
    assert given.types["h"].shape == (1, 3, 5, 5)


@pytest.mark.parametrize(("shapes", "message"), [
    ({"z": (1, 2)}, "has no input 'z'; its inputs are x"),
    ({"x": (1, 2, 7)}, r"'x' is \[n, 2, h, 6\], which cannot be \[1, 2, 7\]"),
    ({"x": (1, 3, 7, 6)}, r"'x' is \[n, 2, h, 6\], which cannot be \[1, 3, 7, 6\]"),
    ({"x": (1, 2, 0, 6)}, "which holds no values; give it a shape with sizes of 1 or more"),
    ({"x": (1, 2, 1 << 40, 6)}, "the values of a run take")])
def test_shapes_that_do_not_fit(save, shapes, message):
    with pytest.raises(BadInput, match=message):
        read(save([CONV], shape=("n", 2, "h", 6), outputs=("h",), K=K, B=B), shapes)


def test_convolution_behind_a_node_of_the_host(save):
    path = save([CONV, node("MaxPool", ["h"], ["p"], name="pool", kernel_shape=[2, 2]),
                 node("Conv", ["p", "L"], ["y"], name="last")], shape=("n", 2, 7, 6),
                K=K, B=B, L=V.reshape(2, 3, 1, 1))
    assert [(row["name"], row["engine"]) for row in inspect(read(path))] == [
        ("conv", "tensorcore"), ("pool", "host"), ("last", "tensorcore")]


def test_names_come_from_nodes_that_have_their_own(save):
    path = save([GEMM, node("Gemm", ["h", "V"], ["y"], transB=1)], W=W, B=B, V=V)
    assert [layer.name for layer in read(path).layers] == ["fc", "y"]


HOST = {
    "Softmax": (node("Softmax", ["h"], ["y"]), ""),
    "Sigmoid": (node("Sigmoid", ["h"], ["y"]), ""),
    "LeakyRelu": (node("LeakyRelu", ["h"], ["y"]), ""),
    "transA": (node("Gemm", ["h", "A"], ["y"], transA=1), "transA"),
    "weights first": (node("MatMul", ["V", "h3"], ["y"]), "its weights are its first operand"),
    "bias per sample": (node("Gemm", ["h", "V", "C"], ["y"], transB=1), "its bias has shape"),
    "added to itself": (node("Add", ["h", "h"], ["y"]), ""),
    "two computed operands": (node("MatMul", ["h", "h3"], ["y"]), "its second operand is computed"),
    "weights of three dimensions": (node("MatMul", ["h", "V3"], ["y"]),
                                    "its weight has shape"),
}


@pytest.mark.parametrize("name", HOST)
def test_operators_of_the_host(save, name):
    bad, reason = HOST[name]
    path = save([GEMM, node("Reshape", ["h", "S"], ["h3"]), bad], W=W, B=B, V=V, A=V[:, :1].T @ V,
                C=np.float32([[1, 2]]), S=np.array([3, 1]), V3=np.stack([V.T, V.T]))
    if name == "bias per sample":   # one sample a run, two places of the outputs
        path = save([node("Reshape", ["x", "S"], ["x2"]), node("Gemm", ["x2", "T", "C"], ["y"])],
                    T=W[:, :4].T.copy(), C=np.float32([[1], [2]]), S=np.array([2, 4]))
    (operator, why), = operators(path)
    assert operator == bad.op_type
    assert reason in why
    assert bool(reason) == bool(why)
    check(path, x=RNG.standard_normal((4, 8)).astype(np.float32))


LAYERS = {
    "a branch": [GEMM, node("Gemm", ["x", "W"], ["g"], transB=1), node("Add", ["h", "g"], ["y"])],
    "flatten everything": [GEMM, node("Flatten", ["h"], ["f"], axis=0),
                           node("Gemm", ["f", "V"], ["y"], transB=1)],
    "tokens": [node("Reshape", ["x", "S"], ["t"]), node("MatMul", ["t", "T"], ["m"]),
               node("Add", ["m", "B"], ["a"]), node("Relu", ["a"], ["y"])],
    "one dimension": [node("Reshape", ["x", "E"], ["t"]), node("MatMul", ["t", "WT"], ["y"])],
    "four dimensions": [node("Reshape", ["x", "S4"], ["t"]), node("MatMul", ["t", "T"], ["y"])],
    "ReLU before the first layer": [node("Relu", ["x"], ["r"]),
                                    node("Gemm", ["r", "W"], ["y"], transB=1)],
    "weights shared by two layers": [
        GEMM, node("Relu", ["h"], ["r"]), node("Gemm", ["r", "Q"], ["s"]),
        node("Relu", ["s"], ["t"]), node("Gemm", ["t", "Q"], ["y"])],
    "a scale behind a product": [GEMM, node("Mul", ["h", "B"], ["y"])],
}
"""And how many of the nodes are layers."""


@pytest.mark.parametrize(("name", "count"), [
    *zip(LAYERS, (2, 2, 1, 1, 1, 1, 3, 1), strict=True)])
def test_layers_of_a_graph(save, name, count):
    path = save(LAYERS[name], W=W, WT=W.T.copy(), B=B, V=V, T=W[:, :4].T.copy(), Q=B[:, None] * B,
                S=np.array([1, 2, 4]), S4=np.array([1, 2, 1, 4]), E=np.array([8]))
    assert len(read(path).layers) == count
    check(path, x=RNG.standard_normal((4, 8)).astype(np.float32))


REFUSED = {
    "inputs that do not fit": (node("Gemm", ["h", "W"], ["y"], transB=1), "culprit"),
    "custom domain": (node("Gemm", ["h"], ["y"], domain="acme"),
                      r"acme::Gemm \('culprit'\) is an operator that ONNX does not have"),
    "random": (node("RandomNormalLike", ["h"], ["y"]),
               r"RandomNormalLike \('culprit'\) is drawn anew on each run"),
    "control flow": (helper.make_node(
        "If", ["c"], ["y"],
        then_branch=helper.make_graph([node("Relu", ["h"], ["a"])], "then", [],
                                      [helper.make_tensor_value_info("a", 1, None)]),
        else_branch=helper.make_graph([node("Neg", ["h"], ["b"])], "else", [],
                                      [helper.make_tensor_value_info("b", 1, None)])),
        r"If \('culprit'\) is control flow, which is decided while the model runs"),
    "a shape by the data": (node("NonZero", ["h"], ["y"]),
                            "the shape of 'y' depends on the values of the inputs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run(save, name):
    bad, reason = REFUSED[name]
    bad.name = "culprit"
    path = save([GEMM, node("ReduceSum", ["h"], ["s"], keepdims=0),
                 node("Greater", ["s", "zero"], ["c"]), bad], W=W, B=B, zero=np.float32(0))
    with pytest.raises(BadInput, match=reason) as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_cycle(save):
    path = save([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]),
                 node("Relu", ["b"], ["y"])])
    with pytest.raises(BadInput, match="is not a valid ONNX model .*topologically sorted"):
        read(path)


@pytest.mark.parametrize(("operator", "operands"), [
    ("ConstantOfShape", ["s"]), ("Expand", ["one", "s"]), ("Tile", ["row", "s"]),
    ("Range", ["zero", "far", "one"])])
def test_constants_that_would_fill_the_memory(save, operator, operands):
    path = save([node(operator, operands, ["big"]), node("ReduceMax", ["big"], ["m"]),
                 node("Add", ["x", "m"], ["y"])], s=np.array([1 << 20, 1 << 20]),
                one=np.float32(1), zero=np.float32(0), far=np.float32(1e12),
                row=np.ones((1, 1), np.float32))
    with pytest.raises(BadInput, match="the values of a run take .* bytes, at most"):
        read(path)


def test_weights_that_are_sparse(save):
    path = save([GEMM], outputs=("h",), W=W, B=B)
    given = onnx.load(path)
    sparse = given.graph.sparse_initializer.add(dims=[3, 8])
    sparse.values.CopyFrom(numpy_helper.from_array(np.float32([1]), "W"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([3]), "W:indices"))
    del given.graph.initializer[0]
    path.write_bytes(given.SerializeToString())
    with pytest.raises(BadInput, match="keeps the tensor 'W' sparsely; export it with dense"):
        read(path)


@pytest.mark.parametrize("width", [8, 4096], ids=["small", "large"])
def test_data_that_do_not_fit_their_tensor(save, width):
    path = save([node("Gemm", ["x", "W"], ["y"], transB=1)], shape=("n", width),
                W=np.ones((3, width), np.float32))
    given = onnx.load(path)
    given.graph.initializer[0].raw_data = given.graph.initializer[0].raw_data[:-4]
    path.write_bytes(given.SerializeToString())
    with pytest.raises(BadInput):
        read(path)


@pytest.mark.parametrize("name", ["QLinearAveragePool", "FusedGemm"])
def test_operators_of_onnxruntime_alone(save, name):
    """Of those that it makes while it optimises, and of an order of axes that ONNX has not."""
    more = {"channels_last": 1} if name == "QLinearAveragePool" else {}
    path = save([GEMM, node(name, ["h", "B", "B", "B", "B"], ["y"], domain="com.microsoft",
                            name="own", **more)], W=W, B=B)
    with pytest.raises(BadInput, match=f"com.microsoft::{name} .'own'. is an operator that ONNX "
                                       "does not have"):
        read(path)


def test_dropout_in_training_mode(save):
    """Its mask is drawn anew."""
    path = save([GEMM, node("Dropout", ["h", "", "T"], ["y"])], W=W, B=B, T=np.array(True))
    with pytest.raises(BadInput, match="Dropout .* is drawn anew on each run"):
        read(path)


def residual(save):
    """conv - gemm - softmax, and an addition around the gemm."""
    return save([node("Conv", ["x", "K"], ["c"], name="conv1"), node("Flatten", ["c"], ["f"]),
                 node("Gemm", ["f", "W", "B"], ["h"], name="fc", transB=1),
                 node("Softmax", ["h"], ["s"], name="soft"),
                 node("Add", ["s", "one"], ["t"], name="skip"), node("Add", ["t", "h"], ["y"])],
                shape=("n", 2, 2, 6), W=W, B=B, K=np.ones((1, 2, 1, 3), np.float32), one=B[:1])


def test_one_table_lists_every_node_of_the_host(save):
    with pytest.raises(BadInput) as caught:
        read(residual(save)).network()
    sentence, header, *rows = str(caught.value).splitlines()
    assert sentence.endswith("has 3 nodes that no engine computes, and only a chain of layers can "
                             "be changed here.")
    assert header.split() == ["node", "operator", "reason"]
    assert [row.split()[:2] for row in rows] == [["soft", "Softmax"], ["skip", "Add"], ["y", "Add"]]


def test_table_cuts_long_names(save):
    with pytest.raises(BadInput) as caught:
        read(save([node("Softmax", ["x"], ["y"], name="s" * 120)])).network()
    assert str(caught.value).splitlines()[-1].split()[:2] == ["s" * 100, "Softmax"]


def test_inspect_shows_layers_and_the_host(save):
    rows = inspect(read(residual(save)))
    assert [(r["name"], r["kind"], r["engine"]) for r in rows] == [
        ("conv1", "conv2d", "tensorcore"), ("fc", "linear", "tensorcore"),
        ("soft", "Softmax", "host"), ("skip", "Add", "host"), ("y", "Add", "host")]
    assert rows[1]["shape"] == [3, 8]
    assert rows[1]["density"] == 1.0
    assert all(set(r) == {"name", "kind", "shape", "density", "pattern", "engine", "macs", "cycles",
                          "bytes", "reason"} for r in rows)


PATTERNS = {
    "no zero": ([1, 2, 3, 4, 5, 6], "dense", "dense"),
    "one zero in four": ([1, 2, 0, 4], "unstructured", "unstructured"),
    "half": ([1, 0, 0, 4, 5, 6], "2:4", "2:4"),
    "three in a group": ([1, 0, 3, 4, 0, 0], "unstructured", "unstructured"),
    "the padded group counts": ([1, 0, 0, 0, 5], "1:4", "1:4"),
    "one in a group": ([0, 0, 3, 0, 0, 6, 0, 0], "1:4", "1:4"),
    "a quarter in 2:4": ([1, 2, 0, 0, 0, 0, 0, 0], "2:4", "2:4"),
    "an eighth in 1:4": ([1, 0, 0, 0, 0, 0, 0, 0], "1:4", "1:4"),
    "nothing": ([0, 0, 0, 0], "1:4", "1:4"),
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
    rows = [inspect(Graph.of(Network((row_layer(row, kind),))))[0]
            for kind in ("linear", "conv2d")]
    assert [each["pattern"] for each in rows] == [linear, conv]


@pytest.mark.parametrize(("name", "kind", "engine", "reason"), [
    ("no zero", "linear", "tensorcore", "dense mode: few weights are zero"),
    ("no zero", "conv2d", "tensorcore", "dense mode: few weights are zero"),
    ("half", "linear", "tensorcore", "2:4 skips 2 of 4 weights"),
    ("one in a group", "conv2d", "tensorcore", "1:4 skips 3 of 4 weights"),
    ("three in a group", "linear", "tensorcore", "a layer skips them only in a pattern"),
    ("three in a group", "conv2d", "tensorcore", "a convolution skips them only in a pattern"),
])
def test_engine_of_a_layer(name, kind, engine, reason):
    row, = inspect(Graph.of(Network((row_layer(PATTERNS[name][0], kind),))))
    assert (row["kind"], row["engine"]) == (kind, engine)
    assert reason in row["reason"]


def test_a_layer_with_few_weights_is_for_the_array():
    """Of 640 x 96 weights one in 32 is not zero, three of them in one group."""
    weight = np.zeros((640, 96), np.float32)
    weight[:, ::40], weight[0, 1:3] = 1, 1
    row, = inspect(Graph.of(Network((Linear("fc", weight, np.zeros(640, np.float32), "none"),))))
    assert (row["pattern"], row["engine"]) == ("unstructured", "eie")
    assert "every zero weight is skipped. Cycles a sample: " in row["reason"]


def test_quantised_layers_are_for_the_tensor_core():
    weights = PATTERNS["three in a group"][0]
    own = Quantised(np.array([weights], np.int8), np.ones(1), np.zeros(1, np.int64),
                    TensorType((len(weights),), np.dtype(np.int8), 1.0),
                    TensorType((1,), np.dtype(np.int8), 1.0))
    row, = inspect(Graph.of(Network((row_layer(weights, "linear", own),))))
    assert (row["pattern"], row["engine"]) == ("unstructured", "tensorcore")
    assert "a quantised layer skips them only in a pattern" in row["reason"]


def test_two_inputs(save):
    path = save([node("Gemm", ["x", "W"], ["h"], transB=1), node("Gemm", ["z", "W"], ["g"],
                                                                 transB=1),
                 node("Concat", ["h", "g"], ["y"], axis=1)], inputs=("x", "z"), W=W)
    check(path, x=RNG.standard_normal((3, 8)).astype(np.float32),
          z=RNG.standard_normal((3, 8)).astype(np.float32))
    assert len(read(path).layers) == 2


def test_two_outputs(save):
    """A value that is an output has no ReLU folded into it."""
    path = save([GEMM, node("Relu", ["h"], ["y"])], outputs=("h", "y"), W=W, B=B)
    check(path, x=RNG.standard_normal((3, 8)).astype(np.float32))
    assert read(path).layers[0].layer.activation == "none"


def test_an_output_that_does_not_depend_on_the_input(save):
    path = save([GEMM, node("Neg", ["B"], ["y"])], outputs=("h", "y", "B"), W=W, B=B)
    check(path, x=RNG.standard_normal((3, 8)).astype(np.float32))


def test_nodes_behind_the_output(save):
    """They do not count."""
    graph = read(save([GEMM, node("Relu", ["h"], ["r"]), node("Softmax", ["r"], ["s"])],
                      outputs=("h",), W=W, B=B))
    assert [node.name for node in graph.nodes] == ["fc"]
    assert graph.network().layers[0].activation == "none"


def test_no_layer(save):
    with pytest.raises(BadInput, match="holds no linear layer"):
        read(save([node("Identity", ["x"], ["y"])])).network()


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
    damaged = [original[:n] for n in range(1, len(original), 29)]
    for _ in range(100):
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
    assert refused > 40


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
    for before, after in zip(given.layers, read(path).network().layers, strict=True):
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
        frontend.from_torch(None, ())


def test_reading_imports_no_torch():
    code = ("import sys, zeroskip.sw.frontends.load, zeroskip.sw.prune.recipe, "
            "zeroskip.sw.experiments.digits; sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
