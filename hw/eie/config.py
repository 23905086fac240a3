"""The one configuration of an EIE array, its two modes, and the named instances of it."""

from dataclasses import dataclass
from typing import ClassVar

from amaranth.lib import wiring
from amaranth.utils import bits_for

from zeroskip.hw.core import CoreConfig

ENTRIES_PER_ROW = 8
"""Bytes in one 64-bit row of the weight memory, an entry each (paper, section IV)."""

NIBBLES = 16
"""Nibbles of counts that share one base in the column directory."""

@dataclass(frozen=True, kw_only=True)
class EIEConfig(CoreConfig):
    """Size of every part of an EIE array. Everything else follows from it.

    PE k is number k // K of the cluster k mod K, where K is the number of clusters; see
    ``hw/eie/layouts.py`` for who owns which rows and inputs.

    Attributes
    ----------
    pes : int
        Processing elements, N.
    groups : int
        PEs in a cluster, G: 1, 2 or 4. The PEs of a cluster share one activation unit, and a
        layer may be *grouped*: each of them then takes its share of the columns of the same
        rows, with a broadcast of its own, and their sums are added when they are read.
    queue_depth : int
        Activations that wait in front of each PE before the broadcast stops.
    runahead : int
        Found activations, columns and slices of rows that may wait, each in the queue behind
        what makes them, until that stalls; one more may be in flight. With three, one a cycle
        leaves when it goes on.
    broadcast_latency : int
        Registers between central control and the PEs, each way.
    escapes : bool
        A gap of more than 15 zeros is an escape, decoded together with the entry behind it;
        else it is a padding entry that costs a cycle, as in the paper.
    drops_empty : bool
        A column that is empty in a PE is dropped ahead of the multiplier; else it costs a cycle.
    counts : bool
        The column directory holds a base and sixteen nibbles of counts a word; else a pointer
        per column, as in the paper.
    weight_rows : int
        64-bit rows of eight bytes in each PE.
    pointers : int
        Column pointers in each PE, both banks together; or nibbles of counts.
    act_depth : int
        Activations, or accumulators, in each PE for either role, source or destination.
    block : int
        Inputs per PE that one segment covers; a longer input is computed block by block
        with a barrier between, as the paper does with its register file of 64.
    acc_depth : int
        Output rows per PE in one pass over the inputs.
    acc_width : int
        Bits of an accumulator, at most 32: one word of the load bus holds a bias.
    bias_depth : int
        Biases in each cluster.
    codebooks, descriptors : int
        Layers that have a codebook of their own, and segments of a network.
    counters : bool
        Whether the performance counters are built.
    """

    kind: ClassVar[str] = "eie"
    least: ClassVar[dict[str, int]] = {
        "runahead": 2, "broadcast_latency": 0, "acc_width": 17,
        **dict.fromkeys(("weight_rows", "act_depth", "bias_depth", "descriptors"), 2)}
    # Far beyond what is of use, so that sizes made of it stay small.
    most: ClassVar[dict[str, int]] = {
        "acc_width": 32, "codebooks": 32, "groups": 4, "pes": 1024, "queue_depth": 4096,
        "runahead": 1024, "broadcast_latency": 64,
        **dict.fromkeys(("weight_rows", "pointers", "act_depth", "block", "acc_depth",
                         "bias_depth", "descriptors"), 1 << 24)}

    pes: int = 4
    groups: int = 1
    queue_depth: int = 41
    runahead: int = 15
    broadcast_latency: int = 1
    escapes: bool = True
    drops_empty: bool = True
    counts: bool = True
    weight_rows: int = 512
    pointers: int = 512
    act_depth: int = 64
    block: int = 64
    acc_depth: int = 64
    acc_width: int = 32
    bias_depth: int = 64
    codebooks: int = 4
    descriptors: int = 16
    counters: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.groups == 3 or self.pes % self.groups:
            raise ValueError(f"groups must be 1, 2 or 4 and divide pes, which is {self.pes}, "
                             f"not {self.groups}")
        unit = NIBBLES if self.counts else 2
        if self.pointers % unit:
            raise ValueError(f"pointers must be a multiple of {unit}, not {self.pointers}")

    @property
    def rate(self) -> int:
        """One a PE and cycle."""
        return self.pes

    @property
    def clusters(self) -> int:
        """Clusters of ``groups`` PEs, K."""
        return self.pes // self.groups

    @property
    def queue_slots(self) -> int:
        """Slots of an activation queue: its depth, and what is in flight when it fills."""
        return self.queue_depth + 2 * self.broadcast_latency + PLACE_LATENCY

    @property
    def stats_latency(self) -> int:
        """Cycles from the address of a performance counter to its value."""
        return 2 + 2 * self.broadcast_latency

    @property
    def entries(self) -> int:
        """Bytes that one PE's weight memory holds."""
        return self.weight_rows * ENTRIES_PER_ROW

    @property
    def pointer_width(self) -> int:
        """Bits of a byte's address, and of one past the last, in the weight memory."""
        return bits_for(self.entries)

    @property
    def place_width(self) -> int:
        """Bits of a column's place in the directory, or in the weight memory."""
        return max(bits_for(self.pointers), self.pointer_width)

    @property
    def column_width(self) -> int:
        """Bits of a column's or an output's number, and of one past the last."""
        return bits_for(self.act_depth * self.pes)

    @property
    def word_width(self) -> int:
        """Bits of an address in one role of a PE's activations."""
        return bits_for(self.act_depth - 1)

    @property
    def slot_width(self) -> int:
        """Bits of a cluster's slot: an address in one role, and the PE in a plain layer."""
        return bits_for(self.act_depth * self.groups - 1)

    @property
    def bias_width(self) -> int:
        """Bits of an address in the bias memory."""
        return bits_for(self.bias_depth - 1)

    @property
    def identity_width(self) -> int:
        """Bits of a PE's number."""
        return bits_for(self.pes - 1)

    @property
    def memory_bits(self) -> dict[str, int]:
        """Bits of each memory, all PEs together."""
        words = self.pointers // NIBBLES
        return {
            "weights": self.pes * self.weight_rows * 64,
            "pointers": self.pes * (words * (4 * NIBBLES + self.pointer_width) if self.counts
                                    else self.pointers * self.pointer_width),
            "activations": self.pes * 2 * self.act_depth * self.acc_width,
            "biases": self.clusters * self.bias_depth * self.acc_width,
            "codebooks": self.pes * self.codebooks * 16 * 16,
        }

    def gateware(self) -> type[wiring.Component]:
        """See :class:`CoreConfig`."""
        from zeroskip.hw.eie.array import EIE
        return EIE


PLACE_LATENCY = 3
"""Cycles from a column's number to its place, in central control."""

BUSY_LATENCY = 1
"""Cycles from an activation at a PE until the PE says that it is busy."""


def _way(pes: int) -> int:
    """Registers between central control and so many PEs: the more, the farther."""
    return 2 if pes >= 16 else 1


def zeroskip(pes: int, **sizes) -> EIEConfig:
    """The mode of this project: no cycle for padding or an empty column, deep queues, counts for
    pointers, one pass, no barrier between blocks, and four column groups from 64 PEs on."""
    depth = sizes.get("act_depth", EIEConfig.act_depth)
    return EIEConfig(**{"pes": pes, "groups": 4 if pes >= 64 and pes % 4 == 0 else 1,
                        "broadcast_latency": _way(pes),
                        "block": depth, "acc_depth": depth, **sizes})


def paper(pes: int, **sizes) -> EIEConfig:
    """The mode of the paper: padding entries and empty columns cost a cycle, queues of 8,
    a pointer per column, passes of 64 rows per PE, blocks of 64 inputs per PE."""
    return EIEConfig(**{"pes": pes, "broadcast_latency": _way(pes), "queue_depth": 8,
                        "runahead": 4, "escapes": False, "drops_empty": False, "counts": False,
                        **sizes})


_BLOCKS = {"pointers": 8192, "act_depth": 512, "bias_depth": 512, "codebooks": 32}
"""What whole block RAMs of 18 kbit hold."""

CONFIGS = {
    # Four PEs with room for small networks: the demo's array, and the default target.
    "eie-4": zeroskip(4),
    # What the block RAMs of an ECP5-85 hold, alone and beside a tensor core.
    "eie-16": zeroskip(16, **_BLOCKS),
    "eie-8": zeroskip(8, **_BLOCKS),
    # Room for each of the paper's nine layers: per PE 128 KB of weights and 52 K nibbles of
    # counts; vectors of 32 K. Codebooks of 32 layers: half a block RAM a PE.
    "eie-64": zeroskip(64, weight_rows=16384, pointers=53248, act_depth=512, bias_depth=2048,
                       codebooks=32, descriptors=32),
    # What two small boards hold. The iCE40 has no distributed RAM: short queues, and pointers, not
    # sums of counts, leave nearly all of its logic to one PE.
    "eie-icebreaker": zeroskip(1, weight_rows=16384, pointers=1024, act_depth=512, bias_depth=256,
                               queue_depth=1, runahead=2, broadcast_latency=0, escapes=False,
                               counts=False, counters=False),
    "eie-tangnano9k": zeroskip(1, weight_rows=4096, pointers=1024, act_depth=256, bias_depth=256),
    # Per PE as in the paper: 128 KB of weights, 32 KB of pointers at 16 bits, a register file
    # of 64, queue 8. (Biases and codebooks per layer are this project's.)
    "eie-paper-64": paper(64, weight_rows=16384, pointers=16384, act_depth=512, bias_depth=512,
                          codebooks=32, descriptors=32),
}
"""The named configurations, for ``--target`` and ``--config``."""
