"""Backends that reach cores through a link: a virtual board, or one at a serial port."""

import weakref
from collections.abc import Callable, Sequence
from pkgutil import resolve_name

import numpy as np

from zeroskip.hw.system.config import MOST, SystemConfig
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image, Progress, Result
from zeroskip.sw.errors import BadInput, EngineError, LinkError
from zeroskip.sw.runtime.backend import PATIENCE, Backend
from zeroskip.sw.runtime.board import Board, Patience
from zeroskip.sw.runtime.link import Link
from zeroskip.sw.runtime.port import SerialPort


class BoardBackend(Backend):
    """The cores of a program on a board, under a backend's name.

    Parameters
    ----------
    name : str
    program : Program
    connect : function
        From the system of just the program's cores to the name of a port, the :class:`Patience`
        of a :class:`Board` there, and what has to live as long as the backend.
    known : sequence of SystemConfig
        Other boards; those with cores of all the program's configurations will do.
    timeout : float
        Seconds, of a :class:`Link`.
    """

    def __init__(self, name: str, program: Program,
                 connect: Callable[[SystemConfig], tuple[str, Patience, object]],
                 known: Sequence[SystemConfig] = (), *, timeout: float = 0.5):
        self.name = name
        own = _system(program)
        larger = [system for system in known if set(own.cores) <= set(system.cores)]
        port, patience, self._holds = connect(own)
        link = Link(SerialPort(port), timeout=timeout)
        weakref.finalize(self, link.close)
        self._board = Board(link, own, *larger, patience=patience)

    def run(self, image: Image, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sw.runtime.backend.Backend`; the times are zero. ``LinkError`` for
        what a board does wrong, ``TimeoutError`` where it stops answering."""
        device = self._board.device(self._board.system.name_of(image.config))
        if progress:
            progress(0, len(inputs))
        try:
            return registry.engine(image.engine).run(device, image, inputs, progress)
        except LinkError:
            raise
        except EngineError as error:
            raise LinkError(f"over the link {error}; check the line, and load the board's "
                            "bitstream again") from None


def _system(program: Program) -> SystemConfig:
    """A core of each configuration that a program is for, in the order of their kinds."""
    cores = {image.config: None for image in program.images}
    if len(cores) > MOST:
        raise BadInput(f"the program is for {len(cores)} configurations, and a board has {MOST} "
                       "cores at most; compile it for fewer targets")
    return SystemConfig(tuple(sorted(cores, key=lambda core: core.kind)))


def virtual(program: Program) -> BoardBackend:
    """A board with just the cores of ``program``, simulated down to its serial pins."""
    make = resolve_name("zeroskip.sim.virtual:VirtualBoard")

    def connect(system):
        board = make(system)
        return board.port, Patience(PATIENCE, lambda: board.cycles, "cycles"), board
    # a terminal loses nothing, and a simulation may be slow
    return BoardBackend("virtual", program, connect, timeout=60)


def serial(program: Program, port: str, known: Sequence[SystemConfig] = ()) -> BoardBackend:
    """The board at a serial port: one with just the program's cores, or one of ``known``."""
    return BoardBackend("serial", program, lambda _: (port, Patience(), None), known)
