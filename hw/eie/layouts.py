"""What travels between the blocks of the EIE array: payloads, commands, descriptors.

Who owns what, with N PEs in K clusters of G: element j of a vector belongs to cluster j mod K and
is that cluster's slot t = j // K. Inputs, and the outputs of a plain layer, lie in PE j mod N, word
j // N, which is PE t mod G of the cluster, word t // G. A grouped layer adds up each output in all
PEs of the cluster, word t, and takes its input j in the PEs t mod G of every cluster only.

N = 8, K = 4, G = 2, a vector of 20 elements: the element in each word of each PE, c for cluster and
g for group (PE c + 4 g), and the cluster's slots in the order in which it is read::

                      c = 0         c = 1         c = 2         c = 3
                    PE 0  PE 4    PE 1  PE 5    PE 2  PE 6    PE 3  PE 7
                    g=0   g=1     g=0   g=1     g=0   g=1     g=0   g=1
    plain, word 0     0     4       1     5       2     6       3     7     slots 0, 1
           word 1     8    12       9    13      10    14      11    15     slots 2, 3
           word 2    16             17            18            19          slot  4

    grouped, word 0   0  +  0       1  +  1       2  +  2       3  +  3     slot  0
             word 1   4  +  4       5  +  5       6  +  6       7  +  7     slot  1
             ...
             word 4  16  + 16      17  + 17      18  + 18      19  + 19     slot  4

In a plain layer one broadcast a cycle goes to all eight PEs, each of which has every column of its
own rows. In a grouped one there are two: inputs of even slots (0 to 3, 8 to 11, 16 to 19) go to the
PEs of group 0, those of odd slots (4 to 7, 12 to 15) to group 1; PE 1 and PE 5 then both have parts
of the sums of rows 1, 5, 9, 13 and 17, which are added when they are read.
"""

from amaranth.hdl import *
from amaranth.lib import data, enum
from amaranth.utils import bits_for, ceil_log2, exact_log2

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig

VALUE = signed(16)
"""An activation: 16-bit fixed point (paper, section VI)."""

WEIGHT = signed(16)
"""A weight, as the codebook holds it. A sum of products has ``acc_width`` bits."""

STRIDE_WIDTH = 6
"""Bits of the distance from one column's place to the next."""

OFFSET_WIDTH = exact_log2(ENTRIES_PER_ROW)
"""Bits of the number of a byte in its row of the weight memory."""

INPUT = data.StructLayout({"value": VALUE, "last": 1})
"""An input activation; ``last`` marks the end of the vector and starts the network."""


def output_layout(config: EIEConfig) -> data.StructLayout:
    """An output activation with its index; ``last`` marks the end of a layer's outputs."""
    return data.StructLayout({"index": config.column_width, "value": VALUE, "last": 1})


def activation_layout(config: EIEConfig) -> data.StructLayout:
    """A non-zero activation that was found: its index in the vector, its column's number among
    those that the PEs it goes to hold, and its value."""
    return data.StructLayout({
        "index": config.column_width, "column": config.column_width, "value": VALUE})


def work_layout(config: EIEConfig) -> data.StructLayout:
    """A non-zero activation on its way to the PEs: the place of its column, and its value."""
    return data.StructLayout({"place": config.place_width, "value": VALUE})


def job_layout(config: EIEConfig) -> data.StructLayout:
    """A column in one PE: bytes ``start`` to ``last`` of the weight memory, or none if it is
    ``blank``, and the activation that they are multiplied with."""
    return data.StructLayout({
        "value": VALUE, "start": config.pointer_width, "last": config.pointer_width,
        "blank": 1})


SLICE = data.StructLayout({
    "first": OFFSET_WIDTH, "last": OFFSET_WIDTH, "begin": 1, "blank": 1, "value": VALUE})
"""The bytes ``first`` to ``last`` of a row, all of one column; ``begin`` tells that it begins
there, ``blank`` that it has none."""

DECODED = data.StructLayout({
    "row": 8 * ENTRIES_PER_ROW, "ends": ENTRIES_PER_ROW, "at": OFFSET_WIDTH, "more": 1,
    "wide": ENTRIES_PER_ROW, "before": 4, "begin": 1, "blank": 1, "value": VALUE})
"""A slice with its row, and the bytes in which an entry ``ends``, the first of them (``at``), if
there are ``more``, and in front of which an escape stands (``wide``); z of the byte before the row
is ``before``."""


PACKED_ENTRY = data.StructLayout({"v": 4, "z": 4})
"""The stored entry: codebook index ``v``, and ``z`` zeros before it (paper, section III-B). With
escapes, ``v`` = 0 stands for 16 * (z + 1) more zeros before the entry that follows."""

ENTRY = data.StructLayout({"v": 4, "gap": 9, "first": 1, "value": VALUE})
"""An entry with all the zeros before it; ``first`` is set on the first of its column."""


def operation_layout(config: EIEConfig) -> data.StructLayout:
    """One multiply-accumulate: accumulator[row] += weight * value."""
    return data.StructLayout({
        "weight": WEIGHT, "value": VALUE, "row": config.word_width})


class LoadTarget(enum.Enum, shape=3):
    """Where a word of the load bus goes."""

    WEIGHTS = 0      # address = 2 * row + half; four entries a word, the first in the low byte
    POINTERS = 1     # address = column; or 4 * word + 0 base, + 1 low counts, + 2 high counts
    BIASES = 2       # pe = cluster; the bias plus the rounding constant, in accumulator units
    CODEBOOK = 3     # address = 16 * codebook + index; a 16-bit weight
    ACTIVATIONS = 4  # address = word in the source role; central control fills these
    DESCRIPTORS = 5  # address = descriptor_stride * descriptor + word; for central control
    COUNTERS = 6     # clears every counter; address and data are ignored
    RESUME = 7       # a paused network goes on; address and data are ignored


def load_address_width(config: EIEConfig) -> int:
    """Bits of a load address: the deepest target decides."""
    return max(bits_for(2 * config.weight_rows - 1), bits_for(config.pointers - 1),
               config.bias_width, bits_for(16 * config.codebooks - 1), config.word_width,
               bits_for(descriptor_stride(config) * config.descriptors - 1))


def load_word_layout(config: EIEConfig) -> data.StructLayout:
    """A word of the load bus; ``pe`` says which PE or cluster takes it, where that matters."""
    return data.StructLayout({
        "target": LoadTarget, "pe": config.identity_width,
        "address": load_address_width(config), "data": 32})


def descriptor_layout(config: EIEConfig) -> data.StructLayout:
    """One segment: a block of inputs against one pass of output rows.

    The place of column c is ``first`` + c * ``stride``: in the column directory, or, if the layer
    is ``balanced``, in the weight memory itself. Inputs are taken up to index ``limit``, from the
    first slot (``begin``) or from where the last scan ended, and zeroed behind the scan if
    ``clear`` is set, which makes room for the outputs of the next layer. The pass adds to the
    words from ``destination`` on. ``swap`` ends a layer: source and destination change roles, and
    what was added up is from now on read as act(sat16((sum + bias) >> shift)), with the biases
    from slot ``bias`` on. ``outputs``, if not zero, sends so many of them to the output stream.
    ``last`` ends the network. ``pause`` goes back to I/O mode before the next descriptor, with all
    activations and sums kept: loads are taken, and inputs are not, until ``LoadTarget.RESUME``. So
    a layer whose weights do not fit is computed in several loads of them. It takes
    ``BlockRAM.LATENCY`` cycles behind the last load, like any next descriptor.
    """
    return data.StructLayout({
        "first": config.place_width,
        "limit": config.column_width,
        "outputs": config.column_width,
        "destination": config.word_width,
        "stride": STRIDE_WIDTH,
        "bias": config.bias_width,
        "codebook": bits_for(config.codebooks - 1),
        "shift": 5,
        "balanced": 1,
        "grouped": 1,
        "begin": 1,
        "clear": 1,
        "relu": 1,
        "swap": 1,
        "last": 1,
        "pause": 1,
    })


def descriptor_words(config: EIEConfig) -> int:
    """32-bit words of a descriptor."""
    return -(-descriptor_layout(config).size // 32)


def descriptor_stride(config: EIEConfig) -> int:
    """Load addresses from one descriptor to the next, a power of two."""
    return 1 << ceil_log2(descriptor_words(config))


class Phase(enum.Enum, shape=2):
    """What the array as a whole is doing in a computing cycle; a PE without work blames it."""

    FILL = 0       # the first activations are in flight, or LNZD has found none
    FULL = 1       # the broadcast stalls because some PE's queue is full
    TAIL = 2       # every activation is sent; the slowest PEs finish


def reading_layout(config: EIEConfig) -> data.StructLayout:
    """How the source activations are read: as they are (``raw``: inputs), or as accumulators with
    bias, shift and ReLU; and whether each is the sum over a cluster (``summed``)."""
    return data.StructLayout({
        "bias": config.bias_width, "shift": 5, "relu": 1, "raw": 1, "summed": 1})


def command_layout(config: EIEConfig) -> data.StructLayout:
    """What central control tells every cluster in the same cycle.

    ``scan`` starts the search for activations, from the first slot (``begin``) or from where it
    ended, up to index ``limit``; ``emit`` makes it deliver zeros too, ``clear`` zero what it has
    read. ``wipe`` zeroes a word in both roles, the next one in each cycle. The rest holds for a
    whole segment.
    """
    return data.StructLayout({
        "scan": 1,
        "emit": 1,
        "clear": 1,
        "begin": 1,
        "wipe": 1,
        "limit": config.column_width,
        "reading": reading_layout(config),
        "role": 1,
        "grouped": 1,
        "balanced": 1,
        "stride": STRIDE_WIDTH,
        "destination": config.word_width,
        "codebook": bits_for(config.codebooks - 1),
        "computing": 1,
        "phase": Phase,
    })
