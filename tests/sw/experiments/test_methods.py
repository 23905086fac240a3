"""Every pruning method, trained for one epoch."""

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.experiments import digits, methods
from zeroskip.sw.experiments.methods import METHODS, outcomes, work
from zeroskip.sw.prune import data


@pytest.fixture
def short(monkeypatch):
    """Training of one epoch on few images."""
    train, test = digits.load()
    some = data.Data(train.x[:256], train.y[:256])
    monkeypatch.setattr(digits, "load", lambda: (some, test))
    for training in (digits.LINEAR, digits.CONVOLUTIONAL):
        monkeypatch.setitem(training, "epochs", 1)


@pytest.mark.usefixtures("short")
def test_every_method_once():
    found = list(outcomes(0))
    assert len(found) == METHODS
    assert len({(o.model, o.method, o.trained) for o in found}) == METHODS
    for outcome in found:
        assert 0 < outcome.weights < 0.9
        assert 0 < outcome.macs < 0.9
        assert 0 <= outcome.accuracy <= 1
    by_name = {(o.method, o.trained): o for o in found if o.model == methods.LINEAR}
    assert by_name["2:4", True].weights == pytest.approx(0.5)
    assert by_name["1:4", True].weights == pytest.approx(0.25)
    assert by_name["SparseGPT", False].weights == pytest.approx(0.3, abs=1e-3)
    small = np.dot([0.11, 0.11, 0.35], [8192, 8192, 640]) / 17024
    for method in ("magnitude, bit by bit", "lottery ticket, 4 rounds"):
        assert by_name[method, True].weights == pytest.approx(small, abs=1e-3)
    depth = next(o for o in found if o.method.startswith("depth"))
    heads = next(o for o in found if o.method.startswith("heads"))
    assert depth.weights < heads.weights


def test_work_counts_positions():
    module = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(),
                           nn.Linear(32, 3))
    with torch.no_grad():
        module[1].weight[0] = 0
    assert work(module, torch.zeros(5, 16)) == (9 + 96, 9 * 16 + 96)
