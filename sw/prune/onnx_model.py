"""ONNX files that are pruned: read as a module, and written as they were with other weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.external import load_external
from zeroskip.sw.frontends.load import UNREADABLE
from zeroskip.sw.graph.session import Session
from zeroskip.sw.prune import operators, weights
from zeroskip.sw.prune.interpreter import Interpreter
from zeroskip.sw.prune.model import ALONE, Input, Model, checked

CLOSE = 1e-3
"""Greatest difference from onnxruntime, as part of the greatest output, that is rounding."""

ALIGNED = 64
"""Bytes at whose multiples tensors begin in the file beside a model."""

MALFORMED = (DecodeError, onnx.checker.ValidationError, *UNREADABLE)


@dataclass(frozen=True, eq=False)
class OnnxModel(Model):
    """A model from an ONNX file.

    Attributes
    ----------
    proto : onnx.ModelProto
        The file, with all its tensors.
    outside : set of str
        The tensors that it keeps in other files.
    """

    proto: onnx.ModelProto | None = None
    outside: frozenset[str] = frozenset()

    def files(self, path: Path, notes: dict[str, str]) -> dict[Path, bytes]:
        """The file again, by its path: only weights that changed are other ones, and ``notes`` are
        metadata. Tensors that were in other files are in one beside ``path``, named after it.

        Raises BadInput where a tensor's type would round its values, and where another file lies
        where the tensors would.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.proto)
        self._store(model)
        known = {each.key: each.value for each in model.metadata_props}
        helper.set_model_props(model, known | notes)
        content = {}
        if self.outside:
            data = path.with_name(f"{path.name}.data")
            if data.exists() and not path.exists():
                raise BadInput(f"{data} would be overwritten and belongs to no model; give another "
                               "name, or move it.")
            content[data] = _moved(model, self.outside, data.name)
        content[path] = model.SerializeToString(deterministic=True)
        return content

    @torch.no_grad()
    def _store(self, model: onnx.ModelProto):
        module, tensors = self.module, weights.Stored(model).tensors
        shrunk = False
        for name, (part, weight) in module.stored.items():
            values = module.tensor(part).detach().numpy()
            before = numpy_helper.to_array(tensors[name])
            same = values.size == before.size
            shrunk |= not same
            if weight is None:
                values = values.reshape(before.shape if same else (*before.shape[:-1], -1))
            elif weight.plain:
                values = values.T if weight.turned else values
            elif not same:
                raise BadInput(f"the weight {name!r} reaches its layer in another shape, so that "
                               "nothing can leave it; export the model with the weight itself.")
            else:
                whole = before.astype(np.float32)
                weight.view(whole)[...] = values
                values = whole
            weights.store(tensors[name], values)
        for name, values in module.others.items():
            weights.store(tensors[name], values.detach().numpy())
        if shrunk:
            _loosen(model, module.flat)

    def loosen(self, example: tuple[torch.Tensor, ...]):
        """Frees the sizes that a Reshape that flattens samples fixes."""
        self.module.loosen(example)

    @torch.no_grad()
    def check_computes(self, example: tuple[torch.Tensor, ...]):
        """Raises BadInput where the module does not compute what onnxruntime computes."""
        names = [each.name for each in self.inputs]
        expected = Session(self.proto.SerializeToString()).once(
            {name: each.numpy() for name, each in zip(names, example, strict=True)})
        try:
            found = self.module(*example)
        except operators.Unknown as error:
            raise BadInput(f"{self.source}: {error} does not run in torch; {ALONE}") from error
        except UNREADABLE as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise BadInput(f"{self.source}: torch cannot run it ({reason}); {ALONE}") from error
        for own, other in zip(found if isinstance(found, tuple) else (found,), expected,
                              strict=True):
            values = own.numpy().astype(np.float64)
            bound = CLOSE * max(float(np.abs(other).max(initial=0)), CLOSE)
            if values.shape != other.shape or not np.abs(values - other).max(initial=0) <= bound:
                raise BadInput(f"{self.source}: torch does not compute what onnxruntime does; "
                               f"{ALONE}")


def read(path: Path) -> OnnxModel:
    """The model in a file; BadInput where it is none, or has no layers."""
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        outside = frozenset(each.name for each in _tensors(model).values()
                            if each.data_location == onnx.TensorProto.EXTERNAL)
        load_external(model, path)
        tensors = weights.Stored(model)
        found = weights.products(model, tensors)
        module = Interpreter(model, tensors, found)
        initial = {each.name for each in model.graph.initializer}
        inputs = tuple(_input(value) for value in model.graph.input if value.name not in initial)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give the path of a model file."
                       ) from error
    except BadInput as error:
        text = str(error)
        raise BadInput(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except MALFORMED as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadInput(f"{path} is not a valid ONNX model ({reason}); export it again.") from error
    firsts = {each[1] for each in inputs}
    batch = firsts.pop() if len(firsts) == 1 else None
    refused = {each.name: each.reason for each in found if each.weight is None}
    return checked(OnnxModel(str(path), module, module.names, module.tied, refused,
                             tuple(each for each, _ in inputs), batch, module.obstacle, model,
                             outside))


def _tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The tensors that may lie in other files: initialisers, and attributes of nodes."""
    graph = model.graph
    found = {each.name: each for each in graph.initializer}
    for node in graph.node:
        for each in node.attribute:
            if each.HasField("t"):
                found[f"{node.output[0]}:{each.name}"] = each.t
    return found


def _input(value: onnx.ValueInfoProto) -> tuple[Input, int | None]:
    """An input, and how many samples it takes, where that is fixed."""
    sizes = [each.dim_value if each.HasField("dim_value") and each.dim_value > 0 else None
             for each in value.type.tensor_type.shape.dim]
    return Input(value.name, tuple(sizes[1:]), weights.dtype_of(value)), sizes[0] if sizes else None


def _moved(model: onnx.ModelProto, outside: frozenset[str], name: str) -> bytes:
    """The content of the file ``name`` of the tensors that are outside of the model."""
    content = bytearray()
    for key, tensor in _tensors(model).items():
        if key not in outside:
            continue
        content += bytes(-len(content) % ALIGNED)
        raw = tensor.raw_data
        onnx.external_data_helper.set_external_data(tensor, name, len(content), len(raw))
        content += raw
        tensor.ClearField("raw_data")
    return bytes(content)


def _loosen(model: onnx.ModelProto, flat: set[int]):
    """Frees what the sizes of layers that shrank had fixed: the shapes noted between nodes, and
    that of a Reshape that flattens samples."""
    del model.graph.value_info[:]
    if not flat:
        return
    name = "flattened"
    while any(name == each.name for each in model.graph.initializer):
        name += "_"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, -1]), name))
    for number in flat:
        node = model.graph.node[number]
        node.input[1] = name
        kept = [each for each in node.attribute if each.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
