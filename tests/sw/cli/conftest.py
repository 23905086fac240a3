"""The command line in this process, and a tiny compiled model to use it on."""

import hashlib
import io
import json
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

from zeroskip.sw.cli.main import main
from zeroskip.sw.compiler.frontend import to_onnx
from zeroskip.sw.network import Linear, Network


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
                    "-o", folder / "model.zsk", "-q")
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
