"""The one configuration of a system: the cores that are behind its bus."""

import hashlib
from collections import Counter
from dataclasses import dataclass

from zeroskip.hw.core import CoreConfig

MAGIC = b"ZSK1"
"""The first word of every system's registers, in the order of the bytes."""

VERSION = 3
"""Of the registers and windows, as the host is told."""

MOST = 15
"""Cores in a system, as many as have a page of addresses."""


@dataclass(frozen=True)
class SystemConfig:
    """Up to :data:`MOST` cores, several of one kind or configuration too, in their order."""

    cores: tuple[CoreConfig, ...]

    def __post_init__(self):
        if not 1 <= len(self.cores) <= MOST:
            raise ValueError(f"a system must have 1 to {MOST} cores, not {len(self.cores)}")
        if len({"system", *self.names}) <= len(self.names):
            raise ValueError("names of cores, and 'system', must differ, and not be "
                             f"{', '.join(self.names)}; call the engine otherwise")

    @property
    def names(self) -> tuple[str, ...]:
        """Of each core, its kind: ``eie``, then ``eie_1``, ``eie_2`` for further ones."""
        seen, names = Counter(), []
        for core in self.cores:
            names.append(f"{core.kind}_{seen[core.kind]}" if seen[core.kind] else core.kind)
            seen[core.kind] += 1
        return tuple(names)

    def name_of(self, core: CoreConfig) -> str:
        """The first core of a configuration; ``ValueError`` where there is none."""
        return self.names[self.cores.index(core)]

    def digest(self) -> int:
        """64 bits that tell the system from those of other cores, or of another order."""
        text = " ".join(core.digest() for core in self.cores)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
