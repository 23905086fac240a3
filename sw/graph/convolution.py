"""A convolution as its definition has it, without patches."""

import numpy as np

from zeroskip.sw.graph.im2col import Geometry


def convolve(x: np.ndarray, weight: np.ndarray, geometry: Geometry, fill: float) -> np.ndarray:
    """A convolution, as its definition has it; exact where its values are integers below 2^53.

    Parameters
    ----------
    x : array [batch, channels * height * width]
    weight : array [out, channels of a group * kernel rows * kernel columns]
    geometry : Geometry
    fill : float
        What ``x`` is outside of the image.

    Returns
    -------
    float64 array [batch, out * rows * columns]
    """
    (channels, height, width), groups = geometry.input_shape, geometry.groups
    # the last place of a channel is what lies outside
    image = np.full((len(x), channels, height * width + 1), fill, x.dtype)
    image[:, :, :-1] = x.reshape(-1, channels, height * width)
    kernel = weight.reshape(groups, len(weight) // groups, channels // groups,
                            *geometry.kernel).astype(np.float64)
    row, column = _places(geometry, 0)[:, None], _places(geometry, 1)
    positions = row.size * column.size
    y = np.zeros((len(x), groups, len(weight) // groups, positions))
    for i, j in np.ndindex(*geometry.kernel):
        r, s = row + i * geometry.dilation[0], column + j * geometry.dilation[1]
        inside = (r >= 0) & (r < height) & (s >= 0) & (s < width)
        at = np.where(inside, r * width + s, height * width)
        seen = image.take(at.ravel(), axis=2).astype(np.float64)
        y += kernel[..., i, j] @ seen.reshape(len(x), groups, channels // groups, positions)
    return y.reshape(len(x), len(weight) * positions)


def _places(geometry: Geometry, axis: int) -> np.ndarray:
    """Where the kernel begins, along the height (0) or the width (1), for each output: a stride
    apart, as long as it fits into the padded image."""
    reach = (geometry.kernel[axis] - 1) * geometry.dilation[axis]
    before, after = geometry.padding[axis], geometry.padding[axis + 2]
    return np.arange(-before, geometry.input_shape[axis + 1] + after - reach,
                     geometry.stride[axis])
