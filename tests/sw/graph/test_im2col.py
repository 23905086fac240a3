"""Patches and folding against torch's unfold, over small grids of geometries."""

from itertools import product

import numpy as np
import pytest
import torch

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.im2col import Geometry, columns, fold

torch.set_num_threads(1)
SHAPE = (3, 5, 6)


def geometry(**changes):
    return Geometry(**{"input_shape": SHAPE, "kernel": (3, 2), "stride": (1, 1),
                       "padding": (0, 0, 0, 0), "dilation": (1, 1), **changes})


def image(batch=2, dtype=np.float32):
    return np.arange(1, batch * 90 + 1).reshape(batch, 90).astype(dtype)


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding"), list(product(
    [(1, 1), (3, 2), (2, 3)], [(1, 1), (2, 3)], [(1, 1), (2, 1), (1, 2)],
    [(0, 0), (1, 0), (2, 3)])))
def test_equals_torch_unfold(kernel, stride, dilation, padding):
    own = geometry(kernel=kernel, stride=stride, dilation=dilation, padding=padding * 2)
    patches = torch.nn.functional.unfold(
        torch.from_numpy(image().reshape(2, *SHAPE)), kernel, dilation, padding, stride)
    expected = patches.transpose(1, 2).reshape(-1, 3 * kernel[0] * kernel[1]).numpy()
    np.testing.assert_array_equal(columns(image(), own, 0), expected)
    assert own.positions == patches.shape[2]


def test_one_pixel_by_hand():
    """The corner: padding above and to the left reads ``fill``."""
    own = Geometry((2, 2, 2), (2, 2), (1, 1), (1, 2, 0, 0), (1, 1))
    x = np.arange(8, dtype=np.int8)[None]
    assert own.output_size == (2, 3)
    patches = columns(x, own, -5)
    assert patches[0].tolist() == [-5] * 8
    assert patches[1].tolist() == [-5, -5, -5, 0, -5, -5, -5, 4]
    assert patches[5].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.float32])
def test_keeps_the_dtype(dtype):
    assert columns(image(1, np.int32).astype(dtype), geometry(), 0).dtype == dtype


@pytest.mark.parametrize(("padding", "size"), [
    ((2, 0, 0, 0), (5, 5)), ((0, 2, 0, 0), (3, 7)), ((0, 0, 2, 0), (5, 5)), ((0, 0, 0, 2), (3, 7))])
def test_each_side_of_the_padding(padding, size):
    own = geometry(padding=padding)
    assert own.output_size == size
    corners = columns(image(1), own, 0).reshape(*size, 18)[[0, 0, -1, -1], [0, -1, 0, -1]]
    top, left, bottom, right = (value > 0 for value in padding)
    zeros = (corners == 0).any(axis=1).tolist()
    assert zeros == [top or left, top or right, bottom or left, bottom or right]


def test_no_sample():
    assert columns(np.zeros((0, 90), np.int8), geometry(), 0).shape == (0, 18)


def test_fold_is_channel_major():
    own = geometry()
    rows = np.arange(2 * own.positions * 4).reshape(2, *own.output_size, 4)
    expected = rows.transpose(0, 3, 1, 2).reshape(2, -1)
    np.testing.assert_array_equal(fold(rows.reshape(-1, 4), own), expected)


def test_fold_without_geometry_changes_nothing():
    y = image()
    assert fold(y, None) is y


@pytest.mark.parametrize(("change", "message"), [
    ({"input_shape": (0, 5, 6)}, "input_shape must be 3 whole numbers of at least 1"),
    ({"input_shape": (3, 30)}, "input_shape must be 3"),
    ({"kernel": (3, 0)}, r"kernel must be 2 whole numbers of at least 1, not \[3, 0\]"),
    ({"stride": (0, 1)}, "stride must be"),
    ({"dilation": (1, -1)}, "dilation must be"),
    ({"dilation": (1, 1.5)}, "dilation must be"),
    ({"padding": (0, 0, 0, -1)}, "padding must be 4 whole numbers of at least 0"),
    ({"padding": (1, 1)}, "padding must be 4"),
    ({"kernel": (6, 2)}, r"kernel of \[6, 2\] with dilation \[1, 1\] does not fit into an image of "
                         r"\[5, 6\] with padding \[0, 0, 0, 0\]"),
    ({"dilation": (1, 6)}, "does not fit"),
])
def test_refuses_a_geometry(change, message):
    with pytest.raises(BadInput, match=message):
        geometry(**change)


def test_kernel_that_just_fits():
    assert geometry(kernel=(5, 6), stride=(7, 7)).output_size == (1, 1)


@pytest.mark.parametrize("shape", [(2, 89), (90,), (2, 3, 30)])
def test_refuses_samples_of_another_size(shape):
    with pytest.raises(BadInput, match=r"x must be \[batch, 90\] for an image of \[3, 5, 6\]"):
        columns(np.zeros(shape, np.int8), geometry(), 0)


@pytest.mark.parametrize(("fields", "message"), [
    ({"padding": (1 << 62, 0, 0, 0)}, "padding must be at most 65536"),
    ({"stride": (1, 1 << 17)}, "stride must be at most 65536"),
    ({"input_shape": (2, 5, 4), "padding": (30_000,) * 4, "stride": (9999, 9999)},
     "takes 7,201,080,040 values a sample, at most"),
    ({"input_shape": (8, 4096, 4096), "kernel": (3, 3)}, "takes 1,20.* values a sample, at most"),
])
def test_a_geometry_that_would_fill_the_memory(fields, message):
    with pytest.raises(BadInput, match=message):
        Geometry(**{"input_shape": (1, 5, 4), "kernel": (1, 1), "stride": (1, 1),
                    "padding": (0, 0, 0, 0), "dilation": (1, 1)} | fields)
