"""Networks as ONNX files."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write
from zeroskip.sw.graph.network import Conv2d, Network

OPSET = 17


def to_onnx(network: Network, path: str | Path, notes: dict[str, str] | None = None):
    """Writes ``network`` as ONNX (opset 17): Gemm with ``transB = 1``, Conv, and Relu.

    The input is ``input`` float32 ``[batch, *network.input_shape]``, the output is ``output`` in
    the same way; node names are the layers' names. ``notes`` become the file's metadata. Raises
    BadInput where a layer is quantised. A layer's tensors are called after it, ``fc1.weight``.
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
        weight, bias, y = f"{layer.name}.weight", f"{layer.name}.bias", f"layer{i}.out"
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
                        "dilations": layer.dilation, "group": layer.groups}
    return "Gemm", {"transB": 1}
