"""``zeroskip.prune``: models pruned in Python, as files or as modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.graph.samples import as_array
from zeroskip.sw.prune import pipeline
from zeroskip.sw.prune.data import Data, read_data
from zeroskip.sw.prune.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from torch import nn

Samples = Data | str | Path | Mapping[str, Any] | tuple[Any, Any] | Any
"""What ``data`` may be: an ``.npz`` file; inputs and targets; inputs alone, one array or several by
name; or :class:`zeroskip.sw.prune.data.Data`."""

Steps = Recipe | Mapping[str, Any] | str | Path
"""A recipe: its file, its keys, or :class:`zeroskip.sw.prune.recipe.Recipe`."""


@overload
def prune(model: str | Path, recipe: Steps, data: Samples | None = None, *, out: str | Path,
          loss: str | Callable | None = None, start: Any = None,
          progress: Callable[[int, int, str], None] | None = None) -> Path: ...


@overload
def prune(model: nn.Module, recipe: Steps, data: Samples | None = None, *,
          loss: str | Callable | None = None, start: Any = None,
          progress: Callable[[int, int, str], None] | None = None) -> nn.Module: ...


def prune(model, recipe, data=None, *, out=None, loss=None, start=None, progress=None):
    """A model pruned by a recipe: a new module of the same class, or of a file the path ``out``.

    Parameters
    ----------
    model : nn.Module, or path of an ``.onnx`` or ``.pt2`` file
        A file is written again as it was, with other weights; a module stays as it is, and a
        changed copy is returned. A module is trained in training mode; what comes from a file
        trains as it was exported, with batch norms frozen and without dropout.
    recipe : Recipe, dict or path
        See :mod:`zeroskip.sw.prune.recipe`.
    data : optional
        Samples in place of the recipe's: a path, ``(inputs, targets)``, or inputs alone, arrays or
        tensors. Without any, there is one cut and no training.
    out : path
        Where a file goes, of the suffix that ``model`` has; its weights are beside it.
    loss : str or function of outputs and targets
        ``"cross_entropy"`` of classes, ``"mse"``, whose targets are the inputs where there are
        none, ``"module:name"``, or a function; in place of the recipe's.
    start : like ``model``
        What the recipe's ``rewind`` names.
    progress : function
        Called with the epochs done, their total and what is done.

    Raises
    ------
    BadInput
        With one sentence that says what is wrong, and what to do.
    ToolMissing
        Without torch.
    """
    require_torch()
    from zeroskip.sw.prune import model as models

    steps, folder = _steps(recipe)
    samples = steps.samples(folder) if data is None else _samples(data)
    is_file = isinstance(model, str | Path)
    if is_file != (out is not None):
        raise BadInput("out is the path of a model that was read from a file; " + (
            "give one." if is_file else "leave it out, since a module is returned."))
    if out is not None:
        pipeline.check_name(Path(out), Path(model))
    if start is None and steps.rewind is not None:
        start = folder / steps.rewind
    found, stages = pipeline.prune(
        _model(models, model), steps, samples, loss=loss, progress=progress,
        start=None if start is None else _model(models, start))
    if out is None:
        return found.module
    pipeline.save(found, steps, stages, Path(out))
    return Path(out)


def _model(models, given):
    return models.read(given) if isinstance(given, str | Path) else models.of_module(given)


def _steps(recipe: Steps) -> tuple[Recipe, Path]:
    """A recipe, and the folder that its paths begin in."""
    if isinstance(recipe, str | Path):
        return read_recipe(recipe), Path(recipe).parent
    if isinstance(recipe, Mapping):
        try:
            recipe = Recipe(**recipe)
        except TypeError as error:
            raise BadInput(f"the recipe has a key that none has ({error}); see "
                           "zeroskip.sw.prune.recipe.") from error
    return recipe, Path()


def _samples(data: Samples) -> Data:
    if isinstance(data, Data):
        return data
    if isinstance(data, str | Path):
        return read_data(data)
    if isinstance(data, tuple):
        inputs, targets = data
        return Data(_inputs(inputs), as_array(targets))
    return Data(_inputs(data))


def _inputs(values):
    if isinstance(values, Mapping):
        return {name: as_array(each) for name, each in values.items()}
    return as_array(values)
