"""Convolution as a matrix product: patches of an image become the rows of a matrix.

A sample is a flat vector, channel-major: index ``(c * H + h) * W + w``. A patch is flat in the
same way: channel, kernel row, kernel column, as PyTorch and ONNX lay out a kernel. Of a convolution
in groups, the patch of a group is what lies in it of its channels.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from zeroskip.sw.errors import BadInput

SIZE = 1 << 16
"""Largest value of a geometry."""

VALUES = 1 << 28
"""Most values of a padded sample, and of all its patches: VGG-16 has 29 million at most."""


@dataclass(frozen=True)
class Geometry:
    """Where a 2-d convolution looks; raises BadInput where no output would be left, or where
    sample or patches would fill the memory.

    Attributes
    ----------
    input_shape : tuple of int
        Channels, height, width.
    kernel, stride, dilation : tuple of int
        Along height and width, at least 1.
    padding : tuple of int
        Rows and columns added at the top, left, bottom, right.
    groups : int
        Into as many the channels are cut, and the outputs likewise; an output looks at its own
        group alone.
    """

    input_shape: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int = 1

    def __post_init__(self):
        for name, length, least in (("input_shape", 3, 1), ("kernel", 2, 1), ("stride", 2, 1),
                                    ("padding", 4, 0), ("dilation", 2, 1)):
            values = getattr(self, name)
            if len(values) != length or not all(_whole(v) and v >= least for v in values):
                raise BadInput(f"{name} must be {length} whole numbers of at least {least}, "
                               f"not {list(values)}")
            if max(values) > SIZE:
                raise BadInput(f"{name} must be at most {SIZE}, not {list(values)}; use a smaller "
                               "convolution")
        if not _whole(self.groups) or self.groups < 1 or self.input_shape[0] % self.groups:
            raise BadInput(f"groups must divide the {self.input_shape[0]} channels, and does not: "
                           f"it is {self.groups}")
        if min(self.output_size) < 1:
            raise BadInput(
                f"a kernel of {list(self.kernel)} with dilation {list(self.dilation)} does not fit "
                f"into an image of {list(self.input_shape[1:])} with padding {list(self.padding)}; "
                "use a smaller kernel or more padding")
        (channels, height, width), (top, left, bottom, right) = self.input_shape, self.padding
        needed = max(channels * (top + height + bottom) * (left + width + right),
                     self.positions * channels * prod(self.kernel))
        if needed > VALUES:
            raise BadInput(f"an image of {list(self.input_shape)} with padding "
                           f"{list(self.padding)} and a kernel of {list(self.kernel)} takes "
                           f"{needed:,} values a sample, at most {VALUES:,} are possible; use a "
                           "smaller image or less padding")

    @classmethod
    def from_json(cls, described: dict) -> "Geometry":
        """From what ``dataclasses.asdict`` gave, through JSON."""
        fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                  for name, value in described.items()}
        return cls(**fields)

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return tuple(
            (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
            for size, before, after, dilation, kernel, stride in zip(
                self.input_shape[1:], self.padding[:2], self.padding[2:], self.dilation,
                self.kernel, self.stride, strict=True))

    @property
    def patch(self) -> int:
        """Values of the patch of a group."""
        return self.input_shape[0] // self.groups * prod(self.kernel)

    @property
    def positions(self) -> int:
        """Number of places of the kernel, that is, of outputs per channel."""
        return prod(self.output_size)


def columns(x: np.ndarray, geometry: Geometry, fill) -> np.ndarray:
    """Every patch of every sample as a row.

    Parameters
    ----------
    x : array [batch, channels * height * width], any dtype
    geometry : Geometry
    fill : value of that dtype
        What padding reads.

    Returns
    -------
    array [batch * positions, channels * kernel rows * kernel columns]
        Sample by sample, then output rows from the top, then from the left.
    """
    channels, height, width = geometry.input_shape
    if x.ndim != 2 or x.shape[1] != channels * height * width:
        raise BadInput(f"x must be [batch, {channels * height * width}] for an image of "
                       f"{list(geometry.input_shape)}, not {list(x.shape)}")
    top, left, bottom, right = geometry.padding
    padded = np.full((len(x), channels, top + height + bottom, left + width + right), fill, x.dtype)
    padded[:, :, top:top + height, left:left + width] = x.reshape(-1, channels, height, width)
    reach = [(k - 1) * d + 1 for k, d in zip(geometry.kernel, geometry.dilation, strict=True)]
    windows = sliding_window_view(padded, reach, axis=(2, 3))
    (down, along), (tall, wide) = geometry.stride, geometry.dilation
    patches = windows[:, :, ::down, ::along, ::tall, ::wide].transpose(0, 2, 3, 1, 4, 5)
    return patches.reshape(len(x) * geometry.positions, channels * prod(geometry.kernel))


def fold(y: np.ndarray, geometry: Geometry | None) -> np.ndarray:
    """Outputs ``[batch * positions, out]`` as flat samples ``[batch, out * positions]``.

    The rows are those of :func:`columns`. None is a fully-connected layer: nothing changes.
    """
    if geometry is None:
        return y
    samples = y.reshape(-1, geometry.positions, y.shape[1])
    return samples.transpose(0, 2, 1).reshape(len(samples), -1)


def _whole(value) -> bool:
    return isinstance(value, int | np.integer)
