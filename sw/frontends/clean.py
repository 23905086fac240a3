"""An ONNX file as a model of one operator set whose shapes are all known, without what only hides
what it computes: constants that are worked out, nodes that do nothing, functions.

onnx checks and converts, onnxscript folds and infers.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.external import load_external
from zeroskip.sw.graph import session

OPSET = 21
"""Operator set to which older models are converted."""

OLDEST = 7
DOMAINS = ("", "ai.onnx")


def load(content: bytes, source: str, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model in a file's ``content``; ``source`` is its path, for messages and for the tensors
    that it keeps in files of its own folder, ``shapes`` are those of inputs that the file leaves
    open beyond the batch.

    Raises BadInput where the file is no valid ONNX model, or cannot run here.
    """
    model = _parse(content, source)
    _fix_shapes(model, source, shapes)
    model = _converted(model, source)
    model = _folded(model)
    _refuse(model, source)
    return model


def _parse(content: bytes, source: str) -> onnx.ModelProto:
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
    return model


def _fix_shapes(model: onnx.ModelProto, source: str,
                shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Gives every input its shape: as asked for, else the model's own with a batch of 1."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    unknown = sorted(set(shapes) - {value.name for value in inputs})
    if unknown:
        raise BadInput(f"{source} has no input {unknown[0]!r}; its inputs are "
                       f"{', '.join(value.name for value in inputs)}.")
    for value in inputs:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise BadInput(f"{source}: the input {value.name!r} has no shape; export the model "
                           "with the shapes of its inputs.")
        sizes = [each.dim_value if each.HasField("dim_value") else None for each in kind.shape.dim]
        if sizes and sizes[0] is None:
            sizes[0] = 1
        given = shapes.get(value.name)
        if given is not None:
            if len(given) != len(sizes) or any(old not in (None, new) for old, new in
                                               zip(sizes[1:], given[1:], strict=True)):
                raise BadInput(f"{source}: the input {value.name!r} is {_dims(kind)}, which cannot "
                               f"be {list(given)}; give it another shape.")
            sizes = list(given)
        if None in sizes or any(size < 1 for size in sizes):
            raise BadInput(f"{source}: the input {value.name!r} is {_dims(kind)}, and all but the "
                           "batch must be known; say it with --input-shape, such as "
                           f"{value.name}:{','.join(str(size or 8) for size in sizes)}.")
        for dim, size in zip(kind.shape.dim, sizes, strict=True):
            dim.dim_value = size
    # what is known of values behind the inputs may be of other shapes
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _dims(kind) -> str:
    return "[" + ", ".join(str(each.dim_value) if each.HasField("dim_value")
                           else each.dim_param or "?" for each in kind.shape.dim) + "]"


def _converted(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """The model in at least :data:`OPSET`, where its operators have a way there."""
    version = next((each.version for each in model.opset_import if each.domain in DOMAINS), OPSET)
    if version < OLDEST:
        raise BadInput(f"{source} uses ONNX opset {version}; "
                       f"export it with opset {OLDEST} or later.")
    if version >= OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except (RuntimeError, ValueError, onnx.checker.ValidationError):
        return model    # onnxruntime takes older operators too


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx_ir
    from onnxscript import optimizer
    own = onnx_ir.from_proto(model)
    optimizer.fold_constants(own, onnx_shape_inference=True, should_fold=lambda node:
                             node.op_type == "ConstantOfShape" or None)
    optimizer.optimize(own)
    folded = onnx_ir.to_proto(own)
    return onnx.shape_inference.infer_shapes(folded, data_prop=True)


def _refuse(model: onnx.ModelProto, source: str) -> None:
    """Raises BadInput for what nothing here can run."""
    for node in model.graph.node:
        what = None
        if node.domain not in session.DOMAINS:
            what = "an operator of its own"
        elif node.op_type in session.CONTROL:
            what = "control flow, which is decided while the model runs"
        elif node.op_type in session.RANDOM:
            what = "drawn anew on each run"
        if what:
            operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise BadInput(f"{source}: {operator} ({node.name or node.output[0]!r}) is {what}; "
                           "export the model without it.")


def array(tensor: onnx.TensorProto, source: str) -> np.ndarray:
    """A tensor's values; BadInput where they do not fit its shape."""
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{source}: the data of tensor {tensor.name!r} do not match its shape and "
                       "type; export the model again.") from error
