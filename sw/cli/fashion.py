"""Command ``bench fashion``: LeNet-300-100 on Fashion-MNIST, pruned, shared, packed and run."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import typer

from zeroskip.hw.eie.config import zeroskip
from zeroskip.sw.cli.backend import chosen
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.experiments import digits, fashion
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.pipeline import Stage
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.verify import verify

DENSITIES = {"0": 0.07, "2": 0.12, "4": 0.4}, {"0": 0.05, "2": 0.1, "4": 0.4}
"""By layer."""
SEEDS = (0, 1, 2)
CONFIG = zeroskip(4, weight_rows=1024, pointers=2560, act_depth=256, bias_depth=128)
IMAGES = 100
"""Test images that are run in RTL beside the integer reference, which takes all."""


@dataclass(frozen=True)
class Trial:
    """One trained network.

    ``dense``, ``pruned`` and ``integer`` are accuracies on the test images, of the network as
    trained, pruned and shared, and of its integer reference. ``parameters`` and ``bytes`` say how
    many times fewer there are than weights, and than bytes of float32 weights and biases; packed
    bytes are entries, directory, codebooks and biases.
    """

    density: float
    dense: float
    pruned: float
    integer: float
    parameters: float
    bytes: float
    exact: bool


def bench(backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench fashion --help``."""
    rtl = backends.rtl(chosen(backend, screen))
    train, test = fashion.load()
    trials = []
    for seed in SEEDS:
        with screen.progress(f"seed {seed}") as update:
            network = fashion.train(train, seed, update)
            for density in DENSITIES:
                pruned, stages = fashion.prune(network, density, train, test, seed, update)
                trials.append(_trial(pruned, stages, train, test, rtl))
                screen.notice(f"seed {seed}: {trials[-1]}")
    rows = [_row(trials[way::len(DENSITIES)]) for way in range(len(DENSITIES))]
    screen.table(f"LeNet-300-100 on Fashion-MNIST, {len(SEEDS)} seeds; on MNIST the literature has "
                 "12 times fewer parameters, and 40 times fewer bytes",
                 [key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows])
    screen.result({"rows": rows, "trials": [vars(trial) for trial in trials]})
    if not all(trial.exact for trial in trials):
        raise typer.Exit(1)


def _trial(pruned: Any, stages: list[Stage], train: Data, test: Data, rtl) -> Trial:
    compiled = compile_network(digits.graph(pruned, train.x.shape[1]), train.x, CONFIG)
    inputs, _ = compiled.program.input.to_integer(test.x)
    golden = GoldenBackend(compiled.program, compiled.reference)
    (result,) = (golden.run(image, inputs) for image in compiled.program.images)
    verdict = verify(compiled.program, inputs[:IMAGES], (golden, rtl))
    sizes = compiled.program.images[0].storage()
    packed = sum(bytes_ for kind, bytes_ in sizes.items() if kind != "float32")
    return Trial(
        stages[-1].density, stages[0].accuracy, stages[-1].accuracy,
        float(np.mean(result.outputs[-1].argmax(axis=1) == test.y)),
        1 / stages[-1].density, sizes["float32"] / packed, verdict.difference is None)


def _row(trials: list[Trial]) -> dict:
    """Means of one density over the seeds, and the worst loss."""
    mean = {key: float(np.mean([vars(trial)[key] for trial in trials]))
            for key in ("density", "dense", "pruned", "integer", "parameters", "bytes")}
    return {**mean, "worst_loss": max(trial.dense - trial.integer for trial in trials),
            "exact": all(trial.exact for trial in trials)}
