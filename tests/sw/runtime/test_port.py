"""Serial ports: a terminal's two ends, and what is no port."""

import contextlib
import os
import termios
import tty

import pytest

from zeroskip.sw.errors import BadInput, LinkError
from zeroskip.sw.runtime.port import SerialPort


@pytest.fixture
def terminal():
    """The board's end as a file, and the path of the host's end."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    with contextlib.suppress(OSError):      # a test closed it
        os.close(master)


def test_bytes_go_both_ways(terminal):
    master, path = terminal
    port = SerialPort(path)
    port.write(b"\x00\x01\xff\n")
    assert os.read(master, 10) == b"\x00\x01\xff\n"
    os.write(master, b"\r\n\x00\x11\x13")
    assert port.read(1.0) == b"\r\n\x00\x11\x13"
    assert port.read(0.01) == b""
    port.close()


def test_no_such_port(tmp_path):
    with pytest.raises(BadInput, match="none cannot be opened .*give the port of a board"):
        SerialPort(str(tmp_path / "none"))


def test_a_file_is_no_port(tmp_path):
    (tmp_path / "file").write_text("no terminal")
    with pytest.raises(BadInput, match="file cannot be opened"):
        SerialPort(str(tmp_path / "file"))


def test_a_busy_port(terminal):
    port = SerialPort(terminal[1])
    with pytest.raises(BadInput, match="that no other program uses"):
        SerialPort(terminal[1])
    port.close()
    SerialPort(terminal[1]).close()


def test_a_cable_that_is_pulled(terminal):
    master, path = terminal
    port = SerialPort(path)
    os.close(master)
    with pytest.raises(LinkError, match=f"the connection at {path} was lost .*plug the board in"):
        use(port)
    port.close()


@pytest.mark.parametrize("error", [termios.error(5, "Input/output error"), OSError(5, "gone")])
def test_a_line_that_the_system_no_longer_knows(terminal, monkeypatch, error):
    def fail(_):
        raise error
    port = SerialPort(terminal[1])
    monkeypatch.setattr(type(port._port), "in_waiting", property(fail))
    os.write(terminal[0], b"xy")
    with pytest.raises(LinkError, match="was lost"):
        port.read(1.0)
    port.close()


def use(port):
    for _ in range(3):
        port.write(b"x")
        port.read(0.01)
