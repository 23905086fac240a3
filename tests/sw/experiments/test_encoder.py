"""The sentence encoder on a tensor core: a tiny stand-in, exact in RTL and near its module."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.hw.tensorcore.config import CONFIGS
from zeroskip.sw.experiments import encoder, sentences
from zeroskip.sw.runtime import backends

torch.set_num_threads(1)
DATA = sentences.Sentences(("a bird sings", "rain"), ("birds do", "it rains"),
                           ("one", "two words", "and three words", "four words are here"))


class Body(nn.Module):
    """Embeddings, attention and a layer, all of it tiny."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(64, 8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, ids, mask):
        x = self.norm(self.embedding(ids))
        q, k, v = self.qkv(x).chunk(3, -1)
        seen = q @ k.transpose(-1, -2) + (1 - mask[:, None].float()) * -1e4
        return SimpleNamespace(last_hidden_state=self.out(torch.softmax(seen, -1) @ v) + x)


class Model(nn.ModuleList):
    """As much of a SentenceTransformer as is used."""

    def __init__(self):
        super().__init__()
        own = nn.Module()
        own.auto_model = Body()
        self.append(own)

    @staticmethod
    def tokenizer(texts, max_length, **_):
        ids, mask = np.zeros((2, len(texts), max_length), np.int64)
        for row, text in enumerate(texts):
            words = [1 + len(word) for word in text.split()]
            ids[row, :len(words)], mask[row, :len(words)] = words, 1
        return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def made():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model().eval()
    return encoder.encoder(model, DATA, CONFIGS["tc-8"], method=None)


def test_near_the_module_and_exact_in_rtl(made):
    texts = (*DATA.questions, *DATA.answers)
    given = encoder.tokens(made.model, texts)
    with torch.no_grad():
        wanted = encoder.module(made.model)(*map(torch.from_numpy, given.values())).numpy()
    found = made.golden(texts)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert ((found * wanted).sum(axis=1) > 0.99).all()
    assert len(made.compiled.program.layers) == 2
    assert made.verify(texts[:1], backends.rtl(backends.default())).difference is None


def test_padding_changes_nothing(made, monkeypatch):
    short = made.golden(("rain",))
    monkeypatch.setattr(Model, "tokenizer", staticmethod(
        lambda texts, max_length, **_: {
            "input_ids": np.where(np.arange(max_length) < 1, 5, 9)[None].repeat(len(texts), 0),
            "attention_mask": (np.arange(max_length) < 1).astype(np.int64)[None].repeat(
                len(texts), 0)}))
    np.testing.assert_allclose(made.golden(("rain",)), short, atol=1e-6)


def test_recall():
    answers = np.eye(4, dtype=np.float32)
    assert encoder.recall(answers, answers) == 100
    assert encoder.recall(answers[[1, 0, 2, 3]], answers) == 50
