"""Command ``bench sentences``: a sentence encoder at 2:4, by three methods, finds answers."""

from copy import deepcopy

import numpy as np

from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.experiments import sentences
from zeroskip.sw.experiments.sentences import METHODS, Sentences
from zeroskip.sw.runtime import evaluate


def bench(screen: Screen) -> None:
    """See ``zeroskip bench sentences --help``."""
    data, rows = sentences.read(), []
    with screen.progress("the sentence encoder") as update:
        dense = sentences.load()
        batches = sentences.equally_long(dense, data.calibration)
        for done, method in enumerate(("dense", *METHODS)):
            update(done, 1 + len(METHODS), method)
            model = deepcopy(dense)
            blocks = sentences.encoder(model)
            if method != "dense":
                sentences.prune(model, blocks, method, batches, run=sentences.embed,
                                progress=update)
            rows.append({"pruning": method, **_row(model, data, blocks)})
    for row in rows:
        row["loss"] = rows[0]["recall_1"] - row["recall_1"]
    screen.table(f"MiniLM at 2:4, without training, finds the answers to {len(data.questions)} "
                 "questions: recall in percent, and the loss at 1 in points; known from another "
                 "small set, at 1: dense 55.0, magnitude 42.5, Wanda 49.3, SparseGPT 52.7",
                 [key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows])
    screen.result({"pairs": len(data.questions), "rows": rows})


def _row(model, data: Sentences, blocks: list[dict]) -> dict:
    """What a model finds, and the fraction of its layers' weights that are not zero."""
    ranks = evaluate.ranks(sentences.embed(model, data.questions),
                           sentences.embed(model, data.answers))
    weights = [layer.weight for block in blocks for layer in block.values()]
    return {
        **{f"recall_{top}": 100 * int(np.sum(ranks <= top)) / len(ranks) for top in (1, 5)},
        "reciprocal_rank": float(np.mean(1 / ranks)),
        "kept": sum(int(weight.count_nonzero()) for weight in weights)
        / sum(weight.numel() for weight in weights),
    }
