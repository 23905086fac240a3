"""A model that is pruned: a torch module whose layers have names, and where it came from.

The module of an ONNX file interprets it (:mod:`zeroskip.sw.prune.onnx_model`), that of a ``.pt2``
file is the exported program itself (:mod:`zeroskip.sw.prune.pt2_model`); a live module is a copy of
what is given.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import as_samples
from zeroskip.sw.prune import statistics, train
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.losses import Loss, mean

ALONE = "prune it by its weights alone, without data, or train it where it was made."


@dataclass(frozen=True)
class Input:
    """An input of a model: its name, and of one sample the shape, with None for an open size."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype


@dataclass(frozen=True, eq=False)
class Model:
    """A model in memory.

    Attributes
    ----------
    source : str
        Its name in messages.
    module : nn.Module
    names : dict of str to str
        By layer that of its Linear, Conv1d or Conv2d in ``module``, in order. Of layers that share
        a weight the first is here.
    tied : dict of str to str
        The others, and whose weight they have.
    refused : dict of str to str
        Layers that cannot be changed, and why.
    inputs : tuple of Input, or None
        Those of a file; None where the module takes what it is given.
    batch : int or None
        Samples that a run takes, where that is fixed.
    obstacle : str
        Why the module cannot run, and so neither train nor be seen at work; empty where it can.
    """

    source: str
    module: nn.Module
    names: Mapping[str, str]
    tied: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Input, ...] | None = None
    batch: int | None = None
    obstacle: str = ""

    @property
    def layers(self) -> dict[str, statistics.Layer]:
        """The layers by name, in order."""
        return {name: self.module.get_submodule(part) for name, part in self.names.items()}

    def copy(self) -> "Model":
        """One that may be changed."""
        return replace(self, module=deepcopy(self.module))

    def of(self, module: nn.Module) -> "Model":
        """The same with another module of the same layers."""
        return replace(self, module=module)

    def density(self) -> float:
        """Fraction of the layers' weights that are not zero."""
        weights = [layer.weight for layer in self.layers.values()]
        return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Holds the module in training mode; what came from a file stays as it was exported."""
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.train()
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training

    def check_runs(self, why: str):
        """Raises BadInput, which says ``why`` it must, where the module cannot run."""
        if self.obstacle:
            raise BadInput(f"{self.source}: {self.obstacle}, and {why}; {ALONE}")

    def files(self, path: Path, notes: dict[str, str]) -> dict[Path, bytes]:
        """What is written, by path, of a model that was read, with ``notes`` in it."""
        raise NotImplementedError(f"{self.source} is no file: {path}, {notes}")

    def loosen(self, example: tuple[torch.Tensor, ...]):
        """Frees the sizes in the module that only follow from its layers; BadInput where they are
        fixed."""

    def check_computes(self, example: tuple[torch.Tensor, ...]):
        """Raises BadInput where the module does not compute what the file says."""

    def judge(self, data: Data, loss: Loss) -> dict[str, float]:
        """``accuracy`` or ``loss`` on prepared samples, in evaluation mode."""
        with statistics.watched(self.module, []), train.one_thread():
            return mean(self.module, data, loss)

    def prepared(self, data: Data, loss: Loss) -> Data:
        """The samples as the module takes them; BadInput where they do not fit it."""
        loss.check(data)
        self.check_runs("samples are of use only where it does")
        x = self._ordered(data.x)
        data = Data(x, data.y, self.batch)
        if len({len(each) for each in (*data.inputs, data.targets)}) > 1:
            raise BadInput("the inputs and targets are of different numbers of samples; give as "
                           "many of each.")
        self.check_computes(next(data.rows(slice(0, 2)).split(2)))
        self.judge(data.rows(slice(0, 1)), loss)
        if loss.classes and data.y is not None:
            worst = int(data.y.reshape(len(data), -1).max(axis=1).argmax())
            self.judge(data.rows(slice(worst, worst + 1)), loss)
        return data

    def example(self, data: Data | None, seed: int) -> tuple[torch.Tensor, ...]:
        """Two samples, or a fixed batch: of ``data``, or random ones as a file wants them."""
        if data is not None:
            return next(data.rows(slice(0, 2)).split(2))
        if self.inputs is None:
            raise BadInput("what leaves a module is found in a run; give data, with epochs = 0 if "
                           "nothing is to be trained.")
        open_sizes = [each.name for each in self.inputs if None in each.shape]
        if open_sizes:
            raise BadInput(f"the sizes of input {open_sizes[0]!r} are open, and what leaves a "
                           "model is found in a run; give data.")
        self.check_runs("what leaves a model is found in a run")
        numbers = torch.Generator().manual_seed(seed)
        return tuple(torch.rand(self.batch or 2, *each.shape, generator=numbers).to(
            torch.from_numpy(np.zeros(1, each.dtype)).dtype) for each in self.inputs)

    def _ordered(self, x) -> np.ndarray | dict[str, np.ndarray]:
        """The inputs in the order, the type and the shape of the model's."""
        if self.inputs is None:
            if not isinstance(x, Mapping):
                return _narrow(x)
            names = list(signature(self.module.forward).parameters)
            unknown = sorted(set(x) - set(names))
            if unknown:
                raise BadInput(f"the data have the input {unknown[0]!r}, and forward takes "
                               f"{', '.join(names)}; name the arrays so.")
            return {name: _narrow(x[name]) for name in names if name in x}
        if not isinstance(x, Mapping):
            x = {self.inputs[0].name: x}
        names = [each.name for each in self.inputs]
        if len(names) == len(x) == 1:
            x = dict(zip(names, x.values(), strict=True))
        if set(names) != set(x):
            raise BadInput(f"the data have the inputs {', '.join(sorted(x))}, and the model takes "
                           f"{', '.join(names)}; name the arrays so.")
        return {each.name: _shaped(each, x[each.name], len(names) == 1) for each in self.inputs}


def of_module(module: nn.Module, source: str = "") -> Model:
    """A live module itself, whose own names its layers have.

    Raises BadInput where it has no layers, or one whose weight something else makes.
    """
    found: dict[int, str] = {}
    names, tied, refused = {}, {}, {}
    for name, layer in train.layers(module).items():
        weight = layer._parameters.get("weight")
        if weight is None:
            refused[name] = (f"layer {name} works out its weight when it runs; remove the "
                             "parametrization, or leave it out.")
        elif isinstance(weight, nn.parameter.UninitializedParameter):
            raise BadInput(f"layer {name} has no weights yet; run the module once.")
        elif id(weight) in found:
            tied[name] = found[id(weight)]
            continue
        found[id(weight)] = name
        names[name] = name
    return checked(Model(source or type(module).__name__, module, names, tied, refused))


def checked(model: Model) -> Model:
    """The model; BadInput where nothing in it can be pruned."""
    if not model.names and not model.refused:
        raise BadInput(f"{model.source} holds no linear layer and no convolution with weights of "
                       "its own; give a model with at least one.")
    return model


def read(path: str | Path) -> "Model":
    """The model in an ``.onnx`` or ``.pt2`` file; BadInput where it is none."""
    from zeroskip.sw.prune import onnx_model, pt2_model
    readers: dict[str, Callable[[Path], Model]] = {
        ".onnx": onnx_model.read, ".pt2": pt2_model.read}
    path = Path(path)
    if path.suffix.lower() not in readers:
        raise BadInput(f"{path} is no model file by its name; give one that ends in "
                       f"{' or '.join(readers)}.")
    return readers[path.suffix.lower()](path)


def _narrow(values: Any) -> np.ndarray:
    """float64, which no module takes, as float32."""
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _shaped(own: Input, values: np.ndarray, alone: bool) -> np.ndarray:
    called = "x" if alone else f"{own.name!r}"
    if None not in own.shape:
        values = as_samples(called, values, own.shape or (1,)).reshape(-1, *own.shape)
    elif values.ndim != len(own.shape) + 1 or any(
            size not in (None, given) for size, given in zip(own.shape, values.shape[1:],
                                                             strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in own.shape)
        raise BadInput(f"{called} is {list(values.shape)}, but the model takes [batch, {wanted}]; "
                       "bring its axes into this order.")
    if own.dtype.kind == "f":
        return values.astype(own.dtype)
    converted = values.astype(own.dtype)
    if not np.array_equal(converted, values):
        raise BadInput(f"{called} is {values.dtype}, and the model takes {own.dtype}; give the "
                       "integers themselves.")
    return converted
