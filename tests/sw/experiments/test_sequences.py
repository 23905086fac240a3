"""Nets on sequences: short training, few samples."""

import numpy as np
import pytest
import torch

from zeroskip.sw.experiments import sequences
from zeroskip.sw.runtime import backends

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(sequences, "TRAINING", 600)
    monkeypatch.setattr(sequences, "TESTING", 100)
    monkeypatch.setattr(sequences, "CALIBRATION", 50)
    monkeypatch.setattr(sequences, "STEPS", 12)
    monkeypatch.setattr(sequences, "EPOCHS", {"lstm": 3, "conv1d": 2})


@pytest.mark.parametrize(("net", "images", "steps"), [("lstm", 3, 13), ("conv1d", 3, 3)])
def test_golden_and_rtl_find_the_same_classes(net, images, steps):
    run = sequences.run(net, backends.rtl(backends.default()), 4)
    assert run.equal
    assert run.golden_there == run.rtl
    assert (run.images, run.steps, run.samples) == (images, steps, 4)
    assert run.accuracy > 0.4       # of four classes
    assert abs(run.golden - run.accuracy) <= 0.05
    assert run.cycles > 0


def test_waves():
    """The same each time, of all classes; the second channel is the first a quarter later."""
    (x, kinds), (again, _) = sequences.waves(200, 1), sequences.waves(200, 1)
    assert x.shape == (200, 12, 2)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, again)
    assert not np.array_equal(x, sequences.waves(200, 2)[0])
    assert set(kinds) == set(range(4))


def test_training_is_the_same_each_time():
    first, second = (sequences.train("conv1d", 1) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
