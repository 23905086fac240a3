"""NetAdapt: step by step, the layer is cut whose cut loses least after a short fine-tuning.

Source: Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications",
ECCV 2018, algorithm 1. The steps are of equal size here; the long fine-tuning at the end is the
caller's.
"""

from collections.abc import Callable
from dataclasses import replace

from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.model import Model
from zeroskip.sw.prune.ratios import Densities, Progress, Task, Trial

LEAST = 0.1
"""The last step, over the others, at least: a smaller one may remove no weight at all."""


def search(
    task: Task,
    data: Data,
    *,
    steps: int = 10,
    epochs: int = 2,
    learning_rate: float = 1e-3,
    seed: int = 0,
    loss: str | Callable = "cross_entropy",
    progress: Progress | None = None,
) -> tuple[Densities, list[Trial]]:
    """The densities after about ``steps`` equal cuts in cost, and each network that was tried.

    Each is fine-tuned on ``data`` for ``epochs``, ``seed`` being that of the samples' order. The
    costs of the trials are measured for the networks that were kept, and estimated for others.
    Raises BadInput where the budget cannot be met, ToolMissing without torch.
    """
    table, model = task.table, task.cut.model
    densities, cost, trials, done = dict.fromkeys(task.cut.names, 1.0), table.dense, [], 0
    step = (cost - task.budget) / steps
    while cost > task.budget:
        wanted = min(step, max(cost - task.budget, LEAST * step))
        tried = []
        for name, density in densities.items():
            saving = table.saving(name, density) + wanted
            if saving > table.most(name):
                continue
            changed = {**densities, name: table.density(name, saving)}
            tuned = replace(task.cut, model=model)(changed)
            fine_tune(tuned, data, epochs, learning_rate, seed, loss)
            tried.append((Trial(changed, cost - wanted, task.evaluate(tuned)), tuned))
        if not tried:   # the scaling of all layers does the rest
            break
        best = max(range(len(tried)), key=lambda at: tried[at][0].accuracy)
        kept, model = tried[best]
        densities, cost = kept.densities, task.cost(model)
        tried[best] = replace(kept, cost=cost), model
        trials += [trial for trial, _ in tried]
        done += 1
        if progress:
            progress(min(done, steps), steps, "netadapt")
    return task.scaled(densities), trials


def fine_tune(model: Model, data: Data, epochs: int, learning_rate: float, seed: int,
              loss: str | Callable = "cross_entropy"):
    """Trains ``model`` on ``data``, in place; what is zero stays zero."""
    require_torch()
    import torch

    from zeroskip.sw.prune.train import fit

    zeros = [(layer.weight, layer.weight == 0) for layer in model.layers.values()]

    @torch.no_grad()
    def hold(_fraction):
        for weight, zero in zeros:
            weight.masked_fill_(zero, 0)
    with model.training():
        fit(model.module, model.module.parameters(), data, epochs=epochs, seed=seed,
            learning_rate=learning_rate, after_step=hold, text="fine-tune", loss=loss)
