"""One door for every model: read it, look into it, write it."""

import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.frontends import onnx_frontend, pt2_frontend
from zeroskip.sw.frontends.chain import Chain, Unsupported
from zeroskip.sw.graph.network import Conv2d, Linear, Network

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
    return _survey(path).network()


def from_torch(module) -> Network:
    """Network of an ``nn.Sequential`` or of a ``torch.export.ExportedProgram``.

    Raises BadInput with a table of every module that cannot run, ToolMissing without torch.
    """
    require_torch()
    from zeroskip.sw.frontends import torch_frontend
    return torch_frontend.from_torch(module)


def inspect(model: Network | str | Path) -> list[dict]:
    """One row a layer: name, kind, shape, density, pattern, engine and reason.

    ``kind`` is ``"linear"`` or ``"conv2d"``, ``shape`` that of the weights, ``density`` the
    fraction of them that are not zero, ``pattern`` as :func:`pattern` names it, ``engine`` the one
    that suits the layer best and ``reason`` why. Of a file, the nodes that cannot run are rows
    too: their ``kind`` is the operator, and ``shape``, ``density``, ``pattern`` and ``engine`` are
    None.
    """
    rows = model.layers if isinstance(model, Network) else _survey(model).rows
    return [_unsupported_row(r) if isinstance(r, Unsupported) else _layer_row(r) for r in rows]


def pattern(layer: Linear | Conv2d) -> str:
    """``"dense"``, ``"2:4"``, ``"1:4"`` or ``"unstructured"``, of ``layer.matrix``.

    Dense has fewer zeros than one in four. 1:4 and 2:4 have at most one or two non-zero weights
    in every aligned group of four along K, which is padded with zeros to a multiple of four. A
    fully-connected layer that fits, but has not even half of the weights that it may have, is
    unstructured, because it gains more that way; a convolution is not, because only the tensor
    core takes it.
    """
    nonzero = layer.matrix != 0
    if nonzero.mean() > 0.75:
        return "dense"
    groups = np.add.reduceat(nonzero, np.arange(0, nonzero.shape[1], 4), axis=1, dtype=np.int64)
    for kept, name in ((1, "1:4"), (2, "2:4")):
        if groups.max() <= kept and (not _eie_takes(layer) or nonzero.mean() > kept / 8):
            return name
    return "unstructured"


def engine(layer: Linear | Conv2d) -> str:
    """The engine that suits a layer best: ``"eie"`` where its zeros have no pattern and the array
    can skip them, ``"tensorcore"`` elsewhere."""
    return "eie" if pattern(layer) == "unstructured" and _eie_takes(layer) else "tensorcore"


def _eie_takes(layer) -> bool:
    """Whether the layer can run as unstructured sparsity."""
    return isinstance(layer, Linear) and layer.quantised is None


def require_torch():
    """Raises ToolMissing where torch is not installed."""
    if find_spec("torch") is None:
        raise ToolMissing("torch is not installed; get it with: pip install 'zeroskip[train]'")


def _survey(path) -> Chain:
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


def _layer_row(layer):
    found = pattern(layer)
    return {"name": layer.name, "kind": "linear" if isinstance(layer, Linear) else "conv2d",
            "shape": list(layer.weight.shape),
            "density": float(np.count_nonzero(layer.weight) / layer.weight.size),
            "pattern": found, "engine": engine(layer), "reason": _reason(layer, found)}


def _reason(layer, found):
    if found == "dense":
        return "It runs in dense mode: few weights are zero; prune it to skip work."
    if found == "2:4":
        return "It runs in sparse mode: 2:4 skips 2 of 4 weights."
    if found == "1:4":
        return ("It runs in sparse mode: 1:4 skips 3 of 4 weights on a configuration that has it, "
                "as tc-64-all, and 2 of 4 elsewhere.")
    if _eie_takes(layer):
        return "It runs, and every zero weight is skipped."
    what = "a quantised layer" if layer.quantised else "a convolution"
    return (f"It runs in dense mode, zeros and all: {what} skips them only in a pattern; "
            "prune it to 2:4.")


def _unsupported_row(node: Unsupported):
    return {"name": node.name, "kind": node.operator, "shape": None, "density": None,
            "pattern": None, "engine": None, "reason": node.reason}
