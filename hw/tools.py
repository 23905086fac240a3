"""How programs of others are run: each ends with us, and so do its files.

Whatever ends a block here, an interrupt or a signal that became an exception too, kills what runs
and all that it has started.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """An ``OSError`` that names no file, as that of a full disk, names ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def scratch(parent: str | Path | None = None) -> Iterator[Path]:
    """A folder that is there as long as the block; in ``parent``, or where the system has such."""
    with tempfile.TemporaryDirectory(dir=parent) as folder, named(folder):
        yield Path(folder)


@contextmanager
def started(command: Sequence[str], *, folder: str | Path | None = None,
            together: bool = False) -> Iterator[subprocess.Popen]:
    """``command`` while it runs, in ``folder``; it has ended after the block.

    Its outputs are text; ``together`` sends what it says on stderr to stdout too.
    """
    with scratch() as own:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if together else subprocess.PIPE, text=True, errors="replace",
            process_group=0, env={**os.environ, "TMPDIR": str(own)})
        with process:
            try:
                yield process
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise


def run(command: Sequence[str], *, folder: str | Path | None = None,
        seconds: float | None = None) -> subprocess.CompletedProcess:
    """Runs ``command`` to its end; gives its exit code and what it said. ``TimeoutError`` after
    so many seconds."""
    with started(command, folder=folder) as process:
        try:
            said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{command[0]} did not end in {seconds:g} s") from None
    return subprocess.CompletedProcess(command, process.returncode, *said)
