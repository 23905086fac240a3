"""The boards, a module each: whatever module is here is one of them, or variants of one."""

import sys

from zeroskip.fpga.board import Board, Design
from zeroskip.fpga.listing import values
from zeroskip.hw.system.config import SystemConfig
from zeroskip.sw.errors import BadInput


def found() -> dict[str, Board]:
    """The boards by name."""
    return {known.name: known for known in values(sys.modules[__name__])
            if isinstance(known, Board)}


BOARDS = found()


def systems() -> list[SystemConfig]:
    """Those of every named configuration."""
    return [config.system for board in BOARDS.values() for config in board.configs.values()]


def design(board: str, config: str | None = None) -> Design:
    """A named configuration of a board, or its default."""
    if board not in BOARDS:
        raise BadInput(f"there is no board '{board}'; choose one of {', '.join(BOARDS)}")
    return BOARDS[board].design(config)
