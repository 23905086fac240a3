"""A layer of an EIE array in integers, without any packing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from zeroskip.sw.graph.types import TensorType


class Numbers:
    """What follows from a layer's scales: all values are int16, and zero is zero."""

    engine: ClassVar[str] = "eie"
    TENSORS: ClassVar[dict[str, type]] = {
        "weight": np.int16, "bias": np.int64, "shift": np.int32}

    @property
    def input(self) -> TensorType:
        """The type of the input."""
        return TensorType(self.weight.shape[1:], np.dtype(np.int16), self.input_scale)

    @property
    def output(self) -> TensorType:
        """The type of the output."""
        return TensorType(self.weight.shape[:1], np.dtype(np.int16), self.output_scale)

    def header(self) -> dict:
        """Nothing beside what every layer has."""
        return {}


@dataclass(frozen=True, eq=False)
class EIELayer(Numbers):
    """One layer: weight int16 [out, in], bias int64 [out], shift, activation, and the float value
    of one input and one output unit."""

    name: str
    weight: np.ndarray
    bias: np.ndarray
    shift: int
    activation: str
    input_scale: float
    output_scale: float

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "EIELayer":
        """See :class:`zeroskip.sw.engines.base.ReferenceLayer`."""
        return cls(**{name: header[name] for name in (
            "name", "activation", "input_scale", "output_scale")},
            **tensors | {"shift": int(tensors["shift"])})
