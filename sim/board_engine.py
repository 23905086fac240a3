"""Engines that reach the machines through a link: a virtual board, or one at a serial port."""

from collections.abc import Callable

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.engine import Progress, Result
from zeroskip.sim.rtl_engine import host
from zeroskip.sw.driver.board import Board
from zeroskip.sw.driver.link import Link
from zeroskip.sw.driver.port import SerialPort
from zeroskip.sw.errors import BadInput
from zeroskip.sw.program import Part, Program


class BoardEngine:
    """The machines of a program on a board, under an engine's name.

    Parameters
    ----------
    name : str
    program : Program
        With one configuration of each machine at most.
    connect : function
        From these, of the EIE array and of the tensor core, to the name of a port, and what has
        to live as long as the engine.
    """

    def __init__(self, name: str, program: Program,
                 connect: Callable[[EIEConfig | None, TensorCoreConfig | None], tuple[str, object]],
                 ):
        self.name = name
        configs = {engine: list({part.config.digest(): part.config for part in program.parts
                                 if part.engine == engine}.values())
                   for engine in ("eie", "tensorcore")}
        for engine, found in configs.items():
            if len(found) > 1:
                raise BadInput(f"the program has parts for {len(found)} configurations of "
                               f"{engine}, and a board has one; compile it for one target")
        pair = [found[0] if found else None for found in configs.values()]
        port, self._holds = connect(*pair)
        self._board = Board(Link(SerialPort(port)), *pair)

    def run(self, part: Part, inputs: np.ndarray, progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sim.engine.Engine`; the times are zero."""
        return host(part)(self._board.machine(part.engine), part, inputs, progress)


def virtual(program: Program) -> BoardEngine:
    """A board with just the machines of ``program``, simulated down to its serial pins."""
    from zeroskip.sim.virtual import VirtualBoard

    def connect(eie, tensorcore):
        board = VirtualBoard(eie, tensorcore)
        return board.port, board
    return BoardEngine("virtual", program, connect)


def serial(program: Program, port: str) -> BoardEngine:
    """The board at a serial port."""
    return BoardEngine("serial", program, lambda *_: (port, None))
