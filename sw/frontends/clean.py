"""An ONNX file as a model of one operator set whose shapes are all known, without what only hides
what it computes: constants that are worked out, nodes that do nothing, functions.

onnx checks and converts, onnxscript folds and infers. They take copies of a model, so that large
weights are set aside for them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import contrib
from zeroskip.sw.frontends.external import load_external
from zeroskip.sw.graph import session

OPSET = 21
"""Operator set to which older models are converted."""

OLDEST = 7
DOMAINS = ("", "ai.onnx")

MALFORMED = (DecodeError, ValueError, onnx.checker.ValidationError,
             onnx.shape_inference.InferenceError, onnx.version_converter.ConvertError)
"""What onnx raises on a file that is no model."""

LARGE = 1 << 12
"""Values from which on a weight is set aside."""

GROWING = ("ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample")
"""Operators that make much of little; what they make of constants is worked out up to
:data:`FOLDED` values."""

FOLDED = 1 << 16


@dataclass(frozen=True, eq=False)
class Clean:
    """A model, its weights that were set aside, by name, and of operators that could not be
    replaced by others, by their first output: why."""

    model: onnx.ModelProto
    weights: Mapping[str, np.ndarray]
    reasons: Mapping[str, str] = field(default_factory=dict)


def load(content: bytes, source: str, shapes: Mapping[str, tuple[int, ...]]) -> Clean:
    """The model in a file's ``content``; ``source`` is its path, for messages and for the tensors
    that it keeps in files of its own folder, ``shapes`` are those of inputs that the file leaves
    open beyond the batch.

    Raises BadInput where the file is no valid ONNX model, or cannot run here.
    """
    try:
        model = _parse(content, source)
        del content     # as large as the model
        light, weights = _without_weights(model, source)
        del model
        onnx.checker.check_model(light)
        _fix_shapes(light, weights, source, shapes)
        light = _folded(_converted(light, source), source)
    except BadInput:
        raise
    except MALFORMED as error:
        detail = str(error).strip().split("\n")[0].rstrip(".")
        raise BadInput(f"{source} is not a valid ONNX model ({detail}); export it again."
                       ) from error
    except EncodeError:     # a copy, for which there was no room
        raise MemoryError from None
    _refuse(source, [*(reason for _, reason in _impossible(light)),
                     *_unknown_shapes(light, weights)])
    kept = [value for value in light.graph.input if value.name not in weights]
    del light.graph.input[:]
    light.graph.input.extend(kept)
    return Clean(light, weights)


def _parse(content: bytes, source: str) -> onnx.ModelProto:
    model = onnx.load_model_from_string(content)
    load_external(model, Path(source))
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise BadInput(f"{source} keeps the tensor {name!r} sparsely; export it with dense "
                       "weights.")
    _name_nodes(model)
    contrib.as_unsigned(model)
    contrib.standardise(model)
    return model


def _name_nodes(model: onnx.ModelProto) -> None:
    """Calls a node after its first output, where it has no name of its own."""
    count = Counter(node.name for node in model.graph.node)
    for node in model.graph.node:
        if node.output and (not node.name or count[node.name] > 1):
            node.name = node.output[0]


def _without_weights(model: onnx.ModelProto, source: str
                     ) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with its large weights as inputs, and those weights.

    ``model`` is emptied.
    """
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    large = {tensor.name: tensor for tensor in tensors if prod(tensor.dims) >= LARGE}
    light = onnx.ModelProto()
    light.CopyFrom(model)
    light.graph.initializer.extend(tensor for tensor in tensors if tensor.name not in large)
    # once every constant was an input too
    names = {tensor.name for tensor in tensors}
    inputs = [value for value in model.graph.input if value.name not in names]
    light.ir_version = max(light.ir_version, 4)
    del light.graph.input[:]
    light.graph.input.extend([*inputs, *(
        onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
        for name, tensor in large.items())])
    return light, {name: array(tensor, source) for name, tensor in large.items()}


def array(tensor: onnx.TensorProto, source: str) -> np.ndarray:
    """A tensor's values; BadInput where they do not fit its shape."""
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{source}: the data of tensor {tensor.name!r} do not match its shape and "
                       "type; export the model again.") from error


def _fix_shapes(model: onnx.ModelProto, weights: Mapping[str, np.ndarray], source: str,
                shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Gives every input its shape: as asked for, else the model's own with a batch of 1."""
    constants = {*weights, *(tensor.name for tensor in model.graph.initializer)}
    inputs = [value for value in model.graph.input if value.name not in constants]
    unknown = sorted(set(shapes) - {value.name for value in inputs})
    if unknown:
        raise BadInput(f"{source} has no input {unknown[0]!r}; its inputs are "
                       f"{', '.join(value.name for value in inputs)}.")
    still_open = []
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
        if any(size is not None and size < 1 for size in sizes):
            still_open.append(f"the input {value.name!r} is "
                              f"{_dims(kind) if given is None else list(given)}, which holds no "
                              "values; give it a shape with sizes of 1 or more.")
            continue
        if None in sizes:
            still_open.append(f"the input {value.name!r} is {_dims(kind)}, and all but the batch "
                              "must be known; say it with --input-shape, such as "
                              f"{value.name}:{','.join(str(size or 8) for size in sizes)}.")
            continue
        for dim, size in zip(kind.shape.dim, sizes, strict=True):
            dim.dim_value = size
    if still_open:      # control flow may go away once shapes are known
        inner = {(each.domain, each.name) for each in model.functions}
        _refuse(source, [*still_open, *(
            reason for node, reason in _impossible(model)
            if node.op_type not in session.CONTROL and (node.domain, node.op_type) not in inner)])
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
    except (RuntimeError, *MALFORMED):
        return model    # onnxruntime takes older operators too


def _folded(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    import onnx_ir
    from onnx_ir.passes import Sequential, common
    from onnxscript import optimizer
    own = onnx_ir.from_proto(_inferred(model, source))
    common.InlinePass()(own)
    optimizer.fold_constants_ir(own, onnx_shape_inference=True, should_fold=_folds)
    Sequential(common.RemoveUnusedNodesPass(), common.RemoveUnusedFunctionsPass(),
               common.RemoveUnusedOpsetsPass(),
               common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
               common.IdentityEliminationPass(), common.NameFixPass())(own)
    folded = _inferred(onnx_ir.to_proto(own), source)
    known = {value.name for value in [*folded.graph.value_info, *folded.graph.output]
             if session.size_of(value) is not None}
    if any(name and name not in known for node in folded.graph.node for name in node.output):
        try:
            onnx.shape_inference.infer_shapes(folded, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            detail = " ".join(str(error).split())
            raise BadInput(f"{source} has operators that do not fit one another ({detail}); "
                           "export the model again.") from error
    return folded


def _folds(node) -> bool | None:
    """Whether a node of constants is worked out; None leaves that to onnxscript."""
    if node.op_type not in GROWING:
        return None
    shape = node.outputs[0].shape
    if shape is None or not all(isinstance(size, int) for size in shape) or prod(shape) > FOLDED:
        return False
    return node.op_type == "ConstantOfShape" or None


def _inferred(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """The model with the shapes of its values; BadInput where they are too large."""
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    size = sum(filter(None, (session.size_of(value) for value in
                             [*model.graph.value_info, *model.graph.output])))
    if size > session.BYTES:
        raise BadInput(f"{source}: the values of a run take {size:,} bytes, at most "
                       f"{session.BYTES:,} are possible; use smaller inputs.")
    return model


def _refuse(source: str, reasons: Sequence[str]) -> None:
    """Raises BadInput with all reasons why a model cannot run here, if there are any."""
    if len(reasons) == 1:
        raise BadInput(f"{source}: {reasons[0]}")
    if reasons:
        raise BadInput("\n  ".join([f"{source} cannot run, for {len(reasons)} reasons:",
                                    *reasons]))


def _unknown_shapes(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Why sizes of values are not known, where those of all that they are made of are; and what
    nothing can run gives is left out."""
    graph = model.graph
    constant = {tensor.name for tensor in graph.initializer} | set(weights) | {""}
    known = {value.name for value in [*graph.value_info, *graph.input, *graph.output]
             if session.size_of(value) is not None} | constant
    impossible = {name for node, _ in _impossible(model) for name in node.output}
    for node in graph.node:
        if node.op_type == "Constant" or constant.issuperset(node.input):
            constant |= set(node.output)
            known |= set(node.output)
        elif known.issuperset(node.input):
            for name in node.output:
                if name not in known and name not in impossible:
                    yield (f"the shape of {name!r} depends on the values of the inputs; export the "
                           "model with shapes that do not.")


def _impossible(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Operators that nothing here can run, and why."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        what = None
        if node.domain not in session.DOMAINS:
            what = "an operator that ONNX does not have"
        elif node.op_type in session.CONTROL:
            what = "control flow, which is decided while the model runs"
        elif node.op_type in session.RANDOM or (node.op_type == "Dropout"
                                                and _trains(node, constants)):
            what = "drawn anew on each run"
        if what:
            operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            yield node, (f"{operator} ({node.name or node.output[0]!r}) is {what}; export the "
                         "model without it.")


def _trains(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a Dropout drops anything, or may."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    given = constants.get(node.input[2])
    return given is None or bool(onnx.numpy_helper.to_array(given).any())
