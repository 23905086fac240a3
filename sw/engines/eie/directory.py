"""The column directory of EIE: where in a PE's weight memory each column starts and ends.

As pointers, one per column as in the paper (Han et al., ISCA 2016, section III.B), or as words of
sixteen nibbles that share one base, which is this project's: a column takes as many bytes as its
count says, and starts at the base plus all counts before it in its word. A count is one, two or
four nibbles wide in a whole layer, the lowest nibble first.
"""

import numpy as np

from zeroskip.hw.eie.config import NIBBLES
from zeroskip.sw.errors import BadInput

WORDS = 3
"""32-bit words that a word of counts is loaded in: its base, nibbles 0 to 7, nibbles 8 to 15."""

MOST = {1: 15, 2: 255, 4: 65535}
"""Greatest count in so many nibbles."""


def nibbles_for(longest: int) -> int:
    """Nibbles of a count in a layer whose longest column takes ``longest`` bytes; ``BadInput``
    for over 65535."""
    for nibbles, most in MOST.items():
        if longest <= most:
            return nibbles
    raise BadInput(f"a column takes {longest} bytes in one PE, and a count holds at most {most}: "
                   "choose a target with more PEs")


def words_for(columns: int, nibbles: int) -> int:
    """Words that the counts of ``columns`` take; each layer begins with a whole one."""
    return -(-columns * nibbles // NIBBLES)


def pack_counts(starts: np.ndarray, nibbles: int) -> np.ndarray:
    """Words of counts, as they are loaded: uint32 [pes, 3 * words].

    ``starts`` is an integer array [pes, columns + 1] of the bytes at which columns start, the
    last one where the last column ends; no column is longer than ``nibbles`` can say.
    """
    pes, columns = starts.shape[0], starts.shape[1] - 1
    words, each = words_for(columns, nibbles), NIBBLES // nibbles
    counts = np.zeros((pes, words * each), np.uint64)
    counts[:, :columns] = np.diff(starts.astype(np.int64))
    places = np.arange(each, dtype=np.uint64) * np.uint64(4 * nibbles)
    lanes = np.bitwise_or.reduce(counts.reshape(pes, words, each) << places, axis=2)
    packed = np.empty((pes, words, WORDS), np.uint32)
    packed[:, :, 0] = starts[:, :-1:each]
    packed[:, :, 1:] = lanes[:, :, None].view("<u4")
    return packed.reshape(pes, -1)


def unpack_counts(packed: np.ndarray, nibbles: int,
                  columns: int) -> tuple[np.ndarray, np.ndarray]:
    """First byte of each column and the byte behind its last, int64 [pes, columns] each.

    The inverse of :func:`pack_counts`, as the array reads: each word from its own base. More
    words may follow.
    """
    pes = len(packed)
    packed = packed[:, :WORDS * words_for(columns, nibbles)]
    words = packed.astype(np.uint64).reshape(pes, -1, WORDS)
    lanes = words[:, :, 1] | words[:, :, 2] << np.uint64(32)
    places = np.arange(0, 4 * NIBBLES, 4 * nibbles, dtype=np.uint64)
    counts = (lanes[:, :, None] >> places & np.uint64(MOST[nibbles])).astype(np.int64)
    stops = words[:, :, :1].astype(np.int64) + counts.cumsum(axis=2)
    starts = stops - counts
    return tuple(each.reshape(pes, -1)[:, :columns] for each in (starts, stops))


def unpack_pointers(pointers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of plain pointers, uint32 [pes, columns + 1]: where one column ends, the next
    starts."""
    wide = pointers.astype(np.int64)
    return wide[:, :-1], wide[:, 1:]
