"""What every engine offers: load a program, run a batch, give outputs and statistics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zeroskip.hw.eie.counters import ControlCounter, PECounter
from zeroskip.sw.program import Program

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""

PATIENCE = 1_000_000
"""Cycles without any output after which an engine gives up with ``TimeoutError``."""

COUNTERS = 16
"""Addresses of counters in one unit of the array."""


@dataclass(frozen=True)
class Statistics:
    """Where the cycles of a batch went, from the machine's own counters.

    Attributes
    ----------
    images : int
    control : dict of ControlCounter name (lower case) to int
    pe : dict of PECounter name (lower case) to int64 [pes]
    """

    images: int
    control: dict[str, int]
    pe: dict[str, np.ndarray]

    @classmethod
    def from_counts(cls, images: int, counts: np.ndarray) -> "Statistics":
        """From ``counts`` int [pes + 1, 16], as the array's ``stats`` port gives them."""
        return cls(
            images,
            {which.name.lower(): int(counts[-1, which.value]) for which in ControlCounter},
            {which.name.lower(): counts[:-1, which.value].astype(np.int64)
             for which in PECounter})

    @property
    def cycles(self) -> int:
        """Cycles in computing mode, all images together."""
        return self.control["cycles"]

    @property
    def utilisation(self) -> float:
        """Useful multiply-accumulates over PEs times cycles."""
        return float(self.pe["useful"].sum() / max(1, len(self.pe["useful"]) * self.cycles))

    def shares(self) -> dict[str, np.ndarray]:
        """Per PE, the share of the computing cycles that went to each cause; they add to 1."""
        causes = list(PECounter)[:PECounter.WRITEBACK.value + 1]
        return {cause.name.lower(): self.pe[cause.name.lower()] / max(1, self.cycles)
                for cause in causes}

    def as_json(self) -> dict:
        """Plain numbers for ``--json``."""
        return {"images": self.images, "utilisation": self.utilisation, **self.control,
                "pe": {name: counts.tolist() for name, counts in self.pe.items()}}


@dataclass(frozen=True)
class Result:
    """What a batch gave.

    Attributes
    ----------
    outputs : tuple of int16 [batch, outputs]
        One array per layer that the program sends out.
    times : tuple of int64 [batch, outputs]
        The clock cycle since reset in which each output left the machine; zero for engines
        without a clock.
    statistics : Statistics or None
        None for engines without a clock.
    """

    outputs: tuple[np.ndarray, ...]
    times: tuple[np.ndarray, ...]
    statistics: Statistics | None = None

    @classmethod
    def empty(cls, program: Program, batch: int) -> "Result":
        """Zeroed arrays for the outputs that ``program`` sends."""
        shapes = [(batch, s.outputs) for s in program.segments if s.outputs]
        return cls(tuple(np.zeros(shape, np.int16) for shape in shapes),
                   tuple(np.zeros(shape, np.int64) for shape in shapes))


class Engine(Protocol):
    """An implementation of the array."""

    name: str

    def run(self, program: Program, inputs: np.ndarray,
            progress: Progress | None = None) -> Result:
        """Runs ``inputs`` (int16 [batch, in]) through ``program``; ``TimeoutError`` if the
        machine stands still."""
        ...

