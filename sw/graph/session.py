"""Operators in onnxruntime, on one core, so that a result is always the same."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import onnx

from zeroskip.sw.errors import BadInput


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
        try:
            return onnxruntime.InferenceSession(self.model, options,
                                                providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes, of no common one
            reason = str(error).partition("\n")[0]
            raise BadInput(f"onnxruntime cannot run what is left for the host ({reason}); export "
                           "the model with operators that it knows") from None

    def run(self, inputs: Sequence[np.ndarray], runs: int) -> list[np.ndarray]:
        """Outputs [runs, values], from inputs [runs, values] in the order of the model's."""
        names = [value.name for value in self._proto.graph.input]
        shapes = [[each.dim_value for each in value.type.tensor_type.shape.dim]
                  for value in self._proto.graph.input]
        results = [self._session.run(None, {
            name: np.ascontiguousarray(x[i]).reshape(shape)
            for name, shape, x in zip(names, shapes, inputs, strict=True)}) for i in range(runs)]
        return [np.stack([np.asarray(y).reshape(-1) for y in outputs])
                for outputs in zip(*results, strict=True)]
