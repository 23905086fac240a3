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
    inputs, outputs : int
        Values of one sample, flattened.
    input_scale, output_scale : float
        Real value of one unit; the output's is 1.0 where ``raw``.
    input_zero_point, output_zero_point : int
    raw : bool
        The int32 sums are the outputs.
    ties : str
        Where a half of the output's unit rounds: to the ``"even"`` neighbour.
    """

    name: str
    activation: str
    geometry: Geometry | None
    inputs: int
    outputs: int
    input_scale: float
    input_zero_point: int
    output_scale: float
    output_zero_point: int
    raw: bool
    ties: str = "even"

    @property
    def positions(self) -> int:
        """Columns of B per sample."""
        return 1 if self.geometry is None else self.geometry.positions

    @property
    def input(self) -> TensorType:
        """The type of the input."""
        return TensorType((self.inputs,), np.dtype(np.int8), self.input_scale,
                          self.input_zero_point)

    @property
    def output(self) -> TensorType:
        """The type of the output."""
        return TensorType((self.outputs,), np.dtype(np.int32 if self.raw else np.int8),
                          self.output_scale, self.output_zero_point)
