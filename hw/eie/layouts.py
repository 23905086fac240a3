"""What travels between the blocks of the EIE array: payloads, commands, descriptors."""

from amaranth.hdl import *
from amaranth.lib import data, enum
from amaranth.utils import bits_for, ceil_log2

from zeroskip.hw.eie.config import EIEConfig


def activation(config: EIEConfig) -> data.StructLayout:
    """A non-zero activation on its way to the PEs: pointer address of its column, and value.

    When a layer's outputs are emitted, ``column`` is the output's index.
    """
    return data.StructLayout({"column": config.column_width, "value": signed(16)})


def job(config: EIEConfig) -> data.StructLayout:
    """A column that is not empty in this PE: entries ``start`` to ``stop`` - 1, and the
    activation they are multiplied with."""
    return data.StructLayout({
        "value": signed(16), "start": config.pointer_width, "stop": config.pointer_width})


PACKED_ENTRY = data.StructLayout({"v": 4, "z": 4})
"""The stored entry: codebook index ``v``, and ``z`` zeros before it (paper, section III-B)."""

ENTRY = data.StructLayout({"packed": PACKED_ENTRY, "first": 1, "value": signed(16)})
"""An entry read from the weight memory; ``first`` is set on the first of its column."""


def operation(config: EIEConfig) -> data.StructLayout:
    """One multiply-accumulate: accumulator[row] += weight * value."""
    return data.StructLayout({
        "weight": signed(16), "value": signed(16), "row": config.row_width})


class LoadTarget(enum.Enum, shape=3):
    """Where a word of the load bus goes."""

    WEIGHTS = 0      # address = 2 * row + half; four entries a word, the first in the low byte
    POINTERS = 1     # address = column
    BIASES = 2       # address; the bias plus the rounding constant, in accumulator units
    CODEBOOK = 3     # address = 16 * codebook + index; a 16-bit weight
    ACTIVATIONS = 4  # address = word in the source role; central control fills these
    DESCRIPTORS = 5  # address = descriptor_stride * descriptor + word; for central control
    COUNTERS = 6     # clears every counter; address and data are ignored


def load_address_width(config: EIEConfig) -> int:
    """Bits of a load address: the deepest target decides."""
    return max(bits_for(2 * config.weight_rows - 1), bits_for(config.pointers - 1),
               config.bias_width, bits_for(16 * config.codebooks - 1), config.word_width,
               bits_for(descriptor_stride(config) * config.descriptors - 1))


def load_word(config: EIEConfig) -> data.StructLayout:
    """One write of the host: a 32-bit word for one memory of one PE."""
    return data.StructLayout({
        "target": LoadTarget, "pe": config.identity_width,
        "address": load_address_width(config), "data": 32})


def descriptor(config: EIEConfig) -> data.StructLayout:
    """One segment: a block of inputs against one pass of output rows.

    The pointers ``first`` to ``limit`` - 1 are its columns, ``source`` the activation word at
    which its inputs begin in each PE. When ``rows`` is not zero, that many accumulators per PE
    are then written back: bias from ``bias`` on, shifted right by ``shift``, saturated,
    ReLU if asked, to the destination words from ``destination`` on. ``swap`` ends a layer:
    source and destination change roles. ``outputs``, if not zero, sends so many activations of
    the new source to the output stream. ``last`` ends the network.
    """
    return data.StructLayout({
        "first": bits_for(config.pointers - 1),
        "limit": config.column_width,
        "outputs": config.column_width,
        "source": config.word_width,
        "destination": config.word_width,
        "rows": config.row_width + 1,
        "bias": config.bias_width,
        "codebook": bits_for(config.codebooks - 1),
        "shift": 5,
        "relu": 1,
        "swap": 1,
        "last": 1,
    })


def descriptor_words(config: EIEConfig) -> int:
    """32-bit words of a descriptor."""
    return -(-descriptor(config).size // 32)


def descriptor_stride(config: EIEConfig) -> int:
    """Load addresses from one descriptor to the next, a power of two."""
    return 1 << ceil_log2(descriptor_words(config))


class Phase(enum.Enum, shape=2):
    """What the array as a whole is doing in a computing cycle; a PE without work blames it."""

    FILL = 0       # the first activations are on their way, or LNZD has found none
    FULL = 1       # the broadcast stands still because some PE's queue is full
    TAIL = 2       # every activation is sent; the slowest PEs finish
    WRITEBACK = 3  # accumulators are being written back


def command(config: EIEConfig) -> data.StructLayout:
    """What central control tells every PE in the same cycle.

    ``scan`` starts the search for activations, ``emit`` makes it deliver zeros too;
    ``drain`` takes accumulator ``row`` to activation ``word`` with bias ``bias`` (a ``clear``
    only zeroes the accumulator). The rest holds for a whole segment.
    """
    return data.StructLayout({
        "scan": 1,
        "emit": 1,
        "first": config.column_width,
        "limit": config.column_width,
        "source": config.word_width,
        "drain": 1,
        "clear": 1,
        "row": config.row_width,
        "word": config.word_width,
        "bias": config.bias_width,
        "codebook": bits_for(config.codebooks - 1),
        "shift": 5,
        "relu": 1,
        "role": 1,
        "computing": 1,
        "phase": Phase,
    })
