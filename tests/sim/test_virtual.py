"""Programs over the serial pins of a simulated board."""

import time

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.fronts.frame import Op
from zeroskip.hw.system.config import SystemConfig
from zeroskip.sim.virtual import VirtualBoard
from zeroskip.sw.errors import LinkError
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.board import Board, Patience
from zeroskip.sw.runtime.link import Link, encode_request
from zeroskip.sw.runtime.port import SerialPort
from zeroskip.sw.runtime.verify import verify


def test_a_program_gives_the_golden_outputs(digits_like):
    engine = backends.create("virtual", digits_like.program, lambda: ())
    verdict = verify(digits_like.program, digits_like.inputs, (digits_like.golden, engine))
    assert verdict.difference is None
    assert verdict.compared == 5 * (30 + 9)
    again = engine.run(digits_like.image, digits_like.inputs[:2])
    for found, expected in zip(again.outputs, digits_like.expected, strict=True):
        np.testing.assert_array_equal(found, expected[:2])


def system(case):
    """A system of just the core that the case is for."""
    return SystemConfig((case.image.config,))


@pytest.fixture
def board(digits_like):
    board = VirtualBoard(system(digits_like))
    yield board
    board.close()


def test_noise_on_the_line_changes_nothing(board, digits_like):
    port = SerialPort(board.port)
    port.write(bytes(np.random.default_rng(0).integers(0, 256, 300, np.uint8)))
    device = Board(Link(port), system(digits_like)).device("eie")
    assert device.peek("busy") == 0
    port.close()


def test_a_core_that_stalls_is_waited_for_in_cycles(board, digits_like):
    port, began = SerialPort(board.port), board.cycles
    patience = Patience(50_000, lambda: board.cycles, "cycles")
    device = Board(Link(port), system(digits_like), patience=patience).device("eie")
    with pytest.raises(TimeoutError, match=r"^no word moved for 50,000 cycles, with 0 to send and"):
        device.run({}, {"outputs": 1})
    assert board.cycles - began > 50_000
    port.close()


def test_another_configuration_is_refused_and_named(board, digits_like):
    port = SerialPort(board.port)
    other = SystemConfig((EIEConfig(pes=2),))
    with pytest.raises(LinkError, match="built for a configuration with digest .* and the program"):
        Board(Link(port), other)
    Board(Link(port), system(digits_like))
    port.close()


def test_the_plug_is_pulled_in_the_middle_and_another_board_goes_on(board, digits_like):
    port = SerialPort(board.port)
    device = Board(Link(port, timeout=1, retries=1), system(digits_like)).device("eie")
    board.close()
    with pytest.raises(LinkError):
        device.run({"load": np.zeros((600, 2), np.uint32)}, {})
    engine = backends.create("virtual", digits_like.program, lambda: ())
    assert verify(digits_like.program, digits_like.inputs,
                  (digits_like.golden, engine)).difference is None


def test_what_nobody_reads_does_not_hold_the_board_up(board):
    """The terminal's buffer overflows; the board goes on, and can be closed."""
    port = SerialPort(board.port)
    for seq in range(300):
        port.write(b"\0" + encode_request(seq % 256, Op.IDENTIFY))
    time.sleep(1)
    board.close()
    port.close()
