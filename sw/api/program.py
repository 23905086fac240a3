"""What ``import zeroskip`` gives: a model compiled, run and verified in a few lines."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from zeroskip.sw.api import page
from zeroskip.sw.compiler import compile as compiler
from zeroskip.sw.compiler import program as programs
from zeroskip.sw.compiler import reference as references
from zeroskip.sw.compiler.placement import chosen
from zeroskip.sw.compiler.targets import name_of
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import from_torch, read
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.graph.samples import as_array
from zeroskip.sw.runtime import arrays, backends, facts
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import Verdict
from zeroskip.sw.runtime.verify import verify as compare


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled model; :func:`compile` and :func:`load` make one.

    Attributes
    ----------
    program : zeroskip.sw.compiler.program.Program
        Its steps, and what is put into the cores.
    reference : tuple
        The integer reference of its layers.
    facts : tuple
        What quantisation did to each layer; empty of a program that was loaded.
    """

    program: programs.Program
    reference: tuple[ReferenceLayer, ...]
    facts: tuple = ()

    def __call__(self, *inputs: Any, backend: str = "golden") -> Any:
        """Outputs of samples, batch first, flat or in the model's shape: an array, or a dict of
        arrays of a model with several outputs.

        ``inputs`` are arrays or tensors, one for each of the model's inputs, or one dict by name.
        ``backend`` runs it: ``"golden"``, the integer reference, or a simulation of the gateware.
        Warns of inputs that lie far outside the calibrated range.
        """
        given = self._inputs(inputs)
        done = run_program(self.program, self._backend(backend), given.buffers)
        found = arrays.outputs(self.program, done.buffers, given.samples)
        return found if len(found) > 1 else next(iter(found.values()))

    def verify(self, *inputs: Any, backend: str | None = None) -> Verdict:
        """The integer reference against the gateware, buffer by buffer; the verdict's
        ``difference`` is None where all are equal. ``backend`` is the fastest simulator that is
        found."""
        pair = (self._backend("golden"), self._backend(backend or backends.default()))
        return compare(self.program, self._inputs(inputs).buffers, pair)

    def report(self) -> list[dict]:
        """A row for each layer and each step of the host: ``step`` (an engine, or ``"host"``),
        ``target``, ``layer`` (the host's: what it writes), and what is known of the layer."""
        rows, facts = [], iter(self.program.by_step(self.facts or repeat(None)))
        for step in self.program.steps:
            if isinstance(step, programs.EngineStep):
                own = registry.engine(step.image.engine)
                rows += [{"step": own.name, "target": name_of(step.image.config),
                          "layer": layer.name, **(own.describe(layer, fact) if fact else {})}
                         for layer, fact in zip(step.image.layers, next(facts), strict=True)]
            else:
                rows.append({"step": "host", "target": None, "layer": ", ".join(step.writes)})
        return rows

    def save(self, path: str | Path) -> None:
        """Writes the program, ``.zsk``, and its reference beside it."""
        compiler.Compiled(self.program, self.reference, self.facts).save(Path(path))

    def _backend(self, name: str) -> backends.Backend:
        return backends.create(name, self.program, lambda: self.reference)

    def _inputs(self, inputs: Sequence) -> arrays.Inputs:
        names = [port.name for port in self.program.inputs]
        given = arrays.inputs(self.program, "the input", _by_name(names, inputs))
        if given.warning:
            warnings.warn(given.warning, stacklevel=3)
        return given

    def _repr_html_(self) -> str:
        """Its layers and steps, for a notebook."""
        return page.table(facts.steps(self.program))


def compile(model: Any, *inputs: Any, target: str | Sequence[str] = (),     # noqa: A001 - as torch
            engine: str | None = None, batch: int | None = None,
            placement: Mapping[str, str] | None = None, calibration_method: str = "min-max",
            smooth: bool = False) -> Program:
    """A model for the engines.

    Parameters
    ----------
    model : path, nn.Module, ExportedProgram or Graph
        An ``.onnx`` or ``.pt2`` file, or what torch has in memory.
    inputs : arrays or tensors
        Samples for each input, batch first, or one dict by name: they set the scales, and a module
        is exported with the first of them. None for a model that is quantised.
    target : name, or several, of each engine one
        Configurations; by default the smallest of each engine that hold the model.
    engine : str, optional
        All layers go to this one; by default each to the one that suits it.
    batch : int, optional
        Samples that an engine takes together.
    placement : dict of str to str, optional
        Engines by the names of layers, such as ``{"fc*": "eie"}``.
    calibration_method : str
        How the samples set the range of each value: ``"min-max"``, ``"percentile"`` (without the
        0.01 % of greatest magnitudes) or ``"mse"`` (least squared error of the integers).
    smooth : bool
        Whether outlier channels behind layer normalisation, and between linear layers, are moved
        into int8 weights (SmoothQuant), where the samples say that it helps.

    Raises
    ------
    BadInput
        With one sentence that says what is wrong, and what to do.
    """
    graph = _graph(model, inputs)
    names = [target] if isinstance(target, str) else list(target)
    given = _by_name(graph.inputs, inputs) if inputs else None
    configs = chosen(graph, engine, names, placement)
    compiled = compiler.compile_network(graph, given, *configs, batch=batch, wishes=placement,
                                        method=calibration_method, smooth=smooth)
    return Program(compiled.program, compiled.reference, compiled.report)


def load(path: str | Path) -> Program:
    """A program that was saved, with the reference beside it."""
    path = Path(path)
    return Program(programs.Program.load(path), references.load(references.beside(path)))


def _graph(model: Any, inputs: Sequence) -> Graph:
    if isinstance(model, Graph):
        return model
    if isinstance(model, str | Path):
        return read(model)
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):     # in the order of forward's
        names = signature(getattr(model, "forward", model)).parameters
        inputs = [inputs[0][name] for name in names if name in inputs[0]]
    tensors = [_tensor(value) for value in inputs]
    graph = from_torch(model, tuple(each[:1] for each in tensors))
    if graph.batch == 1 and hasattr(model, "modules"):      # not a program, which has its batch
        from zeroskip.sw.api.apart import check_apart
        from zeroskip.sw.frontends.torch_frontend import evaluating
        with evaluating(model):
            check_apart(model, tensors, "give the model's batch a dimension of its own")
    return graph


def _tensor(value: Any) -> Any:
    import torch
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value))


def _by_name(names: Sequence[str], inputs: Sequence) -> dict[str, np.ndarray]:
    """Arrays by the names of a model's inputs."""
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        return {name: as_array(value) for name, value in inputs[0].items()}
    if len(inputs) != len(names):
        raise BadInput(f"{len(inputs)} inputs are given, but the model takes {len(names)}: "
                       f"{', '.join(names)}; give an array for each")
    return {name: as_array(value) for name, value in zip(names, inputs, strict=True)}
