"""Checks that the images of a program share; all raise ``ValueError`` on a misfit."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import numpy as np

from zeroskip.sw.errors import BadInput

MOST_DIMENSIONS = 63
"""Of a sample: numpy's arrays have 64, one of them for the batch."""
WEIGHTS = 1 << 28
"""Most weights of a layer, zeros included: the largest of VGG-16 has 103 million."""


def check_most(what: str, needed: int, most: int, unit: str) -> None:
    """An estimate of memory or time within its bound; else ``BadInput``, with a remedy."""
    if needed > most:
        raise BadInput(f"{what} about {needed:,} {unit}, at most {most:,} are possible; make the "
                       "layer or the configuration smaller")


def check_range(name: str, value, least: int, most: int) -> None:
    """An integer from ``least`` to ``most``."""
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, expected {least} to {most}")


def check_scale(name: str, value) -> None:
    """A finite number above 0."""
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}, expected a number above 0")


def check_choice(name: str, value, choices: tuple[str, ...]) -> None:
    """One of some words."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(map(repr, choices))}")


def check_shape(name: str, shape: tuple[int, ...], values: int) -> None:
    """A shape of so many values."""
    if not 1 <= len(shape) <= MOST_DIMENSIONS \
            or not all(isinstance(size, int) and size > 0 for size in shape) \
            or prod(shape) != values:
        raise ValueError(f"{name} is {list(shape)}, expected the sizes of {values} values")


def check_chain(layers: Sequence) -> None:
    """That each layer takes what the one before it gives."""
    for before, after in pairwise(layers):
        check_range(f"layer {after.name}: inputs", after.inputs, *[before.outputs] * 2)
        if after.input != before.output:
            raise ValueError(f"layer {after.name}: takes {after.input}, but layer {before.name} "
                             f"gives {before.output}")


def check_tensor(name: str, tensor: np.ndarray, dtype, shape: tuple[int, ...]) -> None:
    """An array of exactly this kind and shape."""
    if tensor.dtype != dtype or tensor.shape != shape:
        raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, expected "
                         f"{np.dtype(dtype)} {list(shape)}")
