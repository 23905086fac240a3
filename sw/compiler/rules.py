"""What the host does between steps by an exact rule: rules by name."""

from collections.abc import Callable

import numpy as np

from zeroskip.sw.graph.types import TensorType


def convert(before: TensorType, after: TensorType, x: np.ndarray) -> tuple[np.ndarray, int]:
    """Values of one type as the nearest of another, through their real values in float64, a tie
    to even; and how many saturated."""
    real = before.to_float(x)
    if after.dtype.kind == "f":
        return real.astype(after.dtype), 0
    return after.to_integer(real)


Rule = Callable[[TensorType, TensorType, np.ndarray], tuple[np.ndarray, int]]

RULES: dict[str, Rule] = {"convert": convert}
"""From the types of what is read and written, and values [batch, values], to values, and how many
had to be saturated."""
