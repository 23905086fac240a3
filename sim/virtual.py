"""A virtual board: the whole top in compiled simulation, its serial pins on a pseudo-terminal."""

import contextlib
import os
import select
import threading
import tty
import weakref

from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.system.top import Top
from zeroskip.sim import cxxrtl
from zeroskip.sim.compiled import Model, SerialLine

DIVISOR = 4
"""Clock cycles of a bit: few, so that little time is spent on the line."""

SLICE = 4000
"""Cycles that are simulated between two looks at the terminal."""


class VirtualBoard:
    """A board that is simulated until it is closed, or nobody holds it any more.

    Attributes
    ----------
    port : str
        Path of the terminal, for whoever drives the board.
    """

    def __init__(self, system: SystemConfig):
        model = Model(cxxrtl.build(lambda: Top(system, divisor=DIVISOR), "top",
                                   f"{system.digest():016x}-{DIVISOR}"))
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.port = os.ttyname(slave)
        self._clock, stop = _Clock(), threading.Event()
        thread = threading.Thread(target=_run, args=(model, master, self._clock, stop),
                                  daemon=True)
        self._close = weakref.finalize(self, _end, stop, thread, master, slave)
        thread.start()

    @property
    def cycles(self) -> int:
        """Clock cycles since reset."""
        return self._clock.cycles

    def close(self) -> None:
        """Pulls the plug."""
        self._close()


class _Clock:
    """Clock cycles that a board has been simulated; the board itself must not be held."""

    cycles = 0


def _run(model: Model, terminal: int, clock: _Clock, stop: threading.Event) -> None:
    """The board's life: cycles, and bytes to and from the line."""
    line = SerialLine(model, rx="rx", tx="tx", divisor=DIVISOR)
    waiting, idle = b"", 0
    while not stop.is_set():
        # at rest the board is simulated slowly, so that others get the processor
        readable, _, _ = select.select([terminal], [], [], 0.05 if idle > 50 else 0)
        if readable:
            with contextlib.suppress(OSError):
                waiting += os.read(terminal, 4096)
        sent, received = line.run(waiting, SLICE)
        clock.cycles += SLICE
        idle = 0 if sent or received else idle + 1
        waiting = waiting[sent:]
        # what nobody reads is lost, as on a wire
        with contextlib.suppress(BlockingIOError):
            os.write(terminal, received)


def _end(stop: threading.Event, thread: threading.Thread, *files: int) -> None:
    stop.set()
    if thread is not threading.current_thread():
        thread.join()
    for file in files:
        os.close(file)
