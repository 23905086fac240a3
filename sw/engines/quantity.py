"""What an integer at the border of a machine stands for."""

from dataclasses import dataclass

import numpy as np

from zeroskip.sw.engines.eie.quantize import to_integer


@dataclass(frozen=True)
class Quantity:
    """Integers of one kind: the real value is ``scale * (integer - zero_point)``."""

    dtype: np.dtype
    scale: float
    zero_point: int = 0

    def to_integer(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """The nearest integers of real values, and how many of them saturated.

        A tie rounds to even. Raises ``BadInput`` for a NaN or an infinity.
        """
        return to_integer(x, self.scale, self.zero_point, self.dtype)

    def to_float(self, integers: np.ndarray) -> np.ndarray:
        """Real values, float64."""
        return (np.asarray(integers, np.float64) - self.zero_point) * self.scale
