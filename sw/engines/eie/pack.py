"""Interleaved compressed sparse columns, the weight format of EIE, with and without escapes.

Source: Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural Network",
ISCA 2016, section III (representation) and section III.C (interleaving over the PEs). The
escapes are this project's.
"""

from dataclasses import dataclass, replace

import numpy as np

from zeroskip.hw.eie.config import ENTRIES_PER_ROW
from zeroskip.sw.errors import BadInput

VALUE_BITS = 4
RUN_BITS = 4
PADDING = 0xF0
"""Index 0 behind the longest run. Without escapes it is an entry of its own, a stored zero that
moves on by 16 rows; with escapes two of them are one, which moves on by 272."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix of codebook indices, split over PEs and compressed column by column.

    The N PEs are K clusters of as many PEs as there are groups, G. PE c + K g owns the rows i
    with i mod K = c, of the columns j with (j // K) mod G = g: with one group, every Nth row and
    all columns. Where it owns fewer columns than others, empty ones follow.

    A byte has a codebook index v in its low nibble and z in its high nibble. Without escapes each
    is an entry: z zeros of the PE's own rows lie between the entry before it in this column and
    this one. With escapes, a byte with v = 0 adds 16 * (z + 1) zeros to those of the entry in the
    byte behind it; zero bytes may fill a column up.

    Attributes
    ----------
    entries : one uint8 array per PE
    starts : uint32 array [pes, width + 1]
        Number of the byte with which each column of a PE starts; the last one is the count of
        bytes. PEs have :func:`width` columns.
    rows, columns : int
        Shape of the dense matrix, ``[out, in]``.
    groups : int
    escapes : bool
    """

    entries: tuple[np.ndarray, ...]
    starts: np.ndarray
    rows: int
    columns: int
    groups: int
    escapes: bool

    @property
    def pes(self) -> int:
        """Number of PEs."""
        return len(self.entries)

    @property
    def size(self) -> int:
        """Bytes of all PEs."""
        return sum(map(len, self.entries))

    @property
    def padding(self) -> np.ndarray:
        """Bytes of each PE that hold no weight, int64 ``[pes]``."""
        return np.array([np.count_nonzero(own & 0xF == 0) for own in self.entries])

    @property
    def nonzeros(self) -> int:
        """Bytes that hold a weight."""
        return self.size - int(self.padding.sum())

    @property
    def longest(self) -> int:
        """Bytes of the longest column in any PE."""
        return int(np.diff(self.starts.astype(np.int64)).max())


def width(columns: int, pes: int, groups: int) -> int:
    """Columns of the PEs in the first group, which own most."""
    clusters = pes // groups
    rounds, rest = divmod(columns, pes)
    return rounds * clusters + min(rest, clusters)


def pack(indices: np.ndarray, pes: int, *, escapes: bool, groups: int = 1) -> Packed:
    """Compress ``indices``, a uint8 array [out, in], for ``pes`` PEs in clusters of ``groups``.

    Index 0 is a zero weight, 1 to 15 are codebook indices. With ``escapes`` a gap of over 15
    zeros takes one more byte, and two more for every 272 rows; without, a padding entry for
    every 16 rows. Raises :class:`BadInput` for anything else.
    """
    _check(indices, pes, groups)
    rows, columns = indices.shape
    clusters = pes // groups
    starts = np.empty((pes, width(columns, pes, groups) + 1), np.uint32)
    entries = []
    for group in range(groups):
        owned = indices[:, _owned(columns, clusters, groups, group)] if groups > 1 else indices
        for cluster in range(clusters):
            own, places = _pack_slice(owned[cluster::clusters], escapes)
            starts[len(entries), :len(places)] = places
            starts[len(entries), len(places):] = places[-1]
            entries.append(own)
    return Packed(tuple(entries), starts, rows, columns, groups, escapes)


def _owned(columns: int, clusters: int, groups: int, group: int) -> np.ndarray:
    """The columns that the PEs of a group own."""
    return np.flatnonzero(np.arange(columns) // clusters % groups == group)


def _check(indices: np.ndarray, pes: int, groups: int) -> None:
    if pes < 1:
        raise BadInput(f"pes must be at least 1, not {pes}")
    if groups < 1 or pes % groups:
        raise BadInput(f"groups must divide pes, which is {pes}, not {groups}")
    if indices.dtype != np.uint8 or indices.ndim != 2 or not indices.size:
        raise BadInput("indices must be a uint8 matrix [out, in] that is not empty, "
                       f"not {indices.dtype} {list(indices.shape)}")
    if indices.max() > 15:
        row, column = np.argwhere(indices > 15)[0]
        raise BadInput(f"index [{row}, {column}] is {indices[row, column]}: share the weights "
                       "among at most 15 centroids")


def _pack_slice(own: np.ndarray, escapes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Entries and starts of one PE from its own rows, uint8 [rows, columns]."""
    rows, columns = own.shape
    cell, value = _nonzeros(own)
    column = cell // rows
    weights = np.bincount(column, minlength=columns)
    before = np.concatenate([[0], np.cumsum(weights)])
    gap = np.diff(cell, prepend=cell.dtype.type(-1)) - 1
    first = before[:-1][weights > 0]
    gap[first] = cell[first] - column[first] * rows

    step = 272 if escapes else 16
    bridges = gap // step
    gap -= bridges * step
    escaped = np.flatnonzero(gap > 15)      # none without escapes
    length = bridges * (1 + escapes) + 1
    length[escaped] += 1
    ends = np.concatenate([[0], np.cumsum(length)])
    entries = np.full(ends[-1], PADDING, np.uint8)
    entries[ends[1:] - 1] = (gap & 0xF) << VALUE_BITS | value
    entries[ends[1 + escaped] - 2] = (gap[escaped] >> RUN_BITS) - 1 << VALUE_BITS
    return entries, ends[before]


def _nonzeros(own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places, counted down the columns, and values of the non-zeros, in this order.

    Sorting the few non-zeros is cheaper than transposing the many zeros, and twice as cheap in
    32 bits.
    """
    rows, columns = own.shape
    flat = own.ravel()
    place = np.flatnonzero(flat != 0)
    value = flat[place]
    if own.size << VALUE_BITS < 1 << 31:
        place = place.astype(np.int32)
    row = place // columns
    key = (place - row * columns) * rows + row << VALUE_BITS | value
    key.sort()
    return key >> VALUE_BITS, key & 0xF


def spread(packed: Packed, stride: int) -> Packed:
    """The same matrix with ``stride`` bytes for every column, zero bytes at its end.

    ``packed`` has escapes and no column of more than ``stride`` bytes: without escapes, zero
    bytes would be entries.
    """
    starts = np.arange(packed.starts.shape[1]) * stride
    streams = []
    for own, mine in zip(packed.entries, packed.starts.astype(np.int64), strict=True):
        wide = np.zeros(starts[-1], np.uint8)
        wide[np.arange(len(own)) + np.repeat(starts[:-1] - mine[:-1], np.diff(mine))] = own
        streams.append(wide)
    return replace(packed, entries=tuple(streams),
                   starts=np.tile(starts.astype(np.uint32), (packed.pes, 1)))


def whole(packed: Packed, first: np.ndarray) -> Packed:
    """The same matrix with fewer columns that cost a cycle more than they have entries.

    That is what an escape and its entry cost where they are a column, and lie in two rows of the
    weight memory. A zero byte behind the column before moves both into one row, if it makes no
    column the longest. ``packed`` has escapes; its byte 0 will be byte ``first`` of each PE's
    memory, int [pes].
    """
    streams, starts = [], np.zeros_like(packed.starts)
    for own, mine, at, new in zip(packed.entries, packed.starts.astype(np.int64), first, starts,
                                  strict=True):
        sizes = np.diff(mine)
        held = np.flatnonzero(sizes)
        alone = np.flatnonzero((sizes[held] == 2) & (own[mine[held]] & 0xF == 0))
        fillers: list[int] = []
        for number, start in zip(alone.tolist(), mine[held[alone]].tolist(), strict=True):
            last = (at + start + len(fillers)) % ENTRIES_PER_ROW == ENTRIES_PER_ROW - 1
            if last and number and sizes[held[number - 1]] < packed.longest:
                fillers.append(number - 1)
        filled = held[fillers]
        streams.append(np.insert(own, mine[filled + 1], 0))
        sizes[filled] += 1
        new[1:] = np.cumsum(sizes)
    return replace(packed, entries=tuple(streams), starts=starts)


def unpack(packed: Packed) -> np.ndarray:
    """Dense uint8 ``[out, in]`` of ``packed``, as the array reads the bytes.

    Raises :class:`BadInput` where starts or bytes do not describe such a matrix.
    """
    dense = np.zeros((packed.rows, packed.columns), np.uint8)
    shape = packed.pes, width(packed.columns, packed.pes, packed.groups) + 1
    if packed.starts.shape != shape:
        raise BadInput(f"starts must be {list(shape)}, not {list(packed.starts.shape)}: pack the "
                       "matrix again")
    clusters = packed.pes // packed.groups
    for pe in range(packed.pes):
        group, cluster = divmod(pe, clusters)
        owned = _owned(packed.columns, clusters, packed.groups, group)
        try:
            column = _columns(packed.starts[pe].astype(np.int64), len(owned),
                              len(packed.entries[pe]))
            rows = len(range(cluster, packed.rows, clusters))
            row, column, value = _unpack_slice(packed.entries[pe], column, rows, packed.escapes)
        except ValueError as error:
            raise BadInput(f"PE {pe}: {error}: pack the matrix again") from None
        dense[cluster + clusters * row, owned[column]] = value
    return dense


def _columns(starts: np.ndarray, columns: int, size: int) -> np.ndarray:
    """The column of each of ``size`` bytes of a PE that owns so many columns; ``ValueError``
    where ``starts`` do not say it."""
    if starts[0] != 0 or np.any(starts[columns:] != size):
        raise ValueError(f"starts run from {starts[0]} to {starts[columns:].tolist()} instead of "
                         f"0 to {size}")
    wrong = np.flatnonzero((starts[:-1] > starts[1:]) | (starts[1:] > size))
    if wrong.size:
        column = wrong[0]
        raise ValueError(f"column {column}: starts {starts[column]} and {starts[column + 1]} do "
                         f"not enclose some of the {size} bytes")
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _unpack_slice(entries: np.ndarray, column: np.ndarray, rows: int,
                  escapes: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and value of each entry of one PE, that of padding being 0; ``ValueError``
    where an entry leaves the PE's ``rows`` or does not come behind its escape."""
    first = np.append(-1, column[:-1]) != column
    byte = np.arange(len(column)) - _latest(first)
    kept = np.ones(len(entries), bool)
    if escapes:     # zero bytes fill a column up
        last = np.full(column.max(initial=-1) + 1, -1)
        held = np.flatnonzero(entries)
        last[column[held]] = held
        kept = np.arange(len(entries)) <= last[column]
    column, first, byte = column[kept], first[kept], byte[kept]
    value, run = entries[kept] & 0xF, entries[kept].astype(np.int64) >> VALUE_BITS
    # Of neighbouring bytes without a value every other one is an escape.
    zero = (value == 0) & escapes
    escape = zero & ((np.arange(len(zero)) - _latest(
        zero & (first | ~np.append(False, zero[:-1])))) % 2 == 0)
    step = np.where(escape, 16 * (run + 1), run + 1)
    passed = np.cumsum(step)
    row = passed - np.maximum.accumulate(np.where(first, passed - step, 0)) - 1
    open_ = escape & np.append(first[1:], True)[:len(escape)]
    wrong = np.flatnonzero(open_ | (~escape & (row >= rows)))
    if wrong.size:
        at = wrong[0]
        what = "an escape, and no entry follows" if open_[at] else f"for row {row[at]} of {rows}"
        raise ValueError(f"column {column[at]}, byte {byte[at]} is {what}")
    return row[~escape], column[~escape], value[~escape]


def _latest(marks: np.ndarray) -> np.ndarray:
    """For each place the last marked one up to it; 0 where there is none."""
    return np.maximum.accumulate(np.where(marks, np.arange(len(marks)), 0))
