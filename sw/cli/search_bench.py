"""Command ``bench search``: ways to choose densities, at the same budget of cycles."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from zeroskip.hw.eie.config import CONFIGS
from zeroskip.sw.cli.ratios import COUNTED, SAMPLES, allocate
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.engines.eie import cost
from zeroskip.sw.experiments import digits
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.pipeline import prune
from zeroskip.sw.prune.ratios import ALLOCATORS, OneShot, Task, halves, priced
from zeroskip.sw.prune.recipe import Recipe
from zeroskip.sw.prune.search import SEARCHES

METHODS = (*ALLOCATORS, *SEARCHES)
WAYS = ("none", *METHODS)
"""Rows; the first is the dense network, which is not trained further."""
TARGET = "eie-4"
BUDGET = 0.25
"""Of the dense network's cycles."""
EVALUATIONS = 400
"""Of AMC, and of random search."""
SEEDS = (0, 1, 2)
TEST_SAMPLES = 16
"""Test images whose cycles are counted."""


@dataclass(frozen=True)
class Trial:
    """One network cut to the densities that one method found.

    ``cycles`` is the fraction of the dense network's on the samples of the search, ``validation``
    and ``test`` are the accuracies there and on the test images. ``tuned`` and ``tuned_cycles``
    are those on test images of the network that was pruned to the same densities while training.
    """

    method: str
    densities: dict[str, float]
    cycles: float
    validation: float
    test: float
    tuned: float
    tuned_cycles: float


def search(screen: Screen) -> None:
    """See ``zeroskip bench search --help``."""
    trials, total = [], len(WAYS) * len(SEEDS)
    with screen.progress("searching") as update:
        for seed in SEEDS:
            for trial in _trials(seed):
                trials.append(trial)
                update(len(trials), total, f"searching, seed {seed}")
                screen.notice(f"seed {seed}: {trial}")
    rows = [_row(trials[way::len(WAYS)]) for way in range(len(WAYS))]
    screen.table(
        f"digits at {BUDGET:.0%} of the dense network's cycles on {TARGET}, {len(SEEDS)} seeds, "
        f"mean and range; {' and '.join(COUNTED)} with {EVALUATIONS} evaluations",
        ["densities by", "cycles", "validation", "test", "test, fine-tuned", "cycles, fine-tuned"],
        [[row["method"], *(_text(row[key]) for key in _MEASURED)] for row in rows])
    screen.result({"rows": rows, "trials": [asdict(trial) for trial in trials]})


def _trials(seed: int) -> Iterator[Trial]:
    """Each of ``WAYS`` on one network."""
    from zeroskip.sw.prune.model import of_module

    accuracy = digits.accuracy
    train, test = digits.load()
    dense = of_module(digits.train_linear(train, seed))
    judge, rest = halves(train, seed)
    cycles = partial(cost.cycles, CONFIGS[TARGET])
    price = priced(cycles, judge.rows(slice(SAMPLES)), per_sample=True)
    true_price = priced(cycles, test.rows(slice(TEST_SAMPLES)), per_sample=True)
    whole, true_whole = price(dense), true_price(dense)
    task = Task(OneShot(dense, granularity("element"), data=judge), price, BUDGET * whole,
                lambda model: accuracy(model, judge))
    known = accuracy(dense, test)
    yield Trial("none", {}, 1.0, accuracy(dense, judge), known, known, 1.0)
    for method in METHODS:
        densities = allocate(method, task, rest, seed, EVALUATIONS if method in COUNTED else None)
        cut = task.cut(densities)
        tuned, _ = prune(dense, Recipe(densities, seed=seed, **digits.LINEAR), train)
        yield Trial(method, densities, price(cut) / whole, accuracy(cut, judge),
                    accuracy(cut, test), accuracy(tuned, test), true_price(tuned) / true_whole)


_MEASURED = ("cycles", "validation", "test", "tuned", "tuned_cycles")


def _row(trials: list[Trial]) -> dict:
    """What one method gives over the seeds: of each figure mean, least and greatest."""
    row = {"method": trials[0].method}
    for key in _MEASURED:
        values = [getattr(trial, key) for trial in trials]
        row[key] = {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}
    return row


def _text(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.1%} ({figure['min']:.1%} to {figure['max']:.1%})"
