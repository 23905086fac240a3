"""Random search: what a method that claims to learn must beat with as many evaluations."""

import numpy as np

from zeroskip.sw.prune.ratios import Densities, Progress, Task, Trial


def search(
    task: Task,
    *,
    evaluations: int = 400,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Densities, list[Trial]]:
    """The best of random densities, each scaled to the budget, of equal ones the first.

    Raises BadInput where the budget cannot be met.
    """
    rng, price, trials = np.random.default_rng(seed), task.table.price, []
    for done in range(1, evaluations + 1):
        drawn = rng.uniform(task.low, 1, len(task.cut.names)).tolist()
        densities = task.scaled(dict(zip(task.cut.names, drawn, strict=True)), price)
        trials.append(Trial(densities, price(densities), task.evaluate(task.cut(densities))))
        if progress:
            progress(done, evaluations, "random search")
    return task.scaled(max(trials, key=lambda trial: trial.accuracy).densities), trials
