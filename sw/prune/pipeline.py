"""Pruning by recipe, from the dense network to what an engine takes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import beside
from zeroskip.sw.formats.tensorfile import read_safetensors, write_safetensors
from zeroskip.sw.frontends.load import WRITERS, require_torch
from zeroskip.sw.graph.network import Conv2d, Network
from zeroskip.sw.prune.data import Data, accuracy, check_fits
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.recipe import STRUCTURAL, Recipe


@dataclass(frozen=True)
class Stage:
    """A network on its way: ``"dense"`` (as given), ``"pruned"``, ``"shared"`` or ``"rounded"``.

    ``density`` is the fraction of the dense network's weights that are there and not zero,
    ``accuracy`` what ``evaluate`` of :func:`prune` says, None without.
    """

    name: str
    network: Network
    density: float
    accuracy: float | None


def prune(
    network: Network,
    recipe: Recipe,
    data: Data | None = None,
    evaluate: Callable[[Network], float] | None = None,
    *,
    start: Network | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Network, list[Stage]]:
    """Prunes ``network`` and, if the recipe says so, shares or rounds its weights.

    Parameters
    ----------
    data : Data or None
        What ``recipe.data`` names, or any other samples; without, there is one cut, no training.
    evaluate : function or None
        Accuracy of a network; by default the fraction of ``data`` that is classified correctly.
    start : Network or None
        What ``recipe.rewind`` names: the same layers with other weights.
    progress : function or None
        Called with the epochs done, their total and what is done.

    Returns the final network and every stage. Raises BadInput where the recipe names a layer that
    the network does not have, its data do not fit, or a layer cannot be pruned, shared or rounded
    as it says; ToolMissing without torch.
    """
    require_torch()
    from zeroskip.sw.frontends.torch_frontend import to_torch, with_weights
    from zeroskip.sw.prune import cut
    from zeroskip.sw.prune.integer import round_weights
    from zeroskip.sw.prune.share import share
    from zeroskip.sw.prune.train import layers

    for row in plan(network, recipe):
        if row["reason"]:
            raise BadInput(row["reason"])
    if data is not None:
        check_fits(data, network)
        evaluate = evaluate or (lambda network: accuracy(network, data))
    elif recipe.reconstruct or recipe.criterion == "lasso":
        raise BadInput(f"{recipe.reconstruct or recipe.criterion} needs samples; give data.")
    if start is not None:
        check_start(start, network)
    module = to_torch(network)
    names = dict(zip([layer.name for layer in network.layers], layers(module), strict=True))
    densities = {names[name]: density for name, density in _by_layer(network, recipe).items()}
    stages = []

    def stage(name, now):
        nonzero, weights = (sum(count(layer.weight) for layer in each.layers) for each, count in (
            (now, np.count_nonzero), (network, np.size)))
        stages.append(Stage(name, now, float(nonzero / weights), evaluate and evaluate(now)))

    fitting = {"epochs": recipe.epochs, "learning_rate": recipe.learning_rate,
               "seed": recipe.seed, "progress": progress}
    training = None if data is None else cut.Training(data, l1=recipe.l1, l2=recipe.l2, **fitting)
    how = {"criterion": recipe.criterion, "reconstruct": recipe.reconstruct, "training": training}
    stage("dense", network)
    if recipe.structural:
        module = cut.remove(module, recipe.granularity, densities, inputs=network.inputs,
                            seed=recipe.seed, **how)
    else:
        cut.prune(module, granularity(recipe.granularity, recipe.size), densities,
                  rounds=recipe.rounds, start=start and to_torch(start), **how)
    stage("pruned", with_weights(network, module))
    if recipe.centroids is not None:
        share(module, recipe.centroids, data=data, **fitting)
        stage("shared", with_weights(network, module))
    if recipe.weight_bits is not None:
        round_weights(module, recipe.weight_bits, data=data, **fitting)
        stage("rounded", with_weights(network, module))
    return stages[-1].network, stages


def plan(network: Network, recipe: Recipe) -> list[dict]:
    """What :func:`prune` would do, one row a layer, without doing it.

    A row has ``layer``, ``shape`` of its weights, ``units`` of the granularity, how many are
    ``kept``, and ``reason``: None, or why the layer cannot be pruned, shared or rounded so. Units
    are of the whole layer, of N:M those of a group and of banks those of the largest in a column;
    those of a layer that stays as it is are None. Raises BadInput where the recipe names layers
    that the network does not have, or none can be pruned.
    """
    densities, rows = _by_layer(network, recipe), []
    for layer in network.layers:
        shape, name = layer.weight.shape, layer.name
        units = kept = reason = None
        if isinstance(layer, Conv2d) and recipe.centroids is not None:
            reason = (f"layer {name} is a convolution, and the EIE array, which shares weights, "
                      "takes fully-connected layers only; remove centroids.")
        elif name in densities:
            density = densities[name]
            try:
                units, density = _units(layer, recipe, density)
                kept = max(1, round(density * units))
            except BadInput as error:
                reason = str(error)
        rows.append({"layer": name, "shape": list(shape), "units": units, "kept": kept,
                     "reason": reason})
    return rows


def check_name(path: Path):
    """Raises BadInput where :func:`save` cannot write ``path`` by its name, or a file that is no
    weights of such a model lies where it would write them."""
    if path.suffix not in WRITERS:
        raise BadInput(f"{path}: a pruned model is written as ONNX or for torch; give a name that "
                       f"ends in {' or '.join(WRITERS)}.")
    weights = path.with_suffix(".safetensors")
    if weights.exists() and (weights.is_dir() or "history" not in read_safetensors(weights)[0]):
        raise BadInput(f"{weights} would be overwritten and was not written by prune; give another "
                       "name, or move it.")


def save(network: Network, recipe: Recipe, stages: list[Stage], path: Path):
    """Writes ``network`` as ``path``, ONNX or ``.pt2``, and its weights as safetensors beside it.

    Both hold the recipe in TOML and the history in JSON, the stages with their densities and
    accuracies: ONNX and safetensors in their metadata, ``.pt2`` as extra files. The tensors are
    named ``<layer>.weight`` and ``<layer>.bias``, float32, zeros and all; a ``.pt2`` has torch's
    names for the layers, in the same order. The same network, recipe and stages are the same bytes.
    Raises BadInput like :func:`check_name`.
    """
    check_name(path)
    history = [{"stage": stage.name, "density": stage.density, "accuracy": stage.accuracy,
                "layers": {layer.name: float(np.count_nonzero(layer.weight) / layer.weight.size)
                           for layer in stage.network.layers}} for stage in stages]
    notes = {"recipe": recipe.to_toml(), "history": json.dumps(history)}
    tensors = {f"{layer.name}.{kind}": np.ascontiguousarray(getattr(layer, kind))
               for layer in network.layers for kind in ("weight", "bias")}
    with beside(path.with_suffix(".safetensors")) as second, beside(path) as first:
        WRITERS[path.suffix](network, first, notes)
        write_safetensors(second, tensors, notes)


def _by_layer(network, recipe) -> dict[str, float | None]:
    """The density of every layer to prune, by its name in the network, in order."""
    named, kind = isinstance(recipe.density, dict), STRUCTURAL.get(recipe.granularity)
    names = [layer.name for layer in network.layers]
    units = [layer.name for layer in network.layers[:-1] if kind and isinstance(layer, kind)]
    if kind and not units:
        raise BadInput(f"no layer but the last has units of granularity {recipe.granularity!r}; "
                       "choose another.")
    for name in recipe.density if named else ():
        if name not in names:
            raise BadInput(f"density names the layer {name!r}, which the network does not have; "
                           f"its layers are {', '.join(names)}.")
        if kind and name not in units:
            raise BadInput(f"layer {name} has no {recipe.granularity} that could go: those of the "
                           f"last layer stay; leave it out, or choose from {', '.join(units)}.")
    densities = recipe.density if named else dict.fromkeys(units or names, recipe.density)
    return {name: densities[name] for name in names if name in densities}


def _units(layer, recipe, density) -> tuple[int, float]:
    """Units of a layer, and the fraction that stays; BadInput where it has none of that kind."""
    shape = layer.weight.shape
    if recipe.structural:
        return shape[0], density
    rule = granularity(recipe.granularity, recipe.size)
    rule.check(f"layer {layer.name}", shape)
    return rule.units(shape), density if rule.density is None else rule.density


def check_start(start: Network, network: Network):
    """Raises BadInput where ``network`` cannot rewind to ``start``."""
    shapes, wanted = ([layer.weight.shape for layer in each.layers] for each in (start, network))
    if shapes != wanted:
        raise BadInput(f"the model to rewind to has weights of {[list(s) for s in shapes]}, and "
                       f"the one to prune of {[list(s) for s in wanted]}; give the same layers.")
