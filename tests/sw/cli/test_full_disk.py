"""Where a file cannot be written to its end: the message names it, what was there stays."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def commands(folder):
    """For each command its arguments, and the first file that is too large."""
    (folder / "recipe.toml").write_text("density = 0.5\n")
    save_file({"weight": np.tile(np.array([1, 2, 0, 0], np.float16), (64, 16))},
              folder / "in.safetensors")
    return {
        "run": (["run", folder / "model.zsk", "--input", folder / "x.npy", "--output",
                 folder / "y.npy", "--backend", "golden"], "y.npy"),
        "compile": (["compile", folder / "model.onnx", "--calibration", folder / "x.npy", "-o",
                     folder / "model.zsk"], "model.zsk"),
        "prune": (["prune", folder / "model.onnx", "--recipe", folder / "recipe.toml", "-o",
                   folder / "new.onnx"], "new.onnx"),
        "convert": (["convert", folder / "in.safetensors", "-o", folder / "out.safetensors",
                     "--to", "bitmask"], "out.safetensors"),
    }


@pytest.mark.parametrize("name", ["run", "compile", "prune", "convert"])
def test_a_file_that_grows_too_large(refused, folder, commands, name, limit):
    args, file = commands[name]
    with limit(100):
        message = refused(*args)
    assert message == (f"zeroskip: {folder / file}: File too large; raise the limit of a file's "
                       "size, which 'ulimit -f' shows\n")


def test_the_second_of_two_files(refused, folder, limit):
    """Of program and reference both are as they were, if one cannot be written."""
    names = ("model.zsk", "model.reference.safetensors")
    sizes = [(folder / name).stat().st_size for name in names]
    assert sizes[0] > sizes[1], "a limit between them hits only the program"
    with limit(sum(sizes) // 2):
        assert "model.zsk: File too large" in refused(
            "compile", folder / "model.onnx", "--calibration", folder / "x.npy", "-o",
            folder / "model.zsk")


def test_a_disk_that_is_full(refused, commands, folder, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, "write_bytes", fail)
    args, file = commands["run"]
    assert refused(*args) == (f"zeroskip: {folder / file}: No space left on device; make room "
                              "there, or choose another path\n")


def test_the_folder_for_temporary_files_is_full(refused, folder, limit):
    with limit(100):
        message = refused("verilog", "eie", "-o", folder / "eie.v")
    assert re.fullmatch(r"zeroskip: /.*/tmp\w+: File too large; raise the limit .*\n", message)
