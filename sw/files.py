"""Files are written whole: beside their place, and then moved there."""

import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np


@contextmanager
def beside(path: str | Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends well.

    Otherwise nothing is left of it, and what was at ``path`` before still is. Of several files, one
    block in another, all are written before the first appears. What is no regular file, a pipe for
    example, is written to directly, and a link stays one. An ``OSError`` names ``path``.
    """
    path = Path(path)
    whole = path.is_file() or not path.exists()
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{secrets.token_hex(8)}.part") if whole else path
    try:
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        yield part
        if whole:
            if target.exists():
                shutil.copymode(target, part)
            part.replace(target)
    except OSError as error:
        if error.filename in (None, str(part), part.name):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        if whole:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def write_all(contents: dict[Path, str | bytes]) -> None:
    """Writes files, text as UTF-8, all or none; see :func:`beside`."""
    with ExitStack() as parts:
        for path, content in contents.items():
            part = parts.enter_context(beside(path))
            part.write_bytes(content.encode() if isinstance(content, str) else content)


def write(path: str | Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8; see :func:`beside`."""
    write_all({Path(path): content})


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Writes a ``.npy`` file."""
    content = io.BytesIO()      # numpy's own writing does not say why it failed
    np.save(content, array)
    write(path, content.getvalue())


def save_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an ``.npz`` file."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    write(path, content.getvalue())
