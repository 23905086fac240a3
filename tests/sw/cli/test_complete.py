"""The shell completes names of backends, boards, configurations."""

import os
import subprocess
import sys

import pytest
from typer.main import get_command

from zeroskip.fpga.boards import BOARDS
from zeroskip.sw.cli.main import app
from zeroskip.sw.compiler.targets import configurations
from zeroskip.sw.engines import registry
from zeroskip.sw.runtime import backends


def completed(*words):
    """What bash is offered for the last of the words."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['zeroskip']\n"
         "from zeroskip.sw.cli.entry import main; main()"], capture_output=True, text=True,
        timeout=60, check=True, env={
            **os.environ, "_ZEROSKIP_COMPLETE": "complete_bash", "COMP_CWORD": str(len(words)),
            "COMP_WORDS": " ".join(["zeroskip", *words])})
    assert done.stderr == ""
    return done.stdout.split()


CONFIGS = [name for configs in configurations(None).values() for name in configs]


@pytest.mark.parametrize(("words", "names"), [
    (("run", "m.zsk", "--backend", ""), backends.NAMES),
    (("verify", "m.zsk", "--backend", "golden,cx"), ["golden,cxxrtl"]),
    (("run", "m.zsk", "--device", "v"), ["virtual"]),
    (("compile", "m.onnx", "--engine", ""), registry.names()),
    (("compile", "m.onnx", "--target", ""), CONFIGS),
    (("verilog", ""), [*registry.names(), "accelerator"]),
    (("build", "--board", "u"), [name for name in BOARDS if name[0] == "u"]),
    (("build", "--board", "icebreaker", "--config", ""), BOARDS["icebreaker"].configs),
    (("bench", "models", "--net", "une"), ["unet"]),
    (("bench", "eie", "--layers", "VGG"), ["VGG-6", "VGG-7", "VGG-8"]),
    (("bench", "ei"), ["eie"]),
])
def test_names(words, names):
    assert completed(*words) == list(names)


def test_a_shell_can_be_told():
    found = {each for param in get_command(app).params for each in param.opts}
    assert {"--install-completion", "--show-completion"} <= found


NAMED = {"backend", "board", "config", "target", "engine", "device", "layers", "net", "core"}


def test_every_option_that_takes_a_name_is_completed():
    """By its own completion, not by that of any other value, which offers nothing."""
    def commands(group):
        for command in getattr(group, "commands", {}).values():
            yield command
            yield from commands(command)
    options = [(command.name, each) for command in commands(get_command(app))
               for each in command.params if each.name.removesuffix("s") in NAMED
               or each.name in NAMED]
    assert len(options) > 20
    assert not [f"{command} {each.name}" for command, each in options
                if each._custom_shell_complete is None]
