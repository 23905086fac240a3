"""ConvTranspose as a convolution: what it gives is what onnxruntime and ONNX's own reference
give."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.frontends import clean, lift
from zeroskip.sw.frontends.load import apart
from zeroskip.sw.graph.graph import LayerNode, OperatorNode
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.verify import verify


def model(image, weight, bias=True, batch=1, seed=0, relu=False, **attributes):
    """A model of one node; ``image`` is [channels, ...] and ``weight`` the shape of the weights."""
    rng = np.random.default_rng(seed)
    tensors = {"W": rng.normal(size=weight)}
    if bias:
        tensors["B"] = rng.normal(size=weight[1] * attributes.get("group", 1))
    nodes = [helper.make_node("ConvTranspose", ["x", *tensors], ["y"], "up", **attributes)]
    if relu:
        nodes += [helper.make_node("Relu", ["y"], ["r"])]
    shape = (batch, *image)
    proto = helper.make_model(helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT,
                                       [None] * len(shape))],
        [numpy_helper.from_array(values.astype(np.float32), name)
         for name, values in tensors.items()]),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return proto, rng.normal(size=shape).astype(np.float32)


def lifted(proto):
    return lift.lift(apart(clean.load(proto.SerializeToString(), "the file", {}), "the file"),
                     "the file")


def convolved(proto, x, host=("Slice", "Transpose")):
    """Output of the graph, in which nothing but a convolution multiplies."""
    graph = lifted(proto)
    assert len([node for node in graph.nodes if isinstance(node, LayerNode)]) == 1
    assert {node.operator for node in graph.nodes if isinstance(node, OperatorNode)} <= set(host)
    name, = graph.outputs
    found = graph.evaluate({"x": x if graph.types["x"].shape[0] == 1 else x[None]}, [name])[name]
    return found.reshape(x.shape[0], *graph.types[name].shape[1:])


def in_onnxruntime(proto, x):
    session = onnxruntime.InferenceSession(proto.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def check(proto, x, expected):
    found = convolved(proto, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@st.composite
def cases(draw):
    """Shapes and attributes for which there is an output."""
    axes = draw(st.integers(1, 2))

    def each(least, most):
        return [draw(st.integers(least, most)) for _ in range(axes)]
    groups = draw(st.integers(1, 3))
    size, kernel, strides, dilations = each(1, 5), each(1, 5), each(1, 4), each(1, 3)
    extra = [draw(st.integers(0, stride - 1)) for stride in strides]    # as onnxruntime takes it
    image = (groups * draw(st.integers(1, 2)), *size)
    weight = (image[0], draw(st.integers(1, 2)), *kernel)
    pads = [*each(0, 4), *each(0, 4)]
    result = [s * (n - 1) + e + (k - 1) * d + 1 - pads[at] - pads[axes + at]
              for at, (n, k, s, d, e) in enumerate(zip(size, kernel, strides, dilations, extra,
                                                       strict=True))]
    assume(min(result) > 0)
    return image, weight, {"group": groups, "strides": strides, "dilations": dilations,
                           "output_padding": extra, "pads": pads}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(case=cases(), bias=st.booleans(), seed=st.integers(0, 9))
def test_equals_onnxruntime(case, bias, seed):
    image, weight, attributes = case
    proto, x = model(image, weight, bias, seed=seed, **attributes)
    check(proto, x, in_onnxruntime(proto, x))


@pytest.mark.parametrize(("image", "weight", "attributes"), [
    ((2, 4, 3), (2, 3, 2, 2), {"strides": [2, 2]}),
    ((2, 4, 3), (2, 3, 3, 4), {"strides": [2, 3], "pads": [1, 1, 0, 2]}),
    ((4, 5), (4, 2, 4), {"strides": [3], "output_padding": [2]}),
    ((1, 3, 3), (1, 1, 3, 3), {"dilations": [2, 2], "strides": [2, 2]}),
    ((2, 4), (2, 3, 1), {"strides": [3]}),
    ((2, 4, 4), (2, 3, 3, 3), {"pads": [2, 2, 2, 2]}),
    ((2, 4), (2, 1, 5), {"strides": [2], "pads": [3, 2]}),
], ids=["even", "uneven", "padded", "dilation", "gaps", "stride 1", "wide padding"])
def test_equals_the_reference_of_onnx(image, weight, attributes):
    proto, x = model(image, weight, **attributes)
    check(proto, x, ReferenceEvaluator(proto).run(None, {"x": x})[0])


@pytest.mark.parametrize("attributes", [
    {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"},
    {"output_shape": [7, 8]}, {"output_shape": [8, 7], "auto_pad": "SAME_UPPER"}],
    ids=lambda given: ",".join(map(str, given.values())))
def test_padding_that_is_worked_out(attributes):
    proto, x = model((2, 4, 4), (2, 3, 3, 3), strides=[2, 2], **attributes)
    check(proto, x, in_onnxruntime(proto, x))


def test_relu_is_the_convolutions():
    proto, x = model((2, 3, 3), (2, 2, 3, 3), strides=[2, 2], relu=True)
    node, = (node for node in lifted(proto).nodes if isinstance(node, LayerNode))
    assert node.layer.activation == "relu"
    assert convolved(proto, x).min() == 0
    check(proto, x, in_onnxruntime(proto, x))


def test_relu_of_one_reader_of_two():
    proto, x = model((2, 3, 3), (2, 2, 3, 3), strides=[2, 2], relu=True)
    proto.graph.node.append(helper.make_node("Sub", ["r", "y"], ["z"]))
    proto.graph.output[0].name = "z"
    np.testing.assert_allclose(convolved(proto, x, ("Slice", "Transpose", "Relu", "Sub")),
                               in_onnxruntime(proto, x), rtol=2e-5, atol=2e-5)


def test_several_samples_at_once():
    proto, x = model((2, 3, 3), (2, 2, 2, 2), batch=3, strides=[2, 2])
    check(proto, x, in_onnxruntime(proto, x))


def test_no_zero_between_inputs_is_multiplied():
    """A kernel as wide as the stride: each of four phases has one weight for an input."""
    node, = (node for node in lifted(model((3, 4, 4), (3, 5, 2, 2), strides=[2, 2])[0]).nodes
             if isinstance(node, LayerNode))
    assert node.layer.weight.shape == (20, 3, 1, 1)
    assert node.layer.geometry.positions == 16
    assert np.count_nonzero(node.layer.weight) == 60


@pytest.mark.parametrize(("case", "reason"), [
    (((1, 2, 2, 2), (1, 1, 2, 2, 2), {}), "over one or two dimensions can run"),
    (((1, 2), (1, 2, 1), {"strides": [1 << 27]}), "more than 134,217,728 weights")])
def test_what_stays_on_the_host_says_why(case, reason):
    image, weight, attributes = case
    node, = (node for node in lifted(model(image, weight, **attributes)[0]).nodes
             if isinstance(node, OperatorNode))
    assert node.operator == "ConvTranspose"
    assert reason in node.reason


def test_compiled_and_exact():
    proto, _ = model((2, 3, 3), (2, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1],
                     output_padding=[1, 1])
    x = np.random.default_rng(1).normal(size=(6, 18)).astype(np.float32)
    compiled = compile_network(lifted(proto), {"x": x}, TensorCoreConfig())
    program = compiled.program
    integers = program.input.to_integer(x[:2])[0]
    golden = GoldenBackend(program, compiled.reference)
    assert verify(program, integers, (golden, backends.rtl(backends.default()))).difference is None
