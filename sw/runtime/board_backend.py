"""Engines that reach the machines through a link: a virtual board, or one at a serial port."""

import weakref
from collections.abc import Callable, Sequence
from pkgutil import resolve_name

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image, Progress, Result
from zeroskip.sw.errors import BadInput, EngineError, LinkError
from zeroskip.sw.runtime.backend import PATIENCE
from zeroskip.sw.runtime.board import Board, Machines, Patience
from zeroskip.sw.runtime.link import Link
from zeroskip.sw.runtime.port import SerialPort


class BoardBackend:
    """The machines of a program on a board, under an engine's name.

    Parameters
    ----------
    name : str
    program : Program
        With one configuration of each machine at most.
    connect : function
        From these, of the EIE array and of the tensor core, to the name of a port, the
        :class:`Patience` of a :class:`Board` there, and what has to live as long as the engine.
    known : sequence of pairs of configurations
        Boards with more machines than the program needs.
    timeout : float
        Seconds, of a :class:`Link`.
    """

    def __init__(self, name: str, program: Program,
                 connect: Callable[[EIEConfig | None, TensorCoreConfig | None],
                                   tuple[str, Patience, object]],
                 known: Sequence[Machines] = (), *, timeout: float = 0.5):
        self.name = name
        configs = {engine: list({part.config.digest(): part.config for part in program.parts
                                 if part.engine == engine}.values())
                   for engine in ("eie", "tensorcore")}
        for engine, found in configs.items():
            if len(found) > 1:
                raise BadInput(f"the program has parts for {len(found)} configurations of "
                               f"{engine}, and a board has one; compile it for one target")
        pair = [found[0] if found else None for found in configs.values()]
        larger = [machines for machines in known if all(
            own in (None, other) for own, other in zip(pair, machines, strict=True))]
        port, patience, self._holds = connect(*pair)
        link = Link(SerialPort(port), timeout=timeout)
        weakref.finalize(self, link.close)
        self._board = Board(link, tuple(pair), *larger, patience=patience)

    def run(self, image: Image, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sw.runtime.backend.Backend`; the times are zero. ``LinkError`` for
        what a board does wrong, ``TimeoutError`` where it stops answering."""
        machine = self._board.machine(image.engine)
        try:
            return registry.engine(image.engine).run(machine, image, inputs, progress)
        except LinkError:
            raise
        except EngineError as error:
            raise LinkError(f"over the link {error}; check the line, and load the board's "
                            "bitstream again") from None


def virtual(program: Program) -> BoardBackend:
    """A board with just the machines of ``program``, simulated down to its serial pins."""
    make = resolve_name("zeroskip.sim.virtual:VirtualBoard")

    def connect(eie, tensorcore):
        board = make(eie, tensorcore)
        return board.port, Patience(PATIENCE, lambda: board.cycles, "cycles"), board
    # a terminal loses nothing, and a simulation may be slow
    return BoardBackend("virtual", program, connect, timeout=60)


def serial(program: Program, port: str, known: Sequence[Machines] = ()) -> BoardBackend:
    """The board at a serial port: one with just the program's machines, or one of ``known``."""
    return BoardBackend("serial", program, lambda *_: (port, Patience(), None), known)
