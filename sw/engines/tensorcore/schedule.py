"""What a host streams into a tensor core for one GEMM, and how it reads the outputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.tensorcore import layouts
from zeroskip.hw.tensorcore.config import GROUP, SPEEDUP, TensorCoreConfig
from zeroskip.sw.engines.payload import as_words, pack_fields
from zeroskip.sw.engines.wire import Poll, Read, Record, Write
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
    apart : bool
        Whether each panel of rows takes activations of its own.
    """

    config: TensorCoreConfig
    pattern: str
    m: int
    n: int
    steps: int
    words: int
    chunks: int
    block: int
    apart: bool = False

    @classmethod
    def of(cls, config: TensorCoreConfig, pattern: str, m: int, k: int, n: int,
           apart: bool = False) -> "Schedule":
        """The schedule with the fewest words to load; ``k`` counts bytes, that is pairs with
        4-bit numbers.

        Where K is in chunks the core takes activations with each panel: where these are to be
        ``apart`` there are two chunks at least.

        ``BadInput`` if the core lacks the pattern, or a size leaves the command's fields.
        """
        if pattern not in config.patterns:
            raise BadInput(f"the tensor core is built for {', '.join(config.patterns)}, not for "
                           f"{pattern}; choose another configuration")
        per_word = config.span // SPEEDUP[pattern]
        steps = -(-k // (SPEEDUP[pattern] * config.products))
        most = min(config.weight_words, config.activation_words * per_word)
        if steps > most:        # a chunk starts with a whole word of activations
            most -= most % per_word
        chunks = max(-(-steps // most), 2 if apart else 0)
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
        return cls(config, pattern, m, n, steps, words, chunks, block, apart)

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
    def keep(self) -> bool:
        """Whether the weights are loaded once, not in each block again."""
        return self.n > self.block and self.turns * self.steps <= self.config.weight_words

    @property
    def loads(self) -> int:
        """How many times the weights are loaded."""
        return 1 if self.keep else -(-self.n // self.block)

    @property
    def turns(self) -> int:
        """Chunks of all panels: each is ``steps`` items of weights."""
        return -(-self.m // self.config.rows) * self.chunks

    @property
    def output_rows(self) -> int:
        """Items of the output stream."""
        return self.m * sum(-(-(b.stop - b.start) // self.config.columns) for b in self.blocks)

    @property
    def order(self) -> np.ndarray:
        """Which value along K each byte of a column's words holds, int64 [chunks * words,
        operands]; those past the last of K are zeros."""
        config, shape = self.config, (self.chunks * self.words, self.config.operands)
        places = np.arange(shape[0] * shape[1])
        if self.pattern == "dense" and config.sparse:
            # A dense step takes two operands of each group, and its weights in plain order.
            places = places.reshape(shape[0], max(1, config.span // 2), 2, config.lanes, 2)
            places = places.swapaxes(2, 3)
        return places.reshape(shape)

    def command(self, *, zero_point: int = 0, relu: bool = False, raw: bool = False,
                int4: bool = False) -> np.ndarray:
        """The command, uint32 [1, words]."""
        fields = {
            "rows": self.m, "columns": self.n, "block": self.block, "chunks": self.chunks,
            "steps": self.steps, "words": self.words,
            "pattern": layouts.PATTERNS[self.pattern].value, "int4": int4,
            "zero_point": zero_point & 0xFF, "relu": relu, "raw": raw, "keep": self.keep}
        return pack_fields(layouts.gemm_layout(self.config),
                           {name: np.array([int(value)]) for name, value in fields.items()})

    def weights(self, values: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """One load of the weights, uint32 [turns * steps, words].

        ``values`` int8 [m, kept] are the stored weights of each row, ``indices`` uint8 the
        position of each in its group of four, of the same shape; of a dense row, [m, 0].
        """
        products = self.config.products
        width = products * self.steps * self.chunks
        # What fills the last word, and dense weights altogether: the operands of a group in
        # turn, as many in a step as there are multipliers for a group.
        turns = np.arange(GROUP if self.pattern == "dense" else GROUP // SPEEDUP[self.pattern])
        turns = np.tile(turns.reshape(-1, min(2, len(turns))), (1, products // 2))
        stored = np.tile(np.resize(turns, width), (self.m, 1)).astype(np.uint8)
        stored[:, :indices.shape[1]] = indices
        padded = np.zeros(stored.shape, np.int8)
        padded[:, :values.shape[1]] = values
        return np.concatenate([self._join(padded[rows], stored[rows]) for rows in self.panels])

    def matrix(self, weights: np.ndarray) -> np.ndarray:
        """What the core multiplies with each value along K, int8 [m, K and what fills its words]:
        one load of weights as it reads them, each at the operand that its metadata choose."""
        config, at = self.config, np.arange(self.chunks * self.steps)[:, None]
        per_word = config.span // SPEEDUP[self.pattern]
        phase, product = at % self.steps % per_word, np.arange(config.products)
        word = at // self.steps * self.words + at % self.steps // per_word
        group = {"dense": phase // 2 * config.lanes + product // 2,
                 "2:4": phase * config.lanes + product // 2, "1:4": product}[self.pattern]
        first = word * config.operands + (GROUP * group if config.sparse else product)
        dense, order = np.zeros((self.m, self.order.size), np.int8), self.order.reshape(-1)
        for rows, items in zip(self.panels, weights.reshape(len(self.panels), len(at), -1),
                               strict=True):
            values, places = self._split(items, rows.stop - rows.start)
            np.put_along_axis(dense[rows], order[np.broadcast_to(
                first + places, values.shape).reshape(len(values), -1)],
                              values.reshape(len(values), -1), axis=1)
        return dense

    def channels(self, bias: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """The channels of all rows, uint32 [m, words], from int [m] each; see :data:`RAW`."""
        return pack_fields(layouts.CHANNEL, {
            "bias": bias.astype(np.int64) & 0xFFFFFFFF, "multiplier": multiplier,
            "shift": shift - layouts.LEAST_SHIFT})

    def strips(self, columns: np.ndarray) -> np.ndarray:
        """The activations of neighbouring columns, each int8 [n, chunks * words, operands] in the
        :attr:`order` of its words: uint32 [tiles, chunks, words, words of an item]."""
        width, tiles = self.config.columns, -(-len(columns) // self.config.columns)
        padded = np.zeros((tiles * width, *columns.shape[1:]), np.int8)
        padded[:len(columns)] = columns
        items = padded.reshape(tiles, width, *columns.shape[1:]).swapaxes(1, 2)
        words = as_words(items.reshape(tiles * columns.shape[1], -1).view(np.uint8))
        return words.reshape(tiles, self.chunks, self.words, -1)

    def operands(self, b: np.ndarray) -> Callable[[slice, slice], np.ndarray]:
        """From columns of B, of int8 [n, k], to their :meth:`strips`, the same for all rows."""
        padded = np.zeros((self.n, self.order.size), np.int8)
        padded[:, :b.shape[1]] = b
        return lambda columns, _: self.strips(padded[columns][:, self.order])

    def records(self, command: np.ndarray, weights: np.ndarray, channels: np.ndarray,
                strips: Callable[[slice, slice], np.ndarray]) -> Iterator[Record]:
        """What the host exchanges with the core: :meth:`command`, one load of :meth:`weights`,
        :meth:`channels`, and the :meth:`strips` of columns of B, for a panel of rows."""
        yield Write("commands", command)
        weights = weights.reshape(len(self.panels), self.chunks, self.steps, -1)
        for number, columns in enumerate(self.blocks):
            for panel, rows in enumerate(self.panels):
                if panel == 0 or self.apart:
                    block = strips(columns, rows)
                yield Write("channels", channels[rows])
                for chunk in range(self.chunks):
                    if number < self.loads:
                        yield Write("weights", weights[panel, chunk])
                    if panel == 0 or self.chunks > 1:
                        yield Write("activations", block[:, chunk].reshape(
                            -1, block.shape[-1]))
                yield Read("outputs", len(block) * (rows.stop - rows.start))
        yield Poll("busy", 0)

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

    def _join(self, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """A panel's items, uint32 [n, words], of the stored weights of its rows, int8 [rows,
        products * n], and their places, uint8 alike."""
        products = self.config.products
        parts = [_bits(values.reshape(-1, products).view(np.uint8))]
        if self.config.sparse:
            parts.append(np.stack([places & 1, places >> 1], axis=-1).reshape(-1, 2 * products))
        step = np.concatenate(parts, axis=1)
        bits = step.reshape(len(values), -1, step.shape[1])
        items = np.zeros((bits.shape[1], self.config.rows, bits.shape[2]), np.uint8)
        items[:, :len(values)] = bits.swapaxes(0, 1)
        return as_words(np.packbits(items.reshape(len(items), -1), axis=1, bitorder="little"))

    def _split(self, items: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """The inverse: int8 and uint8 [rows, n, products]; no places without metadata."""
        products = self.config.products
        width = 10 * products if self.config.sparse else 8 * products
        bits = _bits(np.ascontiguousarray(items).view(np.uint8))[:, :self.config.rows * width]
        bits = bits.reshape(len(items), -1, width)[:, :rows].swapaxes(0, 1)
        values = np.packbits(bits[..., :8 * products], axis=2, bitorder="little").view(np.int8)
        if not self.config.sparse:
            return values, np.zeros((), np.uint8)
        return values, bits[..., 8 * products::2] | bits[..., 8 * products + 1::2] << 1


def _check_field(what: str, size: int, bits: int) -> None:
    """``BadInput`` where a size leaves its field of the command."""
    if not 0 < size < 1 << bits:
        raise BadInput(f"a GEMM with {size} {what} is not one command of the tensor core, which "
                       f"takes 1 to {(1 << bits) - 1}; make the layer smaller, or choose a "
                       "configuration with larger buffers if it has too many chunks")


def _bits(payload: np.ndarray) -> np.ndarray:
    """Bytes uint8 [n, bytes] as bits, the lowest first."""
    return np.unpackbits(payload, axis=1, bitorder="little")
