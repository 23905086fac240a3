"""The everyday nets as people export them: each read, compiled and run in RTL, output by output."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from zeroskip.hw.core import CoreConfig
from zeroskip.hw.tensorcore.config import CONFIGS as TENSORCORE
from zeroskip.sw.compiler import integer
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.compiler.placement import inspect
from zeroskip.sw.experiments.everyday import Net
from zeroskip.sw.files import write
from zeroskip.sw.frontends.load import read
from zeroskip.sw.frontends.torch_frontend import quietly
from zeroskip.sw.graph.graph import OperatorNode, RuleNode
from zeroskip.sw.runtime.arrays import inputs, outputs
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

CONFIG = TENSORCORE["tc-8"]
CALIBRATION, SAMPLES = 32, 4


def default(net: Net, path: Path) -> Path:
    """The file of torch.onnx.export with its defaults, its weights beside it."""
    path = path.with_suffix(".onnx")
    torch.onnx.export(net.module(), net.inputs(1), path, verbose=False)
    return path


def legacy(net: Net, path: Path) -> Path:
    """The file of torch's exporter of before."""
    path = path.with_suffix(".onnx")
    torch.onnx.export(net.module(), net.inputs(1), path, dynamo=False, verbose=False)
    return path


def pt2(net: Net, path: Path) -> Path:
    """The file of torch.export.save."""
    path, file = path.with_suffix(".pt2"), io.BytesIO()
    torch.export.save(torch.export.export(net.module(), net.inputs(1)), file)
    write(path, file.getvalue())
    return path


EXPORTS: dict[str, Callable[[Net, Path], Path]] = {
    "default": default, "legacy": legacy, "pt2": pt2}


@dataclass(frozen=True)
class ModelRun:
    """One net in one export.

    Attributes
    ----------
    net, export : str
    layers, operators, rules : int
        Nodes on engines, on the host in float, and on the host in integers.
    macs : int
        Multiplications of a sample in layers.
    compared : int
        Outputs of layers that golden and RTL have.
    equal : bool
        Whether they, and all buffers of the host, are the same.
    error : float
        RMS of outputs less those of the torch module, over the RMS of these about their mean.
    cycles : float
        Of a sample, on all cores together.
    """

    net: str
    export: str
    layers: int
    operators: int
    rules: int
    macs: int
    compared: int
    equal: bool
    error: float
    cycles: float


def export(net: Net, kind: str, folder: Path) -> Path:
    """A file of a net."""
    with quietly():
        return EXPORTS[kind](net, folder / f"{net.name}-{kind}")


def run(net: Net, kind: str, folder: Path, backend: Backend,
        configs: Sequence[CoreConfig] = (CONFIG,)) -> ModelRun:
    """Exports, reads, compiles and runs a net; ``BadInput`` where it cannot be."""
    graph = read(export(net, kind, folder))
    macs = sum(row["macs"] or 0 for row in inspect(graph))
    kinds = Counter(map(type, integer.take(graph).nodes))
    samples = _arrays(graph.inputs, net, CALIBRATION, seed=1)
    compiled = compile_network(graph, samples, *configs)
    program = compiled.program
    given = inputs(program, "the samples", _arrays(graph.inputs, net, SAMPLES, seed=2))
    golden = GoldenBackend(program, compiled.reference)
    verdict = verify(program, given.buffers, (golden, backend))
    found = outputs(program, run_program(program, golden, given.buffers).buffers, given.samples)
    statistics = [each.statistics for each in verdict.results[1] if each.statistics]
    return ModelRun(
        net.name, kind, len(program.layers), kinds[OperatorNode], kinds[RuleNode], macs,
        verdict.compared, verdict.difference is None,
        _error(net, found), sum(each.cycles for each in statistics) / given.samples)


def _arrays(names: Sequence[str], net: Net, samples: int, seed: int) -> dict[str, np.ndarray]:
    return dict(zip(names, (x.numpy() for x in net.inputs(samples, seed)), strict=True))


def _error(net: Net, found: dict[str, np.ndarray]) -> float:
    """How far outputs are from those of the torch module."""
    with torch.no_grad():
        expected = net.module()(*net.inputs(SAMPLES, seed=2))
    expected = expected if isinstance(expected, tuple) else (expected,)
    pairs = [(y.numpy().reshape(-1).astype(np.float64), own.reshape(-1))
             for y, own in zip(expected, found.values(), strict=True)]
    return max(float(np.sqrt(np.mean((y - own)**2)) / max(np.std(y), 1e-9)) for y, own in pairs)
