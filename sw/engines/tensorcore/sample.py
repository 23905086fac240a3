"""Where the values of a sample lie in the host's memory."""

from dataclasses import dataclass

import numpy as np

from zeroskip.sw.graph.im2col import Geometry

FILL = -1
"""Among places of values: a byte that is zero."""


@dataclass(frozen=True)
class Sample:
    """A sample of a layer with its padding around it, channel by channel, row by row.

    Attributes
    ----------
    channels, height, width : int
        Without padding; a flat vector is channels of one value.
    top, left : int
        Rows and columns of padding.
    padded_height, padded_width : int
    out_height, out_width : int
        Positions of a patch; 1 and 1 for a flat vector.
    down, along : int
        Values from a patch to the one below, and to the one beside it.
    """

    channels: int
    height: int = 1
    width: int = 1
    top: int = 0
    left: int = 0
    padded_height: int = 1
    padded_width: int = 1
    out_height: int = 1
    out_width: int = 1
    down: int = 0
    along: int = 0

    @classmethod
    def of(cls, geometry: Geometry | None, inputs: int) -> "Sample":
        """The sample of a convolution, or of so many inputs."""
        if geometry is None:
            return cls(inputs)
        (channels, height, width), (top, left, bottom, right) = \
            geometry.input_shape, geometry.padding
        padded_width = left + width + right
        return cls(channels, height, width, top, left, top + height + bottom, padded_width,
                   *geometry.output_size, geometry.stride[0] * padded_width, geometry.stride[1])

    @property
    def size(self) -> int:
        """Values, those of the padding too."""
        return self.channels * self.padded_height * self.padded_width

    def padded(self, x: np.ndarray, zero_point: int) -> np.ndarray:
        """Samples int8 [batch, inputs] behind one another with their padding, and a zero at the
        end, where :data:`FILL` points: int8 [batch * size + 1]."""
        values = np.full((len(x), self.channels, self.padded_height, self.padded_width),
                         zero_point, np.int8)
        values[:, :, self.top:self.top + self.height, self.left:self.left + self.width] = \
            x.reshape(-1, self.channels, self.height, self.width)
        return np.append(values, np.int8(0))

    def starts(self, columns: np.ndarray) -> np.ndarray:
        """Where the patches of columns of B begin, int64 alike."""
        samples, position = np.divmod(columns, self.out_height * self.out_width)
        row, column = np.divmod(position, self.out_width)
        return samples * self.size + row * self.down + column * self.along
