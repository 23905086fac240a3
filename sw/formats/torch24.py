"""PyTorch's semi-structured tensors: the two of ``sparse_semi_structured_from_dense_cutlass``.

Byte for byte those of PyTorch 2.13, of a matrix without -0.0 (see :mod:`zeroskip.sw.formats.nm`)
and without NaNs, whose payload PyTorch may change on a CPU. What PyTorch does not check is checked
here: it lets an odd number of words a row pass, and then an index is out of bounds; and of a group
with too many non-zeros it drops some silently.

=================  =======  ===============  ===============  ======================
type               pattern  M a multiple of  K a multiple of  metadata
=================  =======  ===============  ===============  ======================
float16, bfloat16  2:4      32               32               int16 ``[M, K / 16]``
float32            1:2      32               16               int16 ``[M, K / 8]``
int8               2:4      16               64               int32 ``[M, K / 32]``
=================  =======  ===============  ===============  ======================
"""

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import metadata as meta
from zeroskip.sw.formats.nm import PATTERNS, Compressed


def to_torch(compressed: Compressed) -> tuple[np.ndarray, np.ndarray]:
    """Values ``[M, K / 2]`` and metadata, int16 or int32, as PyTorch gives them.

    Raises :class:`BadInput` where PyTorch has no such type, pattern or shape.
    """
    values = compressed.values
    expected, word = meta.pattern_of(values.dtype), meta.word_type(values.dtype)
    if compressed.pattern != expected:
        raise BadInput(f"PyTorch takes {values.dtype} as {expected}, not {compressed.pattern}; "
                       f"compress the matrix as {expected}")
    rows, columns = meta.TILE[word], word.itemsize * 4 * PATTERNS[expected].columns
    if compressed.rows % rows or compressed.columns % columns:
        raise BadInput(f"PyTorch takes {values.dtype} with rows in multiples of {rows} and columns "
                       f"in multiples of {columns}, not {compressed.rows} x {compressed.columns}; "
                       "add zeros")
    words = meta.reorder(meta.to_words(meta.nibbles(compressed), word))
    return values, words.view(_signed(word))


def from_torch(values: np.ndarray, metadata: np.ndarray) -> Compressed:
    """Reads PyTorch's two tensors; the result has this project's fillers.

    Raises :class:`BadInput` for other types or shapes, and like
    :func:`zeroskip.sw.formats.metadata.normalise`.
    """
    word = meta.word_type(values.dtype)
    meta.check_words(values, metadata, _signed(word))
    return meta.read(values, meta.restore(np.ascontiguousarray(metadata).view(word)))


def _signed(word: np.dtype) -> np.dtype:
    """PyTorch's type of a metadata word."""
    return np.dtype(f"i{word.itemsize}")
