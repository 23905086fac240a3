"""What travels between the blocks of the tensor core: commands, operands, steps, outputs."""

from amaranth.hdl import *
from amaranth.lib import data, enum
from amaranth.utils import bits_for

from zeroskip.hw.tensorcore.config import GROUP, TensorCoreConfig

ROW_BITS, COLUMN_BITS, CHUNK_BITS = 16, 24, 8
"""Bits of M, of N, and of the number of chunks, in a command."""

LEAST_SHIFT = 24
"""The requantiser shifts right by this and what the channel's 5-bit ``shift`` adds."""


class Pattern(enum.Enum, shape=2):
    """How the weights of A lie among the operands along K."""

    DENSE = 0
    N2M4 = 1    # two of each group of four are stored
    N1M4 = 2    # one of each group of four


PATTERNS = {"dense": Pattern.DENSE, "2:4": Pattern.N2M4, "1:4": Pattern.N1M4}
"""The names of the configuration."""


def gemm_layout(config: TensorCoreConfig) -> data.StructLayout:
    """A command: D[rows x columns] = A . B, requantised.

    The columns of B are taken in blocks of ``block``, a multiple of the tile's columns. A row
    of A takes ``steps`` words of weights, a column of B ``words`` words of activations. If
    they are more than a buffer holds, K is cut into ``chunks`` of so many each; a block then
    is one tile wide. ``int4`` takes each byte as a pair of 4-bit numbers. With ``keep``, which
    needs a half of the weight buffer for all of A, the weights come once, not in each block again.

    An output is (D + bias) * multiplier / 2^shift + ``zero_point``, saturated to 8 bits and,
    with ``relu``, at least ``zero_point``; all 32 bits of it with ``raw``, zero point included.
    """
    return data.StructLayout({
        "rows": ROW_BITS,
        "columns": COLUMN_BITS,
        "block": COLUMN_BITS,
        "chunks": CHUNK_BITS,
        "steps": bits_for(config.weight_words),
        "words": bits_for(config.activation_words),
        "pattern": Pattern,
        "int4": 1,
        "zero_point": signed(8),
        "relu": 1,
        "raw": 1,
        "keep": 1,
    })


def weight_word_layout(config: TensorCoreConfig) -> data.StructLayout:
    """The stored weights that one row multiplies in a step, and where their operands lie: two
    bits of ``metadata`` each, the position in its group of four.

    Dense weights need no hardware of their own: their metadata are the first two operands of
    every group in even phases of an activation word, and the last two in odd ones. A core
    without operand select has no metadata."""
    metadata = {"metadata": data.ArrayLayout(2, config.products)} if config.sparse else {}
    return data.StructLayout({"values": data.ArrayLayout(signed(8), config.products), **metadata})


def activation_word_layout(config: TensorCoreConfig) -> data.ArrayLayout:
    """Neighbours along K of one column of B."""
    return data.ArrayLayout(signed(8), config.operands)


def panel_layout(config: TensorCoreConfig) -> data.ArrayLayout:
    """What all rows of the tile multiply in a step."""
    return data.ArrayLayout(weight_word_layout(config), config.rows)


def strip_layout(config: TensorCoreConfig) -> data.ArrayLayout:
    """A word of each of the tile's columns."""
    return data.ArrayLayout(activation_word_layout(config), config.columns)


CHANNEL = data.StructLayout({"bias": signed(32), "multiplier": 31, "shift": 5})
"""What requantises one row of D; ``shift`` counts from ``LEAST_SHIFT``."""


def phase(config: TensorCoreConfig) -> Shape:
    """Which part of an activation word a step works on: dense steps go through it in ``span``
    parts, 2:4 steps in half as many."""
    return unsigned(config.phase_width)


def step_layout(config: TensorCoreConfig) -> data.StructLayout:
    """One cycle of the whole tile; ``first`` and ``last`` of its accumulation."""
    return data.StructLayout({"phase": phase(config), "first": 1, "last": 1})


def window_layout(config: TensorCoreConfig) -> data.ArrayLayout:
    """The operands that one lane can reach: its own two in a dense core, a group of four for
    both multipliers with 2:4, and a group each with 1:4."""
    return data.ArrayLayout(signed(8), {1: 2, 2: GROUP, 4: 2 * GROUP}[config.span])


def tile_row_layout(config: TensorCoreConfig) -> data.ArrayLayout:
    """A row of the tile's accumulators."""
    return data.ArrayLayout(signed(32), config.columns)


def output_layout(config: TensorCoreConfig) -> data.StructLayout:
    """A row of a finished tile: an 8-bit output, or all 32 bits of a raw one, per column, and
    which of them were saturated. Columns past the last of B hold anything."""
    return data.StructLayout({
        "values": tile_row_layout(config), "saturated": config.columns})
