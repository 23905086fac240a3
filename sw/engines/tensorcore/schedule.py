"""What a host streams into a tensor core for one GEMM, and how it reads the outputs."""

from dataclasses import dataclass

import numpy as np

from zeroskip.hw.tensorcore import layouts
from zeroskip.hw.tensorcore.config import GROUP, SPEEDUP, TensorCoreConfig
from zeroskip.sw.engines.payload import pack_fields
from zeroskip.sw.errors import BadInput

RAW = (1 << layouts.LEAST_SHIFT, layouts.LEAST_SHIFT)
"""Multiplier and shift that hand a sum on as it is."""


@dataclass(frozen=True)
class Schedule:
    """How a GEMM of M x K x N is cut for one configuration.

    Attributes
    ----------
    config : TensorCoreConfig
    pattern : str
        Of the weights.
    m, n : int
    steps, words : int
        Words of weights in a row, and of activations in a column, of one chunk of K.
    chunks : int
    block : int
        Columns in a block, a multiple of the tile's.
    """

    config: TensorCoreConfig
    pattern: str
    m: int
    n: int
    steps: int
    words: int
    chunks: int
    block: int

    @classmethod
    def of(cls, config: TensorCoreConfig, pattern: str, m: int, k: int, n: int) -> "Schedule":
        """The schedule with the fewest words to load; ``k`` counts bytes, that is pairs with
        4-bit numbers.

        ``BadInput`` if the machine lacks the pattern, or a size leaves the command's fields.
        """
        if pattern not in config.patterns:
            raise BadInput(f"the tensor core is built for {', '.join(config.patterns)}, not for "
                           f"{pattern}; choose another configuration")
        per_word = config.span // SPEEDUP[pattern]
        steps = -(-k // (SPEEDUP[pattern] * config.products))
        most = min(config.weight_words, config.activation_words * per_word)
        if steps > most:        # a chunk starts with a whole word of activations
            most -= most % per_word
        chunks = -(-steps // most)
        if chunks > 1:
            steps = -(-steps // (chunks * per_word)) * per_word
        words = -(-steps // per_word)
        _check_field("rows", m, layouts.ROW_BITS)
        _check_field("columns", n, layouts.COLUMN_BITS)
        _check_field("chunks of K", chunks, layouts.CHUNK_BITS)
        tiles = -(-n // config.columns)
        capacity = config.activation_words // words if chunks == 1 else 1
        blocks = -(-tiles // capacity)
        block = -(-tiles // blocks) * config.columns
        _check_field("columns in a block", block, layouts.COLUMN_BITS)
        return cls(config, pattern, m, n, steps, words, chunks, block)

    @property
    def blocks(self) -> list[slice]:
        """The columns of each block."""
        return [slice(at, min(at + self.block, self.n)) for at in range(0, self.n, self.block)]

    @property
    def panels(self) -> list[slice]:
        """The rows of each panel."""
        rows = self.config.rows
        return [slice(at, min(at + rows, self.m)) for at in range(0, self.m, rows)]

    @property
    def output_rows(self) -> int:
        """Items of the output stream."""
        return self.m * sum(-(-(b.stop - b.start) // self.config.columns) for b in self.blocks)

    def command(self, *, zero_point: int = 0, relu: bool = False, raw: bool = False,
                int4: bool = False) -> np.ndarray:
        """The command, uint32 [1, words]."""
        fields = {
            "rows": self.m, "columns": self.n, "block": self.block, "chunks": self.chunks,
            "steps": self.steps, "words": self.words,
            "pattern": layouts.PATTERNS[self.pattern].value, "int4": int4,
            "zero_point": zero_point & 0xFF, "relu": relu, "raw": raw}
        return pack_fields(layouts.gemm_layout(self.config),
                           {name: np.array([int(value)]) for name, value in fields.items()})

    def weights(self, values: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """The weight stream, uint32 [n, words].

        ``values`` int8 [m, kept] are the stored weights of each row, ``indices`` uint8 the
        position of each in its group of four, of the same shape; of a dense row, [m, 0].
        """
        products = self.config.products
        values = self._padded(values, products * self.steps).view(np.uint8)
        parts = [_bits(values.reshape(-1, products))]
        if self.config.sparse:
            # What fills the last word, and dense weights altogether: the operands of a group in
            # turn, as many in a step as there are multipliers for a group.
            turns = np.arange(GROUP if self.pattern == "dense" else GROUP // SPEEDUP[self.pattern])
            turns = np.tile(turns.reshape(-1, min(2, len(turns))), (1, products // 2))
            stored = np.tile(np.resize(turns, values.shape[1]), (self.m, 1)).astype(np.uint8)
            stored[:, :indices.shape[1]] = indices
            parts.append(np.stack([stored & 1, stored >> 1], axis=-1).reshape(-1, 2 * products))
        once = _side_by_side(np.concatenate(parts, axis=1), self.m, self.config.rows)
        return _as_words(np.tile(once, (len(self.blocks), 1)))

    def channels(self, bias: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """The channel stream, uint32 [n, words], from int [m] each; see :data:`RAW`."""
        once = pack_fields(layouts.CHANNEL, {
            "bias": bias.astype(np.int64) & 0xFFFFFFFF, "multiplier": multiplier,
            "shift": shift - layouts.LEAST_SHIFT})
        return np.tile(once, (len(self.blocks), 1))

    def activations(self, b: np.ndarray) -> np.ndarray:
        """The activation stream, uint32 [n, words], from the columns int8 [n, k]."""
        config, span = self.config, self.config.span
        b = self._padded(b, config.operands * self.words)
        if self.pattern == "dense" and config.sparse:
            # A dense step takes two operands of each group, and its weights in plain order.
            b = b.reshape(self.n, -1, max(1, span // 2), 2, config.lanes, 2).swapaxes(3, 4)
        words = _bits(np.ascontiguousarray(b).view(np.uint8).reshape(-1, config.operands))
        strips = _side_by_side(words, self.n, config.columns)
        if self.chunks > 1:     # each panel of rows needs the block again
            strips = strips.reshape(-1, 1, self.chunks * self.words, strips.shape[-1])
            strips = np.tile(strips, (1, len(self.panels), 1, 1)).reshape(-1, strips.shape[-1])
        return _as_words(strips)

    def gather(self, items: np.ndarray) -> np.ndarray:
        """Rows of tiles [:attr:`output_rows`, columns], as they leave, as a matrix [m, n]."""
        d = np.empty((self.m, self.n), items.dtype)
        at, width = 0, self.config.columns
        for columns in self.blocks:
            tiles = -(-(columns.stop - columns.start) // width)
            for rows in self.panels:
                count = rows.stop - rows.start
                part = items[at:at + tiles * count].reshape(tiles, count, width).swapaxes(0, 1)
                d[rows, columns] = part.reshape(count, -1)[:, :columns.stop - columns.start]
                at += tiles * count
        return d

    def outputs(self, payload: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs int32 [m, n] and whether each was saturated, bool [m, n], from the output
        stream uint32 [:attr:`output_rows`, words]."""
        width = self.config.columns
        flags = np.unpackbits(np.ascontiguousarray(payload[:, width:]).view(np.uint8), axis=1,
                              bitorder="little")[:, :width]
        return (self.gather(np.ascontiguousarray(payload[:, :width]).view(np.int32)),
                self.gather(flags).astype(bool))

    def _padded(self, matrix: np.ndarray, width: int) -> np.ndarray:
        """int8 [rows, chunks * width], zeros behind."""
        padded = np.zeros((len(matrix), self.chunks * width), np.int8)
        padded[:, :matrix.shape[1]] = matrix
        return padded


def _check_field(what: str, size: int, bits: int) -> None:
    """``BadInput`` where a size leaves its field of the command."""
    if not 0 < size < 1 << bits:
        raise BadInput(f"a GEMM with {size} {what} is not one command of the tensor core, which "
                       f"takes 1 to {(1 << bits) - 1}; make the layer smaller, or choose a "
                       "configuration with larger buffers if it has too many chunks")


def _side_by_side(words: np.ndarray, count: int, width: int) -> np.ndarray:
    """Words uint8 [count * n, bits] of ``count`` rows (or columns) as those of ``width``
    neighbours together, [tiles * n, width * bits]; zeros past the last."""
    size = words.shape[1]
    padded = np.zeros((-(-count // width) * width, len(words) // count, size), np.uint8)
    padded[:count] = words.reshape(count, -1, size)
    return padded.reshape(-1, width, *padded.shape[1:]).swapaxes(1, 2).reshape(-1, width * size)


def _bits(payload: np.ndarray) -> np.ndarray:
    """Bytes uint8 [n, bytes] as bits, the lowest first."""
    return np.unpackbits(payload, axis=1, bitorder="little")


def _as_words(bits: np.ndarray) -> np.ndarray:
    """Bits uint8 [n, bits] as whole words uint32 [n, words]."""
    padded = np.zeros((len(bits), -(-bits.shape[1] // 32) * 32), np.uint8)
    padded[:, :bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").view("<u4")
