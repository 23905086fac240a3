"""Metadata of the tensor cores: where the kept values of a 2:4 matrix stood.

Two kept values of a group make one nibble, the first one's place in its low two bits. Sources: PTX
ISA 9.x, "Matrix multiply-accumulate operation using mma.sp instruction with sparse matrix A"
(nibbles, and which thread holds what); CUTLASS 2.x, ``host_reorder.h``, as used by
``torch/sparse/_semi_structured_conversions.py`` (order of the words in memory).

Only six nibbles are legal where metadata is ordered: 0100 1000 1001 1100 1101 1110. Of 32-bit types
one value of two is kept; it is described as two halves, 0100 or 1110. Of int4 the nibble counts
pairs.
"""

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.nm import DTYPES, PATTERNS, Compressed, compress, decompress

LEGAL = (0b0100, 0b1000, 0b1001, 0b1100, 0b1101, 0b1110)
"""Nibbles whose first place is below their second."""
HALVES = (0b0100, 0b1110)
"""Nibbles of 1:2, by the place of the kept value."""
TILE = {np.dtype(np.uint16): 32, np.dtype(np.uint32): 16}
"""Rows after which the order of the words in memory repeats, by the type of a word."""


def pattern_of(values: np.dtype) -> str:
    """The pattern that tensor cores take for values of this type."""
    if values not in DTYPES:
        raise BadInput(f"tensor cores take {', '.join(t.name for t in DTYPES)}, not {values}; "
                       "convert the tensor first")
    return "1:2" if values == np.float32 else "2:4"


def word_type(values: np.dtype) -> np.dtype:
    """The type of a metadata word: uint32 (8 groups) for int8, uint16 (4) for wider values."""
    return np.dtype(np.uint32 if values.itemsize == 1 else np.uint16)


def nibbles(compressed: Compressed) -> np.ndarray:
    """The nibble of every group, uint8 ``[M, groups]``; :class:`BadInput` for 1:4."""
    _check_pattern(compressed.pattern)
    if compressed.pattern == "1:2":
        return np.array(HALVES, np.uint8)[compressed.indices]
    first, second = compressed.indices[:, ::2], compressed.indices[:, 1::2]
    return first | second << 2


def to_indices(codes: np.ndarray, pattern: str) -> np.ndarray:
    """Indices, uint8 ``[M, kept units]``, of nibbles ``[M, groups]``.

    Raises :class:`BadInput` for a nibble that is not legal.
    """
    _check_pattern(pattern)
    legal = HALVES if pattern == "1:2" else LEGAL
    wrong = ~np.isin(codes, legal)
    if wrong.any():
        row, group = np.argwhere(wrong)[0]
        raise BadInput(f"row {row}, group {group}: the nibble {codes[row, group]:04b} is illegal, "
                       f"expected one of {' '.join(f'{code:04b}' for code in legal)}; compress "
                       "the matrix again")
    return (codes == HALVES[1]).astype(np.uint8) if pattern == "1:2" else _places(codes)


def to_words(codes: np.ndarray, word: np.dtype) -> np.ndarray:
    """Row-major words ``[M, C]`` of nibbles ``[M, groups]``, the lowest bits first.

    Raises :class:`BadInput` where a row does not fill its last word.
    """
    number = word.itemsize * 2
    if codes.shape[1] % number:
        raise BadInput(f"a row has {codes.shape[1]} groups, but a {word} word of metadata takes "
                       f"{number}; add columns of zeros")
    places = np.arange(number, dtype=word) * word.type(4)
    parts = codes.reshape(len(codes), -1, number).astype(word) << places
    return np.bitwise_or.reduce(parts, axis=2)


def from_words(words: np.ndarray) -> np.ndarray:
    """The nibbles, uint8 ``[M, groups]``, of row-major uint16 or uint32 words ``[M, C]``.

    Any nibble is given as it stands: :func:`to_indices` refuses illegal ones, :func:`normalise`
    understands some. Raises :class:`BadInput` for words of another type or shape, or none.
    """
    _check_unsigned(words)
    places = np.arange(words.dtype.itemsize * 2, dtype=words.dtype) * words.dtype.type(4)
    codes = words[..., None] >> places & words.dtype.type(0xF)
    return codes.astype(np.uint8).reshape(len(words), -1)


def check_words(values: np.ndarray, words: np.ndarray, word: np.dtype) -> None:
    """Refuses ``words`` that are not ``word`` ``[M, C]``, as ``values`` [M, kept] need them."""
    pattern = pattern_of(values.dtype)
    per_word = word.itemsize * 2 * PATTERNS[pattern].kept
    expected = [len(values), values.shape[1] // per_word] if values.ndim == 2 else None
    if expected is None or not values.size or values.shape[1] % per_word:
        raise BadInput(f"values {list(values.shape)} of {pattern} must be a matrix, not empty, "
                       f"whose columns are a multiple of {per_word}; compress the matrix again")
    if words.dtype != word or list(words.shape) != expected:
        raise BadInput(f"metadata is {words.dtype} {list(words.shape)}, but values "
                       f"{values.dtype} {list(values.shape)} take {word} {expected}; compress the "
                       "matrix again")


def read(values: np.ndarray, words: np.ndarray) -> Compressed:
    """Reads values and row-major words of any encoder, like :func:`normalise`."""
    check_words(values, words, word_type(values.dtype))
    return normalise(values, from_words(words), pattern_of(values.dtype))


def normalise(values: np.ndarray, codes: np.ndarray, pattern: str) -> Compressed:
    """Reads what any encoder wrote: ``values`` [M, kept], nibbles ``[M, groups]``.

    Encoders differ in what fills a group with too few non-zeros (CUTLASS 3, compressed-tensors,
    Vortex), and some give the later value first. The result has this project's fillers, ascending.
    A place that is named twice is read only where both values are zero; :class:`BadInput`
    otherwise, and for a nibble of 1:2 that is not legal.
    """
    _check_pattern(pattern)
    if pattern == "1:2":
        return compress(decompress(Compressed(values, to_indices(codes, pattern), pattern)),
                        pattern)
    # Shapes are checked before anything is moved.
    raw = Compressed(values, _places(codes), pattern)
    shape = (raw.rows, raw.groups, 2)
    places = raw.indices.reshape(shape)
    own = np.ascontiguousarray(raw.values).reshape(*shape, -1)
    twice = places[..., 0] == places[..., 1]
    occupied = own.view(f"u{own.dtype.itemsize}").any(axis=(2, 3))
    if (twice & occupied).any():
        row, group = np.argwhere(twice & occupied)[0]
        raise BadInput(f"row {row}, group {group}: the nibble {codes[row, group]:04b} names place "
                       f"{places[row, group, 0]} twice, and a value there is not zero; compress "
                       "the matrix again")
    order = np.argsort(places, axis=2)
    ascending = np.take_along_axis(places, order, axis=2)
    ascending[twice] = 2, 3
    ordered = np.take_along_axis(own, order[..., None], axis=2).reshape(values.shape)
    ascending = ascending.reshape(raw.indices.shape)
    return compress(decompress(Compressed(ordered, ascending, pattern)), pattern)


def reorder(words: np.ndarray) -> np.ndarray:
    """Row-major words ``[M, C]`` in the order that CUTLASS 2 and PyTorch keep in memory.

    M has to be a multiple of 32 (uint16) or 16 (uint32), C even; :class:`BadInput` otherwise, and
    for words of another type.
    """
    result = np.empty_like(words).reshape(-1)
    result[_offsets(words)] = words
    return result.reshape(words.shape)


def restore(words: np.ndarray) -> np.ndarray:
    """The inverse of :func:`reorder`."""
    return np.ascontiguousarray(words).reshape(-1)[_offsets(words)]


def lanes(words: np.ndarray) -> np.ndarray:
    """What each thread of a warp holds as metadata operand of ``mma.sp``.

    ``words`` are row-major, as :func:`to_words` gives them. The result is uint32 ``[C / 2, tiles,
    32 threads]``, a tile being 32 or 16 rows; in this order it is what :func:`reorder` lays into
    memory. A quad is four threads, g = thread / 4, t = thread % 4.

    ``m16n8k32`` of 16-bit types (uint16 words): two threads of each quad hold the metadata of an
    instruction and the sparsity selector says which, so that one warp serves 32 rows. Selector 0 is
    for rows 0 to 15, in threads t = 0 and 1; selector 1 for rows 16 to 31, in t = 2 and 3. The even
    one of the two holds columns 0 to 15, the odd one columns 16 to 31; row g is in the low half,
    row g + 8 in the high half.

    ``m16n8k64`` of int8 (uint32 words): all threads hold metadata, the selector is 0. t = 0 and 1
    hold columns 0 to 31, t = 2 and 3 columns 32 to 63; row g is in the even thread, row g + 8 in
    the odd one.

    Raises :class:`BadInput` like :func:`reorder`.
    """
    tile = _check_tiles(words)
    thread = np.arange(32)
    g, t = thread // 4, thread % 4
    first = np.arange(0, len(words), tile)[None, :, None]
    pair = np.arange(0, words.shape[1], 2)[:, None, None]
    if tile == 32:
        row, column = first + 16 * (t // 2) + g, pair + t % 2
        low, high = (words[r, column].astype(np.uint32) for r in (row, row + 8))
        return low | high << 16
    return words[first + g + 8 * (t % 2), pair + t // 2]


def _check_pattern(pattern: str) -> None:
    if PATTERNS.get(pattern) == PATTERNS["1:4"]:
        raise BadInput("tensor cores have no metadata for 1:4; compress the matrix as 2:4")


def _places(codes: np.ndarray) -> np.ndarray:
    """Both places of every nibble, one behind the other."""
    return np.stack([codes & 3, codes >> 2], axis=2).reshape(len(codes), -1)


def _check_unsigned(words: np.ndarray) -> None:
    if words.dtype not in TILE or words.ndim != 2 or not words.size:
        raise BadInput("words of metadata must be a uint16 or uint32 matrix that is not empty, not "
                       f"{words.dtype} {list(words.shape)}; view PyTorch's as unsigned, or "
                       "compress the matrix again")


def _check_tiles(words: np.ndarray) -> int:
    _check_unsigned(words)
    tile = TILE[words.dtype]
    if len(words) % tile or words.shape[1] % 2:
        raise BadInput(f"metadata of {len(words)} rows and {words.shape[1]} {words.dtype} words a "
                       f"row has no order of tensor cores, which takes rows in multiples of {tile} "
                       "and words in pairs; add rows or columns of zeros")
    return tile


def _offsets(words: np.ndarray) -> np.ndarray:
    """Where each word ``[M, C]`` lies in memory."""
    tile, number = _check_tiles(words), len(words)
    m, c = np.indices(words.shape)
    r = m // tile * tile + m % 8 * (tile // 8) + m % tile // 8
    # The other two words of each 2 x 2 block change places.
    swap = r % 2 - c % 2
    r, c = r - swap, c + swap
    return c // 2 * number * 2 + r * 2 + c % 2
