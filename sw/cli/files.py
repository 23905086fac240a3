"""Files that commands read and write, with their checks."""

import os
import tempfile
from pathlib import Path

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.arrayfile import read_npy, read_npz
from zeroskip.sw.graph.samples import Samples


def array(path: Path) -> np.ndarray:
    """A ``.npy`` array of numbers."""
    values = read_npy(path, "a readable .npy array", "write it with numpy.save")
    if values.dtype.kind not in "fiu" or not values.ndim:
        raise BadInput(f"{path}: not an array of numbers; write it with numpy.save")
    return values


def arrays(path: Path) -> Samples:
    """A ``.npy`` array of numbers, or those of an ``.npz`` file by name."""
    if path.suffix != ".npz":
        return array(path)
    found = read_npz(path, "readable arrays", "write it with numpy.savez")
    for name, values in found.items():
        if values.dtype.kind not in "fiu" or not values.ndim:
            raise BadInput(f"{path}: '{name}' is not an array of numbers; write it with "
                           "numpy.savez")
    return found


def shapes(given: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by the names of inputs, from ``name:1,3,64,64``."""
    found = {}
    for text in given:
        name, _, sizes = text.rpartition(":")
        numbers = sizes.split(",")
        if not name or not all(size.isascii() and size.isdigit() and 0 < len(size) < 10
                               and int(size) for size in numbers):
            raise BadInput(f"--input-shape takes a name and sizes, such as image:1,3,64,64, not "
                           f"'{text}'")
        found[name] = tuple(map(int, numbers))
    return found


def make_folder(path: Path) -> None:
    """Makes a folder for what a command writes, before any work is done for it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise BadInput(f"{path}: a file is in the way; give the path of a folder") from None
    check_writable(path / "report.json")


def check_writable(path: Path) -> None:
    """Refuses a path where no file can be written, before any work is done for it."""
    if not path.parent.is_dir():
        raise BadInput(f"{path}: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise BadInput(f"{path}: this is a folder; give the path of a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise BadInput(f"{path}: this file cannot be written to; give another name")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise BadInput(f"{path}: the folder {path.parent} cannot be written to "
                       f"({error.strerror}); choose another") from None
