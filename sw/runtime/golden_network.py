"""Integer reference of a whole network: its layers, and what lies between two engines.

An integer stands for ``(integer - zero point) * scale``. Where one layer's outputs are not counted
as the next layer's inputs are, they become these through their real values, in float64:
``clip(round(real / scale) + zero point)``, a tie to even.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import ReferenceLayer


@dataclass(frozen=True)
class Units:
    """What the values of a tensor are; floats are what they say."""

    dtype: type
    scale: float
    zero_point: int

    def real(self, integers: np.ndarray) -> np.ndarray:
        """What integers stand for, float64."""
        return (integers.astype(np.float64) - self.zero_point) * self.scale

    def integers(self, real: np.ndarray) -> tuple[np.ndarray, int]:
        """The nearest integers of finite real values, and how many of them saturated; floats as
        they are."""
        if np.dtype(self.dtype).kind == "f":
            return real.astype(self.dtype), 0
        limits = np.iinfo(self.dtype)
        exact = np.rint(real / self.scale) + self.zero_point
        inside = np.minimum(np.maximum(exact, limits.min), limits.max)
        return inside.astype(self.dtype), int(np.sum(inside != exact))

    def range(self) -> tuple[float, float]:
        """Least and greatest real value."""
        limits = np.iinfo(self.dtype)
        return tuple(self.real(np.array([limits.min, limits.max])).tolist())


@dataclass(frozen=True, eq=False)
class Computed:
    """What a batch gave in one layer.

    Attributes
    ----------
    layer : ReferenceLayer
    x, y : integer arrays [batch, inputs], [batch, outputs]
    saturated : int
        Outputs that had to be saturated.
    inputs_saturated : int
        Inputs that had to be, when they were made of the outputs of the layer before.
    """

    layer: ReferenceLayer
    x: np.ndarray
    y: np.ndarray
    saturated: int
    inputs_saturated: int


def run(layers: Sequence[ReferenceLayer], x: np.ndarray) -> Iterator[Computed]:
    """Layer after layer on a batch of integers [batch, inputs]."""
    before = None
    for layer in layers:
        lost, here = 0, inputs(layer)
        if before not in (None, here):
            x, lost = convert(before, here, x)
        y, saturated = registry.engine(layer.engine).golden(layer, x)
        yield Computed(layer, x, y, int(saturated), lost)
        before, x = outputs(layer), y


def convert(before: Units, after: Units, x: np.ndarray) -> tuple[np.ndarray, int]:
    """Integers as those of another kind, and how many saturated."""
    return after.integers(before.real(x))


def inputs(layer: ReferenceLayer) -> Units:
    """What a layer's inputs are."""
    return Units(layer.input.dtype.type, layer.input.scale, layer.input.zero_point)


def outputs(layer: ReferenceLayer) -> Units:
    """What a layer's outputs are."""
    return Units(layer.output.dtype.type, layer.output.scale, layer.output.zero_point)
