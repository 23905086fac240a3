# amaranth: UnusedElaboratable=no
"""Boards and their named configurations: constraint files, pins and clocks."""

import pytest

from zeroskip.fpga import boards
from zeroskip.fpga.boards import BOARDS, design, systems
from zeroskip.fpga.boardtop import BoardTop
from zeroskip.sw.errors import BadInput

EVERY = [board.design(config) for board in BOARDS.values() for config in board.configs]


@pytest.mark.parametrize(("board", "lines"), [
    ("ulx3s-85f", ['LOCATE COMP "clk" SITE "G2";', 'FREQUENCY PORT "clk" 25 MHZ;',
                   'IOBUF PORT "clk" IO_TYPE=LVCMOS33;',
                   'LOCATE COMP "rx" SITE "M1";', 'LOCATE COMP "tx" SITE "L4";',
                   'IOBUF PORT "button" IO_TYPE=LVCMOS33 PULLMODE=UP;']),
    ("icebreaker", ["set_io clk 35", "set_frequency clk 12", "set_io -pullup yes rx 6",
                    "set_io tx 9"]),
    ("tangnano9k", ['IO_LOC "clk" 52;', 'IO_PORT "rx" IO_TYPE=LVCMOS33 PULL_MODE=UP;',
                    'IO_LOC "rx" 18;', 'IO_LOC "tx" 17;', 'IO_PORT "led" IO_TYPE=LVCMOS18;']),
])
def test_constraint_file(board, lines):
    found = BOARDS[board].constraints().splitlines()
    assert set(lines) <= set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("board", BOARDS.values(), ids=str)
def test_every_port_of_the_top_has_a_pin(board):
    assert set(board.pins) == set(BoardTop(board, None, board.clock_mhz).signature.members)
    assert len({pin.name for pin in board.pins.values()}) == len(board.pins)


@pytest.mark.parametrize("made", EVERY, ids=lambda made: f"{made.board.name} {made.name}")
def test_clock_and_bit_rate_of_a_design(made):
    found = made.board.pll(made.mhz)
    assert made.mhz == (found.mhz if found else made.board.clock_mhz)
    # A receiver samples the tenth bit in its middle: half a bit late or early is too much.
    assert made.mhz * 1e6 / made.divisor == pytest.approx(made.baud, rel=0.02)


def test_designs_that_the_boards_are_for():
    assert set(BOARDS) >= {"ulx3s-85f", "ulx3s-25f", "icebreaker", "tangnano9k"}
    assert systems() == [made.system for made in EVERY]
    assert [design(board).name for board in BOARDS] == [*map(next, map(iter, (
        board.configs for board in BOARDS.values())))]
    large = [(made.total("pes"), made.total("multipliers")) for made in EVERY
             if made.board.name == "ulx3s-85f"]
    assert any(pes >= 16 and not multipliers for pes, multipliers in large)
    assert any(not pes and multipliers for pes, multipliers in large)
    assert any(pes >= 8 and multipliers for pes, multipliers in large)


@pytest.mark.parametrize(("arguments", "message"), [
    (("arty",), "there is no board 'arty'; choose one of .*icebreaker"),
    (("icebreaker", "eie-64"), "icebreaker has no configuration 'eie-64'; choose one of "),
])
def test_unknown(arguments, message):
    with pytest.raises(BadInput, match=message):
        design(*arguments)


def test_no_divisors():
    with pytest.raises(ValueError, match=r"the PLL of icebreaker makes no 12\.34567 MHz from 12"):
        BOARDS["icebreaker"].pll(12.34567)


BOARD = """
from zeroskip.fpga.board import Board, Config
from zeroskip.fpga.families.ice40 import ICE40
from zeroskip.fpga.family import Pin
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.tensorcore.config import CONFIGS

NEW = Board(
    name="new", title="A new board", chip=ICE40("up5k", package="sg48"), clock_mhz=48,
    pins={name: Pin(str(at)) for at, name in enumerate(("clk", "rx", "tx", "led", "button"))},
    programmer="load {}", configs={"small": Config(SystemConfig((CONFIGS["tc-8"],)), mhz=24)})
"""


def test_a_board_is_one_new_file(tmp_path, monkeypatch):
    """And nothing else: whoever lists boards, or builds one, finds it."""
    (tmp_path / "board_of_a_test.py").write_text(BOARD)
    monkeypatch.setattr(boards, "__path__", [*boards.__path__, str(tmp_path)])
    monkeypatch.setattr(boards, "BOARDS", boards.found())
    assert boards.BOARDS.keys() - BOARDS.keys() == {"new"}
    made = design("new")
    assert (made.name, made.mhz, made.total("multipliers")) == ("small", 24, 8)
    assert made.system in systems()
    assert "set_frequency clk 48" in made.board.constraints()
