"""Files of ``torch.export.save`` (``.pt2``), read without torch and without running their code.

``torch.export.load`` unpickles the sample inputs, evaluates symbolic shapes and loads compiled
libraries, so a file from a stranger could run anything. What a chain of layers needs is
plain: the graph as JSON (``models/model.json``) and the weights as raw bytes
(``data/weights``). Layout and field names: ``torch/_export/serde/schema.py``, version 8, which
torch 2.10 and later write.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import zipped
from zeroskip.sw.formats.tensorfile import parse_json
from zeroskip.sw.frontends.chain import Chain, Reject, float32, only, unknown

SCHEMA = 8
GRAPH = "/models/model.json"
WEIGHTS = "/data/weights/"
DTYPES = {6: "<f2", 7: "<f4", 8: "<f8"}
"""Codes of ``ScalarType`` in the schema that :func:`~.chain.float32` takes."""


PADDINGS = {"same": "SAME_UPPER", "valid": "VALID"}
"""What torch names a padding, as the chain names it."""
NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class _Name:
    """A reference to a value of the graph, as an argument of a node."""

    text: str

    def __post_init__(self):
        if not isinstance(self.text, str):
            raise TypeError


@dataclass(frozen=True)
class _Node:
    name: str
    operator: str
    arguments: dict[str, object]    # names and the schema's plain values
    output: str


@dataclass(frozen=True)
class _Program:
    inputs: list[str]
    outputs: list[str]
    shapes: dict[str, tuple[int | None, ...]]
    parameters: dict[str, str]              # name in the graph: name in the module
    weights: dict[str, np.ndarray]          # by name in the module; float tensors only
    nodes: list[_Node]


def survey(content: bytes, source: str) -> Chain:
    """Walks a ``.pt2`` file; ``content`` is the file, ``source`` its name for messages.

    Raises BadInput where the file is no exported program with one input and one output.
    """
    try:
        program = _parse(content, source)
    except BadInput:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise BadInput(f"{source} is not a complete .pt2 file; write it again with "
                       "torch.export.save.") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
            ValueError) as error:
        raise BadInput(f"{source} is not laid out as torch.export.save of torch 2.10 or later "
                       "writes it; write it again, or export to ONNX.") from error
    start = only(program.inputs, "input", source)
    end = only(program.outputs, "output", source)
    chain = Chain(source, start, program.shapes)
    walk = _Walk(chain, program)
    for node in program.nodes:
        walk.visit(node)
    chain.end(end)
    return chain


class _Walk:
    """Translates nodes; a method per operator of the ATen set."""

    def __init__(self, chain, program):
        self.chain, self.program = chain, program
        self.batch_sizes = set()
        self.translations = {
            "aten.linear.default": self._linear,
            "aten.conv2d.default": self._conv,
            "aten.conv2d.padding": self._conv,
            "aten.convolution.default": self._convolution,
            "aten.batch_norm.default": self._batch_norm,
            "aten.relu.default": self._relu,
            "aten.relu_.default": self._relu,
            "aten.flatten.using_ints": self._flatten,
            "aten.unflatten.int": self._unflatten,
            "aten.view.default": self._reshape,
            "aten.reshape.default": self._reshape,
            "aten.dropout.default": self._dropout,
        }

    def visit(self, node):
        if node.operator == "aten.sym_size.int" and node.arguments.get("dim") == 0:
            self.batch_sizes.add(node.output)
            return

        def run():
            if node.operator not in self.translations:
                raise unknown(node.operator)
            self.translations[node.operator](node)

        known = self.batch_sizes | set(self.program.parameters)
        inputs = [name for name in _names(node.arguments) if name not in known]
        self.chain.node(node.name, node.operator, inputs, node.output, run)

    def _parameter(self, node, argument):
        name = self.program.parameters.get(getattr(node.arguments.get(argument), "text", None))
        if name not in self.program.weights:
            raise Reject(f"its {argument} is no parameter of float16, 32 or 64: "
                         "export the model with float32 parameters")
        return name, float32(self.program.weights[name], name)

    def _operands(self, node):
        """Name, weight and bias of a layer."""
        name, weight = self._parameter(node, "weight")
        bias = None
        if node.arguments.get("bias") is not None:
            _, bias = self._parameter(node, "bias")
        name = name.removesuffix(".weight")
        used = {row.name for row in self.chain.rows}
        return node.name if name in used else name, weight, bias

    def _linear(self, node):
        self.chain.linear(*self._operands(node))

    def _conv(self, node):
        padding = node.arguments.get("padding", [0])
        if isinstance(padding, str):
            padding = PADDINGS.get(padding, padding)
        else:
            padding = _pair(node, "padding", 0) * 2
        self.chain.conv(*self._operands(node), stride=_pair(node, "stride", 1), padding=padding,
                        dilation=_pair(node, "dilation", 1),
                        groups=node.arguments.get("groups", 1))

    def _convolution(self, node):
        if node.arguments.get("transposed") is not False:
            raise unknown("conv_transpose")
        self._conv(node)

    def _batch_norm(self, node):
        if node.arguments.get("training") is not False:
            raise Reject("it normalises by the batch: call eval() on the module before exporting "
                         "it")
        epsilon = node.arguments.get("eps")
        if any(node.arguments.get(name) is None for name in NORM) or not isinstance(epsilon, float):
            raise Reject("it has no parameters or no running statistics: use nn.BatchNorm2d as it "
                         "is by default")
        self.chain.batch_norm(*(self._parameter(node, name)[1] for name in NORM),
                              epsilon)

    def _relu(self, _node):
        self.chain.relu()

    def _flatten(self, node):
        self.chain.flatten(node.arguments.get("start_dim", 0), node.arguments.get("end_dim", -1))

    def _unflatten(self, node):
        if node.arguments.get("dim") != 1 or len(self.chain.shape or (0, 0)) != 2:
            raise Reject("it must unflatten everything behind the batch dimension")
        self.chain.reshape([0, *self._sizes(node.arguments.get("sizes"))])

    def _reshape(self, node):
        self.chain.reshape(self._sizes(node.arguments.get("size", node.arguments.get("shape"))))

    def _sizes(self, target):
        if not isinstance(target, list):
            raise Reject("its target shape is not a list of sizes: use nn.Flatten")
        # the batch size computed from the input keeps that dimension, as ONNX writes with a 0
        sizes = [0 if getattr(size, "text", None) in self.batch_sizes else size for size in target]
        if not all(isinstance(size, int) for size in sizes):
            raise Reject("its target shape is computed: use nn.Flatten")
        return sizes

    def _dropout(self, node):
        if node.arguments.get("train") is not False:
            raise Reject("it drops at inference: call eval() on the module before exporting it")


def _parse(content, source):
    archive = zipped.opened(io.BytesIO(content))
    graphs = [name for name in archive.namelist() if name.endswith(GRAPH)]
    program = parse_json(archive.read(graphs[0]).decode())
    root = graphs[0].removesuffix(GRAPH)
    version = program["schema_version"]["major"]
    if version != SCHEMA:
        raise BadInput(f"{source} has version {version} of torch's schema, and only {SCHEMA} can "
                       "be read; export the model to ONNX.")
    if archive.read(f"{root}/byteorder") != b"little":
        raise BadInput(f"{source} holds big-endian weights; export the model to ONNX.")
    module = program["graph_module"]
    graph, signature = module["graph"], module["signature"]
    return _Program(
        inputs=[_value(spec["user_input"]["arg"]).text
                for spec in signature["input_specs"] if "user_input" in spec],
        outputs=[_value(value).text for value in graph["outputs"]],
        shapes={name: tuple(_size(size) for size in meta["sizes"])
                for name, meta in graph["tensor_values"].items()},
        parameters=dict(_parameters(signature["input_specs"])),
        weights=_weights(archive, root, source),
        nodes=[_node(node) for node in graph["nodes"]],
    )


def _size(size):
    """A dimension; None where it is an expression, as the size of a dynamic batch."""
    return int(size["as_int"]) if "as_int" in size else None


def _parameters(specs):
    for spec in specs:
        for kind in ("parameter", "buffer", "tensor_constant"):
            if kind in spec:
                yield (_Name(spec[kind]["arg"]["name"]).text,
                       _Name(spec[kind][f"{kind}_name"]).text)


def _weights(archive, root, source):
    config = parse_json(
        archive.read(f"{root}{WEIGHTS}model_weights_config.json").decode())["config"]
    weights, read = {}, cache(archive.read)     # several tensors may share a member
    for name, entry in config.items():
        if entry["use_pickle"]:
            raise BadInput(f"{source} holds {name!r} as a pickle, which could run code; export "
                           "the model with plain tensors, or to ONNX.")
        meta = entry["tensor_meta"]
        dtype = DTYPES.get(meta["dtype"])
        if dtype:
            weights[name] = _tensor(read(root + WEIGHTS + entry["path_name"]), meta, dtype)
    return weights


def _tensor(content, meta, dtype):
    # the constructor checks that shape, strides and offset stay inside the buffer
    size = np.dtype(dtype).itemsize
    if prod(n["as_int"] for n in meta["sizes"]) * size > len(content):
        raise ValueError("a tensor has more values than are stored")
    return np.ndarray(
        [n["as_int"] for n in meta["sizes"]], dtype, content,
        meta["storage_offset"]["as_int"] * size, [n["as_int"] * size for n in meta["strides"]])


def _node(node):
    outputs = [_value(output) for output in node["outputs"]]
    name = outputs[0].text if outputs and isinstance(outputs[0], _Name) else ""
    return _Node(str(node["name"] or name), node["target"].removeprefix("torch.ops."),
                 {i["name"]: _value(i["arg"]) for i in node["inputs"]}, name)


def _value(argument):
    """An ``Argument`` of the schema, which has one entry: its kind and its value."""
    (kind, value), = argument.items()
    if kind in ("as_tensor", "as_name"):
        return _Name(value["name"] if kind == "as_tensor" else value)
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return _value(value)
    if kind == "as_tensors":
        return [_Name(tensor["name"]) for tensor in value]
    if kind in ("as_sym_ints", "as_optional_tensors"):
        return [_value(entry) for entry in value]
    return None if kind == "as_none" else value


def _pair(node, argument, default):
    """A list of two numbers along height and width; one stands for both."""
    value = node.arguments.get(argument, [default])
    if not isinstance(value, list) or len(value) not in (1, 2) \
            or not all(isinstance(size, int) for size in value):
        raise Reject(f"its {argument} is {value}, not one number or two")
    return value * (2 // len(value))


def _names(arguments):
    for value in arguments.values():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, _Name):
                yield entry.text
