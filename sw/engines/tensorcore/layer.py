"""What a layer of a tensor core is, in whatever form its weights are."""

from dataclasses import dataclass

import numpy as np

from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.types import TensorType


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerKind:
    """All of a layer but its numbers.

    Attributes
    ----------
    name : str
    activation : str
        ``"none"`` or ``"relu"``.
    geometry : Geometry or None
        Of a convolution.
    input, output : TensorType
        Flat int8; or int32, where the sums are the output.
    ties : str
        Where a half of the output's unit rounds: to the ``"even"`` neighbour.
    """

    name: str
    activation: str
    geometry: Geometry | None
    input: TensorType
    output: TensorType
    ties: str = "even"

    @property
    def inputs(self) -> int:
        """Values of one sample."""
        return self.input.size

    @property
    def outputs(self) -> int:
        """Values that one sample gives."""
        return self.output.size

    @property
    def raw(self) -> bool:
        """Whether the int32 sums are the outputs."""
        return self.output.dtype == np.int32

    @property
    def positions(self) -> int:
        """Columns of B per sample."""
        return 1 if self.geometry is None else self.geometry.positions


def types(header: dict, inputs: int, outputs: int) -> dict[str, TensorType]:
    """``input`` and ``output`` of a layer that a file describes; ``ValueError`` where it does not
    say whether the outputs are raw."""
    raw = header["raw"]
    if not isinstance(raw, bool):
        raise ValueError(f"layer {header['name']}: raw is {raw!r}, expected true or false")
    return {"input": TensorType.of(inputs, np.int8, header["input_scale"],
                                   header["input_zero_point"]),
            "output": TensorType.of(outputs, np.int32 if raw else np.int8, header["output_scale"],
                                    header["output_zero_point"])}
