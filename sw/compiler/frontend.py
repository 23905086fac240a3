"""One door for every model: read it, look into it, write it."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from zeroskip.sw.compiler import onnx_frontend, pt2_frontend
from zeroskip.sw.compiler.chain import Chain, Unsupported
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.network import Linear, Network

SURVEYS = {".onnx": onnx_frontend.survey, ".pt2": pt2_frontend.survey}

to_onnx = onnx_frontend.to_onnx


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
    from zeroskip.sw.compiler import torch_frontend
    return torch_frontend.from_torch(module)


def inspect(model: Network | str | Path) -> list[dict]:
    """One row a layer: name, kind, shape, density, pattern, engine and reason.

    ``shape`` is ``[out, in]``, ``density`` the fraction of weights that are not zero,
    ``pattern`` as :func:`pattern` names it. Of a file, the nodes that cannot run are rows too:
    their ``kind`` is the operator, and ``shape``, ``density``, ``pattern`` and ``engine`` are
    None.
    """
    rows = model.layers if isinstance(model, Network) else _survey(model).rows
    return [_unsupported_row(r) if isinstance(r, Unsupported) else _linear_row(r) for r in rows]


def pattern(weight: np.ndarray) -> str:
    """``"dense"``, ``"2:4"`` or ``"unstructured"``, of a matrix ``[out, in]``.

    Dense has no zero at all. 2:4 has at most two non-zero weights in every aligned group of
    four along the inputs, and more than a quarter of all weights; a sparser matrix that fits
    the groups is unstructured, because it gains more that way.
    """
    nonzero = weight != 0
    if nonzero.all():
        return "dense"
    groups = np.add.reduceat(nonzero, np.arange(0, weight.shape[1], 4), axis=1, dtype=np.int64)
    return "2:4" if groups.max() <= 2 and nonzero.mean() > 0.25 else "unstructured"


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
    return SURVEYS[path.suffix.lower()](content, str(path))


def _linear_row(layer: Linear):
    found = pattern(layer.weight)
    reason = {
        "dense": "It runs, but no weight is zero: prune it to skip work.",
        "2:4": "It runs as any other sparsity: half the weights or more are skipped.",
        "unstructured": "It runs, and every zero weight is skipped.",
    }[found]
    density = float(np.count_nonzero(layer.weight) / layer.weight.size)
    return {"name": layer.name, "kind": "linear", "shape": list(layer.weight.shape),
            "density": density, "pattern": found, "engine": "eie", "reason": reason}


def _unsupported_row(node: Unsupported):
    return {"name": node.name, "kind": node.operator, "shape": None, "density": None,
            "pattern": None, "engine": None, "reason": node.reason}
