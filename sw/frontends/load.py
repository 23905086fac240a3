"""One door for every model: read it, write it."""

import struct
from importlib.util import find_spec
from pathlib import Path

from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.frontends import onnx_frontend, pt2_frontend
from zeroskip.sw.frontends.chain import Chain
from zeroskip.sw.graph.network import Network

UNREADABLE = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError,
              TypeError, ValueError, struct.error)
"""What a reader may raise on a file that nobody could have exported."""

SURVEYS = {".onnx": onnx_frontend.survey, ".pt2": pt2_frontend.survey}

to_onnx = onnx_frontend.to_onnx


def to_pt2(network: Network, path: str | Path, notes: dict[str, str] | None = None):
    """Writes ``network`` as ``torch.export.save`` does, for float32 samples [batch, inputs].

    ``notes`` become extra files. Raises BadInput where a layer is quantised, ToolMissing without
    torch.
    """
    require_torch()
    from zeroskip.sw.frontends import torch_frontend
    torch_frontend.to_pt2(network, path, notes)


WRITERS = {".onnx": to_onnx, ".pt2": to_pt2}


def read(path: str | Path) -> Network:
    """Reads a model file, ``.onnx`` or ``.pt2`` (``torch.export.save``).

    Raises BadInput where the file is no model, or with a table of every node that cannot run.
    """
    return survey(path).network()


def from_torch(module) -> Network:
    """Network of an ``nn.Sequential`` or of a ``torch.export.ExportedProgram``.

    Raises BadInput with a table of every module that cannot run, ToolMissing without torch.
    """
    require_torch()
    from zeroskip.sw.frontends import torch_frontend
    return torch_frontend.from_torch(module)


def require_torch():
    """Raises ToolMissing where torch is not installed."""
    if find_spec("torch") is None:
        raise ToolMissing("torch is not installed; get it with: pip install 'zeroskip[train]'")


def survey(path: str | Path) -> Chain:
    """What a model file holds, node by node, those that cannot run among them.

    Raises BadInput where the file is no model.
    """
    path = Path(path)
    if path.suffix.lower() not in SURVEYS:
        raise BadInput(f"{path} is no model file by its name; give one that ends in "
                       f"{' or '.join(SURVEYS)}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); "
                       "give the path of a model file.") from error
    if not content:
        raise BadInput(f"{path} is empty; export the model again.")
    try:
        return SURVEYS[path.suffix.lower()](content, str(path))
    except BadInput:
        raise
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadInput(f"{path} holds something that no model has ({reason}); export the model "
                       "again.") from error
