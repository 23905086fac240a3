"""Command ``bench accuracy``: what equal banks cost, beside pruning without a pattern."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.engines.eie import golden as eie
from zeroskip.sw.engines.eie.quantize import quantize
from zeroskip.sw.experiments import digits
from zeroskip.sw.graph.network import Network
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.pipeline import prune
from zeroskip.sw.prune.recipe import Recipe

BANKS = 4
"""PEs of the demo's array."""
DENSITIES = (0.25, 0.12, 0.06)
"""Asked of the banks; they keep whole numbers, so others result."""
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Trial:
    """One pruned network: ``density`` is the fraction of its weights that are not zero,
    ``accuracy`` that of the test images which it classifies correctly in integers."""

    pruning: str
    density: float
    accuracy: float


def accuracy(screen: Screen) -> None:
    """See ``zeroskip bench accuracy --help``."""
    trials, ways = [], 1 + 2 * len(DENSITIES)
    with screen.progress("training") as update:
        for seed in SEEDS:
            for trial in _trials(seed):
                trials.append(trial)
                update(len(trials), ways * len(SEEDS), f"training, seed {seed}")
    rows = [_row(trials[way::ways]) for way in range(ways)]
    shown = ["pruning", "density", "accuracy_mean", "accuracy_min", "accuracy_max"]
    screen.table(f"digits in {BANKS} banks, 4-bit weights, {len(SEEDS)} seeds: accuracy of the "
                 "integer reference", shown, [[row[key] for key in shown] for row in rows])
    screen.result({"rows": rows})


def _trials(seed: int) -> Iterator[Trial]:
    """The ways of the rows in order, each pruned, fine-tuned and shared from the same network.

    Without a pattern each layer keeps just as many weights as in banks.
    """
    from zeroskip.sw.prune.model import of_module

    train, test = digits.load()
    start = of_module(digits.train_linear(train, seed))
    recipe = Recipe(1.0, centroids=15, seed=seed, **digits.LINEAR)

    def trial(pruning: str, **changes) -> tuple[Any, Trial]:
        model, stages = prune(start, replace(recipe, **changes), train)
        network = Network(tuple(node.layer for node in digits.graph(model.module).layers))
        return model, Trial(pruning, stages[-1].density, _integer_accuracy(network, train, test))

    yield trial("none")[1]
    for density in DENSITIES:
        model, balanced = trial(
            "bank-balanced", density=density, granularity="banks", size=BANKS)
        yield trial("unstructured", density={
            name: int(layer.weight.count_nonzero()) / layer.weight.numel()
            for name, layer in model.layers.items()})[1]
        yield balanced


def _integer_accuracy(network: Network, train: Data, test: Data) -> float:
    """Accuracy on the test images of the network in integers, its scales from the training's."""
    layers, _ = quantize(network, train.x)
    y, _ = layers[0].input.to_integer(test.x)
    for layer in layers:
        y, _ = eie.layer(y, layer.weight, layer.bias, layer.shift, layer.activation)
    return float(np.mean(y.argmax(axis=1) == test.y))


def _row(trials: list[Trial]) -> dict:
    """What one way of pruning gives over the seeds."""
    accuracies = [trial.accuracy for trial in trials]
    return {
        "pruning": trials[0].pruning,
        "density": float(np.mean([trial.density for trial in trials])),
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_min": min(accuracies),
        "accuracy_max": max(accuracies),
        "accuracies": accuracies,
    }
