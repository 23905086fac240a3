"""Interleaved compressed sparse columns, the weight format of EIE.

Source: Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural Network",
ISCA 2016, section III (representation) and section III.C (interleaving over the PEs).
"""

from dataclasses import dataclass

import numpy as np

from zeroskip.sw.errors import BadInput

VALUE_BITS = 4
RUN_BITS = 4
PADDING = 0xF0
"""A stored zero behind 15 zeros: it moves on by 16 rows and adds nothing."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix of codebook indices, split over PEs and compressed column by column.

    PE k of N owns the rows i with i mod N = k.

    Attributes
    ----------
    entries : one uint8 array per PE
        Low nibble v: codebook index, 0 for padding. High nibble z: number of zeros among the
        PE's own rows between the entry before it in this column and this one.
    pointers : uint32 array [pes, columns + 1]
        Number of the entry with which each column starts; the last one is the entry count.
    rows, columns : int
        Shape of the dense matrix, ``[out, in]``.
    """

    entries: tuple[np.ndarray, ...]
    pointers: np.ndarray
    rows: int
    columns: int

    @property
    def pes(self) -> int:
        """Number of PEs."""
        return len(self.entries)

    @property
    def padding(self) -> np.ndarray:
        """Padding entries of each PE, int64 ``[pes]``."""
        return np.array([np.count_nonzero(own & 0xF == 0) for own in self.entries])

    @property
    def nonzeros(self) -> int:
        """Entries that carry a weight."""
        return sum(map(len, self.entries)) - int(self.padding.sum())


def pack(indices: np.ndarray, pes: int) -> Packed:
    """Compress ``indices``, a uint8 array [out, in], for ``pes`` PEs.

    Index 0 is a zero weight, 1 to 15 are codebook indices. A gap of over 15 zeros takes one
    padding entry for every 16 rows. Raises :class:`BadInput` for anything else.
    """
    _check(indices, pes)
    rows, columns = indices.shape
    pointers = np.empty((pes, columns + 1), np.uint32)
    entries = []
    for pe in range(pes):
        own, pointers[pe] = _pack_slice(indices[pe::pes])
        entries.append(own)
    return Packed(tuple(entries), pointers, rows, columns)


def _check(indices: np.ndarray, pes: int) -> None:
    if pes < 1:
        raise BadInput(f"pes must be at least 1, not {pes}")
    if indices.dtype != np.uint8 or indices.ndim != 2 or not indices.size:
        raise BadInput("indices must be a uint8 matrix [out, in] that is not empty, "
                       f"not {indices.dtype} {list(indices.shape)}")
    if indices.max() > 15:
        row, column = np.argwhere(indices > 15)[0]
        raise BadInput(f"index [{row}, {column}] is {indices[row, column]}: share the weights "
                       "among at most 15 centroids")


def _pack_slice(own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entries and pointers of one PE from its own rows, uint8 [rows, columns]."""
    rows, columns = own.shape
    cell, value = _nonzeros(own)
    column = cell // rows
    gap = np.diff(cell, prepend=-1) - 1
    first = np.flatnonzero(np.diff(column, prepend=-1))
    gap[first] = cell[first] - column[first] * rows

    padding, run = gap >> RUN_BITS, gap & 0xF
    ends = np.concatenate([[0], np.cumsum(padding + 1)])
    entries = np.full(ends[-1], PADDING, np.uint8)
    entries[ends[1:] - 1] = run << VALUE_BITS | value
    weights_before = np.concatenate([[0], np.cumsum(np.bincount(column, minlength=columns))])
    return entries, ends[weights_before]


def _nonzeros(own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places, counted down the columns, and values of the non-zeros, in this order.

    Sorting the few non-zeros is cheaper than transposing the many zeros.
    """
    rows, columns = own.shape
    flat = own.ravel()
    place = np.flatnonzero(flat != 0)
    row, column = np.divmod(place, columns)
    key = column * rows + row << VALUE_BITS | flat[place]
    key.sort()
    return key >> VALUE_BITS, key & 0xF


def unpack(packed: Packed) -> np.ndarray:
    """Dense uint8 ``[out, in]`` of ``packed``, walking the entries as the machine does.

    Raises :class:`BadInput` where pointers or entries do not describe such a matrix.
    """
    dense = np.zeros((packed.rows, packed.columns), np.uint8)
    if packed.pointers.shape != (packed.pes, packed.columns + 1):
        raise BadInput(f"pointers must be {[packed.pes, packed.columns + 1]}, "
                       f"not {list(packed.pointers.shape)}: pack the matrix again")
    for pe in range(packed.pes):
        entries, pointers = packed.entries[pe].tolist(), packed.pointers[pe].tolist()
        own_rows = len(range(pe, packed.rows, packed.pes))
        if pointers[0] != 0 or pointers[-1] != len(entries):
            raise BadInput(f"PE {pe}: pointers run from {pointers[0]} to {pointers[-1]} instead "
                           f"of 0 to {len(entries)}: pack the matrix again")
        for column in range(packed.columns):
            start, end = pointers[column], pointers[column + 1]
            if not start <= end <= len(entries):
                raise BadInput(f"PE {pe}, column {column}: pointers {start} and {end} do not "
                               f"enclose some of the {len(entries)} entries: pack the matrix "
                               "again")
            row = 0
            for number in range(start, end):
                row += entries[number] >> 4
                if row >= own_rows:
                    raise BadInput(f"PE {pe}, column {column}, entry {number} is for row {row} "
                                   f"of {own_rows}: pack the matrix again")
                dense[row * packed.pes + pe, column] = entries[number] & 15
                row += 1
    return dense
