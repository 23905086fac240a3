"""Graphs of every structure that people bring: what is evaluated, layers in numpy and the rest in
onnxruntime, equals onnxruntime on the file as it is."""

from itertools import pairwise

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from zeroskip.sw.frontends.load import read
from zeroskip.sw.graph.graph import OperatorNode

IMAGE = "float[N,4,6,6] x"
VECTOR = "float[N,8] x"
TOKENS = "float[N,5,8] x"
SIZES = {"A": (8, 4, 3, 3), "B": (8, 8, 3, 3), "D": (4, 1, 3, 3), "P": (8, 4, 1, 1),
         "G": (8, 2, 3, 3), "S": (8, 8), "R": (8, 8), "W": (6, 8), "U": (8, 6), "T": (4, 4, 2, 2),
         "L": (8, 4, 3), "a": (8,), "c": (4,), "w": (6,), "m": (8,), "v": (8,), "E": (10, 8),
         "F": (3, 144), "H": (1, 24, 8), "I": (1, 24, 8), "J": (1, 48)}
STRUCTURES = {
    "flatten first": (IMAGE, "f = Flatten (x) y = Gemm <transB=1> (f, F)", ""),
    "functional ReLU and dropout": (
        VECTOR, "h = Gemm <transB=1> (x, W, w) r = Relu (h) d = Dropout (r) y = MatMul (d, W)", ""),
    "normalised input": (VECTOR, "s = Sub (x, a) n = Div (s, v) y = MatMul (n, U)", "Sub Div"),
    "max pooling": (IMAGE, "h = Conv (x, A, a) p = MaxPool <kernel_shape=[2, 2]> (h)"
                    " y = Flatten (p)", "MaxPool"),
    "average pooling and softmax": (
        IMAGE, "h = Conv (x, A, a) g = GlobalAveragePool (h) f = Flatten (g)"
        " l = Gemm <transB=1> (f, W) y = Softmax (l)", "GlobalAveragePool Softmax"),
    "batch norm in front": (
        IMAGE, "n = BatchNormalization (x, c, c, c, cc) y = Conv (n, A, a)", "BatchNormalization"),
    "batch norm behind ReLU": (
        IMAGE, "h = Conv (x, A) r = Relu (h) y = BatchNormalization (r, a, m, m, v)",
        "BatchNormalization"),
    "batch norm behind a convolution": (
        IMAGE, "h = Conv (x, A) n = BatchNormalization (h, a, m, m, v) y = Relu (n)", ""),
    "residual": (IMAGE, "h = Conv <pads=[1, 1, 1, 1]> (x, A, a) r = Relu (h)"
                 " g = Conv <pads=[1, 1, 1, 1]> (r, B) s = Add (g, r) y = Relu (s)", "Add Relu"),
    "depthwise and ReLU6": (
        IMAGE, "h = Conv <group=4> (x, D) r = Clip (h, nought, six) y = Conv (r, P, a)", "Clip"),
    "two branches": (IMAGE, "h = Conv (x, A, a) g = Conv <pads=[0, 0, 0, 0]> (x, A)"
                     " y = Concat <axis=1> (h, g)", "Concat"),
    "squeeze and excitation": (
        IMAGE, "h = Conv (x, A, a) g = GlobalAveragePool (h) f = Flatten (g) s = MatMul (f, S)"
        " r = Relu (s) t = MatMul (r, R) e = Sigmoid (t) u = Unsqueeze (e, axes) y = Mul (h, u)",
        "GlobalAveragePool Sigmoid Mul"),
    "SiLU": (VECTOR, "h = MatMul (x, S) s = Sigmoid (h) y = Mul (h, s)", "Sigmoid Mul"),
    "hard swish": (VECTOR, "h = MatMul (x, S) y = HardSwish (h)", "HardSwish"),
    "GELU by its parts": (
        VECTOR, "h = MatMul (x, S) d = Div (h, root) e = Erf (d) o = Add (e, one) t = Mul (h, o)"
        " y = Mul (t, half)", "Div Erf Add Mul Mul"),
    "leaky ReLU and tanh": (VECTOR, "h = MatMul (x, S) l = LeakyRelu (h) y = Tanh (l)",
                            "LeakyRelu Tanh"),
    "grouped convolution": (IMAGE, "y = Conv <group=2, strides=[2, 1]> (x, G, a)", ""),
    "one dimension": ("float[N,4,9] x", "y = Conv <dilations=[2], pads=[2, 1]> (x, L, a)", ""),
    "decoder": (IMAGE, "h = Conv <pads=[1, 1, 1, 1]> (x, A, a) p = MaxPool <kernel_shape=[2, 2],"
                " strides=[2, 2]> (h) u = Resize (p, , scales) k = Concat <axis=1> (u, x)"
                " t = ConvTranspose (x, T) y = Concat <axis=1> (k, x)", "MaxPool Resize Concat"
                " Concat"),
    "channels last": ("float[N,6,6,4] x", "t = Transpose <perm=[0, 3, 1, 2]> (x)"
                      " p = Pad <mode=\"reflect\"> (t, pads) y = Conv (p, A, a)", "Transpose Pad"),
    "GRU": (TOKENS, "t = Transpose <perm=[1, 0, 2]> (x) g, l = GRU <hidden_size=8, clip=0.5>"
            " (t, H, I, J) s = Squeeze (l, zero) y = MatMul (s, U)", "GRU"),
    "embedding": ("int64[N,5] x", "e = Gather (E, x) s = ReduceMean <axes=[1], keepdims=0> (e)"
                  " y = Gemm <transB=1> (s, W, w)", "Gather ReduceMean"),
    "layer norm on tokens": (
        TOKENS, "n = LayerNormalization (x, a, m) h = MatMul (n, U) b = Add (h, w) y = Relu (b)",
        "LayerNormalization"),
    "attention": (TOKENS, "q = MatMul (x, S) k = MatMul (x, R) t = Transpose <perm=[0, 2, 1]> (k)"
                  " p = MatMul (q, t) s = Softmax (p) y = MatMul (s, x)",
                  "Transpose MatMul Softmax MatMul"),
    "argmax": (VECTOR, "h = MatMul (x, U) y = ArgMax <axis=1> (h)", "ArgMax"),
    "shared weights": (VECTOR, "h = MatMul (x, S) r = Relu (h) y = MatMul (r, S)", ""),
    "two heads": (VECTOR, "h = MatMul (x, S) y = MatMul (h, U) z = Sigmoid (h)", "Sigmoid"),
    "a view that is an output": (VECTOR, "h = MatMul (x, S) y = Reshape (h, square)"
                                 " z = Relu (h)", "Relu"),
    "views between operators": (
        VECTOR, "e = Exp (x) q = Reshape (e, square) t = Transpose <perm=[0, 2, 1]> (q)"
        " f = Flatten (t) y = MatMul (f, U)", "Exp Transpose"),
}
"""Input, nodes, and what stays on the host, in order."""


def constants(rng):
    found = {name: rng.normal(size=size).astype(np.float32) / max(size[1:], default=1)
             for name, size in SIZES.items()}
    return found | {
        "v": np.abs(found["v"]) + 1, "cc": np.abs(found["c"]) + 1, "U": found["W"].T.copy(),
        "nought": np.float32(0), "six": np.float32(6), "one": np.float32(1),
        "half": np.float32(0.5), "root": np.sqrt(np.float32(2)), "zero": np.array([0]),
        "many": np.array([144]), "axes": np.array([2, 3]), "square": np.array([0, 2, 4]),
        "scales": np.float32([1, 1, 2, 2]), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}


def saved(path, given, text, opset=17, **more):
    """A model file; its outputs are ``y`` and, if there is one, ``z``."""
    kind = "int64" if "ArgMax" in text else "float"
    outputs = f"{kind}[N] y" + (", float[N] z" if " z = Relu" in text or " z = S" in text else "")
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g ({given}) => ({outputs}) {{ {text} }}')
    used = {name for node in model.graph.node for name in node.input}
    values = constants(np.random.default_rng(0)) | more
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(values[name]), name)
                                   for name in sorted(used & set(values)))
    path.write_bytes(model.SerializeToString())
    return path


def samples(path, count=3):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng, found = np.random.default_rng(1), {}
    for each in session.get_inputs():
        shape = (count, *each.shape[1:])
        found[each.name] = rng.integers(0, 10, shape) if "int64" in each.type else \
            rng.normal(size=shape).astype(np.float32)
    results = [session.run(None, {name: x[i:i + 1] for name, x in found.items()})
               for i in range(count)]
    return found, [np.concatenate([np.asarray(y).reshape(1, -1) for y in each])
                   for each in zip(*results, strict=True)]


def check(path):
    """The graph, which gives what onnxruntime gives."""
    graph, (x, expected) = read(path), samples(path)
    found = graph.evaluate(x, graph.outputs)
    for name, each in zip(graph.outputs, expected, strict=True):
        assert found[name].dtype == graph.types[name].dtype == each.dtype
        np.testing.assert_allclose(found[name], each, rtol=1e-5, atol=1e-5)
    return graph


@pytest.mark.parametrize("name", STRUCTURES)
def test_equals_onnxruntime(tmp_path, name):
    given, text, host = STRUCTURES[name]
    graph = check(saved(tmp_path / "model.onnx", given, text))
    assert [each.operator for each in graph.nodes
            if isinstance(each, OperatorNode)] == host.split()


def test_two_inputs_and_two_outputs(tmp_path):
    graph = check(saved(tmp_path / "model.onnx", "float[N,8] x, int64[N,5] i",
                        "e = Gather (E, i) s = ReduceMean <axes=[1], keepdims=0> (e)"
                        " k = Concat <axis=0> (x, s) h = MatMul (k, S) y = MatMul (h, U)"
                        " z = Sigmoid (s)"))
    assert (graph.inputs, graph.outputs) == (("x", "i"), ("y", "z"))


OPSETS = {
    7: "h = Conv (x, A, a) n = BatchNormalization (h, a, m, m, v) r = Relu (n) d = Dropout (r)"
       " u = Upsample <scales=[1.0, 1.0, 2.0, 2.0]> (d) k6 = Clip <min=0.0, max=6.0> (u)"
       " g = GlobalAveragePool (k6) s = Squeeze <axes=[2, 3]> (g) k = Unsqueeze <axes=[1]> (s)"
       " f = Flatten (k) y = Gemm <transB=1> (f, W, w)",
    9: "h = Conv (x, A, a) u = Upsample (h, scales) p = Pad <pads=[0, 0, 1, 1, 0, 0, 1, 1]> (u)"
       " l = Slice <starts=[0], ends=[4], axes=[1]> (p) g = ReduceMean <axes=[2, 3],"
       " keepdims=0> (l) y = Softmax (g)",
    10: "h = Conv (x, A, a) u = Resize (h, scales) d, mask = Dropout (u)"
        " l = Slice (d, zero, many, zero) g = GlobalAveragePool (l) f = Flatten (g)"
        " y = MatMul (f, U)",
    11: "h = Conv (x, A, a) u = Resize (h, none, scales) k = Clip (u, nought, six)"
        " p = Pad (k, pads) g = GlobalAveragePool (p) s = Squeeze <axes=[2, 3]> (g)"
        " y = Gemm <transB=1> (s, W)",
    13: "h = Conv (x, A, a) d = Dropout (h) g = GlobalAveragePool (d) s = Squeeze (g, axes)"
        " k = Unsqueeze (s, zero) f = Flatten <axis=2> (k) y = Softmax (f)",
    17: "h = Conv (x, A, a) g = GlobalAveragePool (h) f = Flatten (g)"
        " n = LayerNormalization (f, a, m) y = MatMul (n, U)",
    21: "h = Conv (x, A, a) g = ReduceMean <keepdims=0> (h, axes) e = Gelu (g) y = MatMul (e, U)",
    26: "h = Conv (x, A, a) r = Relu (h) g = ReduceMean <keepdims=0> (r, axes) y = MatMul (g, U)",
}


@pytest.mark.parametrize("opset", OPSETS)
def test_operator_sets(tmp_path, opset):
    check(saved(tmp_path / "model.onnx", IMAGE, OPSETS[opset], opset, none=np.float32([])))


@pytest.mark.parametrize(("text", "host", "batch"), [
    ("h = MatMul (x, S) y = Gemm <transB=1> (h, W, w)", 0, 1),
    ("h = MatMul (x, S) s = Softmax <axis=0> (h) y = MatMul (s, U)", 1, 4),
    ("h = MatMul (x, S) y = ReduceMax <keepdims=0> (h)", 1, 1)],
    ids=["layers alone", "operators", "an output for all samples"])
def test_fixed_batch(tmp_path, text, host, batch):
    """Layers take one sample after another, operators as many as were exported."""
    path = saved(tmp_path / "model.onnx", "float[4,8] x", text)
    graph = read(path)
    assert graph.batch == batch
    assert sum(isinstance(each, OperatorNode) for each in graph.nodes) == host
    x = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    expected, = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {"x": x})
    runs = x if graph.types["x"].shape == (1, 8) else x[None]
    found = graph.evaluate({"x": runs}, ["y"])["y"]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


def test_an_input_that_the_host_rounds(tmp_path):
    """Quantised values of the input, but no layer that takes the integers."""
    path = saved(tmp_path / "model.onnx", IMAGE, "q = QuantizeLinear (x, half, z8)"
                 " d = DequantizeLinear (q, half, z8) p = MaxPool <kernel_shape=[2, 2]> (d)"
                 " y = Conv (d, A, a) z = Sigmoid (p)", z8=np.uint8(128))
    graph = check(path)
    x = np.full((1, 144), 0.3, np.float32)
    assert graph.evaluate({"x": x}, ["d", "q"])["d"][0, 0] == np.float32(0.5)
    assert graph.evaluate({"x": x}, ["q"])["q"][0, 0] == 129


def test_integer_sums_of_a_scaled_input(tmp_path):
    path = saved(tmp_path / "model.onnx", VECTOR, "q = QuantizeLinear (x, half, z8)"
                 " h = MatMulInteger (q, V, z8) y = Cast <to=1> (h)", z8=np.uint8(128),
                 V=np.random.default_rng(2).integers(-127, 128, (8, 3)).astype(np.int8))
    graph = check(path)
    assert graph.layers[0].layer.quantised.raw


def test_a_host_model_is_whole(tmp_path):
    """It has what its operators need, and onnx's checker takes it."""
    graph = read(saved(tmp_path / "model.onnx", *STRUCTURES["views between operators"][:2]))
    group = next(each for each in graph.groups if isinstance(each[0], OperatorNode))
    content, reads, writes = graph.host_model(group)
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Exp", "Reshape", "Transpose"]
    assert (reads, writes) == (["x"], ["t"])


def test_many_views(tmp_path):
    """As many as Python's stack does not hold."""
    names = ["x", *(f"r{i}" for i in range(3000))]
    text = " ".join(f"{b} = Reshape ({a}, {'square' if i % 2 else 'flat'})"
                    for i, (a, b) in enumerate(pairwise(names)))
    check(saved(tmp_path / "model.onnx", VECTOR, f"{text} e = Exp ({names[-1]})"
                " f = Flatten (e) y = MatMul (f, U)", flat=np.array([0, -1])))
