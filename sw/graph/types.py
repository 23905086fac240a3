"""What the integers of a tensor stand for."""

from dataclasses import dataclass

import numpy as np

from zeroskip.sw.errors import BadInput


@dataclass(frozen=True)
class Quantity:
    """Integers of one kind: the real value is ``scale * (integer - zero_point)``."""

    dtype: np.dtype
    scale: float
    zero_point: int = 0

    def to_integer(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """The nearest integers of real values, and how many of them saturated; see
        :func:`to_integer`."""
        return to_integer(x, self.scale, self.zero_point, self.dtype)

    def to_float(self, integers: np.ndarray) -> np.ndarray:
        """Real values, float64."""
        return (np.asarray(integers, np.float64) - self.zero_point) * self.scale


def to_integer(x: np.ndarray, scale: float, zero_point: int = 0,
               dtype=np.int16) -> tuple[np.ndarray, int]:
    """``x / scale + zero_point`` as ``dtype``, and how many values saturated.

    A tie rounds to even, before the zero point. Raises :class:`BadInput` for a NaN or an
    infinity.
    """
    refuse_nonfinite("input", np.asarray(x))
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    with np.errstate(over="ignore"):    # becomes infinite, and saturates
        rounded = np.rint(np.asarray(x, np.float64) / scale) + zero_point
    saturated = np.count_nonzero((rounded < low) | (rounded > high))
    return np.clip(rounded, low, high).astype(dtype), saturated


def refuse_nonfinite(what: str, values: np.ndarray) -> None:
    """Raise :class:`BadInput` with the place of the first NaN or infinity in ``values``."""
    finite = np.isfinite(values)
    if not finite.all():
        place = tuple(np.argwhere(~finite)[0].tolist())
        raise BadInput(f"{what} {list(place)} is {values[place]}: it must be a finite float32")
