"""A product of two operands that both come at run time: its image has an empty slot for weights."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.engines.tensorcore.schedule import RAW, Schedule
from zeroskip.sw.engines.wire import Record


@dataclass(frozen=True, eq=False)
class ProductImage:
    """A [m, k] times B [k, n], dense, requantised or not.

    Attributes
    ----------
    schedule : Schedule
    command : uint32 [1, words]
    multiplier, shift : int [m]
    """

    schedule: Schedule
    command: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray

    @classmethod
    def of(cls, config: TensorCoreConfig, m: int, k: int, n: int, *,
           scale: tuple[np.ndarray, np.ndarray] | None = None, zero_point: int = 0,
           relu: bool = False) -> "ProductImage":
        """The image for these sizes; ``scale`` is multiplier and shift, int [m] each, and without
        it the outputs are the sums. ``BadInput`` where the product is more than one command."""
        schedule = Schedule.of(config, "dense", m, k, n)
        command = schedule.command(zero_point=zero_point, relu=relu, raw=scale is None)
        return cls(schedule, command, *(scale or (np.full(m, value) for value in RAW)))

    def records(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray) -> Iterator[Record]:
        """What the host exchanges with the core for A int8 [m, k], the columns of B int8 [n, k]
        and what is added to the rows of sums, int32 [m]."""
        schedule = self.schedule
        return schedule.records(
            self.command, schedule.weights(a, np.zeros((len(a), 0), np.uint8)),
            schedule.channels(bias, self.multiplier, self.shift), schedule.operands(b))
