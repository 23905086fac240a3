"""``bench accuracy`` with one epoch of training."""

import numpy as np
import pytest
import torch

from zeroskip.sw.cli import accuracy
from zeroskip.sw.experiments import digits
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.prune.data import Data

ROW = ["pruning", "density", "accuracy_mean", "accuracy_min", "accuracy_max", "accuracies"]


SMALL = {"DENSITIES": (0.25, 0.06), "SEEDS": (0, 3)}


@pytest.fixture(scope="module")
def trained():
    """The trials of each seed, with an epoch of training; and of every one the network, the recipe
    and the network that results."""
    runs = []

    def prune(network, recipe, data):
        result, stages = run(network, recipe, data)
        runs.append((network, recipe, result))
        return result, stages
    run = accuracy.prune
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(digits.LINEAR, "epochs", 1)
        patch.setattr(accuracy, "prune", prune)
        for name, value in SMALL.items():
            patch.setattr(accuracy, name, value)
        trials = {seed: list(accuracy._trials(seed)) for seed in accuracy.SEEDS}
    return trials, runs


@pytest.fixture
def bench(cli, monkeypatch, trained):
    """``bench(*options)``, with those trials."""
    for name, value in SMALL.items():
        monkeypatch.setattr(accuracy, name, value)
    monkeypatch.setattr(accuracy, "_trials", lambda seed: iter(trained[0][seed]))
    return lambda *options: cli("bench", "accuracy", *options)


def test_as_json(bench):
    done = bench("--json")
    assert (done.code, done.stderr) == (0, "")
    rows = done.json["rows"]
    assert [list(row) for row in rows] == [ROW] * 5
    assert [row["pruning"] for row in rows] == [
        "none", *["unstructured", "bank-balanced"] * 2]
    # of 32, 16 and 3 rows a bank keeps a quarter, and of the last at least one
    weights = 64 * 128 + 128 * 64 + 64 * 10
    quarter, least = ((64 * 4 * a + 128 * 4 * b + 64 * 4) / weights for a, b in ((8, 4), (2, 1)))
    assert [row["density"] for row in rows] == pytest.approx(
        [1, quarter, quarter, least, least])
    for row in rows:
        assert len(row["accuracies"]) == 2
        assert row["accuracy_mean"] == pytest.approx(np.mean(row["accuracies"]))
        assert row["accuracy_min"] == min(row["accuracies"])
        assert row["accuracy_max"] == max(row["accuracies"])
    assert 1 >= rows[0]["accuracy_mean"] > 0.5      # chance is 0.1


def test_as_a_table(bench):
    done = bench()
    assert (done.code, done.stderr) == (0, "")
    assert "digits in 4 banks, 4-bit weights, 2 seeds" in done.stdout
    assert done.stdout.count("bank-balanced") == 2
    assert bench("-q") == (0, "", "")


def test_both_prunings_are_trained_alike_and_keep_equal_numbers_in_each_layer(trained):
    for number, seed in enumerate((0, 3)):
        runs = trained[1][5 * number:5 * number + 5]
        assert len({id(network) for network, _, _ in runs}) == 1
        assert {(recipe.seed, recipe.centroids, recipe.epochs, recipe.learning_rate)
                for _, recipe, _ in runs} == {(seed, 15, 1, digits.LINEAR["learning_rate"])}
        assert [recipe.size for _, recipe, _ in runs] == [None, 4, None, 4, None]
        for (_, _, balanced), (_, _, free) in (runs[1:3], runs[3:5]):
            for one, other in zip(balanced.layers.values(), free.layers.values(), strict=True):
                assert one.weight.count_nonzero() == other.weight.count_nonzero()
                assert not torch.equal(one.weight != 0, other.weight != 0)


def test_the_accuracy_is_that_of_integers():
    """A network that picks the greatest of its inputs is right on all images but one."""
    x = np.eye(5, dtype=np.float32)
    network = Network((Linear("fc", np.eye(5, dtype=np.float32), np.zeros(5, np.float32), "none"),))
    test = Data(x, np.array([0, 1, 2, 3, 0]))
    assert accuracy._integer_accuracy(network, test, test) == 0.8
    # an input that the training data do not reach saturates, and ties with another
    test = Data(np.array([[1, 4, 0, 0, 0]], np.float32), np.array([1]))
    assert accuracy._integer_accuracy(network, Data(x, test.y), test) == 0
