"""Losses: what training makes small, and what a model is judged by."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.recipe import LOSSES


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes
    ----------
    name : str
        One of :data:`zeroskip.sw.prune.recipe.LOSSES`, or ``module:function``.
    function : callable
        Of outputs and targets, a scalar tensor.
    """

    name: str
    function: Callable

    @property
    def classes(self) -> bool:
        """Whether the targets are classes, so that there is an accuracy."""
        return self.name == "cross_entropy"

    def __call__(self, outputs, targets: torch.Tensor) -> torch.Tensor:
        """Raises BadInput where they do not fit one another."""
        return self.function(outputs, targets)

    def check(self, data: Data):
        """Raises BadInput where the targets are of another kind."""
        y = data.y
        if not self.classes:
            return
        if y is None:
            raise BadInput("cross_entropy needs the class of each sample; give an array y with the "
                           "data, or the loss mse.")
        if y.dtype.kind not in "iu" or y.min() < 0:
            raise BadInput(f"y is {y.dtype} {list(y.shape)}; it must be one class from 0 for each "
                           f"of the {len(data)} samples.")


def named(loss: str | Callable) -> Loss:
    """The loss of that name, or of a Python function of outputs and targets.

    ``module:function`` is imported, also from the working directory. Raises BadInput where there
    is none.
    """
    if isinstance(loss, Loss):
        return loss
    if callable(loss):
        return Loss(f"{loss.__module__}:{getattr(loss, '__qualname__', type(loss).__name__)}", loss)
    if loss in LOSSES:
        return Loss(loss, {"cross_entropy": _cross_entropy, "mse": _mse}[loss])
    module, _, name = loss.partition(":")
    if not module or not name:
        raise BadInput(f"there is no loss {loss!r}; choose {', '.join(LOSSES)} or module:function.")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = getattr(import_module(module), name)
    except Exception as error:      # whatever the module does
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadInput(f"the loss {loss!r} cannot be imported ({reason}); give a module that lies "
                       "here or is installed, and a function of it.") from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not callable(function):
        raise BadInput(f"the loss {loss!r} is no function; give one of outputs and targets.")
    return Loss(loss, function)


@torch.no_grad()
def mean(forward: Callable, data: Data, loss: Loss) -> dict[str, float]:
    """``accuracy`` of a model whose loss is the cross-entropy, or else its ``loss``: the mean over
    the samples, in runs of :data:`RUN`."""
    targets = torch.from_numpy(np.ascontiguousarray(data.targets))
    total, done = 0.0, 0
    for inputs in data.split(RUN):
        y = targets[done:done + len(inputs[0])]
        outputs = _first(forward(*inputs), len(y))
        total += int((_matched(outputs, y).argmax(1) == y).sum()) * len(y) / max(y.numel(), 1) \
            if loss.classes else len(y) * float(loss(outputs, y))
        done += len(y)
    return {"accuracy" if loss.classes else "loss": total / len(data)}


RUN = 512


def _first(outputs, count):
    """Without what fills up a fixed batch."""
    if isinstance(outputs, tuple | list):
        return type(outputs)(_first(each, count) for each in outputs)
    return outputs[:count] if isinstance(outputs, torch.Tensor) else outputs


def _one(outputs) -> torch.Tensor:
    while isinstance(outputs, tuple | list) and len(outputs) == 1:
        outputs = outputs[0]
    if not isinstance(outputs, torch.Tensor):
        what = f"{len(outputs)} outputs" if isinstance(outputs, tuple | list | dict) \
            else f"a {type(outputs).__name__}"
        raise BadInput(f"the model returns {what}, and this loss takes one; give a loss "
                       "module:function, which gets what the model returns.")
    return outputs


def _matched(outputs, y) -> torch.Tensor:
    """The logits [samples, classes, ...] for classes [samples, ...]."""
    outputs = _one(outputs)
    if outputs.ndim < 2 or outputs.shape[:1] + outputs.shape[2:] != y.shape:
        if outputs.ndim < 2 or y.numel() * outputs.shape[1] != outputs.numel():
            raise BadInput(f"the outputs are {list(outputs.shape)} and the classes "
                           f"{list(y.shape)}; give a class for each sample, or another loss.")
        outputs = outputs.reshape(*outputs.shape[:2], *y.shape[1:])
    if len(y) and int(y.max()) >= outputs.shape[1]:
        raise BadInput(f"y holds class {int(y.max())}, but the network has {outputs.shape[1]} "
                       "outputs; number the classes from 0.")
    return outputs


def _cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(_matched(outputs, targets), targets.long())


def _mse(outputs, targets):
    outputs = _one(outputs)
    if outputs.numel() != targets.numel() or outputs.shape[:1] != targets.shape[:1]:
        raise BadInput(f"the outputs are {list(outputs.shape)} and the targets "
                       f"{list(targets.shape)}; give as many targets as there are outputs.")
    return nn.functional.mse_loss(outputs, targets.reshape(outputs.shape).to(outputs.dtype))
