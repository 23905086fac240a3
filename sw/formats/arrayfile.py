"""Arrays from files of numpy, ``.npy`` and ``.npz``: numbers and text only, within bounds.

``numpy.load`` reserves what a header asks for, and what it raises on a damaged file can be
anything. Here an array is read only if its bytes are there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import zipped

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0}
"""Version 3 is for field names only, which arrays of numbers do not have."""


def read_npy(path: Path, kind: str, remedy: str) -> np.ndarray:
    """The array of a ``.npy`` file.

    :class:`BadInput` says that it is not ``kind``, why not, and ``remedy``.
    """
    with _opened(path, kind, remedy) as file:
        return _array(file, file.seek(0, 2))


def read_npz(path: Path, kind: str, remedy: str,
             names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """All arrays of a ``.npz`` file by name, or those of ``names``, each of which must be there.

    :class:`BadInput` as of :func:`read_npy`.
    """
    with _opened(path, kind, remedy) as file, zipped.opened(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        arrays = {}
        for name in members if names is None else names:
            if name not in members:
                raise ValueError(f"there is no array '{name}' in it")
            with archive.open(members[name]) as member:
                arrays[name] = _array(member, members[name].file_size)
        return arrays


@contextmanager
def _opened(path: Path, kind: str, remedy: str) -> Iterator[BinaryIO]:
    """The file; whatever is raised on reading it is that it is not ``kind``."""
    try:
        with Path(path).open("rb") as file:
            try:
                yield file
            except MemoryError:
                raise
            except Exception as error:  # zipfile and numpy raise almost anything on damage
                reason = str(error).partition("\n")[0] or type(error).__name__
                raise BadInput(f"{path}: not {kind} ({reason}); {remedy}") from None
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; {remedy}") from None
    except OSError as error:
        raise BadInput(f"{path}: it cannot be read ({error.strerror}); {remedy}") from None


def _array(file: BinaryIO, size: int) -> np.ndarray:
    """The array that ``file`` of so many bytes holds; ``ValueError`` where it is none."""
    file.seek(0)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"it has version {version} of the .npy format")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.kind not in "biufcSU" or not dtype.itemsize:
        raise ValueError(f"it holds {dtype}, not numbers")
    needed, there = prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or needed != there:
        raise ValueError(f"its header promises {list(shape)} {dtype}, which are {needed:,} bytes, "
                         f"but {there:,} follow")
    data = bytearray(needed)
    if file.readinto(data) != needed:
        raise ValueError("it is truncated")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
