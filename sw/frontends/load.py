"""One door for every model."""

import struct
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.frontends.onnx_writer import to_onnx  # noqa: F401  a chain of layers as a file
from zeroskip.sw.graph.graph import Graph

if TYPE_CHECKING:
    from zeroskip.sw.frontends.clean import Clean

UNREADABLE = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError,
              RuntimeError, TypeError, ValueError, struct.error)
"""What a reader may raise on a file that nobody could have exported."""

SUFFIXES = (".onnx", ".pt2")


def read(path: str | Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Reads a model file, ``.onnx`` or ``.pt2`` (``torch.export.save``).

    ``shapes`` are those of inputs that the file leaves open beyond the batch. Raises BadInput
    where the file is no model, or holds what nothing here can run; ToolMissing for a ``.pt2``
    without torch.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"{path} is no model file by its name; give one that ends in "
                       f"{' or '.join(SUFFIXES)}.")
    from zeroskip.sw.frontends import clean, lift
    try:
        # nothing here keeps the file's bytes, which are as many as the model's
        return lift.lift(apart(clean.load(_content(path), str(path), shapes or {}), str(path)),
                         str(path))
    except BadInput:
        raise
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadInput(f"{path} holds something that no model has ({reason}); export the model "
                       "again.") from error


def from_torch(module, inputs: Sequence, fixed: bool = False) -> Graph:
    """The graph of an ``nn.Module``, which is called with the tensors ``inputs``, or of a
    ``torch.export.ExportedProgram``, whose own inputs count. With ``fixed`` the batch is theirs
    even where the module takes any.

    Raises BadInput where torch cannot export it, ToolMissing without torch.
    """
    require_torch()
    from zeroskip.sw.frontends import clean, lift, torch_frontend
    model = clean.load(torch_frontend.to_onnx(module, inputs, fixed), "the module", {})
    return lift.lift(apart(model, "the module"), "the module")


def apart(model: "Clean", source: str) -> "Clean":
    """A clean model with the products of recurrent layers and transposed convolutions apart."""
    from zeroskip.sw.frontends import recurrent, rewriting, transposed
    return rewriting.rewritten(model, source, recurrent.RULES | transposed.RULES)


def require_torch():
    """Raises ToolMissing where torch is not installed."""
    if find_spec("torch") is None:
        raise ToolMissing("torch is not installed; get it with: pip install 'zeroskip[train]'")


def _content(path: Path) -> bytes:
    """The ONNX model in a file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); "
                       "give the path of a model file.") from error
    if not content:
        raise BadInput(f"{path} is empty; export the model again.")
    if path.suffix.lower() == ".onnx":
        return content
    require_torch()
    from zeroskip.sw.frontends import pt2_frontend
    return pt2_frontend.to_onnx(content, str(path))
