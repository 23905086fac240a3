"""Operators in onnxruntime, on one core, so that a result is always the same."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from zeroskip.sw.errors import BadInput

DOMAINS = ("", "ai.onnx")
"""Of the operators that are ONNX's own."""

CONTROL = ("If", "Loop", "Scan", "SequenceMap")
"""Operators that run others as often as the data say."""

RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
          "RandomUniformLike")
"""Operators whose outputs differ from run to run."""

BYTES = 1 << 31
"""Most bytes of all values of a model."""


class Session:
    """An ONNX model whose shapes are all known, run by run.

    The session is opened when it is first used.
    """

    def __init__(self, model: bytes):
        self.model = model

    @cached_property
    def _proto(self) -> onnx.ModelProto:
        return onnx.load_model_from_string(self.model)

    @cached_property
    def _session(self):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.qdqisint8allowed", "1")   # as the model has it
        try:
            return onnxruntime.InferenceSession(self.model, options,
                                                providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes, of no common one
            raise _refused(error) from None

    def graph(self) -> onnx.GraphProto:
        """Its operators, and the types and shapes of all values."""
        return onnx.shape_inference.infer_shapes(self._proto, data_prop=True).graph

    def check(self, where: str) -> tuple[list[tuple[int, np.dtype]], list[tuple[int, np.dtype]]]:
        """Values and types of the model's inputs, and of its outputs; ``ValueError``, which begins
        with ``where``, where it would run anything but operators on values of known, bounded
        sizes."""
        try:
            model = onnx.load_model_from_string(self.model)
            onnx.checker.check_model(model)
            del model.graph.value_info[:]
            graph = onnx.shape_inference.infer_shapes(model, strict_mode=True,
                                                      data_prop=True).graph
        except (DecodeError, ValueError, onnx.checker.ValidationError,
                onnx.shape_inference.InferenceError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{where} holds no model that can run ({reason})") from None
        for node in graph.node:
            if node.domain not in DOMAINS or node.op_type in (*CONTROL, *RANDOM):
                raise ValueError(f"{where} runs {node.op_type}, which no host step may")
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise ValueError(f"{where} keeps {tensor.name!r} in another file")
        kinds = {value.name: _kind(value) for value in
                 [*graph.value_info, *graph.input, *graph.output]}
        for name in (name for node in graph.node for name in node.output if name):
            if kinds.get(name) is None:
                raise ValueError(f"{where}: the size of {name!r} is not known")
        sizes = {name: kind for name, kind in kinds.items() if kind is not None}
        size = sum(count * dtype.itemsize for count, dtype in sizes.values())
        if size > BYTES:
            raise ValueError(f"{where} takes {size:,} bytes, at most {BYTES:,} are possible")
        return [sizes[value.name] for value in graph.input], \
            [sizes[value.name] for value in graph.output]

    def once(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs of one run, whose open sizes are those of ``inputs``, which are by name."""
        opened = self._session
        try:
            return [np.asarray(y) for y in opened.run(None, dict(inputs))]
        except Exception as error:  # onnxruntime's own classes, of no common one
            raise _refused(error) from None

    def run(self, inputs: Sequence[np.ndarray], runs: int) -> list[np.ndarray]:
        """Outputs [runs, values], from inputs [runs, values] in the order of the model's."""
        names = [value.name for value in self._proto.graph.input]
        shapes = [[each.dim_value for each in value.type.tensor_type.shape.dim]
                  for value in self._proto.graph.input]
        opened = self._session
        try:
            results = [opened.run(None, {
                name: np.ascontiguousarray(x[i]).reshape(shape)
                for name, shape, x in zip(names, shapes, inputs, strict=True)})
                for i in range(runs)]
        except Exception as error:  # onnxruntime's own classes, of no common one
            raise _refused(error) from None
        return [np.stack([np.asarray(y).reshape(-1) for y in outputs])
                for outputs in zip(*results, strict=True)]


def _refused(error: Exception) -> BadInput:
    reason = str(error).partition("\n")[0]
    return BadInput(f"onnxruntime cannot run what is left for the host ({reason}); export the "
                    "model with operators that it knows")


def size_of(value: onnx.ValueInfoProto) -> int | None:
    """Bytes of a value; None where its shape is not known."""
    kind = _kind(value)
    return kind and kind[0] * kind[1].itemsize


def _kind(value: onnx.ValueInfoProto) -> tuple[int, np.dtype] | None:
    """How many values, and their type; None where that is not known."""
    kind = value.type.tensor_type
    sizes = [each.dim_value if each.HasField("dim_value") else -1 for each in kind.shape.dim]
    if not kind.HasField("shape") or not kind.elem_type or any(size < 0 for size in sizes):
        return None
    return prod(sizes), np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
