"""Commands ``scan`` and ``search``: how many weights each layer may lose."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from zeroskip.sw.cli import plots
from zeroskip.sw.cli.files import check_writable
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.targets import targets
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.graph.network import Network
from zeroskip.sw.prune.data import Data, accuracy, check_fits
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.ratios import (
    ALLOCATORS,
    Cost,
    Densities,
    OneShot,
    Progress,
    Task,
    density_steps,
    halves,
    macs,
)
from zeroskip.sw.prune.ratios import scan as scan_layers
from zeroskip.sw.prune.recipe import Recipe, read_recipe
from zeroskip.sw.prune.search import SEARCHES, named

COSTS = ("cycles", "bytes", "macs")
COUNTED = ("amc", "random")
"""Searches that are told how many networks to evaluate."""
SAMPLES = 4
"""Over which cycles are a mean."""


def scan(model: Path, recipe: Path, plot: Path | None, screen: Screen) -> None:
    """See ``zeroskip scan --help``."""
    if plot:
        plots.check(plot)
    network, steps, data = _read(model, recipe)
    densities = density_steps().tolist()
    with screen.progress("scanning") as update:
        found = scan_layers(_one_shot(network, steps, data), densities,
                            partial(accuracy, data=data), update)
    if plot:
        plots.write_scan(plot, densities, found)
    screen.table(f"{model}: accuracy on the recipe's data in %, one layer cut to a density in %",
                 ["layer", *(f"{100 * each:.3g}" for each in densities)],
                 [[name, *(round(100 * value, 1) for value in values)]
                  for name, values in found.items()])
    screen.result({"densities": densities, "accuracy": found})


def search(model: Path, recipe: Path, method: str, budget: float, kind: str, target: str | None,
           evaluations: int | None, out: Path, screen: Screen) -> None:
    """See ``zeroskip search --help``."""
    _check(method, budget, kind, target, evaluations)
    if out.suffix != ".toml":
        raise BadInput(f"{out}: what is found is a recipe; give a name that ends in .toml")
    check_writable(out)
    from_samples = _cost(kind, target)
    network, steps, data = _read(model, recipe)
    judge, train = halves(data, steps.seed)
    price = from_samples(judge.x[:SAMPLES])
    evaluate = partial(accuracy, data=judge)
    dense = price(network)
    task = Task(_one_shot(network, steps, judge), price, budget * dense, evaluate)
    with screen.progress(method) as update:
        densities = allocate(method, task, train, steps.seed, evaluations, update)
    cut = task.cut(densities)
    write(out, replace(steps, density=densities, **_moved(steps, recipe, out)).to_toml())

    rows = [{"network": "given", "cost": dense, "accuracy": evaluate(network)},
            {"network": "cut", "cost": price(cut), "accuracy": evaluate(cut)}]
    screen.table(f"{model} -> {out}", ["layer", "density"], list(map(list, densities.items())))
    screen.table(f"{method}, {budget:.0%} of the {kind}; accuracy without training on the "
                 f"{len(judge.x)} samples of the search", ["network", kind, "of it", "accuracy"],
                 [[row["network"], row["cost"], row["cost"] / dense, row["accuracy"]]
                  for row in rows])
    screen.result({"densities": densities, "networks": rows})


def allocate(method: str, task: Task, train: Data, seed: int, evaluations: int | None = None,
             progress: Progress | None = None) -> Densities:
    """The densities that ``method`` finds; ``evaluations`` is for those that count them."""
    if method in ALLOCATORS:
        return ALLOCATORS[method](task, progress)
    options = {"data": train} if method == "netadapt" else {}
    if evaluations is not None:
        options["evaluations"] = evaluations
    return named(method)(task, seed=seed, progress=progress, **options)[0]


def _check(method: str, budget: float, kind: str, target: str | None,
           evaluations: int | None) -> None:
    """Refuses options that say nothing, or do not go together."""
    for what, value, known in (("method", method, (*ALLOCATORS, *SEARCHES)),
                               ("cost", kind, COSTS)):
        if value not in known:
            raise BadInput(f"there is no {what} '{value}'; choose one of {', '.join(known)}")
    if not 0 < budget <= 1:
        raise BadInput(f"--budget must be above 0 and at most 1, not {budget}")
    if target and kind == "macs":
        raise BadInput("--target is for cycles and bytes; leave it out")
    if evaluations is not None and method not in COUNTED:
        raise BadInput(f"--evaluations is for {' and '.join(COUNTED)}; leave it out")
    if evaluations is not None and evaluations < 1:
        raise BadInput(f"--evaluations must be 1 or more, not {evaluations}")


def _cost(kind: str, target: str | None) -> Callable[[np.ndarray], Cost]:
    """What makes a cost from samples."""
    if kind == "macs":
        return lambda _samples: macs
    for config in targets(None, [target] if target else []):
        if kind in (known := registry.of(config).costs):
            return partial(known[kind], config)
    raise BadInput(f"what a network costs in {kind} is not known of {target}; name a configuration "
                   "of another engine")


def _read(model: Path, recipe: Path) -> tuple[Network, Recipe, Data]:
    """The network, the recipe and its samples."""
    network = frontend.read(model).network()
    steps = read_recipe(recipe, density=1.0)    # its own says nothing here, and may be missing
    if steps.structural:
        raise BadInput(f"{recipe}: granularity {steps.granularity!r} takes units out of the "
                       "network, and densities are found for weights that become zero; choose "
                       "another.")
    data = steps.samples(recipe.parent)
    if data is None:
        raise BadInput(f"{recipe}: accuracy needs samples with their classes; add data.")
    check_fits(data, network)
    return network, steps, data


def _one_shot(network: Network, steps: Recipe, data: Data) -> OneShot:
    return OneShot(network, granularity(steps.granularity, steps.size), steps.criterion, data.x)


def _moved(steps: Recipe, recipe: Path, out: Path) -> dict[str, str]:
    """The paths in a recipe, as they are from the folder of ``out``."""
    paths = {"data": steps.data, "rewind": steps.rewind}
    return {key: Path(os.path.relpath(recipe.parent / path, out.parent)).as_posix()
            for key, path in paths.items() if path is not None}
