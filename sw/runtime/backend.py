"""What every backend offers: run a batch through one image of a program, with statistics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from zeroskip.sw.compiler.program import HostStep
from zeroskip.sw.engines.base import Image, Progress, Result
from zeroskip.sw.graph.types import TensorType

PATIENCE = 1_000_000
"""Cycles without any transfer after which a simulation gives up with ``TimeoutError``."""


class Simulated(ABC):
    """What is the same in all simulators, on top of their ``peek`` and ``tick``."""

    @abstractmethod
    def peek(self, name: str) -> int:
        """The value of a port."""

    @abstractmethod
    def tick(self, cycles: int = 1) -> None:
        """Advances the clock."""

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


class Backend(ABC):
    """What runs the engines; the host's steps are the same on all, but golden's conversions."""

    name: str

    @abstractmethod
    def run(self, image: Image, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """Runs ``inputs`` (integers as ``image.input`` describes them, [batch, in]) through
        ``image``; ``TimeoutError`` if no output comes for too long, ``EngineError`` if what comes
        cannot be the image's outputs."""

    def host(self, step: HostStep, types: Mapping[str, TensorType],
             *xs: np.ndarray) -> tuple[np.ndarray, int]:
        """What a host step makes of values [runs, values] of each buffer that it reads, and how
        many had to be saturated."""
        return step.rule.apply([types[name] for name in step.reads], types[step.writes[0]], *xs)
