"""What every engine offers: run a batch through one part of a program, with statistics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zeroskip.sw.compiler.program import Part

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""

PATIENCE = 1_000_000
"""Cycles without any transfer after which an engine gives up with ``TimeoutError``."""


class Simulated:
    """What is the same in all simulators, on top of their ``peek`` and ``tick``."""

    def wait(self, name: str, value: int) -> None:
        """Advances the clock until a port has a value; ``TimeoutError`` if it has not within
        ``PATIENCE`` cycles."""
        for _ in range(PATIENCE):
            if self.peek(name) == value:
                return
            self.tick()
        raise TimeoutError(f"'{name}' was not {value} within {PATIENCE} cycles")

    def pending(self, name: str) -> bool:
        """Whether a stream has an item to give."""
        return bool(self.peek(f"{name}__valid"))


class Statistics(Protocol):
    """Where the cycles of a batch went, from the machine's own counters; see the class of each
    machine beside its host side.

    Attributes
    ----------
    images : int
    cycles : int
        Cycles in computing mode, all images together.
    utilisation : float
        Useful multiply-accumulates over those that the multipliers had time for.
    saturated : int
        Outputs that had to be saturated.
    """

    images: int
    cycles: int
    utilisation: float
    saturated: int

    def as_json(self) -> dict:
        """Plain numbers for ``--json``."""
        ...


@dataclass(frozen=True, eq=False)
class Result:
    """What a batch gave in one part.

    Attributes
    ----------
    outputs : tuple of integer arrays [batch, outputs]
        One array per layer that the part sends out.
    times : tuple of int64 [batch, outputs]
        The clock cycle since reset in which each output left the machine; zero for engines
        without a clock.
    statistics : Statistics or None
        None for engines without a clock, and for configurations without counters.
    saturated : int or None
        Outputs that had to be saturated, those of inner layers too; None where nothing counts them.
    inputs_saturated : int
        Values that the host had to saturate when it converted the outputs of the part before.
    """

    outputs: tuple[np.ndarray, ...]
    times: tuple[np.ndarray, ...]
    statistics: Statistics | None = None
    saturated: int | None = 0
    inputs_saturated: int = 0


class Engine(Protocol):
    """An implementation of the machines."""

    name: str

    def run(self, part: Part, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """Runs ``inputs`` (integers as ``part.input`` describes them, [batch, in]) through
        ``part``; ``TimeoutError`` if no output comes for too long, ``EngineError`` if what comes
        cannot be the part's outputs."""
        ...
