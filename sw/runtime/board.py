"""The cores of a board, behind a link, with the interface of the simulated ones."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.fronts.frame import WORDS
from zeroskip.hw.system.accelerator import register_map
from zeroskip.hw.system.config import VERSION, SystemConfig
from zeroskip.hw.system.corepage import item_words
from zeroskip.sw.runtime.link import Link, Refused

PATTERNS = (0b0101, 0b1010)
"""What is written to a register of a core and read back before a job: every bit both ways."""


@dataclass(frozen=True)
class Patience:
    """How long nothing may happen: ``limit`` on a ``clock`` that counts in ``unit``."""

    limit: float = 10.0
    clock: Callable[[], float] = time.monotonic
    unit: str = "seconds"

    def __str__(self):
        return f"{self.limit:,} {self.unit}"


class Board:
    """A board that holds one of ``systems``; identifies it.

    For ``patience`` see :meth:`BoardCore.run`. Raises LinkError where no board answers, or another
    one, which is compared with the first system.

    Attributes
    ----------
    system : SystemConfig
        What it holds.
    """

    def __init__(self, link: Link, *systems: SystemConfig, patience: Patience = Patience()):
        self.link, self._patience = link, patience
        found, known = link.identify(), {system.digest(): system for system in systems}
        if found.version != VERSION:
            raise Refused(f"the board's design is of version {found.version}, and this program "
                          f"speaks {VERSION}; build the bitstream again")
        if found.digest not in known:
            raise Refused(f"the board was built for a configuration with digest "
                          f"{found.digest:016x}, and the program for "
                          f"{systems[0].digest():016x}; compile the program for the board's "
                          "target, or load the bitstream of its own")
        self.system = known[found.digest]
        self._pages = register_map(self.system)

    def device(self, name: str) -> "BoardCore":
        """The core called ``name`` in the system, just after a reset.

        Raises LinkError where its registers do not hold what is written to them.
        """
        number = self.system.names.index(name)
        self.link.write(self._pages["system"].addresses["reset"], np.array([1 << number]))
        words = item_words(self.system.cores[number].component())
        device = BoardCore(self.link, self._pages[name].addresses, words, self._patience)
        device.check()
        return device


class BoardCore:
    """A core of a board; see :class:`zeroskip.sw.engines.base.Device` for the methods.

    ``addresses`` has those of its ports, by the names of the Verilog, and ``words`` those of an
    item of each of its streams.
    """

    def __init__(self, link: Link, addresses: dict[str, int], words: dict[str, int],
                 patience: Patience):
        self._link, self._addresses, self._words = link, addresses, words
        self._patience = patience

    def poke(self, name: str, value: int) -> None:
        """Sets a port of the core."""
        if not self._link.write(self._addresses[name], np.array([value])):
            raise self._no_register(name)

    def peek(self, name: str) -> int:
        """The value of a port."""
        found = self._link.read(self._addresses[name], 1)
        if not len(found):
            raise self._no_register(name)
        return int(found[0])

    def tick(self, cycles: int = 1) -> None:
        """Nothing: a frame takes longer than any latency of the core."""

    def wait(self, name: str, value: int) -> None:
        """Until a port has a value; ``TimeoutError`` if it has not within the board's patience."""
        began = self._patience.clock()
        while self.peek(name) != value:
            if self._patience.clock() - began > self._patience.limit:
                raise TimeoutError(f"'{name}' was not {value} within {self._patience}")

    def pending(self, name: str) -> bool:
        """Whether a stream has a word to give, which is taken."""
        return len(self._link.read(self._addresses[name], 1, fixed=True)) > 0

    def check(self) -> None:
        """Raises LinkError where what is written to a register is not read from it.

        ``stats__select`` says which counter is shown and does nothing else, and whoever reads a
        counter sets it first. A core without it is not checked.
        """
        if "stats__select" not in self._addresses:
            return
        for pattern in PATTERNS:
            self.poke("stats__select", pattern)
            if (found := self.peek("stats__select")) != pattern:
                raise Refused(f"the board does not hold what is written to it: {pattern:#x} became "
                              f"{found:#x}; load its bitstream again")

    def _no_register(self, name: str) -> Refused:
        return Refused(f"the board says that the register '{name}' is busy, which none ever is; "
                       "load its bitstream again")

    def run(self, send: dict[str, np.ndarray],
            receive: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Sends items uint32 [items, words], receives others, until all is done.

        As of the simulated cores, but the times of the items are zero, and ``TimeoutError``
        is raised when no word has moved for as long as the board's patience.
        """
        left = {name: np.ascontiguousarray(items, np.uint32).reshape(-1)
                for name, items in send.items()}
        got = {name: [np.zeros(0, np.uint32)] for name in receive}
        open_ = {name: count * self._words[name] for name, count in receive.items()}
        clock = self._patience.clock
        moved = clock()
        while any(map(len, left.values())) or any(open_.values()):
            for name, items in left.items():
                if len(items):
                    done = self._link.write(self._addresses[name], items[:WORDS], fixed=True)
                    left[name] = items[done:]
                    moved = clock() if done else moved
            for name, count in open_.items():
                if count:
                    found = self._link.read(self._addresses[name], min(count, WORDS), fixed=True)
                    got[name].append(found)
                    open_[name] -= len(found)
                    moved = clock() if len(found) else moved
            if clock() - moved > self._patience.limit:
                raise TimeoutError(f"no word moved for {self._patience}, with "
                                   f"{sum(map(len, left.values()))} to send and "
                                   f"{sum(open_.values())} to receive")
        return {name: (np.concatenate(parts).reshape(-1, self._words[name]),
                       np.zeros(receive[name], np.uint64)) for name, parts in got.items()}
