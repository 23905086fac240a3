"""``bench search`` with one epoch of training, few evaluations, and weights in place of cycles."""

import numpy as np
import pytest

from zeroskip.sw.cli import search_bench
from zeroskip.sw.experiments import digits

pytest.importorskip("torch")

METHODS = ["uniform", "sensitivity", "netadapt", "amc", "random"]
FIGURES = ["cycles", "validation", "test", "tuned", "tuned_cycles"]


@pytest.fixture
def bench(cli, monkeypatch):
    """``bench(*options)``, and in ``bench.calls`` the evaluations that each search was told."""
    def cycles(_config, samples):
        sizes.add(len(samples))
        return lambda chain: float(np.count_nonzero(chain.layers[0].weight))

    def allocate(method, task, rest, seed, evaluations):
        calls.append((method, seed, evaluations))
        return original(method, task, rest, seed, evaluations)
    calls, sizes, original = [], set(), search_bench.allocate
    monkeypatch.setattr(search_bench.cost, "cycles", cycles)
    monkeypatch.setattr(search_bench, "allocate", allocate)
    monkeypatch.setattr(search_bench, "EVALUATIONS", 6)
    monkeypatch.setattr(search_bench, "SEEDS", (0, 3))
    monkeypatch.setitem(digits.LINEAR, "epochs", 1)

    def run(*options):
        return cli("bench", "search", *options)
    run.calls, run.sizes = calls, sizes
    return run


def test_as_json(bench):
    done = bench("--json")
    assert (done.code, done.stderr) == (0, "")
    rows, trials = done.json["rows"], done.json["trials"]
    assert [row["method"] for row in rows] == ["none", *METHODS]
    assert [trial["method"] for trial in trials] == ["none", *METHODS] * 2
    assert bench.calls == [(method, seed, 6 if method in ("amc", "random") else None)
                           for seed in (0, 3) for method in METHODS]
    assert bench.sizes == {search_bench.SAMPLES, search_bench.TEST_SAMPLES}
    for row in rows:
        mine = [trial for trial in trials if trial["method"] == row["method"]]
        assert list(row) == ["method", *FIGURES]
        for key in FIGURES:
            values = [trial[key] for trial in mine]
            assert row[key] == {"mean": pytest.approx(np.mean(values)), "min": min(values),
                                "max": max(values)}
    for trial in trials[:1] + trials[6:7]:
        assert (trial["densities"], trial["cycles"], trial["tuned_cycles"]) == ({}, 1, 1)
        assert trial["test"] == trial["tuned"]
    for trial in trials[1:6] + trials[7:]:
        assert 0.2 < trial["cycles"] <= search_bench.BUDGET
        assert trial["tuned_cycles"] == pytest.approx(trial["cycles"])
        assert list(trial["densities"]) == ["0", "2", "4"]
        assert 0 < trial["tuned"] < 1


def test_as_a_table(bench, monkeypatch):
    monkeypatch.setattr(search_bench, "SEEDS", (0,))
    done = bench()
    assert done.code == 0
    assert done.stderr.count("seed 0: Trial(") == 6
    for text in ("25% of the dense", "1 seeds", "with 6", "netadapt", "fine-tuned"):
        assert text in " ".join(done.stdout.split())
