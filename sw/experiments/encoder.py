"""The sentence encoder of :mod:`zeroskip.sw.experiments.sentences` on a tensor core.

All 36 Linear layers of its blocks run there; embeddings, norms, softmax and the products of
attention on the host. A sentence is filled up with padding that attention does not see.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.compiler.compile import Compiled, compile_network
from zeroskip.sw.experiments import sentences
from zeroskip.sw.frontends.load import from_torch
from zeroskip.sw.runtime.arrays import inputs, outputs
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.evaluate import ranks
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import Verdict, verify

if TYPE_CHECKING:
    from torch import nn

TOKENS = 28
"""Of a sentence, padding and all: the longest of ours has 25."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """A pruned model, and what it became.

    Attributes
    ----------
    model : sentence_transformers.SentenceTransformer
    compiled : Compiled
    """

    model: "nn.Module"
    compiled: Compiled

    def golden(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of the integer reference, float32 [texts, 384]."""
        program = self.compiled.program
        given = inputs(program, "the sentences", tokens(self.model, texts))
        backend = GoldenBackend(program, self.compiled.reference)
        done = run_program(program, backend, given.buffers)
        found, = outputs(program, done.buffers, given.samples).values()
        return found

    def verify(self, texts: Sequence[str], backend: Backend) -> Verdict:
        """Golden against ``backend``, buffer by buffer."""
        program = self.compiled.program
        given = inputs(program, "the sentences", tokens(self.model, texts))
        return verify(program, given.buffers, (GoldenBackend(
            program, self.compiled.reference), backend))


def tokens(model: "nn.Module", texts: Sequence[str]) -> dict[str, np.ndarray]:
    """``ids`` and ``mask``, int64 [texts, TOKENS]."""
    found = model.tokenizer(list(texts), padding="max_length", max_length=TOKENS,
                            truncation=True, return_tensors="np")
    return {"ids": found["input_ids"], "mask": found["attention_mask"]}


def module(model: "nn.Module") -> "nn.Module":
    """The model from tokens to unit vectors, without its tokenizer."""
    import torch
    from torch import nn

    class Pooled(nn.Module):
        """The mean of all tokens but padding."""

        def __init__(self):
            super().__init__()
            self.body = model[0].auto_model

        def forward(self, ids, mask):
            y, seen = self.body(ids, mask).last_hidden_state, mask[..., None].float()
            return torch.nn.functional.normalize((y * seen).sum(1) / seen.sum(1), dim=1)
    return Pooled().eval()


def encoder(dense: "nn.Module", data: sentences.Sentences, config: CoreConfig, *,
            method: str | None = "sparsegpt", smooth: bool = True,
            calibration_method: str = "min-max",
            progress: Callable[[int, int, str], None] | None = None) -> Encoder:
    """The model, pruned to 2:4 by a method of :data:`sentences.METHODS` or not at all, in
    integers."""
    import torch

    model = deepcopy(dense)
    if method:
        sentences.prune(model, sentences.encoder(model), method,
                        sentences.equally_long(model, data.calibration), run=sentences.embed,
                        progress=progress)
    given = tokens(model, data.calibration)
    graph = from_torch(module(model), [torch.from_numpy(each[:1]) for each in given.values()])
    return Encoder(model, compile_network(graph, given, config, method=calibration_method,
                                          smooth=smooth))


def recall(questions: np.ndarray, answers: np.ndarray) -> float:
    """Per cent of questions whose answer is the nearest."""
    return 100 * float(np.mean(ranks(questions, answers) == 1))
