"""An ONNX graph as a torch module: its layers are torch's, all else are functions.

Weights and biases of layers are parameters, and so are the scales of norms and the kernels of
transposed convolutions; batch norms stay frozen, and so do all other initialisers: tables, masks,
what normalises inputs. What a layer's weight is stored as is
worked out from the layer's own where something else reads it too, so that tied weights stay tied.
"""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.constants import attributes
from zeroskip.sw.prune import operators, weights
from zeroskip.sw.prune.weights import Found, Stored

NORM = "BatchNormalization"
BIASED = ("Gemm", "MatMul", "Conv")
"""Operators whose third operand, or what is added behind them, is a bias."""
SCALED = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "PRelu",
          "ConvTranspose")
"""Operators whose constants are trained."""


class Interpreter(nn.Module):
    """The module.

    Attributes
    ----------
    obstacle : str
        Why it cannot run; empty where it can.
    names : dict of str to str
        By layer that of its module.
    tied : dict of str to str
        Layers that have the weight of another, and which.
    stored : dict of str to tuple
        By initialiser that is a part of a layer or a batch norm: the name of that part, and the
        :class:`Weight` that it is, None where it is stored as it is.
    flat : set of int
        Numbers of the Reshape nodes that only flatten samples, once :meth:`loosen` has found them.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Stored, found: Sequence[Found]):
        super().__init__()
        graph = model.graph
        self.opset = max((each.version for each in model.opset_import
                          if each.domain in weights.DOMAINS), default=1)
        self.nodes, self.tensors = list(graph.node), tensors
        self.outputs = [value.name for value in graph.output]
        self.inputs = [value.name for value in graph.input
                       if value.name not in {each.name for each in graph.initializer}]
        self.names: dict[str, str] = {}
        self.tied: dict[str, str] = {}
        self.stored: dict[str, tuple[str, weights.Weight | None]] = {}
        self.flat: set[int] = set()
        self._called: dict[int, tuple[str, str, bool]] = {}     # node: module, output, all of it
        self._skipped: set[int] = set()
        for each in found:
            if each.weight is not None:
                self._layer(each)
        for node in self.nodes:
            if node.op_type == NORM and node.domain in weights.DOMAINS:
                self._norm(node)
        self._order = self._needed()
        self._keep_constants()
        self.obstacle = self._obstacle()
        self.eval()

    def __deepcopy__(self, memo):
        """Shares the file's nodes and tensors, which never change."""
        copy = memo[id(self)] = self.__class__.__new__(self.__class__)
        for key, value in self.__dict__.items():
            copy.__dict__[key] = value if key in ("nodes", "tensors") else deepcopy(value, memo)
        return copy

    def forward(self, *given):
        """The outputs: a tensor, or several."""
        values = dict(zip(self.inputs, given, strict=True))
        for number in self._order:
            node = self.nodes[number]
            results = self._run(number, node, values)
            for name, result in zip(self._written(number), results, strict=False):
                if name:
                    values[name] = result
            for name in self._last.get(number, ()):
                values.pop(name, None)
        found = tuple(self._value(name, values) for name in self.outputs)
        return found[0] if len(found) == 1 else found

    @torch.no_grad()
    def loosen(self, example: tuple[torch.Tensor, ...]):
        """Lets samples have other sizes where a Reshape only flattens them."""
        self._seen: dict[int, tuple] = {}
        self(*example)
        for number, (before, after) in self._seen.items():
            if len(after) == 2 and before[:1] == after[:1]:
                self.flat.add(number)
        del self._seen

    def raw(self, name: str) -> torch.Tensor:
        """What is stored under a name, worked out from the layer that has it."""
        part, weight = self.stored[name]
        found = self.tensor(part)
        if weight is None:
            return found
        if not weight.plain:
            raise BadInput(f"the weight {name!r} is read by several nodes in different shapes; "
                           "export the model with a tensor for each.")
        return found.T if weight.turned else found

    def tensor(self, part: str) -> torch.Tensor:
        """A parameter or a buffer by its name in the module."""
        owner, _, name = part.rpartition(".")
        return getattr(self.get_submodule(owner), name)

    # what the module is made of

    def _layer(self, each: Found):
        node, weight = each.node, each.weight
        if weight.name in self.stored:
            part = self.stored[weight.name][0].removesuffix(".weight")
            self.tied[each.name] = next(
                name for name, own in self.names.items() if own == part)
            return
        own = weights.float32(weight.view(self.tensors.array(weight.name)), weight.name)
        given, number = attributes(node), self._number(node)
        bias, output, last = self._bias(node, given, len(own))
        layer = _product(node, given, own, bias is not None)
        part = self._add(each.name, layer)
        with torch.no_grad():
            layer.weight = nn.Parameter(torch.from_numpy(own))
            if bias is not None:
                layer.bias.copy_(torch.from_numpy(weights.float32(
                    self.tensors.array(bias), bias).reshape(-1)))
                self.stored[bias] = f"{part}.bias", None
        self.names[each.name] = part
        self.stored[weight.name] = f"{part}.weight", weight
        operand = len(node.input) > 2 and node.input[2]
        factors = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1
        self._called[number] = part, output, factors and (bias is not None or not operand)
        if last is not None:
            self._skipped.add(last)

    def _bias(self, node, given, out: int) -> tuple[str | None, str, int | None]:
        """The bias of a product, if it has one that is its own; the product's output; and the
        number of the node that adds the bias behind it."""
        if len(node.input) > 2 and node.input[2]:
            name = node.input[2]
            fits = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1 and self._own(name, out)
            return (name if fits else None), node.output[0], None
        readers = self.tensors.readers.get(node.output[0], [])
        if node.op_type == "MatMul" and len(readers) == 1 and readers[0].op_type == "Add" \
                and node.output[0] not in self.tensors.outputs:
            name = next(each for each in (*readers[0].input, "") if each != node.output[0])
            if self._own(name, out) and self.tensors.array(name).ndim == 1:
                return name, readers[0].output[0], self._number(readers[0])
        return None, node.output[0], None

    def _own(self, name: str, out: int) -> bool:
        """Whether a tensor is a bias that nothing else reads."""
        if name not in self.tensors.tensors or name in self.stored \
                or len(self.tensors.readers[name]) > 1:
            return False
        array = self.tensors.array(name)
        return array.size == out and array.shape[-1:] == (out,) and (
            array.dtype.kind == "f" or array.dtype.name == "bfloat16")

    def _norm(self, node):
        """A batch norm, frozen, where its tensors are constants of its own."""
        own = node.input[1:5]
        if not all(name in self.tensors.tensors and name not in self.stored
                   and len(self.tensors.readers[name]) == 1 for name in own):
            return
        arrays = [torch.from_numpy(weights.float32(self.tensors.array(name), name)) for name in own]
        norm = _Norm(len(arrays[0]), attributes(node).get("epsilon", 1e-5))
        norm.weight, norm.bias = (nn.Parameter(each, requires_grad=False) for each in arrays[:2])
        norm.running_mean, norm.running_var = arrays[2:]
        part = self._add(node.name or node.output[0], norm)
        names = "weight", "bias", "running_mean", "running_var"
        for name, kind in zip(own, names, strict=True):
            self.stored[name] = f"{part}.{kind}", None
        self._called[self._number(node)] = part, node.output[0], True

    def _add(self, name: str, module: nn.Module) -> str:
        """Makes ``module`` a part whose name is that of the layer, as far as torch allows it."""
        parent: nn.Module = self
        parts = [part or "_" for part in name.split(".")]
        for at, part in enumerate(parts):
            leaf = at == len(parts) - 1
            while hasattr(parent, part) if leaf or part not in parent._modules else False:
                part += "_"
            if part not in parent._modules:
                parent.add_module(part, module if leaf else nn.Module())
            parent, parts[at] = parent._modules[part], part
        return ".".join(parts)

    def _number(self, node) -> int:
        return next(at for at, each in enumerate(self.nodes) if each is node)

    def _written(self, number: int) -> Sequence[str]:
        return [self._called[number][1]] if number in self._called else self.nodes[number].output

    def _reads(self, number: int) -> list[str]:
        """What a node needs."""
        node = self.nodes[number]
        if number not in self._called:
            return list(filter(None, node.input))
        whole = self._called[number][2]
        return [node.input[0], *([] if whole else filter(None, node.input[2:3]))]

    def _needed(self) -> list[int]:
        """The nodes that something depends on."""
        wanted, found = set(self.outputs), []
        for number in reversed(range(len(self.nodes))):
            if number not in self._skipped and wanted & set(self._written(number)):
                found.append(number)
                wanted |= set(self._reads(number))
        found.reverse()
        self._last: dict[int, list[str]] = {}
        seen = set(self.outputs)
        for number in reversed(found):
            own = set(self._reads(number)) - seen
            self._last[number] = list(own)
            seen |= own
        return found

    def _keep_constants(self):
        """Other tensors that nodes read: biases and the scales of norms, which are trained, and all
        others."""
        made = {name: node.op_type for node in self.nodes for name in node.output}
        trained = {name for node in self.nodes for name in (
            node.input[1:] if node.op_type in SCALED else node.input[2:3]
            if node.op_type in BIASED else node.input if node.op_type == "Add" and any(
                made.get(other) in BIASED for other in node.input) else ())}
        constants = {node.output[0] for node in self.nodes if node.op_type == "Constant"}
        self._places: dict[str, str] = {}
        for name in dict.fromkeys(name for at in self._order for name in (
                *self._reads(at), *self.outputs)):
            if name not in self.tensors.tensors or name in self.stored:
                continue
            tensor = self.tensors.tensors[name]
            if tensor.data_type not in operators.DTYPES:
                continue
            values = numpy_helper.to_array(tensor)
            place = f"constant_{len(self._places)}"
            self._places[name] = place
            if values.dtype == np.float32 and values.size > 1 and name in trained - constants:
                self.register_parameter(place, nn.Parameter(torch.from_numpy(values.copy())))
            else:
                self.register_buffer(place, torch.from_numpy(
                    np.array(values, np.float32 if values.dtype.name == "bfloat16" else None)).to(
                        operators.DTYPES[tensor.data_type]))

    @property
    def others(self) -> dict[str, torch.Tensor]:
        """Tensors that are trained and belong to no layer, by their names in the file."""
        return {name: self._parameters[place] for name, place in self._places.items()
                if place in self._parameters}

    def _obstacle(self) -> str:
        for number in self._order:
            node = self.nodes[number]
            if number in self._called or node.op_type == "Constant":
                continue
            name = f"{node.domain}::{node.op_type}" if node.domain not in weights.DOMAINS \
                else node.op_type
            if name not in operators.TABLE:
                called = node.name or node.output[0]
                return f"its operator {name} ({called!r}) does not run in torch"
            for name in self._reads(number):
                if name in self.tensors.tensors and name not in self.stored | self._places:
                    return f"its tensor {name!r} is of a type that torch does not have"
        wrong = [name for name in self.stored if self.tensors.array(name).dtype != np.float32]
        return f"its weight {wrong[0]!r} is {self.tensors.array(wrong[0]).dtype}, not float32" \
            if wrong else ""

    # running

    def _value(self, name: str, values) -> torch.Tensor:
        if name in values:
            return values[name]
        if name in self.stored:
            return self.raw(name)
        return getattr(self, self._places[name])

    def _run(self, number, node, values):
        if number in self._called:
            part, _, whole = self._called[number]
            return [self._product(node, self.get_submodule(part), whole, values)]
        if node.op_type == "Constant":
            if node.output[0] in self._places or node.output[0] in self.stored:
                return [self._value(node.output[0], {})]
            kind, = node.attribute
            value = torch.tensor(attributes(node)[kind.name])
            return [value.to(torch.float32) if kind.name.startswith("value_float") else value]
        given = attributes(node)
        given |= {"opset": self.opset, "outputs": len(node.output)}
        if "value" in given and isinstance(given["value"], onnx.TensorProto):
            given["value"] = torch.from_numpy(numpy_helper.to_array(given["value"]).copy())
        operands = [self._value(name, values) if name else None for name in node.input]
        if number in self.flat:
            return [operands[0].flatten(1)]
        result = operators.TABLE[node.op_type](given, *operands)
        if hasattr(self, "_seen") and node.op_type == "Reshape":
            self._seen[number] = tuple(operands[0].shape), tuple(result.shape)
        return result if isinstance(result, tuple | list) else [result]

    def _product(self, node, layer, whole, values):
        x, given = self._value(node.input[0], values), attributes(node)
        if node.op_type == "Conv":
            x = x if any(layer.padding) else operators.padded(
                x, operators.padding(given, x, layer.weight.shape[2:]))
        y = layer(x)
        if whole:
            return y
        bias = self._value(node.input[2], values) if len(node.input) > 2 and node.input[2] else None
        y = given.get("alpha", 1.0) * y
        if node.op_type == "Conv":
            bias = bias.reshape(-1, *[1] * (y.ndim - 2))
        return y if bias is None else y + given.get("beta", 1.0) * bias


class _Norm(nn.BatchNorm2d):
    """A batch norm of any dimensions that stays as it is."""

    def __init__(self, size: int, epsilon: float):
        super().__init__(size, eps=epsilon)

    def _check_input_dim(self, input):      # noqa: A002 - torch's name
        pass

    def train(self, mode: bool = True):     # noqa: ARG002 - as torch has it
        """Never trains."""
        return super().train(False)


def _product(node, given, weight: np.ndarray, bias: bool) -> nn.Module:
    """A layer of torch without values yet."""
    if node.op_type != "Conv":
        return nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias)
    axes, groups = weight.ndim - 2, given.get("group", 1)
    pads = given.get("pads", [0] * 2 * axes)
    even = pads[:axes] == pads[axes:] and given.get("auto_pad", b"NOTSET") == b"NOTSET"
    return nn.utils.skip_init(
        (nn.Conv1d, nn.Conv2d)[axes - 1], weight.shape[1] * groups, len(weight), weight.shape[2:],
        tuple(given.get("strides", [1] * axes)), tuple(pads[:axes]) if even else 0,
        tuple(given.get("dilations", [1] * axes)), groups, bias)
