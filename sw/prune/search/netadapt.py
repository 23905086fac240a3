"""NetAdapt: step by step, the layer is cut whose cut loses least after a short fine-tuning.

Source: Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications",
ECCV 2018, algorithm 1. The steps are of equal size here; the long fine-tuning at the end is the
caller's.
"""

from dataclasses import replace

from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.graph.network import Network
from zeroskip.sw.prune.data import Data
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
    progress: Progress | None = None,
) -> tuple[Densities, list[Trial]]:
    """The densities after about ``steps`` equal cuts in cost, and each network that was tried.

    Each is fine-tuned on ``data`` for ``epochs``, ``seed`` being that of the samples' order. The
    costs of the trials are measured for the networks that were kept, and estimated for others.
    Raises BadInput where the budget cannot be met, ToolMissing without torch.
    """
    table, network = task.table, task.cut.network
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
            tuned = fine_tune(replace(task.cut, network=network)(changed), data, epochs,
                              learning_rate, seed)
            tried.append((Trial(changed, cost - wanted, task.evaluate(tuned)), tuned))
        if not tried:   # the scaling of all layers does the rest
            break
        best = max(range(len(tried)), key=lambda at: tried[at][0].accuracy)
        kept, network = tried[best]
        densities, cost = kept.densities, task.cost(network)
        tried[best] = replace(kept, cost=cost), network
        trials += [trial for trial, _ in tried]
        done += 1
        if progress:
            progress(min(done, steps), steps, "netadapt")
    return task.scaled(densities), trials


def fine_tune(network: Network, data: Data, epochs: int, learning_rate: float,
              seed: int) -> Network:
    """``network`` trained on ``data``; what is zero stays zero."""
    require_torch()
    import torch

    from zeroskip.sw.frontends.torch_frontend import to_torch, with_weights
    from zeroskip.sw.prune.train import fit, layers

    module = to_torch(network)
    zeros = [(layer.weight, layer.weight == 0) for layer in layers(module).values()]

    @torch.no_grad()
    def hold(_fraction):
        for weight, zero in zeros:
            weight.masked_fill_(zero, 0)
    fit(module, module.parameters(), data, epochs=epochs, learning_rate=learning_rate, seed=seed,
        after_step=hold, text="fine-tune")
    return with_weights(network, module)
