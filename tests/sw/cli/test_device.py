"""``run --device``: a virtual board, and what is no board."""

import contextlib
import os
import threading
import tty

import numpy as np
import pytest

from zeroskip.hw.bus import Status
from zeroskip.hw.system.config import VERSION, SystemConfig
from zeroskip.sim.endpoint_model import EndpointModel
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.runtime import board_backend
from zeroskip.sw.runtime.link import Link


@pytest.fixture
def args(compiled, tmp_path):
    return ["run", compiled / "model.zsk", "--input", compiled / "x.npy",
            "--output", tmp_path / "y.npy"]


def test_virtual_board(cli, args, tmp_path):
    done = cli(*args, "--device", "virtual", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["backend"] == "virtual"
    assert done.json["cycles_per_image"] > 0
    over_serial = np.load(tmp_path / "y.npy")
    assert cli(*args, "--backend", "golden", "-q").code == 0
    np.testing.assert_array_equal(over_serial, np.load(tmp_path / "y.npy"))


def test_backend_and_device(cli, args):
    done = cli(*args, "--device", "virtual", "--backend", "golden")
    assert (done.code, done.stdout) == (2, "")
    assert "leave one out" in done.stderr


def test_no_such_port(cli, args, tmp_path):
    done = cli(*args, "--device", tmp_path / "none")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "none cannot be opened" in done.stderr
    assert not (tmp_path / "y.npy").exists()


def test_port_that_is_no_board(cli, args, tmp_path, monkeypatch):
    monkeypatch.setattr(board_backend, "Link",
                        lambda port, **_: Link(port, timeout=0.01, retries=1))
    master, slave = os.openpty()
    tty.setraw(slave)
    done = cli(*args, "--device", os.ttyname(slave))
    os.close(master)
    os.close(slave)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("zeroskip: the board did not answer")
    assert not (tmp_path / "y.npy").exists()


def test_board_that_answers_zeros(cli, args, compiled, tmp_path):
    config = Program.load(compiled / "model.zsk").images[0].config
    digest = SystemConfig((config,)).digest()
    identity = (0x314B535A, VERSION, digest & 0xFFFFFFFF, digest >> 32)
    endpoint = EndpointModel(lambda address, *_: (
        Status.OK, identity[address // 4] if address < 16 else 0))
    master, slave = os.openpty()
    tty.setraw(slave)

    def serve():
        with contextlib.suppress(OSError):      # until the terminal is closed
            while data := os.read(master, 4096):
                os.write(master, endpoint.feed(data))
    board = threading.Thread(target=serve, daemon=True)
    board.start()
    done = cli(*args, "--device", os.ttyname(slave))
    os.close(slave)
    board.join(10)
    os.close(master)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr == ("zeroskip: the board does not hold what is written to it: 0x5 became "
                           "0x0; load its bitstream again\n")
    assert not (tmp_path / "y.npy").exists()
