"""The one configuration of a tensor core, and the named instances of it."""

from dataclasses import dataclass
from typing import ClassVar

from amaranth.lib import wiring
from amaranth.utils import bits_for

from zeroskip.hw.core import CoreConfig

GROUP = 4
"""Neighbouring operands along K that share a pattern: 2:4 keeps two of them, 1:4 one."""

SPEEDUP = {"dense": 1, "2:4": 2, "1:4": 4}
"""Every pattern, and how many operands of B it covers per multiplier and cycle."""


@dataclass(frozen=True, kw_only=True)
class TensorCoreConfig(CoreConfig):
    """Size of every part of a tensor core. Everything else follows from it.

    Attributes
    ----------
    rows, columns : int
        The tile of accumulators: output channels (rows of A), and columns of B, at a time.
    products : int
        Multipliers of one dot product, a power of two from 2 on. The core has ``rows *
        columns * products`` of them.
    weight_words : int
        Words of ``products`` weights per row that the buffer holds, in each of its two banks.
    activation_words : int
        Words of :attr:`operands` activations per column that the buffer holds, in each bank.
    patterns : tuple of str
        What the multipliers' operand select is built for, of ``SPEEDUP``; "dense" always.
        A core for ("dense",) alone has no select and no metadata.
    int4 : bool
        Whether a multiplier can also take two 4-bit pairs; 2:4 then is 4:8, pair by pair.
    """

    kind: ClassVar[str] = "tensorcore"
    least: ClassVar[dict[str, int]] = {"products": 2, "weight_words": 2, "activation_words": 2}
    # Far beyond what is of use, so that sizes made of it stay small.
    most: ClassVar[dict[str, int]] = {"rows": 256, "columns": 256, "products": 256,
                                      "weight_words": 1 << 24, "activation_words": 1 << 24}

    rows: int = 4
    columns: int = 4
    products: int = 4
    weight_words: int = 1024
    activation_words: int = 2048
    patterns: tuple[str, ...] = ("dense", "2:4")
    int4: bool = False

    def __post_init__(self):
        super().__post_init__()
        self._check_patterns()
        if self.products & (self.products - 1):
            raise ValueError(f"products must be a power of two, not {self.products}")
        if self.weight_words < self.span:   # a dense chunk of K is a whole word of activations
            raise ValueError(f"weight_words must be at least {self.span} with "
                             f"{self.patterns[-1]}, not {self.weight_words}")

    def _check_patterns(self):
        # A file's JSON holds a list.
        object.__setattr__(self, "patterns", tuple(self.patterns))
        known = [pattern for pattern in SPEEDUP if pattern in self.patterns]
        if list(self.patterns) != known or "dense" not in known:
            raise ValueError("patterns must be 'dense' and any of '2:4', '1:4', in this order, "
                             f"not {', '.join(map(repr, self.patterns)) or 'none'}")

    @property
    def span(self) -> int:
        """Operands of B per multiplier in one word: the largest speed-up that is built."""
        return SPEEDUP[self.patterns[-1]]

    @property
    def sparse(self) -> bool:
        """Whether there is an operand select, and metadata."""
        return self.span > 1

    @property
    def rate(self) -> int:
        """One a multiplier and cycle."""
        return self.multipliers

    @property
    def multipliers(self) -> int:
        """Multipliers of the array."""
        return self.rows * self.columns * self.products

    @property
    def lanes(self) -> int:
        """Multiplier pairs of one dot product."""
        return self.products // 2

    @property
    def operands(self) -> int:
        """Activations in one word."""
        return self.span * self.products

    @property
    def phase_width(self) -> int:
        """Bits of a phase, the part of an activation word that a step works on."""
        return bits_for(self.span - 1)

    @property
    def weight_address(self) -> int:
        """Bits of an address in one bank of a weight buffer."""
        return bits_for(self.weight_words - 1)

    @property
    def activation_address(self) -> int:
        """Bits of an address in one bank of an activation buffer."""
        return bits_for(self.activation_words - 1)

    @property
    def memory_bits(self) -> dict[str, int]:
        """Bits of each buffer, all rows and columns together."""
        words = {"weights": 2 * self.rows * self.weight_words * self.products,
                 "activations": 2 * self.columns * self.activation_words * self.operands}
        bits = {name: 8 * count for name, count in words.items()}
        return bits | {"metadata": 2 * words["weights"] if self.sparse else 0}

    def gateware(self) -> type[wiring.Component]:
        """See :class:`CoreConfig`."""
        from zeroskip.hw.tensorcore.core import TensorCore
        return TensorCore


CONFIGS = {
    # 64 multipliers: fits the DSP blocks of a mid-size FPGA; the demo's core.
    "tc-64": TensorCoreConfig(),
    # The same array without operand select and metadata, to compare with.
    "tc-64-dense": TensorCoreConfig(patterns=("dense",)),
    # Every mode: 1:4 at four times the dense rate, and pairs of 4-bit numbers.
    "tc-64-all": TensorCoreConfig(patterns=("dense", "2:4", "1:4"), int4=True),
    # As small as it gets.
    "tc-8": TensorCoreConfig(rows=2, columns=2, products=2, weight_words=256,
                             activation_words=512),
}
"""The named configurations, for ``--target`` and ``--config``."""
