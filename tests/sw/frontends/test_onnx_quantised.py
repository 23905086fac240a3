"""Quantised ONNX files: the integers of the layers compute what ONNX's reference and onnxruntime
compute.

Scales that are powers of two make float arithmetic exact and give many ties. With scales of any
kind both may round a product to float32 across a tie, in a few outputs of a million; where none of
a test's is among them, all are equal.
"""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from zeroskip.sw.compiler.placement import inspect
from zeroskip.sw.engines.tensorcore import golden as tensorcore
from zeroskip.sw.engines.tensorcore.quantize import quantize
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import load
from zeroskip.sw.frontends.load import to_onnx
from zeroskip.sw.graph.graph import OperatorNode
from zeroskip.sw.graph.types import TensorType

node = helper.make_node
SUMS = TensorType((), np.dtype(np.int32), 1.0)
KINDS = {np.int8: TensorProto.INT8, np.uint8: TensorProto.UINT8, np.float32: TensorProto.FLOAT,
         np.int32: TensorProto.INT32}


def read(path):
    """The chain of layers in a file."""
    return load.read(path).network()


def rng(seed=0):
    return np.random.default_rng(seed)


def powers(seed, *size):
    return np.float32(2.0 ** rng(seed).integers(-9, -6, size))


def any_scale(seed, *size):
    return rng(seed).uniform(1 / 512, 1 / 64, size).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def write(nodes, shape=("n", 8), given=np.float32, result=np.float32, opset=21, **constants):
        rank = 4 if nodes[-1].op_type in ("QLinearConv", "ConvInteger") else 2
        graph = helper.make_graph(
            nodes, "test", [helper.make_tensor_value_info("x", KINDS[given], shape)],
            [helper.make_tensor_value_info("y", KINDS[result], list("nabc")[:rank])],
            [numpy_helper.from_array(np.asarray(c), name) for name, c in constants.items()])
        path = tmp_path / "model.onnx"
        path.write_bytes(helper.make_model(
            graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)]
        ).SerializeToString())
        return path
    return write


def rounded(tensor, name):
    """QuantizeLinear and DequantizeLinear of ``tensor`` on the grid ``name``."""
    grid = [f"{name}s", f"{name}z"]
    return [node("QuantizeLinear", [tensor, *grid], [f"{name}q"]),
            node("DequantizeLinear", [f"{name}q", *grid], [f"{name}"])]


def constants(kind=np.uint8, scale=powers, channels=3):
    """Grids ``a`` (input), ``b``, ``c`` and the weights of a network of 8 inputs."""
    low = np.iinfo(kind).min
    grids = {}
    for i, name in enumerate("abc"):
        # outputs are coarser than products, so that most of them are inside
        grids[f"{name}s"] = scale(10 + i) * np.float32(4**i)
        grids[f"{name}z"] = kind(low + (100, 0, 130)[i])
    return grids | {
        "W": rng(1).integers(-128, 128, (channels, 8)).astype(np.int8), "Ws": scale(2, channels),
        "B": rng(3).integers(-9000, 9000, channels).astype(np.int32),
        "V": rng(4).integers(-127, 128, (channels, 5)).astype(np.int8), "Vs": scale(5, 5)}


def integers(network, x):
    """Outputs of every layer; ``x`` float."""
    layers, _ = quantize(network, None)
    y, saturated = layers[0].input.to_integer(x.reshape(len(x), -1))
    assert saturated == 0
    outputs = [y]
    for layer in layers:
        outputs.append(tensorcore.layer(outputs[-1], layer)[0])
    return layers, outputs


def samples(values, shape, scale, zero_point, kind):
    """Integers of every value of the grid, and the floats that they are."""
    info = np.iinfo(kind)
    stored = rng(7).integers(info.min, info.max + 1, (values, *shape)).astype(kind)
    return stored, ((stored.astype(np.int32) - zero_point) * np.float64(scale)).astype(np.float32)


def ties(layer, x):
    """How many outputs of a layer are ties, exactly."""
    sums, _ = tensorcore.layer(x, replace(layer, activation="none", output=SUMS))
    positions = layer.outputs // len(layer.weight)
    multiplier, shift = (np.repeat(each.astype(np.int64), positions)
                         for each in (layer.multiplier, layer.shift))
    return np.count_nonzero(sums * multiplier % (1 << shift) == 1 << shift - 1)


def check(layer, x, y, expected, scale):
    """``y`` equals ``expected``; with powers of two for scales there are ties in it."""
    np.testing.assert_array_equal(y, expected.reshape(len(x), -1))
    assert len(np.unique(y)) > 20
    assert ties(layer, x) or scale is any_scale


def as_int8(stored, kind):
    return stored.astype(int) - (128 if kind is np.uint8 else 0)


QDQ = [
    *rounded("x", "a"), node("DequantizeLinear", ["W", "Ws"], ["w"], axis=0),
    node("DequantizeLinear", ["B", "Bs"], ["bias"], axis=0),
    node("Gemm", ["a", "w", "bias"], ["h"], name="fc1", transB=1), node("Relu", ["h"], ["r"]),
    *rounded("r", "b"), node("DequantizeLinear", ["V", "Vs"], ["v"], axis=1),
    node("MatMul", ["b", "v"], ["p"], name="fc2"), node("Add", ["p", "C"], ["o"]),
    *rounded("o", "c")]


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("scale", [powers, any_scale])
def test_layers_between_dequantise_and_quantise(save, kind, scale):
    given = constants(kind, scale)
    given |= {"Bs": given["as"] * given["Ws"], "C": np.float32([0.5, -0.25, 0, 1, 2])}
    nodes = [*QDQ[:-1], node("DequantizeLinear", ["cq", "cs", "cz"], ["y"])]
    path = save(nodes, **given)
    network = read(path)
    assert [(layer.name, layer.activation) for layer in network.layers] == [
        ("fc1", "relu"), ("fc2", "none")]
    _, x = samples(300, (8,), given["as"], given["az"], kind)
    model = onnx.load(path)
    for name in ("bq", "cq"):
        model.graph.output.append(helper.make_tensor_value_info(name, KINDS[kind], ("n", "m")))
    _, *expected = ReferenceEvaluator(model).run(None, {"x": x})
    layers, outputs = integers(network, x)
    for number, layer in enumerate(layers):
        check(layer, *outputs[number:number + 2], as_int8(expected[number], kind), scale)


def test_float_fields_are_the_dequantised_values(save):
    given = constants()
    given |= {"Bs": given["as"] * given["Ws"], "C": np.float32([0.5, -0.25, 0, 1, 2])}
    first, second = read(save([*QDQ[:-1], node("DequantizeLinear", ["cq", "cs", "cz"], ["y"])],
                              **given)).layers
    np.testing.assert_array_equal(first.weight, given["W"] * given["Ws"][:, None])
    np.testing.assert_array_equal(first.bias, given["B"] * given["Bs"])
    np.testing.assert_array_equal(second.weight, (given["V"] * given["Vs"]).T)
    np.testing.assert_array_equal(second.bias, given["C"])
    own = first.quantised
    np.testing.assert_array_equal(own.weight, given["W"])
    np.testing.assert_array_equal(own.weight_scale, given["Ws"])
    np.testing.assert_array_equal(own.bias, given["B"])
    assert (own.input.scale, own.input.zero_point) == (given["as"], int(given["az"]) - 128)
    assert (own.output.scale, own.output.zero_point) == (given["bs"], int(given["bz"]) - 128)
    assert (own.weight.dtype, own.bias.dtype, own.weight_scale.dtype) == (
        np.int8, np.int64, np.float64)
    assert not own.raw


LARGE = np.int32([16777217, -16777219, 2147483647])


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("operator", ["Gemm", "Conv", "Add"])
def test_stored_bias_is_kept(save, operator, per_channel):
    """Its scale is the product of the others in float32; the quotient of float64 would round."""
    given = constants(scale=any_scale)
    if not per_channel:
        given["Ws"] = given["Ws"][0]
    given |= {"B": LARGE, "Bs": given["as"] * given["Ws"], "T": given["W"].T.copy(),
              "K": given["W"].reshape(3, 8, 1, 1)}
    exact = given["as"].astype(np.float64) * given["Ws"]
    assert (np.rint(LARGE * given["Bs"].astype(np.float64) / exact) != LARGE).any()
    weight, axis = {"Gemm": ("W", 0), "Conv": ("K", 0), "Add": ("T", 1)}[operator]
    product = {"Gemm": [node("Gemm", ["a", "w", "bias"], ["o"], transB=1)],
               "Conv": [node("Conv", ["a", "w", "bias"], ["o"])],
               "Add": [node("MatMul", ["a", "w"], ["p"]), node("Add", ["bias", "p"], ["o"])]}
    nodes = [*rounded("x", "a"), node("DequantizeLinear", [weight, "Ws"], ["w"], axis=axis),
             node("DequantizeLinear", ["B", "Bs"], ["bias"], axis=0), *product[operator],
             node("QuantizeLinear", ["o", "bs", "bz"], ["q"]),
             node("DequantizeLinear", ["q", "bs", "bz"], ["y"])]
    shape = ("n", 8, 1, 1) if operator == "Conv" else ("n", 8)
    (found,) = read(save(nodes, shape, **given)).layers
    np.testing.assert_array_equal(found.quantised.bias, LARGE)
    np.testing.assert_allclose(found.bias, LARGE * given["Bs"].astype(np.float64), rtol=1e-6)


def test_bias_of_another_scale_is_rounded(save):
    given = constants()
    given |= {"Bs": given["as"] * given["Ws"] * np.float32(0.25), "C": np.float32(np.zeros(5))}
    network = read(save([*QDQ[:-1], node("DequantizeLinear", ["cq", "cs", "cz"], ["y"])], **given))
    np.testing.assert_array_equal(network.layers[0].quantised.bias, np.rint(given["B"] / 4))


@pytest.mark.parametrize(("kind", "name"), [
    (np.float32, "float32"), (np.int8, "int8"), (np.uint8, "uint8")])
def test_type_of_the_input(save, kind, name):
    given = constants(np.int8 if kind is np.int8 else np.uint8)
    first = [] if kind is not np.float32 else [node("QuantizeLinear", ["x", "as", "az"], ["q"])]
    network = read(save([*first, node("MatMulInteger", ["q" if first else "x", "T", "az"], ["y"])],
                        given=kind, result=np.int32, T=given["W"].T.copy(), **given))
    assert network.input_dtype == name


CONV = {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}


def conv_constants(kind, scale):
    given = constants(kind, scale, channels=4)
    return given | {"K": rng(8).integers(-128, 128, (4, 2, 3, 2)).astype(np.int8),
                    "bs": given["bs"] * np.float32(4)}


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("scale", [powers, any_scale])
@pytest.mark.parametrize("per_channel", [True, False])
def test_qlinear_conv(save, kind, scale, per_channel):
    given = conv_constants(kind, scale)
    if not per_channel:
        given["Ws"] = given["Ws"][0]
    given["Kz"] = np.zeros(given["Ws"].shape, np.int8)
    path = save([node("QLinearConv", ["x", "as", "az", "K", "Ws", "Kz", "bs", "bz", "B"], ["y"],
                      **CONV)], ("n", 2, 6, 5), kind, kind, **given)
    stored, x = samples(20, (2, 6, 5), given["as"], given["az"], kind)
    expected, = ReferenceEvaluator(str(path)).run(None, {"x": stored})
    layers, outputs = integers(read(path), x)
    check(layers[0], *outputs, as_int8(expected, kind), scale)


@pytest.mark.parametrize(("bias", "message"), [
    (np.zeros(3, np.float32), r"its bias is float32 \[3\], not int32 \[4\]"),
    (np.zeros(1, np.int32), r"its bias is int32 \[1\], not int32 \[4\]")])
def test_bias_of_qlinear_conv(save, bias, message):
    given = conv_constants(np.uint8, powers) | {"B": bias, "Kz": np.zeros(4, np.int8)}
    path = save([node("QLinearConv", ["x", "as", "az", "K", "Ws", "Kz", "bs", "bz", "B"], ["y"],
                      **CONV)], ("n", 2, 6, 5), np.uint8, np.uint8, **given)
    with pytest.raises(BadInput, match=message):
        read(path)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("scale", [powers, any_scale])
def test_qlinear_matmul(save, kind, scale):
    """With weights of uint8, which a zero point makes symmetric."""
    given = constants(kind, scale)
    given |= {"U": (given["W"].T.astype(int) + 128).astype(np.uint8),
              "Uz": np.full(3, 128, np.uint8)}
    path = save([node("QuantizeLinear", ["x", "as", "az"], ["q"]),
                 node("QLinearMatMul", ["q", "as", "az", "U", "Ws", "Uz", "bs", "bz"], ["o"]),
                 node("DequantizeLinear", ["o", "bs", "bz"], ["y"])], **given)
    _, x = samples(200, (8,), given["as"], given["az"], kind)
    expected, = ReferenceEvaluator(str(path)).run(None, {"x": x})
    layers, outputs = integers(read(path), x)
    check(layers[0], *outputs, np.rint(expected / given["bs"]) + as_int8(given["bz"], kind), scale)


PRODUCTS = {
    "QLinearMatMul": [
        node("QuantizeLinear", ["x", "as", "az"], ["q"]),
        node("QLinearMatMul", ["q", "as", "az", "T", "Ws", "Wz", "bs", "bz"], ["o"]),
        node("DequantizeLinear", ["o", "bs", "bz"], ["y"])],
    "QLinearConv": [
        node("QuantizeLinear", ["x", "as", "az"], ["q"]),
        node("QLinearConv", ["q", "as", "az", "K", "Ws", "Wz", "bs", "bz", "B"], ["o"]),
        node("DequantizeLinear", ["o", "bs", "bz"], ["y"])],
    "MatMul": [
        *rounded("x", "a"), node("DequantizeLinear", ["T", "Ws"], ["w"], axis=1),
        node("MatMul", ["a", "w"], ["p"]), node("QuantizeLinear", ["p", "bs", "bz"], ["o"]),
        node("DequantizeLinear", ["o", "bs", "bz"], ["y"])],
    "Gemm": [
        *rounded("x", "a"), node("DequantizeLinear", ["W", "Ws"], ["w"], axis=0),
        node("DequantizeLinear", ["B", "Bs"], ["b"], axis=0),
        node("Gemm", ["a", "w", "b"], ["p"], transB=1), node("Relu", ["p"], ["r"]),
        node("QuantizeLinear", ["r", "bs", "bz"], ["o"]),
        node("DequantizeLinear", ["o", "bs", "bz"], ["y"])],
    "Conv": [
        *rounded("x", "a"), node("DequantizeLinear", ["K", "Ws"], ["w"], axis=0),
        node("DequantizeLinear", ["B", "Bs"], ["b"], axis=0),
        node("Conv", ["a", "w", "b"], ["p"]), node("QuantizeLinear", ["p", "bs", "bz"], ["o"]),
        node("DequantizeLinear", ["o", "bs", "bz"], ["y"])]}
"""A product of 32 columns each, QOperator and QDQ."""


def in_onnxruntime(save, operator, kind, scale):
    """A layer, 5,120 inputs of it, its 163,840 outputs, and those of a session with its default
    options."""
    given = constants(kind, scale, channels=32)
    given |= {"bz": given["az"], "B": rng(3).integers(-99, 100, 32).astype(np.int32),
              "Bs": given["as"] * given["Ws"], "T": given["W"].T.copy(),
              "K": given["W"].reshape(32, 8, 1, 1), "Wz": np.zeros(32, np.int8)}
    shape = (8, 1, 1) if "Conv" in operator else (8,)
    path = save(PRODUCTS[operator], ("n", *shape), **given)
    _, x = samples(5120, shape, given["as"], given["az"], kind)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x})[0].reshape(5120, 32)
    (layer,), outputs = integers(read(path), x)
    return layer, *outputs, np.rint(found / given["bs"]) + layer.output.zero_point


def units(layer, x):
    """Sums of a layer of 32 outputs in units of these; exact with powers of two."""
    sums, _ = tensorcore.layer(x, replace(layer, activation="none", output=SUMS))
    return sums * (layer.multiplier * 2.0**-layer.shift)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("operator", PRODUCTS)
def test_products_equal_onnxruntime(save, operator, kind):
    """All of them do; if ties were rounded away from zero, more than a hundred would not."""
    layer, x, y, expected = in_onnxruntime(save, operator, kind, powers)
    check(layer, x, y, expected, powers)
    real = units(layer, x)
    away = np.sign(real) * np.floor(np.abs(real) + 0.5) + layer.output.zero_point
    low = layer.output.zero_point if layer.activation == "relu" else -128
    assert np.count_nonzero(np.clip(away, low, 127) != expected) > 100


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("operator", PRODUCTS)
def test_products_of_any_scale_differ_from_onnxruntime_by_float32_alone(save, operator, kind):
    """At most one does, whose sum is as near to a tie as only float32 is not exact."""
    layer, x, y, expected = in_onnxruntime(save, operator, kind, any_scale)
    real = units(layer, x)[y != expected]
    assert len(real) <= 1
    np.testing.assert_allclose(np.abs(real) % 1, 0.5, rtol=0, atol=2**-16)


def test_qlinear_conv_then_matmul(save):
    """A flat vector between them, and ReLU as the zero point of the output."""
    given = conv_constants(np.uint8, powers)
    given |= {"M": rng(9).integers(-128, 128, (80, 5)).astype(np.int8), "s": np.array([0, -1]),
              "Kz": np.zeros(4, np.int8), "Mz": np.zeros(5, np.int8)}
    nodes = [
        node("QuantizeLinear", ["x", "as", "az"], ["q"]),
        node("QLinearConv", ["q", "as", "az", "K", "Ws", "Kz", "bs", "bz"], ["h"], name="conv",
             pads=[1, 1, 1, 0]), node("Reshape", ["h", "s"], ["f"]),
        node("QLinearMatMul", ["f", "bs", "bz", "M", "Vs", "Mz", "cs", "cz"], ["o"], name="fc"),
        node("DequantizeLinear", ["o", "cs", "cz"], ["y"])]
    network = read(save(nodes, ("n", 2, 4, 5), **given))
    assert [layer.outputs for layer in network.layers] == [80, 5]
    assert network.layers[0].quantised.output.zero_point == -128
    _, x = samples(4, (2, 4, 5), given["as"], given["az"], np.uint8)
    layers, outputs = integers(network, x)
    assert (outputs[1] == -128).mean() > 0.3
    assert layers[1].input.zero_point == -128


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_conv_integer(save, kind):
    given = {"K": rng(1).integers(0, 256, (3, 2, 3, 2)).astype(np.uint8), "az": kind(100),
             "Kz": np.uint8(128)}
    path = save([node("ConvInteger", ["x", "K", "az", "Kz"], ["y"], **CONV)], ("n", 2, 6, 5),
                kind, np.int32, **given)
    stored, x = samples(9, (2, 6, 5), 1, 100, kind)
    expected, = ReferenceEvaluator(str(path)).run(None, {"x": stored})
    layers, outputs = integers(read(path), x)
    own = layers[0]
    assert (own.raw, own.output.scale, own.output.zero_point) == (True, 1, 0)   # sums as they are
    np.testing.assert_array_equal(outputs[1], expected.reshape(9, -1))


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("zero_points", [[], ["az"], ["az", "Wz"]])
def test_matmul_integer(save, kind, zero_points):
    given = {"W": rng(1).integers(-100, 101, (8, 3)).astype(np.int8), "az": kind(100),
             "Wz": np.int8([5, -20, 0])}
    path = save([node("MatMulInteger", ["x", "W", *zero_points], ["y"])], given=kind,
                result=np.int32, **given)
    stored, x = samples(50, (8,), 1, 100 if zero_points else 0, kind)
    expected, = ReferenceEvaluator(str(path)).run(None, {"x": stored})
    _, outputs = integers(read(path), x)
    np.testing.assert_array_equal(outputs[1], expected)


def test_matmul_integer_behind_quantize_linear(save):
    """It has no scale of its own, so it takes that of the tensor."""
    given = constants()
    path = save([node("QuantizeLinear", ["x", "as", "az"], ["q"]),
                 node("MatMulInteger", ["q", "V8", "az"], ["y"])], result=np.int32,
                V8=given["W"].T.copy(), **given)
    _, x = samples(50, (8,), given["as"], given["az"], np.uint8)
    expected, = ReferenceEvaluator(str(path)).run(None, {"x": x})
    _, outputs = integers(read(path), x)
    np.testing.assert_array_equal(outputs[1], expected)


def layer(before="a", after="b", weight="w", name="fc"):
    """A quantised Gemm from tensor ``before`` to grid ``after``."""
    return [node("Gemm", [before, weight], [f"{name}h"], name=name, transB=1),
            *rounded(f"{name}h", after)]


DEQUANTISED = node("DequantizeLinear", ["W", "Ws"], ["w"], axis=0)


def ended(nodes):
    """The same nodes, with the last output as the model's."""
    nodes[-1].output[0] = "y"
    return nodes


def test_weights_that_the_model_rounds_itself(save):
    """QuantizeLinear of float weights, as training with quantisation leaves it."""
    given, weight = constants(), rng(2).normal(size=(3, 8)).astype(np.float32)
    given["wz"] = np.zeros(3, np.int8)
    nodes = [*rounded("x", "a"),
             node("QuantizeLinear", ["F", "Ws", "wz"], ["W8"], axis=0),
             node("DequantizeLinear", ["W8", "Ws", "wz"], ["w"], axis=0), *layer()]
    path = save(ended(nodes), F=weight, **given)
    scaled = np.clip(np.rint(weight / given["Ws"][:, None]), -128, 127)
    np.testing.assert_array_equal(read(path).layers[0].quantised.weight, scaled)


def test_relu_behind_the_rounding(save):
    """It changes nothing about which grid the output is on."""
    nodes = [*rounded("x", "a"), DEQUANTISED, *layer(), node("Relu", ["b"], ["r"])]
    nodes += [node("QuantizeLinear", ["r", "bs", "bz"], ["rq"]),
              node("DequantizeLinear", ["rq", "bs", "bz"], ["y"])]
    network = read(save(nodes, **constants()))
    assert network.layers[0].activation == "relu"
    assert network.layers[0].quantised.output.zero_point == -128


def test_relu_between_two_kinds_of_rounding(save):
    """What is behind the first is not the layer's."""
    nodes = [*rounded("x", "a"), DEQUANTISED, *layer(), node("Relu", ["b"], ["r"]),
             *rounded("r", "c")]
    graph = load.read(save(ended(nodes), **constants()))
    assert graph.layers[0].layer.activation == "none"
    assert [node.operator for node in graph.nodes if isinstance(node, OperatorNode)] == [
        "Relu", "QuantizeLinear"]


def test_weights_that_are_transposed_behind_their_scales(save):
    nodes = [*rounded("x", "a"), DEQUANTISED, node("Transpose", ["w"], ["t"]),
             node("MatMul", ["a", "t"], ["h"], name="fc"), *rounded("h", "b")]
    given = constants()
    own = read(save(ended(nodes), **given)).layers[0].quantised
    np.testing.assert_array_equal(own.weight, given["W"])
    np.testing.assert_array_equal(own.weight_scale, given["Ws"])


def test_only_weights_quantised_is_a_float_layer(save):
    given = constants()
    network = read(save(ended([DEQUANTISED, node("Gemm", ["x", "w"], ["h"], transB=1)]), **given))
    assert network.layers[0].quantised is None
    np.testing.assert_array_equal(network.layers[0].weight, given["W"] * given["Ws"][:, None])


def test_float_weights_behind_quantised_layers(save):
    """Int8 weights would not be the model's numbers."""
    nodes = [*rounded("x", "a"), DEQUANTISED, *layer(),
             node("Gemm", ["b", "F"], ["y"], name="last")]
    graph = load.read(save(nodes, F=np.ones((3, 2), np.float32), **constants()))
    assert [node.name for node in graph.layers] == ["fc"]
    assert [node.reason for node in graph.nodes if isinstance(node, OperatorNode)] == [
        "its input is quantised, but its weights are not"]


def test_float_layer_before_quantised_ones(save):
    nodes = [node("Gemm", ["x", "F"], ["g"], name="first"), *rounded("g", "a"), DEQUANTISED,
             *layer()]
    network = read(save(ended(nodes), F=np.eye(8, dtype=np.float32), **constants()))
    assert [layer.quantised is None for layer in network.layers] == [True, False]


HOST = {
    "output not quantised": (
        [*rounded("x", "a"), DEQUANTISED, node("Gemm", ["a", "w"], ["y"], name="bad", transB=1)],
        "its input and weights are quantised, but its output is not"),
    "output of the first not quantised": (
        [*rounded("x", "a"), DEQUANTISED, node("Gemm", ["a", "w"], ["h"], name="bad", transB=1),
         node("Gemm", ["h", "F3"], ["y"])],
        "its input and weights are quantised, but its output is not"),
    "weights not quantised": (
        [*rounded("x", "a"), node("Gemm", ["a", "F"], ["y"], name="bad")],
        "its input is quantised, but its weights are not"),
    "scale of the neighbour": (
        [*rounded("x", "a"), DEQUANTISED, *layer(after="b")[:-1],
         node("DequantizeLinear", ["bq", "cs", "bz"], ["y"], name="bad")],
        ""),
    "zero point of the neighbour": (
        [node("QuantizeLinear", ["x", "as", "az"], ["q"]),
         node("QLinearMatMul", ["q", "as", "bz", "V8", "Ws", "wz", "cs", "cz"], ["o"], name="bad"),
         node("DequantizeLinear", ["o", "cs", "cz"], ["y"])],
        "and zero point 0, but .* zero point 100 reaches it"),
    "rounded twice": ([*rounded("x", "a"), *rounded("a", "b")[:1], DEQUANTISED,
                       node("DequantizeLinear", ["bq", "bs", "bz"], ["y"])],
                      ""),
    "asymmetric weights": (
        [*rounded("x", "a"), node("DequantizeLinear", ["W", "Ws", "wz3"], ["w"], axis=0), *layer()],
        "its weight 'w' less its zero point is -129 to 106, not int8: quantise the weights "
        "symmetrically"),
    "per input channel": (
        [*rounded("x", "a"), node("DequantizeLinear", ["W", "Is"], ["w"], axis=1), *layer()],
        "'w' has scales along axis 1: quantise the weights per tensor or per output channel"),
    "blocks": (
        [*rounded("x", "a"),
         node("DequantizeLinear", ["W", "block"], ["w"], axis=1, block_size=4), *layer()],
        "it has a scale per block"),
    "activations per channel": (
        [node("QuantizeLinear", ["x", "Is"], ["q"], name="bad"),
         node("DequantizeLinear", ["q", "Is"], ["y"])],
        ""),
    "int16 activations": (
        [node("QuantizeLinear", ["x", "as", "z16"], ["q"], name="bad"),
         node("DequantizeLinear", ["q", "as", "z16"], ["y"])],
        ""),
    "float8 activations": (
        [node("QuantizeLinear", ["x", "as"], ["q"], name="bad",
              output_dtype=TensorProto.FLOAT8E4M3FN),
         node("DequantizeLinear", ["q", "as"], ["y"])],
        ""),
    "int4 weights": (
        [*rounded("x", "a"), node("DequantizeLinear", ["W4", "Ws"], ["w"], axis=0), *layer()],
        "'W4' is int4: only int8 and uint8 can run"),
    "alpha": (
        [*rounded("x", "a"), DEQUANTISED,
         node("Gemm", ["a", "w"], ["h"], name="bad", transB=1, alpha=2.0), *rounded("h", "b")],
        r"alpha is 2\.0: set it to 1"),
    "scale of zero": ([node("QuantizeLinear", ["x", "zero"], ["q"], name="bad"),
                       node("DequantizeLinear", ["q", "zero"], ["y"])],
                      ""),
    "computed scale": ([node("ReduceMax", ["x"], ["m"], keepdims=0),
                        node("QuantizeLinear", ["x", "m"], ["q"], name="bad"),
                        node("DequantizeLinear", ["q", "as"], ["y"])], ""),
    "int32 output inside": (
        [node("QuantizeLinear", ["x", "as", "az"], ["q"]),
         node("MatMulInteger", ["q", "V8", "az"], ["h"]),
         node("DequantizeLinear", ["h", "as"], ["y"], name="bad")], ""),
    "dynamic quantisation": (
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="bad"),
         node("MatMulInteger", ["q", "V8", "z"], ["h"]), node("Cast", ["h"], ["y"], to=1)],
        "its input 'z' is not a constant"),
    "constant behind the rounding": (
        [*rounded("x", "a"), DEQUANTISED, *layer(), node("Add", ["b", "C"], ["y"], name="bad")],
        ""),
    "bias beyond its scales": (
        [*rounded("x", "a"), DEQUANTISED,
         node("Gemm", ["a", "w", "huge"], ["h"], name="fc", transB=1), *rounded("h", "b")],
        "its bias is too large for its scales"),
    "batch norm behind a quantised layer": (
        [*rounded("x", "a"), DEQUANTISED, node("Gemm", ["a", "w"], ["h"], transB=1),
         node("BatchNormalization", ["h", "C", "C", "C", "C"], ["n"], name="bad"),
         *rounded("n", "b")], "its input and weights are quantised, but its output is not"),
}


REFUSED = {
    "scales that do not fit": (
        [*rounded("x", "a"), node("DequantizeLinear", ["W", "Ws"], ["w"], axis=1), *layer()],
        "onnxruntime cannot run"),
    "type of the weights' zero point": (
        [*rounded("x", "a"), node("DequantizeLinear", ["W", "Ws", "wzu"], ["w"], axis=0), *layer()],
        "onnxruntime cannot run"),
    "type of the zero point": (
        [node("QuantizeLinear", ["x", "as"], ["q"]),
         node("DequantizeLinear", ["q", "as", "i8"], ["y"])], "onnxruntime cannot run"),
    "integers into a float layer": (
        [node("QuantizeLinear", ["x", "as", "az"], ["q"]), node("Relu", ["q"], ["y"], name="bad")],
        "has operators that do not fit one another"),
}


@pytest.fixture
def given(save):
    """Writes nodes of :data:`HOST` or :data:`REFUSED` with their constants."""
    def write(nodes):
        given = constants()
        return save(
            ended(nodes), F=np.ones((8, 3), np.float32), F3=np.ones((3, 2), np.float32),
            V8=given["W"].T.copy(), wz=np.int8([0, 0, 0]), wz3=np.int8([9, 0, 0]),
            wzu=np.uint8([0, 0, 0]), i8=np.int8(0),
            Is=np.ones(8, np.float32), block=np.ones((3, 2), np.float32), z16=np.int16(0),
            W4=np.ones((3, 8), ml_dtypes.int4), zero=np.float32(0), C=np.ones(3, np.float32),
            huge=np.full(3, 1e30, np.float32), **given)
    return write


@pytest.mark.parametrize("name", HOST)
def test_what_the_host_computes(given, name):
    """As onnxruntime does, up to the rounding of what it leaves out."""
    nodes, reason = HOST[name]
    path = given(nodes)
    graph = load.read(path)
    reasons = [node.reason for node in graph.nodes if isinstance(node, OperatorNode)]
    assert reasons
    assert any(reasons) == bool(reason)
    assert not reason or any(re.search(reason, each) for each in reasons)
    x = rng().uniform(-1, 1, (20, 8)).astype(np.float32)
    found = graph.evaluate({"x": x}, graph.outputs)["y"]
    if name == "rounded twice":     # onnxruntime rounds once
        expected = [ReferenceEvaluator(str(path)).run(None, {"x": x})[0]]
    else:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        expected = [session.run(None, {"x": x[i:i + 1]})[0] for i in range(len(x))]
    np.testing.assert_array_equal(found, np.concatenate(expected))


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(given, name):
    nodes, message = REFUSED[name]
    path = given(nodes)
    with pytest.raises(BadInput, match=message) as caught:
        load.read(path).evaluate({"x": np.zeros((1, 8), np.float32)}, ["y"])
    assert len(str(caught.value).splitlines()) == 1


def test_asymmetric_weights_of_qlinear_matmul(save):
    path = save([node("QLinearMatMul", ["x", "as", "az", "U", "Ws", "Uz", "bs", "bz"], ["y"],
                      name="bad")], given=np.uint8, result=np.uint8,
                U=np.full((8, 3), 255, np.uint8), Uz=np.uint8([127, 128, 128]), **constants())
    with pytest.raises(BadInput, match="'U' less its zero point is 127 to 128, not int8"):
        read(path)


def test_quantised_output_of_a_float_layer(save):
    path = save(ended([node("Gemm", ["x", "F"], ["h"], name="fc"), *rounded("h", "a")]),
                F=np.ones((8, 2), np.float32), **constants())
    graph = load.read(path)
    assert [node.layer.quantised for node in graph.layers] == [None]
    x = rng().uniform(-1, 1, (20, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(graph.evaluate({"x": x}, ["y"])["y"],
                                  session.run(None, {"x": x})[0])


def test_layers_around_a_node_of_the_host(save):
    """With what rounds its output."""
    nodes = [*rounded("x", "a"), DEQUANTISED, *layer(), node("Sigmoid", ["b"], ["s"], name="bad"),
             *rounded("s", "c"), node("DequantizeLinear", ["S", "cs"], ["s3"]),
             *layer("c", "d", "s3", "last")]
    path = save(ended(nodes), S=np.ones((2, 3), np.int8), ds=np.float32(1), dz=np.uint8(0),
                **constants())
    assert [(row["name"], row["engine"]) for row in inspect(load.read(path))] == [
        ("fc", "tensorcore"), ("bad", "host"), ("cq", "host"), ("last", "tensorcore")]


def test_quantised_network_is_not_written(save, tmp_path):
    network = read(save(ended([*rounded("x", "a"), DEQUANTISED, *layer()]), **constants()))
    with pytest.raises(BadInput, match="layer fc is quantised"):
        to_onnx(network, tmp_path / "out.onnx")


def test_damaged_files_never_raise_anything_else(save):
    given = conv_constants(np.uint8, powers)
    given |= {"M": rng(9).integers(-128, 128, (12, 5)).astype(np.int8), "Kz": np.zeros(4, np.int8)}
    path = save([
        node("QuantizeLinear", ["x", "as", "az"], ["q"]),
        node("QLinearConv", ["q", "as", "az", "K", "Ws", "Kz", "bs", "bz", "B"], ["h"]),
        node("DequantizeLinear", ["h", "bs", "bz"], ["d"]), node("Flatten", ["d"], ["f"]),
        node("DequantizeLinear", ["M", "Vs"], ["m"], axis=1), node("MatMul", ["f", "m"], ["p"]),
        node("QuantizeLinear", ["p", "cs", "cz"], ["o"]),
        node("DequantizeLinear", ["o", "cs", "cz"], ["y"])], ("n", 2, 5, 2), **given)
    read(path)
    original, random, refused = path.read_bytes(), rng(), 0
    for _ in range(100):
        content = bytearray(original)
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        path.write_bytes(content)
        try:
            read(path)
        except BadInput:
            refused += 1
    assert refused > 20
