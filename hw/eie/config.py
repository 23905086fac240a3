"""The one configuration of an EIE array, and the named instances of it."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

from amaranth.utils import bits_for

ENTRIES_PER_ROW = 8
"""Entries in one 64-bit row of the weight memory (paper, section IV)."""

_LEAST = {"runahead": 2, "broadcast_latency": 0, "acc_width": 17,
          **dict.fromkeys(("weight_rows", "pointers", "act_depth", "acc_depth", "bias_depth",
                           "descriptors"), 2)}
"""Smallest value of a field, where it is not 1."""

_MOST = {"acc_width": 32, "codebooks": 32}


@dataclass(frozen=True, kw_only=True)
class EIEConfig:
    """Size of every part of an EIE array. Everything else follows from it.

    Attributes
    ----------
    pes : int
        Processing elements, N. PE k owns the output rows i and the inputs j with
        i mod N = k and j mod N = k.
    queue_depth : int
        Activations that wait in front of each PE before the broadcast stops.
    runahead : int
        Non-empty columns that the pointer stage may prepare ahead of the multiplier; from
        two on, a column costs no bubble.
    broadcast_latency : int
        Registers between central control and the PEs, each way. The queues grow by twice as
        many slots, so that nothing is lost while "full" travels back.
    weight_rows : int
        64-bit rows of eight entries in each PE.
    pointers : int
        Column pointers in each PE, both banks together.
    act_depth : int
        Activations in each PE for either role, source or destination.
    block : int
        Inputs per PE that one segment covers; a longer input is computed block by block
        with a barrier between, as the paper does with its register file of 64.
    acc_depth : int
        Accumulators, that is output rows per PE in one pass over the inputs.
    acc_width : int
        Bits of an accumulator, at most 32: one word of the load bus holds a bias.
    bias_depth, codebooks, descriptors : int
        Biases per PE, layers that have a codebook of their own, and segments of a network.
    counters : bool
        Whether the performance counters are built.
    """

    pes: int = 4
    queue_depth: int = 8
    runahead: int = 4
    broadcast_latency: int = 1
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
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is bool:
                if not isinstance(value, bool):
                    raise TypeError(f"{field.name} must be True or False, not {value!r}")
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{field.name} must be an integer, not {value!r}")
            if value < _LEAST.get(field.name, 1):
                raise ValueError(
                    f"{field.name} must be at least {_LEAST.get(field.name, 1)}, not {value}")
            if value > _MOST.get(field.name, value):
                raise ValueError(f"{field.name} must be at most {_MOST[field.name]}, not {value}")

    @property
    def queue_slots(self) -> int:
        """Slots of an activation queue: its depth, and what is under way when it fills."""
        return self.queue_depth + 2 * self.broadcast_latency

    @property
    def entries(self) -> int:
        """Entries that one PE's weight memory holds."""
        return self.weight_rows * ENTRIES_PER_ROW

    @property
    def pointer_width(self) -> int:
        """Bits of a column pointer; absolute, so that it reaches the whole weight memory."""
        return bits_for(self.entries)

    @property
    def column_width(self) -> int:
        """Bits of a column's number, and of one past the last: in pointers, or in outputs."""
        return bits_for(max(self.pointers, self.act_depth * self.pes))

    @property
    def word_width(self) -> int:
        """Bits of an address in one role of a PE's activation memory."""
        return bits_for(self.act_depth - 1)

    @property
    def row_width(self) -> int:
        """Bits of an accumulator's address."""
        return bits_for(self.acc_depth - 1)

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
        each = {
            "weights": self.weight_rows * 64,
            "pointers": self.pointers * self.pointer_width,
            "activations": 2 * self.act_depth * 16,
            "accumulators": self.acc_depth * self.acc_width,
            "biases": self.bias_depth * self.acc_width,
            "codebooks": self.codebooks * 16 * 16,
        }
        return {name: bits * self.pes for name, bits in each.items()}

    def digest(self) -> str:
        """A short name for exactly this configuration; a program file carries it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


CONFIGS = {
    # Four PEs with room for small networks: the demo's machine, and the default target.
    "eie-4": EIEConfig(pes=4),
    "eie-16": EIEConfig(pes=16),
    # Per PE as in the paper: 128 KB of weights, 32 KB of pointers at 16 bits, 2 KB of
    # activations in two roles, a register file of 64, queue 8. (Biases and codebooks per
    # layer are this project's.)
    "eie-paper-64": EIEConfig(
        pes=64, weight_rows=16384, pointers=16384, act_depth=512, bias_depth=512, descriptors=32),
}
"""The named configurations, for ``--target`` and ``--config``."""
