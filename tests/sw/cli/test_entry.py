"""The program's ends from outside: during imports, during work; and with little memory."""

import resource
import signal
import subprocess
import sys

import pytest

AT_IMPORT = """import os, sys
class Hook:
    def find_spec(name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Hook)
from zeroskip.sw.cli.entry import main
main()"""

IN_WORK = """import os, sys
from zeroskip.sw.cli import main as commands
def work(*_):
    try:
        os.kill(os.getpid(), {number})
        for _ in range(1000):
            pass
    finally:
        os.kill(os.getpid(), {number} if {number} != 2 else 15)     # a second one
        print("cleaned up")
commands.app = work
from zeroskip.sw.cli.entry import main
main()"""


def start(script, *args, **kinds):
    return subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True,
                          timeout=60, check=False, **kinds)


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("module", ["zeroskip.sw.cli.main", "typer", "amaranth.hdl",
                                    "zeroskip.sw.cli.screen"])
@pytest.mark.parametrize("number", SIGNALS)
def test_signal_while_modules_are_imported(module, number):
    done = start(AT_IMPORT.format(module=module, number=int(number)), "--help")
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


@pytest.mark.parametrize("module", ["numpy", "zeroskip.sw.cli.inspection", "onnx"])
def test_interrupt_while_a_command_is_imported(module, tmp_path):
    done = start(AT_IMPORT.format(module=module, number=2), "inspect", tmp_path / "none.onnx")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_in_the_middle_of_work(number):
    done = start(IN_WORK.format(number=int(number)))
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "cleaned up\n", "")


def test_signal_that_is_ignored():
    """As after ``nohup``."""
    done = start(IN_WORK.format(number=int(signal.SIGHUP)),
                 preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned up\n", "")


NO_MEMORY = ["MemoryError()", "ImportError('libsome.so: failed to map segment from shared object')"]


@pytest.mark.parametrize(("module", "error", "sentence"), [
    ("zeroskip.sw.cli.main", NO_MEMORY[0], "too little memory to start; raise the limit"),
    ("numpy", NO_MEMORY[0], "more memory than there is"),
    ("numpy", NO_MEMORY[1], "too little memory to load the libraries of this command; raise"),
])
def test_no_memory_for_a_module(module, error, sentence, tmp_path):
    script = AT_IMPORT.replace("os.kill(os.getpid(), {number})", f"raise {error}")
    done = start(script.format(module=module), "inspect", tmp_path / "none.onnx")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert sentence in done.stderr


def test_too_little_memory(tmp_path):
    """Of what the libraries need a small part."""
    size = 40 << 20
    done = start("from zeroskip.sw.cli.entry import main; main()", "inspect", tmp_path / "no.onnx",
                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "memory" in done.stderr
