"""What the host does between two engines, exactly and in integers: rules by name."""

from collections.abc import Callable

import numpy as np

from zeroskip.sw.graph.types import TensorType


def convert(before: TensorType, after: TensorType, x: np.ndarray) -> tuple[np.ndarray, int]:
    """Integers of one type as the nearest of another, through their real values in float64, a tie
    to even; and how many saturated."""
    return after.to_integer(before.to_float(x))


Rule = Callable[[TensorType, TensorType, np.ndarray], tuple[np.ndarray, int]]

RULES: dict[str, Rule] = {"convert": convert}
"""From the types of what is read and written, and integers [batch, values], to integers, and how
many had to be saturated."""
