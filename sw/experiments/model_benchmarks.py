"""Nets as people export them: each read, compiled and run in RTL, output by output, and layer by
layer beside the float model.

The everyday nets go through every export on a small core; the networks that others measure by
through torch's default on a larger one, a sample each.
"""

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
from zeroskip.sw.errors import BadInput
from zeroskip.sw.experiments import everyday, reference_nets
from zeroskip.sw.experiments.everyday import Net
from zeroskip.sw.files import write
from zeroskip.sw.frontends.load import read
from zeroskip.sw.frontends.torch_frontend import quietly
from zeroskip.sw.graph.graph import OperatorNode, RuleNode
from zeroskip.sw.runtime.arrays import inputs, outputs
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.float_model import FloatModel
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

SMALL, LARGE = TENSORCORE["tc-8"], TENSORCORE["tc-64"]
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
class Job:
    """A net in one export, for a configuration, with samples to calibrate it and to run."""

    net: Net
    export: str
    config: CoreConfig = SMALL
    calibration: int = CALIBRATION
    samples: int = SAMPLES


def jobs(names: Sequence[str] | None) -> list[Job]:
    """Those of the nets of these names, or of the everyday ones; ``BadInput`` for another name."""
    known = [net.name for net in (*everyday.NETS, *reference_nets.NETS)]
    for name in names or ():
        if name not in known:
            raise BadInput(f"there is no net '{name}'; choose from {', '.join(known)}")
    small = [net for net in everyday.NETS if not names or net.name in names]
    large = [net for net in reference_nets.NETS if net.name in (names or ())]
    return [*(Job(net, kind) for net in small for kind in EXPORTS),
            *(Job(net, "default", LARGE, 8, 1) for net in large)]


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
    share : float or None
        The greatest share of its bound by which an output of a layer is off the float model, 1
        being all of it; None of a file that is no ONNX model.
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
    share: float | None
    error: float
    cycles: float


def export(net: Net, kind: str, folder: Path) -> Path:
    """A file of a net."""
    with quietly():
        return EXPORTS[kind](net, folder / f"{net.name}-{kind}")


def run(job: Job, folder: Path, backend: Backend) -> ModelRun:
    """Exports, reads, compiles and runs a net; ``BadInput`` where it cannot be."""
    net, path = job.net, export(job.net, job.export, folder)
    graph = read(path)
    macs = sum(row["macs"] or 0 for row in inspect(graph))
    kinds = Counter(map(type, integer.take(graph).nodes))
    compiled = compile_network(graph, _arrays(graph.inputs, net, job.calibration, seed=1),
                               job.config, batch=job.samples)      # none idles
    program = compiled.program
    given = inputs(program, "the samples", _arrays(graph.inputs, net, job.samples, seed=2))
    golden = GoldenBackend(program, compiled.reference)
    verdict = verify(program, given.buffers, (golden, backend))
    done = run_program(program.traced(), golden, given.buffers)
    found = outputs(program, done.buffers, given.samples)
    share = None
    if path.suffix == ".onnx":
        opinion = FloatModel(path, program, compiled.reference).compare(done, given.real)
        share = max(layer.share for layer in opinion.layers)
    statistics = [each.statistics for each in verdict.results[1] if each.statistics]
    return ModelRun(
        net.name, job.export, len(program.layers), kinds[OperatorNode], kinds[RuleNode], macs,
        verdict.compared, verdict.difference is None, share,
        _error(net, found, job.samples),
        sum(each.cycles for each in statistics) / given.samples)


def _arrays(names: Sequence[str], net: Net, samples: int, seed: int) -> dict[str, np.ndarray]:
    return dict(zip(names, (x.numpy() for x in net.inputs(samples, seed)), strict=True))


def _error(net: Net, found: dict[str, np.ndarray], samples: int) -> float:
    """How far outputs are from those of the torch module."""
    with torch.no_grad():
        expected = net.module()(*net.inputs(samples, seed=2))
    expected = expected if isinstance(expected, tuple) else (expected,)
    pairs = [(y.numpy().reshape(-1).astype(np.float64), own.reshape(-1))
             for y, own in zip(expected, found.values(), strict=True)]
    return max(float(np.sqrt(np.mean((y - own)**2)) / max(np.std(y), 1e-9)) for y, own in pairs)
