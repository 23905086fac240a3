"""ONNX files: chains of Gemm, MatMul, Add, Relu, Flatten and what vanishes at inference.

Operator semantics: the ONNX operator reference, opset 7 and later (before it, Gemm and Add
broadcast differently).
"""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from zeroskip.sw.compiler.chain import Chain, Reject, float32, only, unknown
from zeroskip.sw.errors import BadInput
from zeroskip.sw.network import Network

OPSET = 17
OLDEST_OPSET = 7
DOMAINS = ("", "ai.onnx")


def survey(content: bytes, source: str) -> Chain:
    """Walks an ONNX file; ``content`` is the file, ``source`` its name for messages.

    Raises BadInput where the file is no valid ONNX model with one input and one output.
    """
    graph = _load(content, source).graph
    constants = {t.name: _array(t, source) for t in graph.initializer}
    inputs = {i.name: _shape(i) for i in graph.input if i.name not in constants}
    start = only(list(inputs), "input", source)
    end = only([value.name for value in graph.output], "output", source)
    chain = Chain(source, start, inputs[start])
    walk = _Walk(chain, constants, Counter(node.name for node in graph.node))
    for node in graph.node:
        walk.visit(node)
    chain.end(end)
    return chain


def to_onnx(network: Network, path: str | Path):
    """Writes ``network`` as ONNX (opset 17): Gemm with ``transB = 1``, and Relu.

    The input is ``input`` float32 ``[batch, inputs]``, the output ``output``; node names are the
    layers' names. Raises BadInput where the file cannot be written.
    """
    nodes, initializers, current = [], [], "input"
    for i, layer in enumerate(network.layers):
        weight, bias, y = f"layer{i}.weight", f"layer{i}.bias", f"layer{i}.out"
        initializers += [numpy_helper.from_array(layer.weight, weight),
                         numpy_helper.from_array(layer.bias, bias)]
        nodes.append(helper.make_node("Gemm", [current, weight, bias], [y], layer.name, transB=1))
        if layer.activation == "relu":
            y, linear = f"layer{i}.relu", y
            nodes.append(helper.make_node("Relu", [linear], [y]))
        current = y
    nodes[-1].output[0] = "output"
    graph = helper.make_graph(
        nodes, "zeroskip",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", network.inputs])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT,
                                       ["batch", network.outputs])],
        initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets,
                              ir_version=helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model)
    try:
        Path(path).write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}); "
                       "give a path in a folder that exists.") from error


class _Walk:
    """Translates nodes; a method per operator, named after it."""

    def __init__(self, chain, constants, names):
        self.chain, self.constants, self.names = chain, constants, names

    def visit(self, node):
        standard = node.domain in DOMAINS
        if standard and node.op_type == "Constant":
            self.constants[node.output[0]] = _constant(node, self.chain.source)
        elif standard and node.op_type == "Identity" and node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]
        else:
            operator = node.op_type if standard else f"{node.domain}::{node.op_type}"
            translate = getattr(self, f"_{operator.lower()}", None)
            name = self._name(node)

            def run():
                if translate is None:
                    raise unknown(operator)
                translate(node, name)

            inputs = [i for i in node.input if i and i not in self.constants]
            output = node.output[0] if node.output else ""
            self.chain.node(name, operator, inputs, output, run)

    def _name(self, node):
        # node names are optional and need not differ, output names do
        unique = node.name and self.names[node.name] == 1
        return node.name if unique or not node.output else node.output[0]

    def _parameter(self, node, index):
        name = node.input[index]
        if name not in self.constants:
            raise Reject("the activations must be its first operand, the weights its second")
        return float32(self.constants[name], name)

    def _gemm(self, node, name):
        attributes = _attributes(node)
        if attributes.get("transA", 0):
            raise Reject("transA = 1 mixes the samples of a batch: set it to 0")
        weight = np.float32(attributes.get("alpha", 1)) * self._parameter(node, 1)
        weight = weight if attributes.get("transB", 0) else weight.T
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = np.float32(attributes.get("beta", 1)) * self._parameter(node, 2)
        self.chain.linear(name, weight, bias)

    def _matmul(self, node, name):
        self.chain.linear(name, self._parameter(node, 1).T, None)

    def _add(self, node, _name):
        self.chain.add(self._parameter(node, 1 if node.input[1] in self.constants else 0))

    def _relu(self, _node, _name):
        self.chain.relu()

    def _flatten(self, node, _name):
        self.chain.flatten(_attributes(node).get("axis", 1))

    def _reshape(self, node, _name):
        target = self.constants.get(node.input[1])
        if target is None or _attributes(node).get("allowzero", 0):
            raise Reject("its target shape is not a constant: use Flatten")
        self.chain.reshape([int(size) for size in target.reshape(-1)])

    def _identity(self, _node, _name):
        pass

    def _dropout(self, node, _name):
        training = self.constants.get(node.input[2]) if node.input[2:] and node.input[2] else False
        if training is None or np.any(training):
            raise Reject("it drops at inference: export the model in evaluation mode")


def _load(content, source):
    try:
        model = onnx.load_model_from_string(content)
        _refuse_external_data(model.graph, source)
        onnx.checker.check_model(model)
    except (DecodeError, UnicodeDecodeError, onnx.checker.ValidationError) as error:
        detail = str(error).strip().split("\n")[0].rstrip(".")
        raise BadInput(f"{source} is not a valid ONNX model ({detail}); "
                       "export it again.") from error
    for opset in model.opset_import:
        if opset.domain in DOMAINS and opset.version < OLDEST_OPSET:
            raise BadInput(f"{source} uses ONNX opset {opset.version}; "
                           f"export it with opset {OLDEST_OPSET} or later.")
    return model


def _refuse_external_data(graph, source):
    constants = [a.t for n in graph.node for a in n.attribute if a.HasField("t")]
    for tensor in [*graph.initializer, *constants]:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise BadInput(f"{source} keeps tensor {tensor.name!r} in another file; "
                           "export the model with its weights inside.")


def _array(tensor, source):
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{source}: the data of tensor {tensor.name!r} do not match its shape and "
                       "type; export the model again.") from error


def _constant(node, source):
    if len(node.attribute) != 1:
        raise BadInput(f"{source}: the Constant {node.output[0]!r} has {len(node.attribute)} "
                       "values; export the model again.")
    value = helper.get_attribute_value(node.attribute[0])
    return _array(value, source) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _attributes(node):
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _shape(value):
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
