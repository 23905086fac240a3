"""A layer of an EIE array in integers, without any packing."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from zeroskip.sw.graph.types import TensorType


@dataclass(frozen=True, eq=False, kw_only=True)
class EIELayer:
    """One layer, as :func:`zeroskip.sw.engines.eie.golden.layer` takes it.

    Attributes
    ----------
    name : str
    activation : str
        ``"none"`` or ``"relu"``.
    weight : int16 array [out, in]
    bias : int64 array [out]
        In accumulator units.
    shift : int
        0 to 31.
    input, output : TensorType
        Flat int16, and zero is zero.
    """

    engine: ClassVar[str] = "eie"
    TENSORS: ClassVar[dict[str, type]] = {
        "weight": np.int16, "bias": np.int64, "shift": np.int32}

    name: str
    activation: str
    weight: np.ndarray
    bias: np.ndarray
    shift: int
    input: TensorType
    output: TensorType

    def header(self) -> dict:
        """Nothing beside what every layer has."""
        return {}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "EIELayer":
        """See :class:`zeroskip.sw.engines.base.ReferenceLayer`."""
        outputs, inputs = tensors["weight"].shape
        return cls(name=header["name"], activation=header["activation"],
                   weight=tensors["weight"], bias=tensors["bias"], shift=int(tensors["shift"]),
                   input=TensorType.of(inputs, np.int16, header["input_scale"]),
                   output=TensorType.of(outputs, np.int16, header["output_scale"]))


@dataclass(frozen=True, eq=False, kw_only=True)
class FixedLayer(EIELayer):
    """One layer whose weights are shared: ``weight`` follows.

    Attributes
    ----------
    indices : uint8 array [out, in]
    codebook : int16 array [16]
        Entry 0 is 0.
    """

    indices: np.ndarray
    codebook: np.ndarray
    weight: np.ndarray = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "weight", look_up(self.codebook, self.indices))


def look_up(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """``table[indices]`` of a matrix, row by row: numpy makes its indices eight bytes wide."""
    found = np.empty(indices.shape, table.dtype)
    for to, row in zip(found, indices, strict=True):
        to[:] = table[row]
    return found
