"""``bench fashion`` on a few random images."""

import numpy as np
import pytest

from zeroskip.sw.cli import fashion as command
from zeroskip.sw.experiments import fashion
from zeroskip.sw.prune.data import Data


@pytest.fixture
def bench(cli, monkeypatch):
    """``bench(*options)``, in which there is little to learn and one seed."""
    rng = np.random.default_rng(0)
    data = Data(rng.random((40, 784), np.float32), np.arange(40) % 10)
    monkeypatch.setattr(fashion, "load", lambda: (data, data))
    monkeypatch.setitem(fashion.TRAINING, "epochs", 1)
    monkeypatch.setattr(command, "SEEDS", (0,))
    monkeypatch.setattr(command, "IMAGES", 1)
    return lambda *options: cli("bench", "fashion", *options)


def test_as_json(bench):
    done = bench("--json")
    assert (done.code, done.stderr) == (0, "")
    first, second = done.json["rows"]
    assert first["density"] > second["density"]
    assert first["bytes"] < second["bytes"]
    assert first["parameters"] == pytest.approx(266200 / (16464 + 3600 + 400))
    for row in (first, second):
        assert row["exact"]
        assert 0 <= row["integer"] <= 1
    assert len(done.json["trials"]) == 2


def test_table(bench):
    done = bench()
    assert done.code == 0
    assert "LeNet-300-100 on Fashion-MNIST, 1 seeds" in done.stdout
    assert done.stderr.count("seed 0: Trial(") == 2


def test_without_the_data(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(fashion, "load", lambda: fashion._read(tmp_path, "train"))
    done = cli("bench", "fashion")
    assert (done.code, done.stdout) == (3, "")
    assert "make data" in done.stderr
