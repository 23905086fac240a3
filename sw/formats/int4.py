"""Pair-wise 4:8 of int4: of every four pairs of neighbouring columns two are kept.

Source: PTX ISA 9.x, "Sparse matrix storage", ``mma.sp`` with int4. A pair is one byte, its first
value in the low nibble, and goes as a whole; the metadata counts pairs.
"""

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import nm
from zeroskip.sw.formats.nm import Compressed


def pack(values: np.ndarray) -> np.ndarray:
    """Two int4 a byte: int8 ``[M, K]`` of -8 to 7 becomes uint8 ``[M, K / 2]``.

    Raises :class:`BadInput` for other types, an odd K and values out of range.
    """
    if values.dtype != np.int8 or values.ndim != 2 or values.shape[1] % 2:
        raise BadInput("int4 values must be an int8 matrix with an even number of columns, not "
                       f"{values.dtype} {list(values.shape)}; convert or widen it first")
    wrong = (values < -8) | (values > 7)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise BadInput(f"row {row}, column {column} is {values[row, column]}, but int4 holds -8 to "
                       "7; quantise it to 4 bits first")
    nibble = values.view(np.uint8) & 0xF
    return nibble[:, ::2] | nibble[:, 1::2] << 4


def unpack(pairs: np.ndarray) -> np.ndarray:
    """The inverse of :func:`pack`: int8 ``[M, K]`` of bytes, uint8 ``[M, K / 2]``.

    Raises :class:`BadInput` for other types and shapes.
    """
    if pairs.dtype != np.uint8 or pairs.ndim != 2:
        raise BadInput(f"pairs must be a uint8 matrix, not {pairs.dtype} {list(pairs.shape)}; "
                       "compress the matrix again")
    nibble = np.stack([pairs & 0xF, pairs >> 4], axis=2)
    nibble = nibble.reshape(len(pairs), 2 * pairs.shape[1])
    return ((nibble ^ 8).astype(np.int8) - 8).astype(np.int8)


def compress(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept pairs, uint8 ``[M, K / 4]``, and their places, uint8 ``[M, K / 4]``, of an int8 matrix.

    Raises :class:`BadInput` like :func:`pack` and :func:`zeroskip.sw.formats.nm.check`.
    """
    compressed = nm.compress(weight, "4:8")
    return pack(compressed.values), compressed.indices


def decompress(pairs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The inverse of :func:`compress`, int8 ``[M, K]``.

    Raises :class:`BadInput` where the two do not fit together.
    """
    return nm.decompress(Compressed(unpack(pairs), indices, "4:8"))
