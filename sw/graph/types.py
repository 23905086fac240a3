"""The type of a tensor: its shape, and what its integers stand for."""

from dataclasses import dataclass
from math import prod

import numpy as np

from zeroskip.sw.errors import BadInput


@dataclass(frozen=True)
class TensorType:
    """Values of one sample: the real value is ``scale * (integer - zero_point)``.

    Attributes
    ----------
    shape : tuple of int
        Without the batch, which comes first.
    dtype : numpy.dtype
        Floats have the scale 1 and the zero point 0.
    scale : float
        Above 0.
    zero_point : int
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float
    zero_point: int = 0

    @classmethod
    def of(cls, size: int, dtype: type, scale: float, zero_point: int = 0) -> "TensorType":
        """So many values in a row."""
        return cls((size,), np.dtype(dtype), scale, zero_point)

    def __str__(self) -> str:
        return (f"{self.dtype} {list(self.shape)} of scale {self.scale!r} and zero point "
                f"{self.zero_point}")

    @property
    def size(self) -> int:
        """Values of a sample."""
        return prod(self.shape)

    @property
    def flat(self) -> "TensorType":
        """The same values in a row, as engines and host steps pass them on."""
        return TensorType((self.size,), self.dtype, self.scale, self.zero_point)

    def to_integer(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """The nearest integers of real values, and how many of them saturated.

        A tie rounds to even, before the zero point. Raises ``BadInput`` for a NaN or an infinity.
        """
        refuse_nonfinite("input", np.asarray(x))
        low, high = np.iinfo(self.dtype).min, np.iinfo(self.dtype).max
        with np.errstate(over="ignore"):    # becomes infinite, and saturates
            rounded = np.rint(np.asarray(x, np.float64) / self.scale) + self.zero_point
        saturated = int(np.count_nonzero((rounded < low) | (rounded > high)))
        return np.clip(rounded, low, high).astype(self.dtype), saturated

    def to_float(self, integers: np.ndarray) -> np.ndarray:
        """Real values, float64."""
        return (np.asarray(integers, np.float64) - self.zero_point) * self.scale


def refuse_nonfinite(what: str, values: np.ndarray) -> None:
    """Raise :class:`BadInput` with the place of the first NaN or infinity in ``values``."""
    finite = np.isfinite(values)
    if not finite.all():
        place = tuple(np.argwhere(~finite)[0].tolist())
        raise BadInput(f"{what} {list(place)} is {values[place]}: it must be a finite float32")
