"""External data of ONNX: tensors that a model keeps in other files of its own folder.

A tensor says ``location``, a path from the model's folder, and ``offset`` and ``length`` in bytes;
by default it is the whole file. As the ONNX specification has it (``docs/ExternalData.md``).
"""

import os
from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from zeroskip.sw.errors import BadInput

MOST = (1 << 31) - 1
"""Bytes of a model with all its tensors: what protobuf, and so the checker, takes."""


def load_external(model: onnx.ModelProto, path: Path) -> None:
    """Reads into ``model``, which was read from ``path``, what it keeps in other files.

    Raises BadInput where such a file does not lie inside the model's folder, links followed, or is
    shorter than its tensors are together, or where the model would become larger than ``MOST``.
    Nothing is read before its size is known to be there.
    """
    graph = model.graph
    constants = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    outside = [tensor for tensor in [*graph.initializer, *constants]
               if tensor.data_location == onnx.TensorProto.EXTERNAL]
    # protobuf makes a copy to find the size
    used, total = Counter(), model.ByteSize() if outside else 0
    for tensor in outside:
        where = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
        file, size = _inside(path, tensor.name, where.get("location", ""))
        offset = _number(path, tensor.name, "offset", where, 0)
        length = _number(path, tensor.name, "length", where, max(size - offset, 0))
        used[file] += length
        if offset + length > size or used[file] > size:
            raise BadInput(f"{path}: {file.name} has {size} bytes, but tensor {tensor.name!r} and "
                           "those before it take more of it; export the model again.")
        total += length
        if total > MOST:
            raise BadInput(f"{path} has more than {MOST} bytes with its tensors from other files, "
                           "which is the most that is read; export a smaller model.")
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT


def _inside(path: Path, name: str, location: str) -> tuple[Path, int]:
    """The file at ``location`` and its size; BadInput where it lies outside the folder of
    ``path``, or cannot be read."""
    says = f"{path} keeps tensor {name!r} in {location!r}"
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if absolute or ".." in parts or "\0" in location:
        raise BadInput(f"{says}, which is no path inside the model's folder; save the model again, "
                       "with its data in a file beside it.")
    folder = path.parent.resolve()
    try:
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise BadInput(f"{says}, a link that leaves the model's folder; put the file itself "
                           "there.")
        if file.is_file() and os.access(file, os.R_OK):
            return file, file.stat().st_size
    except (OSError, RuntimeError):     # a name that is too long, links in a circle
        pass
    raise BadInput(f"{says}, which is no file that can be read; put that file beside the model.")


def _number(path: Path, name: str, key: str, where: dict[str, str], default: int) -> int:
    """An entry that is a number of bytes."""
    text = where.get(key, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadInput(f"{path}: the {key} of tensor {name!r} is {text!r}, not a number of "
                       "bytes; export the model again.")
    return int(text)


def _text(value: str | bytes) -> str:
    """A string of the file; protobuf gives one that is no UTF-8 as bytes."""
    return value if isinstance(value, str) else value.decode(errors="replace")
