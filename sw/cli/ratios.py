"""Commands ``scan`` and ``search``: how many weights each layer may lose."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zeroskip.sw.cli import plots
from zeroskip.sw.cli.files import check_writable
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.targets import targets
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write
from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.prune.data import Data
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
    priced,
)
from zeroskip.sw.prune.ratios import scan as scan_layers
from zeroskip.sw.prune.recipe import Recipe, read_recipe
from zeroskip.sw.prune.search import SEARCHES, named

if TYPE_CHECKING:
    from zeroskip.sw.prune.model import Model

COSTS = ("cycles", "bytes", "macs")
COUNTED = ("amc", "random")
"""Searches that are told how many networks to evaluate."""
SAMPLES = 4
"""Over which cycles are a mean."""


def scan(model: Path, recipe: Path, data: Path | None, loss: str | None, plot: Path | None,
         screen: Screen) -> None:
    """See ``zeroskip scan --help``."""
    if plot:
        plots.check(plot)
    given = _Given(model, recipe, data, loss)
    densities = density_steps().tolist()
    with screen.progress("scanning") as update:
        found = scan_layers(given.one_shot(given.data), densities, given.judge(given.data), update)
    if given.metric == "loss":
        found = {name: [-value for value in values] for name, values in found.items()}
    if plot:
        plots.write_scan(plot, densities, found, given.metric)
    unit = " in %" if given.metric == "accuracy" else ""
    screen.table(f"{model}: {given.metric} on the recipe's data{unit}, one layer cut to a density "
                 "in %", ["layer", *(f"{100 * each:.3g}" for each in densities)],
                 [[name, *(round(100 * value, 1) if unit else value for value in values)]
                  for name, values in found.items()])
    screen.result({"densities": densities, given.metric: found})


def search(model: Path, recipe: Path, data: Path | None, loss: str | None, method: str,
           budget: float, kind: str, target: str | None, evaluations: int | None, out: Path,
           screen: Screen) -> None:
    """See ``zeroskip search --help``."""
    _check(method, budget, kind, target, evaluations)
    if out.suffix != ".toml":
        raise BadInput(f"{out}: what is found is a recipe; give a name that ends in .toml")
    check_writable(out)
    from_samples = _cost(kind, target)
    given = _Given(model, recipe, data, loss)
    steps, metric = given.steps, given.metric
    judge, train = halves(given.data, steps.seed)
    price, evaluate = from_samples(judge.rows(slice(SAMPLES))), given.judge(judge)
    dense = price(given.model)
    task = Task(given.one_shot(judge), price, budget * dense, evaluate)
    with screen.progress(method) as update:
        densities = allocate(method, task, train, steps.seed, evaluations, update, given.loss)
    cut = task.cut(densities)
    write(out, replace(steps, density=densities, **_moved(steps, recipe, out)).to_toml())

    sign = 1 if metric == "accuracy" else -1
    rows = [{"network": "given", "cost": dense, metric: sign * evaluate(given.model)},
            {"network": "cut", "cost": price(cut), metric: sign * evaluate(cut)}]
    screen.table(f"{model} -> {out}", ["layer", "density"], list(map(list, densities.items())))
    screen.table(f"{method}, {budget:.0%} of the {kind}; {metric} without training on the "
                 f"{len(judge)} samples of the search", ["network", kind, "of it", metric],
                 [[row["network"], row["cost"], row["cost"] / dense, row[metric]]
                  for row in rows])
    screen.result({"densities": densities, "networks": rows})


def allocate(method: str, task: Task, train: Data, seed: int, evaluations: int | None = None,
             progress: Progress | None = None,
             loss: str | Callable = "cross_entropy") -> Densities:
    """The densities that ``method`` finds; ``evaluations`` is for those that count them."""
    if method in ALLOCATORS:
        return ALLOCATORS[method](task, progress)
    options = {"data": train, "loss": loss} if method == "netadapt" else {}
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


def _cost(kind: str, target: str | None) -> Callable[[Data], Cost]:
    """What makes a cost from samples."""
    if kind == "macs":
        return macs
    for config in targets(None, [target] if target else []):
        if kind in (known := registry.of(config).costs):
            return partial(priced, partial(known[kind], config), per_sample=kind == "cycles")
    raise BadInput(f"what a network costs in {kind} is not known of {target}; name a configuration "
                   "of another engine")


class _Given:
    """What a command is given.

    Attributes
    ----------
    model : Model
    steps : Recipe
    data : Data
        Prepared for the model.
    loss : Loss
    metric : str
        ``"accuracy"`` or ``"loss"``.
    """

    def __init__(self, model: Path, recipe: Path, data: Path | None, loss: str | None):
        require_torch()
        from zeroskip.sw.prune import losses
        from zeroskip.sw.prune import model as models

        self.model = models.read(model)
        # its own density says nothing here, and may be missing
        self.steps = read_recipe(recipe, density=1.0, data=data, loss=loss)
        if self.steps.structural:
            raise BadInput(f"{recipe}: granularity {self.steps.granularity!r} takes units out of "
                           "the network, and densities are found for weights that become zero; "
                           "choose another.")
        samples = self.steps.samples(recipe.parent)
        if samples is None:
            raise BadInput(f"{recipe}: accuracy needs samples with their classes; add data.")
        self.loss = losses.named(self.steps.loss)
        self.metric = "accuracy" if self.loss.classes else "loss"
        self.data = self.model.prepared(samples, self.loss)

    def one_shot(self, data: Data) -> OneShot:
        """The cuts that are tried."""
        steps = self.steps
        return OneShot(self.model, granularity(steps.granularity, steps.size), steps.criterion,
                       data, self.loss.name)

    def judge(self, data: Data) -> Callable[["Model"], float]:
        """Accuracy, or minus the loss: more is better."""
        sign = 1 if self.metric == "accuracy" else -1
        return lambda model: sign * model.judge(data, self.loss)[self.metric]


def _moved(steps: Recipe, recipe: Path, out: Path) -> dict[str, str]:
    """The paths in a recipe, as they are from the folder of ``out``."""
    paths = {"data": steps.data, "rewind": steps.rewind}
    return {key: Path(os.path.relpath(recipe.parent / path, out.parent)).as_posix()
            for key, path in paths.items() if path is not None}
