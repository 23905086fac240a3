"""``zeroskip.prune``: live modules and files, with and without training."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import zeroskip
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import torch_frontend
from zeroskip.sw.prune.data import Data


class Residual(nn.Module):
    """With batch norm, dropout, a shared layer and a frozen one."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(0.1)
        self.head, self.frozen = nn.Linear(8, 8), nn.Linear(8, 2).requires_grad_(False)

    def forward(self, image):
        x = torch.relu(self.norm(self.stem(image)))
        x = torch.relu(x + self.block(x)).mean((2, 3))
        return self.frozen(torch.relu(self.head(self.drop(torch.relu(self.head(x))))))


@pytest.fixture
def module():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Residual()


@pytest.fixture
def samples():
    """Stripes that run down or across."""
    rng = np.random.default_rng(0)
    y = np.arange(96) % 2
    x = np.zeros((96, 1, 6, 6), np.float32)
    x[:, 0] = rng.normal(size=(96, 1, 6)) * 2
    x[y == 1] = x[y == 1].transpose(0, 1, 3, 2)
    return x, y


def densities(module):
    return {name: int(part.weight.count_nonzero()) / part.weight.numel()
            for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}


def state(module):
    return {name: each.clone() for name, each in module.state_dict().items()}


def test_a_module_becomes_a_new_one_of_its_class(module):
    before = state(module)
    result = zeroskip.prune(module, {"density": {"stem": 0.5, "head": 0.25}})
    assert type(result) is Residual
    assert densities(result) == {"stem": 0.5, "block": 1, "head": 0.25, "frozen": 1}
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    kept = result.stem.weight != 0
    assert torch.equal(result.stem.weight[kept], module.stem.weight[kept])
    assert result.training


def test_a_residual_network_trains_and_its_zeros_stay(module, samples):
    calls, before = [], state(module)
    result = zeroskip.prune(module, {"granularity": "2:4", "epochs": 25, "learning_rate": 1e-2},
                            samples, progress=lambda *call: calls.append(call))
    x, y = map(torch.from_numpy, samples)
    with torch.no_grad():
        right = (result.eval()(x).argmax(1) == y).float().mean()
    assert right > 0.9
    assert len(calls) == 25
    for part in (result.stem, result.block, result.head):
        rows = nn.functional.pad(part.weight.flatten(1), (0, -part.weight[0].numel() % 4))
        assert int(rows.reshape(-1, 4).count_nonzero(dim=1).max()) == 2
    # batch norms learn in a live module, and what is frozen is only cut
    assert not torch.equal(result.norm.running_mean, before["norm.running_mean"])
    kept = result.frozen.weight != 0
    assert torch.equal(result.frozen.weight[kept], before["frozen.weight"][kept])
    assert torch.equal(result.frozen.bias, before["frozen.bias"])


def test_the_same_seed_is_the_same_module(module, samples):
    recipe = {"density": 0.5, "epochs": 2, "seed": 3}
    one, two = (zeroskip.prune(module, recipe, samples) for _ in range(2))
    assert all(torch.equal(each, two.state_dict()[name]) for name, each in
               one.state_dict().items())


def test_an_autoencoder_needs_no_targets():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 16),
                           nn.Unflatten(1, (4, 4)))
    x = np.linspace(0, 1, 64, dtype=np.float32)[:, None, None] * np.ones((4, 4), np.float32)
    found = []
    for epochs in (0, 100):
        result = zeroskip.prune(module, {"density": 0.5, "epochs": epochs, "learning_rate": 3e-2},
                                x, loss="mse")
        assert list(densities(result).values()) == [0.5, 0.5]
        with torch.no_grad():
            found.append(float((result(torch.from_numpy(x)) - torch.from_numpy(x)).square().mean()))
    assert found[1] < 0.3 * found[0]


def test_a_loss_in_python_gets_what_the_module_returns(tmp_path, monkeypatch):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 1)

        def forward(self, left, right):
            return self.a(left), self.b(right)

    def loss(outputs, targets):
        return outputs[0].square().mean() + (outputs[1] - targets).square().mean()

    x = {"right": torch.randn(40, 4), "left": torch.randn(40, 4)}
    recipe = {"density": 0.5, "epochs": 100, "learning_rate": 5e-2}
    result = zeroskip.prune(Two(), recipe, (x, torch.ones(40, 1)), loss=loss)
    assert float(loss(result(x["left"], x["right"]), torch.ones(40, 1)).detach()) < 0.3
    with pytest.raises(BadInput, match="the model returns 2 outputs, and this loss takes one; gi"):
        zeroskip.prune(Two(), recipe, (x, torch.ones(40, 1)), loss="mse")
    with pytest.raises(BadInput, match="have the input 'up', and forward takes left, right; name"):
        zeroskip.prune(Two(), recipe, ({"up": x["left"]}, torch.ones(40, 1)), loss=loss)
    (tmp_path / "mine.py").write_text("def far(outputs, targets):\n    return (outputs[1] - "
                                      "targets).abs().mean()\n")
    monkeypatch.chdir(tmp_path)
    zeroskip.prune(Two(), {**recipe, "epochs": 1}, (x, torch.ones(40, 1)), loss="mine:far")
    for wrong in ("mine:near", "nowhere:far"):
        with pytest.raises(BadInput, match=f"the loss '{wrong}' cannot be imported"):
            zeroskip.prune(Two(), recipe, (x, torch.ones(40, 1)), loss=wrong)


def test_channels_leave_a_module(module, samples):
    recipe = {"density": {"stem": 0.5}, "granularity": "channel", "epochs": 1}
    result = zeroskip.prune(module, recipe, samples)
    assert result.stem.weight.shape == (4, 1, 3, 3)
    assert result.block.weight.shape == (4, 4, 3, 3)
    assert result.norm.running_mean.shape == (4,)
    with pytest.raises(BadInput, match="found in a run; give data, with epochs = 0 if nothing"):
        zeroskip.prune(module, recipe)
    with pytest.raises(BadInput, match="frozen has no neuron that could go: those of the last"):
        zeroskip.prune(module, {**recipe, "granularity": "neuron", "density": {"frozen": 0.5}},
                       samples)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_becomes_a_file(tmp_path, module, samples, suffix):
    module.eval()
    path, out = tmp_path / f"m{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".onnx":
        path.write_bytes(torch_frontend.to_onnx(module, (torch.from_numpy(samples[0][:1]),)))
    else:
        torch.export.save(torch.export.export(module, (torch.from_numpy(samples[0][:8]),)), path)
    np.savez(tmp_path / "train.npz", image=samples[0], labels=samples[1])
    (tmp_path / "r.toml").write_text('density = 0.5\ndata = "train.npz"\nepochs = 2\n')
    assert zeroskip.prune(path, tmp_path / "r.toml", out=out) == out
    found = {name: value for name, value in (
        {each.name: onnx.numpy_helper.to_array(each) for each in
         onnx.load(out).graph.initializer} if suffix == ".onnx"
        else {name: each.detach().numpy() for name, each in
              torch.export.load(out).state_dict.items()}).items()
        if name in ("stem.weight", "block.weight", "head.weight")}
    assert {np.count_nonzero(each) / each.size for each in found.values()} == {0.5}
    assert len(found) == 3


@pytest.mark.parametrize(("options", "message"), [
    ({"out": "x.onnx"}, "leave it out, since a module is returned"),
    ({"recipe": {"densty": 0.5}}, "a key that none has .*'densty'"),
    ({"recipe": {"density": {"fc": 0.5}}}, "names the layer 'fc', which .* are stem, block, head"),
    ({"data": np.ones((4, 1, 6, 6), np.float32)}, "cross_entropy needs the class of each sample"),
    ({"data": (np.ones((4, 1, 6, 6), np.float32), np.full(4, 2))}, "class 2, but the network has"),
    ({"data": (np.ones((4, 1, 6, 6), np.float32), np.zeros(3, int))}, "different numbers of sampl"),
    ({"data": (np.ones((4, 1, 6, 6), np.float32), np.full(4, .5))}, "it must be one class from 0"),
    ({"loss": "hinge", "data": (np.ones((4, 1, 6, 6)), np.zeros(4, int))}, "no loss 'hinge'; choo"),
    ({"loss": "mse", "data": Data(np.ones((4, 1, 6, 6), np.float32))}, "as many targets as there"),
    ({"model": "m.onnx", "out": "m.pt2"}, r"written in the format .* ends in .onnx"),
    ({"model": "m.onnx"}, "out is the path of a model that was read from a file; give one"),
    ({"model": nn.ReLU()}, "ReLU holds no linear layer and no convolution"),
    ({"model": nn.LazyLinear(3)}, "has no weights yet; run the module once"),
])
def test_bad_input(module, options, message):
    given = {"model": module, "recipe": {"density": 0.5, "epochs": 1}} | options
    with pytest.raises(BadInput, match=message):
        zeroskip.prune(given.pop("model"), given.pop("recipe"), given.pop("data", None), **given)


def test_a_weight_that_is_worked_out_is_refused():
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.raises(BadInput, match="layer 0 works out its weight when it runs; remove the"):
        zeroskip.prune(module, {"density": 0.5})
    assert densities(zeroskip.prune(module, {"density": {"1": 0.5}}))["1"] == 0.5


def test_tied_layers_are_pruned_once():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    result = zeroskip.prune(module, {"density": 0.25})
    assert result[0].weight is result[2].weight
    assert int(result[0].weight.count_nonzero()) == 4
