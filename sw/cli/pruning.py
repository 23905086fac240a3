"""Command ``bench pruning``: every way to prune where it is at its best, beside the dense model."""

from statistics import mean, stdev

from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.experiments import methods

SEEDS = (0, 1, 2)


def pruning(screen: Screen) -> None:
    """See ``zeroskip bench pruning --help``."""
    found = []
    with screen.progress("pruning") as update:
        for number, seed in enumerate(SEEDS):
            for outcome in methods.outcomes(seed):
                found.append(outcome)
                update(len(found), methods.METHODS * len(SEEDS),
                       f"seed {number + 1} of {len(SEEDS)}: {outcome.method}")
    ways = len(found) // len(SEEDS)
    rows = [_row(found[way::ways]) for way in range(ways)]
    screen.table(f"handwritten digits, {len(SEEDS)} seeds: accuracy on the test images in percent, "
                 "mean and standard deviation",
                 ["model", "method", "trained", "weights", "MACs", "dense", "pruned", "spread",
                  "change"],
                 [[row["model"], row["method"], row["trained"], row["weights"], row["macs"],
                   100 * row["dense"], 100 * row["accuracy"], 100 * row["spread"],
                   100 * (row["accuracy"] - row["dense"])] for row in rows])
    screen.result({"rows": rows})


def _row(outcomes: list[methods.Outcome]) -> dict:
    """One method over the seeds: means, and of the accuracy the standard deviation too."""
    first, accuracies = outcomes[0], [outcome.accuracy for outcome in outcomes]
    return {"model": first.model, "method": first.method, "trained": first.trained,
            "weights": mean(outcome.weights for outcome in outcomes),
            "macs": mean(outcome.macs for outcome in outcomes),
            "dense": mean(outcome.dense for outcome in outcomes),
            "accuracy": mean(accuracies),
            "spread": stdev(accuracies) if len(accuracies) > 1 else 0.0,
            "accuracies": accuracies}
