"""With ``--json`` an error is one JSON object on stdout, with the exit code that it has without."""

import os
import subprocess
import sys

import pytest
from typer.main import get_command

from zeroskip.hw.netlist.emit import YosysError
from zeroskip.sw.cli import main as commands
from zeroskip.sw.errors import BadInput, EngineError, LinkError, ToolMissing


def leaves(group, path=()):
    """The paths of the commands that do something."""
    for name, command in group.commands.items():
        yield from leaves(command, (*path, name)) if hasattr(command, "commands") else (
            (*path, name),)


LEAVES = list(leaves(get_command(commands.app)))


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_that_is_given_an_option_that_it_has_not(cli, path):
    plain = cli(*path, "--no-such-option")
    assert (plain.code, plain.stdout) == (2, "")
    done = cli(*path, "--no-such-option", "--json")
    assert (done.code, done.stderr) == (2, "")
    assert list(done.json) == ["error"]
    assert "--no-such-option" in done.json["error"]


@pytest.mark.parametrize("words", [(), ("fly",), ("run",), ("inspect", "none.onnx"),
                                   ("inspect", "none.zsk"), ("bench", "eie", "--pes", "0"),
                                   ("bench", "eie", "--pes", "many"),
                                   ("verilog", "fpu", "-o", "a.v"),
                                   ("build", "--board", "arty", "-o", "new"),
                                   ("doctor", "--warm", "--warm=1")])
def test_bad_input(cli, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    done = cli(*words, "--json")
    assert (done.code, done.stderr, list(done.json)) == (2, "", ["error"])
    assert done.json["error"].strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "code"), [
    (BadInput("it is bad"), 2), (ToolMissing("it is not there"), 3), (YosysError("it failed"), 3),
    (MemoryError(), 2), (ImportError("a.so: failed to map segment from shared object"), 2),
    (TimeoutError("it waits"), 1), (EngineError("it is wrong"), 1), (LinkError("it is loose"), 1),
    (OSError(28, "No space left on device", "a.zsk"), 2), (OSError(5, "Input/output error"), 2)])
def test_every_end_of_a_command(cli, monkeypatch, error, code):
    def fail(**_):
        raise error
    monkeypatch.setattr(commands, "app", fail)
    plain = cli("doctor")
    done = cli("doctor", "--json")
    assert (plain.code, plain.stdout) == (done.code, done.stderr) == (code, "")
    assert plain.stderr == f"zeroskip: {done.json['error']}\n"


def test_too_little_memory_to_start():
    script = ("import sys\n"
              "class Hook:\n"
              "    def find_spec(name, *_):\n"
              "        if name == 'zeroskip.sw.cli.main':\n"
              "            raise MemoryError\n"
              "sys.meta_path.insert(0, Hook)\n"
              "from zeroskip.sw.cli.entry import main\n"
              "main()")
    done = subprocess.run([sys.executable, "-c", script, "doctor", "--json"], capture_output=True,
                          text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith('{"error": "there is too little memory to start')


def test_the_module_is_the_program(tmp_path):
    done = subprocess.run([sys.executable, "-m", "zeroskip", "inspect", "none.onnx", "--json"],
                          capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
                          env={**os.environ})
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith('{"error": "none.onnx cannot be read')
