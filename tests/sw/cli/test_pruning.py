"""``bench pruning``: what it makes of the outcomes."""

import pytest

from zeroskip.sw.cli import pruning
from zeroskip.sw.experiments import methods
from zeroskip.sw.experiments.methods import Outcome


@pytest.fixture
def bench(cli, monkeypatch):
    """``bench(*options)`` of two methods and two seeds."""
    def outcomes(seed):
        yield Outcome("model", "first", False, 0.5, 0.25, 0.9, 0.8 + seed / 10)
        yield Outcome("model", "second", True, 0.3, 0.3, 0.9, 0.9)
    monkeypatch.setattr(methods, "outcomes", outcomes)
    monkeypatch.setattr(pruning, "SEEDS", (0, 1))
    return lambda *options: cli("bench", "pruning", *options)


def test_as_json(bench):
    done = bench("--json")
    assert (done.code, done.stderr) == (0, "")
    first, second = done.json["rows"]
    assert (first["method"], first["trained"], first["weights"]) == ("first", False, 0.5)
    assert first["accuracy"] == pytest.approx(0.85)
    assert first["spread"] == pytest.approx(0.1 / 2**0.5)
    assert first["accuracies"] == pytest.approx([0.8, 0.9])
    assert (second["accuracy"], second["spread"]) == (0.9, 0)


def test_as_a_table(bench):
    done = bench()
    assert (done.code, done.stderr) == (0, "")
    assert "handwritten digits, 2 seeds" in done.stdout
    assert "second" in done.stdout
