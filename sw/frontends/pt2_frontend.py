"""Files of ``torch.export.save`` (``.pt2``) as ONNX, without running what strangers wrote into
them.

A file is first written anew from what is known to be harmless in it; torch reads that in a process
of its own, whose memory and time have bounds.
"""

import sys
from pathlib import Path

from zeroskip.hw import tools
from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write
from zeroskip.sw.frontends.pt2_archive import rebuild

SECONDS = 600
"""Time for torch to read and translate a model."""


def command(folder: Path) -> list[str]:
    """What reads the ``model.pt2`` in a folder; nothing that lies where the user is is imported."""
    return [sys.executable, "-P", "-m", "zeroskip.sw.frontends.pt2_child", str(folder)]


def to_onnx(content: bytes, source: str) -> bytes:
    """An ONNX file of the program in a ``.pt2`` file; ``content`` is the file, ``source`` its name
    for messages.

    Raises BadInput where it holds what could run code, what torch cannot translate or what takes
    too much memory or time.
    """
    with tools.scratch() as folder:
        write(folder / "model.pt2", rebuild(content, source))
        try:
            done = tools.run(command(folder), folder=folder, seconds=SECONDS)
        except TimeoutError:
            raise BadInput(f"{source}: torch did not read it in {SECONDS:g} s; export the model to "
                           "ONNX.") from None
        if done.returncode == 0:
            return (folder / "model.onnx").read_bytes()
        said = done.stdout.strip().split("\n")[-1]
        if done.returncode != 1 or not said:
            said = "torch broke off while it read it; export the model to ONNX."
        raise BadInput(f"{source}: {said}")


def program(path: Path):
    """The ``torch.export.ExportedProgram`` in a file, to train it in this process.

    It is written anew first, so that it calls nothing but operators. Raises BadInput where it is
    none.
    """
    from zeroskip.sw.frontends.load import UNREADABLE, require_torch
    require_torch()
    from zeroskip.sw.frontends import pt2_child
    try:
        content = rebuild(path.read_bytes(), str(path))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); "
                       "give the path of a model file.") from error
    with tools.scratch() as folder:
        write(folder / "model.pt2", content)
        try:
            return pt2_child.load(folder / "model.pt2")
        except UNREADABLE as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise BadInput(f"{path}: torch cannot read it ({reason}); write it again with "
                           "torch.export.save.") from error
