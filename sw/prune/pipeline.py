"""Pruning by recipe, from the dense model to what an engine takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write_all
from zeroskip.sw.formats.tensorfile import read_safetensors, safetensors
from zeroskip.sw.frontends.load import SUFFIXES, require_torch
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.recipe import STRUCTURAL, Recipe

if TYPE_CHECKING:
    from zeroskip.sw.prune.losses import Loss
    from zeroskip.sw.prune.model import Model


@dataclass(frozen=True)
class Stage:
    """A model on its way: ``"dense"`` (as given), ``"pruned"``, ``"shared"`` or ``"rounded"``.

    ``density`` is the fraction of the dense model's weights that are there and not zero, ``layers``
    that of the weights that each layer still has. ``accuracy`` is None without samples or where
    the loss knows no classes; there is ``loss`` then.
    """

    name: str
    density: float
    layers: dict[str, float]
    accuracy: float | None
    loss: float | None = None

    def as_json(self) -> dict:
        """What is told of it: ``loss`` only where there is one."""
        told = {"name": self.name, "density": self.density, "accuracy": self.accuracy}
        return told if self.loss is None else {**told, "loss": self.loss}


def prune(
    model: Model,
    recipe: Recipe,
    data: Data | None = None,
    evaluate: Callable[[Model], float] | None = None,
    *,
    loss: str | Callable | None = None,
    start: Model | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Model, list[Stage]]:
    """Prunes a copy of ``model`` and, if the recipe says so, shares or rounds its weights.

    Parameters
    ----------
    data : Data or None
        What ``recipe.data`` names, or any other samples; without, there is one cut, no training.
    evaluate : function or None
        Accuracy of a model; by default the fraction of ``data`` that is classified correctly, or
        the mean loss, where that is no cross-entropy.
    loss : str or function
        As :func:`zeroskip.sw.prune.losses.named` takes it, in place of the recipe's.
    start : Model or None
        What ``recipe.rewind`` names: the same layers with other weights.
    progress : function or None
        Called with the epochs done, their total and what is done.

    Returns the final model and every stage. Raises BadInput where the recipe names a layer that
    the model does not have, its data do not fit, a layer cannot be pruned, shared or rounded as it
    says, or the model cannot be trained; ToolMissing without torch.
    """
    require_torch()
    from zeroskip.sw.prune import cut
    from zeroskip.sw.prune.integer import round_weights
    from zeroskip.sw.prune.losses import named
    from zeroskip.sw.prune.share import share

    for row in plan(model, recipe):
        if row["reason"]:
            raise BadInput(row["reason"])
    own = named(recipe.loss if loss is None else loss)
    if data is not None:
        data = model.prepared(data, own)
    elif recipe.reconstruct or recipe.criterion == "lasso":
        raise BadInput(f"{recipe.reconstruct or recipe.criterion} needs samples; give data.")
    if start is not None:
        check_start(start, model)
    dense, model = model, model.copy()
    densities = _by_layer(model, recipe)
    stages: list[Stage] = []

    def stage(name, now):
        stages.append(_stage(name, now, dense, evaluate, data, own))

    fitting = {"epochs": recipe.epochs, "learning_rate": recipe.learning_rate,
               "seed": recipe.seed, "progress": progress, "loss": own}
    training = None if data is None else cut.Training(data, l1=recipe.l1, l2=recipe.l2, **fitting)
    how = {"criterion": recipe.criterion, "reconstruct": recipe.reconstruct, "training": training}
    stage("dense", model)
    if recipe.structural:
        example = model.example(data, recipe.seed)
        model.loosen(example)
        model = cut.remove(model, recipe.granularity, densities, example=example, **how)
    else:
        cut.prune(model, granularity(recipe.granularity, recipe.size), densities,
                  rounds=recipe.rounds, start=start, **how)
    stage("pruned", model)
    if recipe.centroids is not None:
        share(model, recipe.centroids, data=data, **fitting)
        stage("shared", model)
    if recipe.weight_bits is not None:
        round_weights(model, recipe.weight_bits, data=data, **fitting)
        stage("rounded", model)
    return model, stages


def plan(model: Model, recipe: Recipe) -> list[dict]:
    """What :func:`prune` would do, one row a layer, without doing it.

    A row has ``layer``, ``shape`` of its weights, ``units`` of the granularity, how many are
    ``kept``, and ``reason``: None, or why the layer cannot be pruned, shared or rounded so. Units
    are of the whole layer, of N:M those of a group and of banks those of the largest in a column;
    those of a layer that stays as it is are None. Raises BadInput where the recipe names layers
    that the model does not have, or none can be pruned.
    """
    densities, rows = _by_layer(model, recipe), []
    for name, layer in model.layers.items():
        shape = tuple(layer.weight.shape)
        units = kept = reason = None
        if len(shape) > 2 and recipe.centroids is not None:
            reason = (f"layer {name} is a convolution, and the EIE array, which shares weights, "
                      "takes fully-connected layers only; remove centroids.")
        elif name in densities and name in model.refused:
            reason = model.refused[name]
        elif name in densities:
            density = densities[name]
            try:
                units, density = _units(name, shape, recipe, density)
                kept = max(1, round(density * units))
            except BadInput as error:
                reason = str(error)
        rows.append({"layer": name, "shape": list(shape), "units": units, "kept": kept,
                     "reason": reason})
    rows += [{"layer": name, "shape": None, "units": None, "kept": None, "reason": reason}
             for name, reason in model.refused.items()
             if name not in model.names and (name in densities or not _is_table(recipe))]
    return rows


def check_name(path: Path, model: Path | None = None):
    """Raises BadInput where :func:`save` cannot write ``path`` by its name, or a file that is no
    weights of such a model lies where it would write them. ``model`` is what is pruned."""
    suffixes = SUFFIXES if model is None else (model.suffix.lower(),)
    if path.suffix not in suffixes:
        raise BadInput(f"{path}: a pruned model is written in the format that it has; give a name "
                       f"that ends in {' or '.join(suffixes)}.")
    weights = path.with_suffix(".safetensors")
    if weights.exists() and (weights.is_dir() or "history" not in read_safetensors(weights)[0]):
        raise BadInput(f"{weights} would be overwritten and was not written by prune; give another "
                       "name, or move it.")


def save(model: Model, recipe: Recipe, stages: list[Stage], path: Path):
    """Writes ``model``, which was read from a file of the same kind, as ``path``, and its weights
    as safetensors beside it.

    The file is the one that was read with other weights, under the names that they have there.
    Both hold the recipe in TOML and the history in JSON, the stages with their densities and
    accuracies: ONNX and safetensors in their metadata, ``.pt2`` as extra files. The tensors are
    named ``<layer>.weight`` and ``<layer>.bias``, float32, zeros and all. The same model, recipe
    and stages are the same bytes. Raises BadInput like :func:`check_name`.
    """
    check_name(path, Path(model.source))
    history = [{("stage" if key == "name" else key): value for key, value in
                {**stage.as_json(), "layers": stage.layers}.items()} for stage in stages]
    notes = {"recipe": recipe.to_toml(), "history": json.dumps(history)}
    tensors = {f"{name}.{kind}": np.ascontiguousarray(values.detach().numpy())
               for name, layer in model.layers.items() for kind in ("weight", "bias")
               if (values := getattr(layer, kind)) is not None}
    write_all(model.files(path, notes) | {
        path.with_suffix(".safetensors"): safetensors(tensors, notes)})


def _weights(model: Model) -> int:
    return sum(layer.weight.numel() for layer in model.layers.values())


def _stage(name: str, now: Model, dense: Model, evaluate, data: Data | None, loss: Loss) -> Stage:
    counts = {each: (int(layer.weight.count_nonzero()), layer.weight.numel())
              for each, layer in now.layers.items()}
    found = {} if data is None else now.judge(data, loss)
    if evaluate is not None:
        found = {"accuracy": evaluate(now)}
    return Stage(name, sum(nonzero for nonzero, _ in counts.values()) / _weights(dense),
                 {each: nonzero / size for each, (nonzero, size) in counts.items()},
                 found.get("accuracy"), found.get("loss"))


def _is_table(recipe: Recipe) -> bool:
    return isinstance(recipe.density, dict)


def _by_layer(model: Model, recipe: Recipe) -> dict[str, float | None]:
    """The density of every layer to prune, by its name in the model, in order."""
    table = recipe.density if isinstance(recipe.density, dict) else None
    kind = STRUCTURAL.get(recipe.granularity)
    shapes = {name: layer.weight.ndim for name, layer in model.layers.items()}
    names = [*shapes, *(name for name in model.refused if name not in shapes)]
    last = next(reversed(shapes), None)
    units = [name for name, axes in shapes.items()
             if kind and name != last and (axes > 2) == (kind == "convolution")]
    if kind and not units:
        raise BadInput(f"no layer but the last has units of granularity {recipe.granularity!r}; "
                       "choose another.")
    for name in table or ():
        if name in model.tied:
            raise BadInput(f"layer {name} has the weight of layer {model.tied[name]}; name that "
                           "one in density.")
        if name not in names:
            raise BadInput(f"density names the layer {name!r}, which the network does not have; "
                           f"its layers are {', '.join(names)}.")
        if kind and name not in units:
            raise BadInput(f"layer {name} has no {recipe.granularity} that could go: those of the "
                           f"last layer stay; leave it out, or choose from {', '.join(units)}.")
    if table is None:
        return dict.fromkeys(units or names, recipe.density)
    return {name: table[name] for name in names if name in table}


def _units(name, shape, recipe, density) -> tuple[int, float]:
    """Units of a layer, and the fraction that stays; BadInput where it has none of that kind."""
    if recipe.structural:
        return shape[0], density
    rule = granularity(recipe.granularity, recipe.size)
    rule.check(f"layer {name}", shape)
    return rule.units(shape), density if rule.density is None else rule.density


def check_start(start: Model, model: Model):
    """Raises BadInput where ``model`` cannot rewind to ``start``."""
    shapes, wanted = ([list(layer.weight.shape) for layer in each.layers.values()]
                      for each in (start, model))
    if shapes != wanted:
        raise BadInput(f"the model to rewind to has weights of {shapes}, and the one to prune of "
                       f"{wanted}; give the same layers.")
