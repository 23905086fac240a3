"""onnxruntime's own quantised operators, which its ``quantize_static`` leaves, as those of ONNX:
DequantizeLinear, the float operator, QuantizeLinear.

onnxruntime makes one operator of the three again when it loads them, so the numbers stay. Operator
semantics: onnxruntime's ``docs/ContribOperators.md``.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

DOMAIN = "com.microsoft"

OPERATORS = {"QLinearAdd": "Add", "QLinearMul": "Mul", "QLinearSigmoid": "Sigmoid",
             "QLinearLeakyRelu": "LeakyRelu", "QLinearSoftmax": "Softmax",
             "QLinearAveragePool": "AveragePool", "QLinearGlobalAveragePool": "GlobalAveragePool",
             "QLinearConcat": "Concat"}
"""The float operator in each that takes values, scale and zero point of each operand, and those of
its output."""


def standardise(model: onnx.ModelProto) -> None:
    """Rewrites ``model`` in place; operators that are not known here stay."""
    nodes = [made for node in model.graph.node for made in _standard(node)]
    if len(nodes) == len(model.graph.node):
        return
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _standard(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    operands, known = list(node.input), node.domain == DOMAIN
    if given.pop("channels_last", 0) or given.pop("opset", 13) < 13:
        known = False       # which no operator of today's ONNX computes
    if known and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        node.domain = ""
        yield node
    elif known and node.op_type == "QGemm":
        yield from _gemm(node, operands + [""] * (9 - len(operands)), given)
    elif known and node.op_type == "QLinearConcat":
        yield from _around(node, "Concat", operands[2:], operands[:2], given)
    elif known and node.op_type in OPERATORS:
        whole = (len(operands) - 1) // 3 * 3    # the last zero point may be left out
        yield from _around(node, OPERATORS[node.op_type], operands[:whole], operands[whole:],
                           given)
    else:
        yield node


def _around(node: onnx.NodeProto, operator: str, operands: Sequence[str], after: Sequence[str],
            given: dict) -> Iterator[onnx.NodeProto]:
    names = [f"{node.output[0]}:operand{at}" for at in range(len(operands) // 3)]
    for at, name in enumerate(names):
        yield _dequantise(operands[3 * at:3 * at + 3], name)
    yield from _rounded(node, operator, names, after, given)


def _gemm(node: onnx.NodeProto, operands: Sequence[str], given: dict) -> Iterator[onnx.NodeProto]:
    names = [f"{node.output[0]}:operand{at}" for at in range(3)]
    yield _dequantise(operands[:3], names[0])
    yield _dequantise(operands[3:6], names[1], axis=0 if given.get("transB") else 1)
    if operands[6]:     # in units of the sums
        unit = f"{node.output[0]}:unit"
        yield helper.make_node("Mul", [operands[1], operands[4]], [unit])
        yield _dequantise([operands[6], unit], names[2], axis=-1)
    used = names if operands[6] else names[:2]
    if operands[7]:
        yield from _rounded(node, "Gemm", used, operands[7:9], given)
    else:
        yield helper.make_node("Gemm", used, node.output, node.name, **given)


def _dequantise(operands: Sequence[str], name: str, **given) -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", operands, [name], **given)


def _rounded(node: onnx.NodeProto, operator: str, names: Sequence[str], after: Sequence[str],
             given: dict) -> Iterator[onnx.NodeProto]:
    result = f"{node.output[0]}:real"
    yield helper.make_node(operator, names, [result], node.name, **given)
    yield helper.make_node("QuantizeLinear", [result, *after], node.output)


def as_unsigned(model: onnx.ModelProto) -> None:
    """Makes uint8 of int8 that a QuantizeLinear hands to one DequantizeLinear alone, in place.

    onnxruntime does so on x86-64 when it loads a model, and its operators on uint8 round
    differently from those on int8. Where a model is run in parts, no part has both.
    """
    zero_points = {tensor.name: tensor for tensor in model.graph.initializer
                   if tensor.data_type == onnx.TensorProto.INT8 and math.prod(tensor.dims) == 1}
    outputs = {value.name for value in model.graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    moved: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or len(node.input) < 3 \
                or node.input[2] not in zero_points or node.output[0] in outputs:
            continue
        after = readers.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type == "DequantizeLinear" \
                and list(after[0].input[1:]) == list(node.input[1:]):
            own = node.input[2]
            node.input[2] = after[0].input[2] = moved.setdefault(own, f"{own}:unsigned")
    for own, name in moved.items():
        value = numpy_helper.to_array(zero_points[own]).astype(np.int16) + 128
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.uint8), name))
