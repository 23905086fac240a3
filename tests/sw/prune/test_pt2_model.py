"""Exported programs: pruned, trained as they were exported, written again."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import load
from zeroskip.sw.prune import pipeline
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.model import read
from zeroskip.sw.prune.recipe import Recipe


class Net(nn.Module):
    """A residual block with batch norm and dropout, a weight used twice, and a bare one."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 4, 3, padding="same"), nn.BatchNorm2d(4)
        self.b, self.line = nn.Conv2d(4, 4, 1, bias=False), nn.Conv1d(4, 4, 3, stride=2)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(28, 6)
        self.twice, self.bare = nn.Linear(6, 6), nn.Parameter(torch.randn(3, 6))

    def forward(self, image):
        y = torch.relu(self.norm(self.a(image)))
        y = self.line((y + self.b(y)).flatten(2)[:, :, :15])
        y = self.drop(self.fc(y.flatten(1)))
        return nn.functional.linear(self.twice(torch.relu(self.twice(y))), self.bare)


@pytest.fixture
def module():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net().eval()
        net.norm.running_mean.normal_()
    return net


def export(module, path, batch=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = {"dynamic_shapes": ({0: torch.export.Dim("b")},)} if batch is None else {}
        torch.export.save(torch.export.export(
            module, (torch.zeros(batch or 2, 1, 4, 4),), **shapes), path)
    return path


def again(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(path)


def data(module):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(70, 1, 4, 4)).astype(np.float32))
    with torch.no_grad():
        return Data(x.numpy(), module(x).argmax(1).numpy())


def test_the_program_with_other_weights(tmp_path, module):
    path, out = export(module, tmp_path / "m.pt2"), tmp_path / "out.pt2"
    model = read(path)
    assert list(model.names) == ["a", "b", "line", "fc", "twice", "bare"]
    assert list(model.tied.values()) == ["twice"]
    result, stages = pipeline.prune(model, Recipe({"a": 0.5, "fc": 0.25, "bare": 0.5}))
    pipeline.save(result, Recipe(0.5), stages, out)
    before, after = module.state_dict(), again(out).state_dict
    assert set(before) == set(after)
    for name, values in before.items():
        kept = {"a.weight": 18, "fc.weight": 42, "bare": 9}.get(name)
        if kept is None:
            assert torch.equal(after[name], values), name
        else:
            assert int(after[name].count_nonzero()) == kept
            assert torch.equal(after[name][after[name] != 0], values[after[name] != 0])
    assert [node.name for node in load.read(out).layers][:3] == ["a", "b", "line"]
    assert torch.equal(again(path).state_dict["fc.weight"], before["fc.weight"])


@pytest.mark.parametrize("batch", [None, 8])
def test_it_trains_as_it_was_exported(tmp_path, module, batch):
    path, out = export(module, tmp_path / "m.pt2", batch), tmp_path / "out.pt2"
    model, samples = read(path), data(module)
    assert model.batch == batch
    recipe = Recipe(granularity="2:4", epochs=6, learning_rate=5e-3)
    result, stages = pipeline.prune(model, recipe, samples)
    pipeline.save(result, recipe, stages, out)
    assert stages[0].accuracy == 1
    assert stages[1].accuracy > 0.8
    after = again(out)
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(after.state_dict[name], module.state_dict()[name])
    assert not torch.equal(after.state_dict["norm.weight"], module.norm.weight)
    rows = after.state_dict["fc.weight"].reshape(-1, 4)
    assert int(rows.count_nonzero(dim=1).max()) == 2
    if batch is None:
        with torch.no_grad():
            found = after.module()(torch.from_numpy(samples.x)).argmax(1).numpy()
        assert np.mean(found == samples.y) == stages[1].accuracy


def test_units_cannot_leave_a_program(tmp_path, module):
    model = read(export(module, tmp_path / "m.pt2"))
    with pytest.raises(BadInput, match="sizes of an exported program are fixed; take units out of"):
        pipeline.prune(model, Recipe({"a": 0.5}, "channel"), data(module))


def test_a_file_that_is_no_program(tmp_path):
    (tmp_path / "m.pt2").write_bytes(b"no")
    with pytest.raises(BadInput, match=r"m\.pt2"):
        read(tmp_path / "m.pt2")
    with pytest.raises(BadInput, match=r"none\.pt2 cannot be read"):
        read(tmp_path / "none.pt2")
