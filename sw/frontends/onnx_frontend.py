"""ONNX files: chains of Conv, Gemm, MatMul, Add, Relu, Flatten and what vanishes at inference.

Quantised models come in three forms: layers between DequantizeLinear and QuantizeLinear; their
fusions QLinearConv and QLinearMatMul; and ConvInteger and MatMulInteger, whose output is int32.

Operator semantics: the ONNX operator reference, opset 7 and later (before it, Gemm and Add
broadcast differently).
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import helper, numpy_helper

from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write
from zeroskip.sw.frontends.chain import Chain, Grid, Integers, Reject, float32, only, unknown
from zeroskip.sw.frontends.external import load_external
from zeroskip.sw.graph.network import Conv2d, Network

OPSET = 17
OLDEST_OPSET = 7
DOMAINS = ("", "ai.onnx")
QUANTISED = {onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "uint8"}
PASSING = ("Identity", "QuantizeLinear", "DequantizeLinear")
"""Operators that make a constant of a constant."""


def survey(content: bytes, source: str) -> Chain:
    """Walks an ONNX file; ``content`` is the file, ``source`` its path, for messages and for the
    tensors that it keeps in files of its own folder.

    Raises BadInput where the file is no valid ONNX model with one input and one output.
    """
    graph = _load(content, source).graph
    constants = {t.name: _array(t, source) for t in graph.initializer}
    inputs = {i.name: i for i in graph.input if i.name not in constants}
    start = only(list(inputs), "input", source)
    end = only([value.name for value in graph.output], "output", source)
    shapes = {v.name: _shape(v) for v in [*graph.value_info, *inputs.values()]}
    chain = Chain(source, start, shapes, QUANTISED.get(inputs[start].type.tensor_type.elem_type))
    walk = _Walk(chain, constants, Counter(node.name for node in graph.node))
    for node in graph.node:
        walk.visit(node)
    chain.end(end)
    return chain


def to_onnx(network: Network, path: str | Path, notes: dict[str, str] | None = None):
    """Writes ``network`` as ONNX (opset 17): Gemm with ``transB = 1``, Conv, and Relu.

    The input is ``input`` float32 ``[batch, *network.input_shape]``, the output is ``output`` in
    the same way; node names are the layers' names. ``notes`` become the file's metadata. Raises
    BadInput where a layer is quantised.
    """
    nodes, initializers, current = [], [], "input"

    def reshaped(tensor, shape, wanted, name):
        if shape == wanted:
            return tensor
        initializers.append(numpy_helper.from_array(np.array([-1, *wanted]), f"{name}.shape"))
        nodes.append(helper.make_node("Reshape", [tensor, f"{name}.shape"], [f"{name}.in"]))
        return f"{name}.in"

    shape = network.input_shape
    for i, layer in enumerate(network.layers):
        if layer.quantised:
            raise BadInput(f"layer {layer.name} is quantised, and only float networks can be "
                           "written; keep the model that it was read from.")
        weight, bias, y = f"layer{i}.weight", f"layer{i}.bias", f"layer{i}.out"
        initializers += [numpy_helper.from_array(layer.weight, weight),
                         numpy_helper.from_array(layer.bias, bias)]
        current = reshaped(current, shape, _sample(layer, "input_shape", layer.inputs), f"layer{i}")
        operator, attributes = _operator(layer)
        nodes.append(helper.make_node(operator, [current, weight, bias], [y], layer.name,
                                      **attributes))
        if layer.activation == "relu":
            y, linear = f"layer{i}.relu", y
            nodes.append(helper.make_node("Relu", [linear], [y]))
        current, shape = y, _sample(layer, "output_shape", layer.outputs)
    reshaped(current, shape, network.output_shape, "last")
    nodes[-1].output[0] = "output"
    border = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *sizes])
              for name, sizes in (("input", network.input_shape), ("output", network.output_shape))]
    graph = helper.make_graph(nodes, "zeroskip", border[:1], border[1:], initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets,
                              ir_version=helper.find_min_ir_version_for(opsets))
    helper.set_model_props(model, notes or {})
    onnx.checker.check_model(model)
    write(path, model.SerializeToString(deterministic=True))


def _sample(layer, image, length):
    """Shape of one sample: that of an image at a convolution, else its length."""
    return getattr(layer, image, (length,))


def _operator(layer):
    """Operator and attributes of a layer."""
    if isinstance(layer, Conv2d):
        return "Conv", {"strides": layer.stride, "pads": layer.padding,
                        "dilations": layer.dilation}
    return "Gemm", {"transB": 1}


@dataclass(frozen=True, eq=False)
class _Dequantised:
    """Constant integers, zero point removed, and their scales, along an axis if several."""

    values: np.ndarray      # int64
    scale: np.ndarray       # float64, one or one per place of the axis
    axis: int

    @property
    def real(self) -> np.ndarray:
        """The float64 values that they stand for."""
        return self.values * _along(self.scale, self.axis, self.values)

    def integers(self, name: str, out: int) -> Integers:
        """As the weights of a layer whose output channels are the axis ``out``."""
        if self.values.ndim <= out or not self.values.size:
            raise Reject(f"its weight {name!r} has shape {list(self.values.shape)}")
        least, greatest = self.values.min(), self.values.max()
        if least < -128 or greatest > 127:
            raise Reject(f"its weight {name!r} less its zero point is {least} to {greatest}, not "
                         "int8: quantise the weights symmetrically")
        if self.scale.size > 1 and self.axis != out:
            raise Reject(f"its weight {name!r} has scales along axis {self.axis}: quantise the "
                         "weights per tensor or per output channel")
        weight = np.moveaxis(self.values, out, 0).astype(np.int8)
        return Integers(np.ascontiguousarray(weight),
                        np.broadcast_to(self.scale, weight.shape[:1]).copy())


class _Walk:
    """Translates nodes; a method per operator, named after it.

    A constant is an array, or a QuantizeLinear or DequantizeLinear node of a constant, which is
    worked out where it is used.
    """

    def __init__(self, chain, constants, names):
        self.chain, self.constants, self.names = chain, constants, names

    def visit(self, node):
        standard = node.domain in DOMAINS
        if standard and node.op_type == "Constant":
            self.constants[node.output[0]] = _constant(node, self.chain.source)
        elif standard and node.op_type in PASSING and node.input[0] in self.constants:
            same = node.op_type == "Identity"
            self.constants[node.output[0]] = self.constants[node.input[0]] if same else node
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
        name = node.name if unique or not node.output else node.output[0]
        # protobuf gives a name that is no UTF-8 as bytes
        return name if isinstance(name, str) else name.decode(errors="replace")

    def _parameter(self, node, index):
        """A constant float operand."""
        name = node.input[index]
        if name not in self.constants:
            raise Reject("the activations must be its first operand, the weights its second")
        if isinstance(self.constants[name], onnx.NodeProto):
            return self._dequantised(name).real
        return float32(self.constants[name], name)

    def _bias(self, node, index, unit):
        """A constant float operand that adds to sums of ``unit`` [out], None for float sums.

        Tools round the units to float32 for the bias' scale; the integers mean the units
        themselves.
        """
        real, stored = self._parameter(node, index), self.constants[node.input[index]]
        if unit is None or not isinstance(stored, onnx.NodeProto):
            return real
        bias = self._dequantised(node.input[index])
        if bias.scale.size == 1 and (unit == unit[0]).all():
            unit = unit[:1]
        if not np.array_equal(bias.scale, unit.astype(np.float32)):
            return real
        return _Dequantised(bias.values, unit, bias.axis).real

    def _sum_unit(self, integers):
        """What one unit of a product's sums stands for, None without ``integers``."""
        return integers and self.chain.grid.scale * integers.scale

    def _weight(self, node, index, out):
        """The weights, and the integers behind them where the input is quantised too."""
        weight, name = self._parameter(node, index), node.input[index]
        stored = isinstance(self.constants[name], onnx.NodeProto)
        if not stored or self.chain.grid is None or weight.ndim <= out:
            return weight, None
        return weight, self._dequantised(name).integers(name, out)

    def _plain(self, node, index):
        """A constant array, None where the node does not have that input."""
        name = _optional(node, index)
        if name is None:
            return None
        if not isinstance(self.constants.get(name), np.ndarray):
            raise Reject(f"its input {name!r} is not a constant")
        return self.constants[name]

    def _dequantised(self, name):
        node = self.constants[name]
        if node.op_type != "DequantizeLinear":
            raise Reject(f"{name!r} is quantised, and nothing makes it float again")
        return self._integers(node, 0, 1, 2, _axis(node))

    def _integers(self, node, index, scale, zero_point, axis):
        """Constant integers; ``scale`` and ``zero_point`` are indices of inputs or None."""
        name = node.input[index]
        stored = self.constants.get(name)
        if isinstance(stored, onnx.NodeProto) and stored.op_type == "QuantizeLinear":
            stored = self._rounded(stored)
        if not isinstance(stored, np.ndarray):
            raise Reject(f"its weight {name!r} is not a constant")
        if stored.dtype not in (np.int8, np.uint8, np.int32):
            raise Reject(f"{name!r} is {stored.dtype}: only int8 and uint8 can run")
        scales = np.ones(1) if scale is None else self._scales(node, scale)
        zero_points = self._plain(node, zero_point)
        if zero_points is None:
            zero_points = np.zeros(1, stored.dtype)
        if zero_points.dtype != stored.dtype:
            raise Reject(f"{name!r} is {stored.dtype}, but its zero point is {zero_points.dtype}")
        zero_points = _along(zero_points.reshape(-1).astype(np.int64), axis, stored)
        _along(scales, axis, stored)    # checks that they fit
        return _Dequantised(stored.astype(np.int64) - zero_points, scales,
                            axis % max(stored.ndim, 1))

    def _rounded(self, node):
        """The integers of a QuantizeLinear of constants."""
        values = self._parameter(node, 0)
        if not np.isfinite(values).all():
            raise Reject(f"{node.input[0]!r} holds a value that is not finite")
        scales, zero_points = self._scales(node, 1), self._plain(node, 2)
        dtype = _rounds_to(node, zero_points)
        zero_points = np.zeros(1) if zero_points is None else zero_points.reshape(-1)
        axis, limits = _axis(node), np.iinfo(dtype)
        # the quotient is float32, as the operator defines it
        quotients = values / _along(scales.astype(np.float32), axis, values)
        return np.clip(np.rint(quotients) + _along(zero_points, axis, values),
                       limits.min, limits.max).astype(dtype)

    def _scales(self, node, index):
        scales = float32(self._plain(node, index), node.input[index]).reshape(-1)
        if not scales.size or not (np.isfinite(scales) & (scales > 0)).all():
            raise Reject(f"its scale {node.input[index]!r} is not a number above 0")
        return scales.astype(np.float64)

    def _grid(self, node, scale, zero_point, dtype=None):
        """How a tensor of the chain is quantised; ``dtype`` where nothing in the node says so."""
        scales, zero_points = self._scales(node, scale), self._plain(node, zero_point)
        if scales.size != 1 or (zero_points is not None and zero_points.size != 1):
            raise Reject("it has several scales: quantise activations per tensor")
        _axis(node)
        dtype = dtype if zero_points is None and dtype else _rounds_to(node, zero_points)
        value = 0 if zero_points is None else int(zero_points.reshape(-1)[0])
        return Grid(float(scales[0]), value, dtype)

    def _gemm(self, node, name):
        attributes = _attributes(node)
        if attributes.get("transA", 0):
            raise Reject("transA = 1 mixes the samples of a batch: set it to 0")
        transposed = attributes.get("transB", 0)
        weight, integers = self._weight(node, 1, 0 if transposed else 1)
        alpha = np.float32(attributes.get("alpha", 1))
        if integers and alpha != 1:
            raise Reject(f"alpha is {alpha}: set it to 1 in a quantised layer")
        bias = None
        if _optional(node, 2):
            bias = self._bias(node, 2, self._sum_unit(integers))
            bias = np.float32(attributes.get("beta", 1)) * bias
        self.chain.linear(name, alpha * (weight if transposed else weight.T), bias, integers)

    def _matmul(self, node, name):
        weight, integers = self._weight(node, 1, 1)
        self.chain.linear(name, weight.T, None, integers)

    def _conv(self, node, name):
        weight, integers = self._weight(node, 1, 0)
        bias = None
        if _optional(node, 2):
            bias = self._bias(node, 2, self._sum_unit(integers))
        self._convolution(node, name, weight, bias, integers)

    def _convolution(self, node, name, weight, bias, integers):
        attributes = _attributes(node)
        kernel = attributes.get("kernel_shape", weight.shape[2:])
        if tuple(kernel) != weight.shape[2:]:
            raise Reject(f"its kernel_shape is {list(kernel)}, but its weight has shape "
                         f"{list(weight.shape)}")
        automatic = attributes.get("auto_pad", b"NOTSET").decode(errors="replace")
        self.chain.conv(
            name, weight, bias, stride=attributes.get("strides", [1, 1]),
            padding=attributes.get("pads", [0] * 4) if automatic == "NOTSET" else automatic,
            dilation=attributes.get("dilations", [1, 1]), groups=attributes.get("group", 1),
            integers=integers)

    def _qlinearconv(self, node, name):
        before, after = self._grid(node, 1, 2), self._grid(node, 6, 7)
        stored = self._integers(node, 3, 4, 5, 0)
        integers, bias = stored.integers(node.input[3], 0), self._plain(node, 8)
        if bias is not None:
            if bias.dtype != np.int32 or bias.shape != integers.scale.shape:
                raise Reject(f"its bias is {bias.dtype} {list(bias.shape)}, not int32 "
                             f"[{integers.scale.size}]")
            bias = bias * (before.scale * integers.scale)
        self.chain.dequantise(before)
        self._convolution(node, name, stored.real, bias, integers)
        self.chain.quantise(after)

    def _qlinearmatmul(self, node, name):
        before, after = self._grid(node, 1, 2), self._grid(node, 6, 7)
        stored = self._integers(node, 3, 4, 5, 1)
        self.chain.dequantise(before)
        self.chain.linear(name, stored.real.T, None, stored.integers(node.input[3], 1))
        self.chain.quantise(after)

    def _convinteger(self, node, name):
        self._dequantise_unscaled(node)
        stored = self._integers(node, 1, None, 3, 0)
        self._convolution(node, name, stored.real, None, stored.integers(node.input[1], 0))
        self.chain.raw()

    def _matmulinteger(self, node, name):
        self._dequantise_unscaled(node)
        stored = self._integers(node, 1, None, 3, 1)
        self.chain.linear(name, stored.real.T, None, stored.integers(node.input[1], 1))
        self.chain.raw()

    def _dequantise_unscaled(self, node):
        """The input of an operator that knows no scale: that of the tensor, or 1."""
        zero_points = self._plain(node, 2)
        if zero_points is not None and zero_points.size != 1:
            raise Reject("it has several zero points: quantise activations per tensor")
        known = zero_points is None and self.chain.integer in QUANTISED.values()
        dtype = self.chain.integer if known else _rounds_to(node, zero_points)
        value = 0 if zero_points is None else int(zero_points.reshape(-1)[0])
        scale = self.chain.grid.scale if self.chain.grid else 1.0
        self.chain.dequantise(Grid(scale, value, dtype))

    def _quantizelinear(self, node, _name):
        self.chain.quantise(self._grid(node, 1, 2))

    def _dequantizelinear(self, node, _name):
        known = self.chain.integer in QUANTISED.values()
        self.chain.dequantise(self._grid(node, 1, 2, self.chain.integer if known else None))

    def _batchnormalization(self, node, _name):
        attributes = _attributes(node)
        if attributes.get("training_mode", 0):
            raise Reject("it normalises by the batch: export the model in evaluation mode")
        self.chain.batch_norm(*(self._parameter(node, i) for i in (1, 2, 3, 4)),
                              attributes.get("epsilon", 1e-5))

    def _add(self, node, _name):
        index = 1 if node.input[1] in self.constants else 0
        self.chain.add(self._bias(node, index, self.chain.unit))

    def _relu(self, _node, _name):
        self.chain.relu()

    def _flatten(self, node, _name):
        self.chain.flatten(_attributes(node).get("axis", 1))

    def _reshape(self, node, _name):
        target = self.constants.get(node.input[1])
        if not isinstance(target, np.ndarray):
            raise Reject("its target shape is not a constant: use Flatten")
        # With allowzero a 0 is a size; without, it keeps a dimension.
        if _attributes(node).get("allowzero", 0) and not target.all():
            raise Reject(f"it reshapes to {target.tolist()} with allowzero = 1, to a tensor "
                         "without values: set allowzero to 0, or use Flatten")
        self.chain.reshape([int(size) for size in target.reshape(-1)])

    def _identity(self, _node, _name):
        pass

    def _dropout(self, node, _name):
        training = self._plain(node, 2)
        if training is not None and np.any(training):
            raise Reject("it drops at inference: export the model in evaluation mode")


def _load(content, source):
    try:
        model = onnx.load_model_from_string(content)
        load_external(model, Path(source))
        onnx.checker.check_model(model)
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        detail = str(error).strip().split("\n")[0].rstrip(".")
        raise BadInput(f"{source} is not a valid ONNX model ({detail}); "
                       "export it again.") from error
    except EncodeError:     # the checker gets a copy, for which there was no room
        raise MemoryError from None
    for opset in model.opset_import:
        if opset.domain in DOMAINS and opset.version < OLDEST_OPSET:
            raise BadInput(f"{source} uses ONNX opset {opset.version}; "
                           f"export it with opset {OLDEST_OPSET} or later.")
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (DecodeError, ValueError, onnx.shape_inference.InferenceError):
        return model    # shapes only help to look behind a node that cannot run


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


def _optional(node, index):
    """The name of an input; None where it is left out."""
    given = index is not None and index < len(node.input)
    return (node.input[index] or None) if given else None


def _axis(node):
    """The axis of the scales of QuantizeLinear and DequantizeLinear."""
    attributes = _attributes(node)
    if attributes.get("block_size", 0):
        raise Reject("it has a scale per block: quantise per tensor or per output channel")
    return attributes.get("axis", 1)


def _rounds_to(node, zero_points):
    """The type of a quantised tensor: that of its zero point, else what the node says."""
    if zero_points is not None:
        name = str(zero_points.dtype)
    else:
        code = _attributes(node).get("output_dtype", 0) or onnx.TensorProto.UINT8
        name = QUANTISED.get(code) or onnx.TensorProto.DataType.Name(code).lower()
    if name not in QUANTISED.values():
        raise Reject(f"it quantises to {name}: only int8 and uint8 can run")
    return name


def _along(vector, axis, values):
    """A vector ``[1]`` or ``[size of the axis]`` in a shape that broadcasts along the axis."""
    if vector.size == 1:
        return vector.reshape([1] * values.ndim)
    if not -values.ndim <= axis < values.ndim or vector.size != values.shape[axis]:
        raise Reject(f"its {vector.size} scales or zero points do not fit axis {axis} of a tensor "
                     f"of shape {list(values.shape)}")
    shape = [1] * values.ndim
    shape[axis] = -1
    return vector.reshape(shape)


def _attributes(node):
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _shape(value):
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
