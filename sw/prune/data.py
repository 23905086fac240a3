"""Samples with their targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.arrayfile import read_npz

if TYPE_CHECKING:
    from torch import Tensor

TARGETS = ("y", "labels", "targets")
"""Names of the array of targets in a file; all others are inputs."""


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of a task.

    Attributes
    ----------
    x : array [samples, ...], or such arrays by the names of the inputs
    y : array [samples, ...] or None
        What the outputs should be, the class of each from 0 for example; None: the inputs, as for
        an autoencoder.
    batch : int or None
        Samples that a run takes, where the model takes no other number; the last run is filled up
        with the first ones.
    """

    x: np.ndarray | Mapping[str, np.ndarray]
    y: np.ndarray | None = None
    batch: int | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """The arrays, in order."""
        return tuple(self.x.values()) if isinstance(self.x, Mapping) else (self.x,)

    @property
    def targets(self) -> np.ndarray:
        """What the outputs should be."""
        return self.inputs[0] if self.y is None else self.y

    def rows(self, chosen) -> Data:
        """Some of the samples."""
        x = {name: each[chosen] for name, each in self.x.items()} \
            if isinstance(self.x, Mapping) else self.x[chosen]
        return Data(x, None if self.y is None else self.y[chosen], self.batch)

    def split(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """The inputs in runs of ``size``, or of the batch, without targets."""
        import torch
        inputs = [torch.from_numpy(np.ascontiguousarray(each)) for each in self.inputs]
        for rows in torch.arange(len(self)).split(self.batch or size):
            yield tuple(each[filled(rows, self.batch)] for each in inputs)


def filled(rows: Tensor, batch: int | None) -> Tensor:
    """Numbers of samples, as many as a fixed batch has: the first ones again."""
    import torch
    return rows if batch is None else torch.cat([rows] * -(-batch // len(rows)))[:batch]


def read_data(path: str | Path) -> Data:
    """Reads a ``.npz`` file with targets, an array of one of the names ``TARGETS``, or none, and
    inputs ``[samples, ...]``: one of any name, or several by the names of the model's.

    Raises BadInput where the file or an array cannot be used.
    """
    how = "write it with numpy.savez(path, x=x, y=y)"
    arrays = read_npz(path, "a .npz file with arrays x and y", how)
    named = [name for name in TARGETS if name in arrays]
    if len(named) > 1:
        raise BadInput(f"{path}: {' and '.join(named)} are both targets; leave one of them.")
    y = arrays.pop(named[0]) if named else None
    if not arrays:
        raise BadInput(f"{path}: there is no array 'x' in it; {how}")
    data = Data(next(iter(arrays.values())) if len(arrays) == 1 else arrays, y)
    for name, each in arrays.items():
        if (each.ndim < 2 and len(arrays) == 1) or not each.ndim or each.dtype.kind not in "biuf" \
                or not each.size:
            raise BadInput(f"{path}: {name} is {each.dtype} {list(each.shape)}; it must be numbers "
                           "[samples, features].")
        _check_finite(path, name, each)
        if len(each) != len(data):
            raise BadInput(f"{path}: {name} has {len(each)} samples, and the others "
                           f"{len(data)}; give as many of each.")
    if y is not None:
        if not y.ndim or len(y) != len(data) or y.dtype.kind not in "biuf":
            raise BadInput(f"{path}: {named[0]} is {y.dtype} {list(y.shape)}; it must be numbers, "
                           f"a class or an output for each of the {len(data)} samples.")
        _check_finite(path, named[0], y)
    return data


def _check_finite(path, name, values):
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        raise BadInput(f"{path}: {name} is not finite at sample {wrong[0][0]}; remove that sample.")
