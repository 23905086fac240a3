"""Command ``bench encoder``: the sentence encoder on a tensor core, dense and at 2:4."""

import numpy as np
import typer

from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.compiler.targets import configuration
from zeroskip.sw.experiments import encoder, sentences
from zeroskip.sw.runtime import backends


def bench(config: str, count: int, backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench encoder --help``."""
    data, rows, target = sentences.read(), [], configuration(config, "tensorcore")
    rtl = backends.rtl(backend or backends.default())
    with screen.progress(f"the sentence encoder ({rtl.name})") as update:
        dense = sentences.load()
        for done, method in enumerate((None, "sparsegpt")):
            pruning = "2:4" if method else "dense"
            update(done, 2, pruning)
            rows.append({"pruning": pruning, **_row(
                encoder.encoder(dense, data, target, method=method), data, count, rtl)})
    speedup = rows[0]["cycles"] / rows[1]["cycles"]
    screen.table(f"MiniLM's 36 layers on {config}, {count} sentences in RTL ({rtl.name}); BERT at "
                 "2:4 runs 1.5 times as fast on an A100",
                 [key.replace("_", " ") for key in rows[0]], [list(row.values()) for row in rows])
    screen.text(f"2:4 takes {speedup:.3f} times fewer cycles")
    screen.result({"sentences": count, "speedup": speedup, "rows": rows})
    if not all(row["equal"] for row in rows):
        raise typer.Exit(1)


def _row(made: encoder.Encoder, data: sentences.Sentences, count: int, rtl) -> dict:
    verdict = made.verify(data.questions[:count], rtl)
    questions, answers = (made.golden(texts) for texts in (data.questions, data.answers))
    ours = (questions, answers)
    theirs = tuple(sentences.embed(made.model, texts) for texts in (data.questions, data.answers))
    cosine = (np.concatenate(ours) * np.concatenate(theirs)).sum(axis=1)
    counted = [each.statistics for each in verdict.results[1] if each.statistics]
    return {"layers": len(made.compiled.program.layers), "compared": verdict.compared,
            "equal": verdict.difference is None, "cycles": sum(each.cycles for each in counted),
            "cosine": float(cosine.mean()), "least_cosine": float(cosine.min()),
            "recall": encoder.recall(*ours), "recall_float": encoder.recall(*theirs)}
