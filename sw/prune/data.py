"""Labelled samples, and the accuracy of a network on them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.arrayfile import read_npz
from zeroskip.sw.graph.network import Network, as_samples


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of a classification task.

    Attributes
    ----------
    x : float32 array [samples, features]
    y : int64 array [samples], the class of each, from 0
    shape : tuple of int
        Of one sample before it was flattened; () where it was flat.
    """

    x: np.ndarray
    y: np.ndarray
    shape: tuple[int, ...] = ()


def read_data(path: str | Path) -> Data:
    """Reads a ``.npz`` file with ``x``, numbers ``[samples, ...]``, and ``y``, integers.

    Samples are flattened. Raises BadInput where the file or an array cannot be used.
    """
    arrays = read_npz(path, "a .npz file with arrays x and y",
                      "write it with numpy.savez(path, x=x, y=y)", ("x", "y"))
    return _checked(path, **arrays)


def check_fits(data: Data, network: Network):
    """Raises BadInput where the samples or classes do not fit the network."""
    as_samples("x", data.x.reshape(-1, *(data.shape or data.x.shape[1:])), network.input_shape)
    if data.y.max() >= network.outputs:
        raise BadInput(f"y holds class {data.y.max()}, but the network has {network.outputs} "
                       "outputs; number the classes from 0.")


def accuracy(network: Network, data: Data) -> float:
    """Fraction of the samples whose greatest output is that of their class."""
    return float(np.mean(network.forward(data.x)[-1].argmax(axis=1) == data.y))


def _checked(path, x, y):
    if x.ndim < 2 or x.dtype.kind not in "fiu" or not x.size:
        raise BadInput(f"{path}: x is {x.dtype} {list(x.shape)}; it must be numbers "
                       "[samples, features].")
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or y.min() < 0:
        raise BadInput(f"{path}: y is {y.dtype} {list(y.shape)}; it must be one class from 0 "
                       f"for each of the {len(x)} samples.")
    shape = x.shape[1:]
    x = x.reshape(len(x), -1).astype(np.float32)
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        raise BadInput(f"{path}: x is not finite at sample {wrong[0][0]}; remove that sample.")
    return Data(x, y.astype(np.int64), shape)
