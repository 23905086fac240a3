"""``sparse-24-bitmask`` of compressed-tensors: kept values, and a bit for every column.

Source: compressed-tensors 0.14.0.1, ``sparse_compressors/sparse_24_bitmask.py``. Byte for byte its
output, of a matrix without -0.0, which it may drop, and without the int8 -128, whose magnitude it
takes for the smallest.
"""

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.nm import Compressed, compress, decompress


def to_bitmask(compressed: Compressed) -> tuple[np.ndarray, np.ndarray]:
    """Values ``[M, K / 2]`` and bits, uint8 ``[M, ceil(K / 8)]``, of a 2:4 matrix.

    The lowest bit is the first column. Raises :class:`BadInput` for another pattern.
    """
    if compressed.pattern != "2:4":
        raise BadInput(f"sparse-24-bitmask holds 2:4, not {compressed.pattern}; compress the "
                       "matrix as 2:4")
    shape = (compressed.rows, compressed.groups, 2)
    places, values = compressed.indices.reshape(shape), compressed.values.reshape(shape)
    # The only group that compressed-tensors fills otherwise: 0x00 keeps 1 and 3 instead of 1 and 2.
    zero = values.view(f"u{values.itemsize}") == 0
    lone = ~zero[..., 0] & zero[..., 1] & (places == (1, 2)).all(axis=2)
    places = np.where(lone[..., None], np.uint8([1, 3]), places)
    bits = np.zeros((compressed.rows, compressed.groups, 4), bool)
    np.put_along_axis(bits, places, True, axis=2)
    packed = np.packbits(bits.reshape(compressed.rows, -1), axis=1, bitorder="little")
    return compressed.values, packed


def from_bitmask(values: np.ndarray, bitmask: np.ndarray, columns: int) -> Compressed:
    """Reads a matrix of ``columns`` columns; the result has this project's fillers.

    Raises :class:`BadInput` where shapes do not fit or are empty, where a group has not two bits,
    and where bits behind the last column are set.
    """
    if columns % 4 or values.ndim != 2 or 2 * values.shape[1] != columns:
        raise BadInput(f"values are {list(values.shape)}, but 2:4 of {columns} columns keeps "
                       f"[rows, {columns // 2}]; compress the matrix again")
    if not values.size:
        raise BadInput(f"values are {list(values.shape)}, but a matrix that is not empty is "
                       "needed; leave an empty one dense")
    rows = len(values)
    expected = [rows, -(-columns // 8)]
    if bitmask.dtype != np.uint8 or list(bitmask.shape) != expected:
        raise BadInput(f"the bitmask is {bitmask.dtype} {list(bitmask.shape)}, expected uint8 "
                       f"{expected}; compress the matrix again")
    bits = np.unpackbits(bitmask, axis=1, bitorder="little")
    if bits[:, columns:].any():
        row = bits[:, columns:].any(axis=1).argmax()
        raise BadInput(f"row {row}: the bitmask has bits behind the last of {columns} columns; "
                       "compress the matrix again")
    groups = bits[:, :columns].reshape(rows, -1, 4)
    count = groups.sum(axis=2)
    if (count != 2).any():
        row, group = np.argwhere(count != 2)[0]
        raise BadInput(f"row {row}, group {group}: the bitmask has {count[row, group]} bits, "
                       "expected 2; compress the matrix again")
    places = np.nonzero(groups)[2].astype(np.uint8).reshape(rows, -1)
    return compress(decompress(Compressed(values, places, "2:4")), "2:4")
