"""The command line in this process, and a tiny compiled model to use it on."""

import hashlib
import io
import json
import os
import shutil
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from rich.cells import cell_len

from zeroskip.sw.cli.main import main
from zeroskip.sw.cli.screen import Screen, text
from zeroskip.sw.frontends.load import to_onnx
from zeroskip.sw.graph.network import Linear, Network


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self):
        """The one JSON object of stdout; NaN and infinity are no JSON."""
        def refuse(constant):
            raise ValueError(f"{constant} is no JSON")
        return json.loads(self.stdout, parse_constant=refuse)


def zeroskip(*args):
    """Runs ``zeroskip ARGS`` as the installed program does."""
    code, stdout, stderr = 0, io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["zeroskip", *map(str, args)]), \
            redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return Outcome(code, stdout.getvalue(), stderr.getvalue())


def linear(name, rows, columns, activation, rng):
    """A layer of which about half the weights are zero."""
    weight = rng.normal(size=(rows, columns)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.5] = 0
    return Linear(name, weight, rng.normal(size=rows).astype(np.float32) / 10, activation)


def listing(folder):
    """Every path below a folder, with a hash of its content."""
    return {str(path.relative_to(folder)):
            path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def cli():
    """``cli(*args)`` gives an :class:`Outcome`."""
    return zeroskip


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder with a 12-9-5 model, its input and its program; nobody changes it."""
    folder = tmp_path_factory.mktemp("compiled")
    rng = np.random.default_rng(8)
    to_onnx(Network((linear("fc1", 9, 12, "relu", rng), linear("fc2", 5, 9, "none", rng))),
            folder / "model.onnx")
    np.save(folder / "x.npy", rng.normal(size=(3, 12)).astype(np.float32))
    done = zeroskip("compile", folder / "model.onnx", "--calibration", folder / "x.npy",
                    "-o", folder / "model.zsk", "--target", "eie-4", "-q")
    assert done == (0, "", "")
    return folder


@pytest.fixture
def folder(compiled, tmp_path_factory):
    """A copy of ``compiled`` for one test, whose name its path does not hold."""
    return shutil.copytree(compiled, tmp_path_factory.mktemp("folder") / "work")


@pytest.fixture
def refused(cli, folder):
    """``refused(*args)``: the command exits with 2 and one message, and writes nothing.

    Gives the message; ``lines`` of it, one where nothing else is said.
    """
    def check(*args, lines=1):
        before = listing(folder)
        code, stdout, stderr = cli(*args)
        assert (code, stdout) == (2, "")
        assert stderr.startswith("zeroskip: ")
        assert stderr.endswith("\n")
        assert stderr.count("\n") == lines
        assert "Traceback" not in stderr
        assert listing(folder) == before
        return stderr
    return check


def words(lines):
    """The words of some text, and how often each stands there."""
    return Counter(word for line in lines for word in line.translate(FRAME).split())


FRAME = {ord(character): " " for character in "│┃┏┓┗┛└┘├┤┡┩┼╇┳┬┴─━"}


@pytest.fixture(scope="session")
def check_table():
    """``check_table(title, columns, rows)`` prints the table on a terminal of 80 columns, where
    every word and number of it stands whole, and gives its lines."""
    return print_whole


def print_whole(title, columns, rows, table=Screen.table):
    stdout = io.StringIO()
    with redirect_stdout(stdout), mock.patch.dict(os.environ, COLUMNS="80"):
        table(Screen(as_json=False, quiet=False), title, columns, rows)
    lines = stdout.getvalue().splitlines()
    wanted = words([title, *columns]) + words(text(cell) for row in rows for cell in row)
    assert not wanted - words(lines)
    longest = max(map(cell_len, wanted), default=0)
    assert max(map(cell_len, lines)) <= max(80, longest + max(map(cell_len, columns)) + 7)
    return lines


@pytest.fixture(autouse=True)
def every_table_is_whole(monkeypatch):
    """What any command of any test prints as a table splits no word or number at 80 columns."""
    table = Screen.table

    def checked(screen, title, columns, rows):
        print_whole(title, columns, rows, table)
        table(screen, title, columns, rows)
    monkeypatch.setattr(Screen, "table", checked)
