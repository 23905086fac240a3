"""PyTorch modules and .pt2 files: the same outputs, or the reason why not."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.compiler.frontend import from_torch, inspect, read
from zeroskip.sw.compiler.torch_frontend import to_torch
from zeroskip.sw.errors import BadInput

torch.set_num_threads(1)
RNG = np.random.default_rng(0)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.ReLU(), nn.Dropout(),
        nn.Sequential(nn.Identity(), nn.Linear(5, 3, bias=False))).eval()


class Functional(nn.Module):
    """Flattens with view, as many models do; one layer is applied twice."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = torch.relu(self.first(x.view(x.size(0), -1)))
        return self.again(self.again(h))


def export(module, batch="any"):
    shapes = ({0: torch.export.Dim.DYNAMIC if batch == "any" else None},)
    return torch.export.export(module.eval(), (torch.zeros(2, 2, 4),), dynamic_shapes=shapes)


def saved(module, path):
    torch.export.save(export(module), path)
    return path


def check(network, module):
    x = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(network.forward(x.numpy())[-1], module(x).detach().numpy(),
                               rtol=1e-5, atol=1e-6)


def test_sequential():
    network = from_torch(mlp())
    check(network, mlp())
    assert [(layer.name, layer.activation) for layer in network.layers] == [
        ("1", "relu"), ("5.1", "none")]


def test_pt2_file(tmp_path):
    network = read(saved(mlp(), tmp_path / "model.pt2"))
    check(network, mlp())
    assert [layer.name for layer in network.layers] == ["1", "5.1"]


@pytest.mark.parametrize("batch", ["any", "fixed"])
@pytest.mark.parametrize("make", [mlp, Functional])
def test_exported_program(make, batch):
    torch.manual_seed(0)
    module = make()
    if batch == "fixed" and make is Functional:
        program = torch.export.export(module, (torch.zeros(2, 2, 4),))
        network = from_torch(program)
    else:
        network = from_torch(export(module, batch))
    check(network, module)


def test_layer_that_is_used_twice():
    shared = nn.Linear(8, 8)
    module = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared)
    network = from_torch(module)
    assert len(network.layers) == 2
    check(network, module)


def test_half_and_double_are_exact():
    for dtype in (torch.float16, torch.float64):
        module = nn.Sequential(nn.Linear(4, 2)).half().to(dtype)
        layer = from_torch(module).layers[0]
        assert layer.weight.dtype == np.float32
        np.testing.assert_array_equal(layer.weight, module[0].weight.detach().double().numpy())


def test_double_that_float32_cannot_hold():
    module = nn.Sequential(nn.Linear(4, 2)).double()
    nn.init.constant_(module[0].weight, 0.5)
    with torch.no_grad():
        module[0].weight[1, 2] = 0.1
    with pytest.raises(BadInput, match=r"'0.weight' holds a double at \[1, 2\]"):
        from_torch(module)


def test_bfloat16():
    with pytest.raises(BadInput, match="call float"):
        from_torch(nn.Sequential(nn.Linear(4, 2)).bfloat16())
    program = torch.export.export(nn.Sequential(nn.Linear(4, 2)).bfloat16(),
                                  (torch.zeros(1, 4, dtype=torch.bfloat16),))
    with pytest.raises(BadInput, match="export the model with float32"):
        from_torch(program)


def test_weight_that_is_not_finite():
    module = mlp()
    with torch.no_grad():
        module[1].weight[4, 7] = float("nan")
    with pytest.raises(BadInput, match=r"weight of layer '1' is nan at \[4, 7\]"):
        from_torch(module)


def test_one_table_lists_every_module_that_cannot_run():
    module = nn.Sequential(nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), nn.BatchNorm1d(4),
                           nn.Dropout(), nn.Linear(4, 2), nn.Softmax(dim=1))
    with pytest.raises(BadInput) as caught:
        from_torch(module)
    rows = [line.split()[:2] for line in str(caught.value).splitlines()[2:]]
    assert rows == [["0", "ReLU"], ["2", "Tanh"], ["3", "BatchNorm1d"], ["4", "Dropout"],
                    ["6", "Softmax"]]


def test_inspect_of_a_pt2_file(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    rows = inspect(saved(module, tmp_path / "model.pt2"))
    assert [(r["kind"], r["engine"]) for r in rows] == [
        ("linear", "eie"), ("aten.tanh.default", None), ("linear", "eie")]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        x = x.flatten(1)
        return x + self.fc(x)


def test_branch():
    with pytest.raises(BadInput, match=r"aten.add.Tensor\s+it joins computed tensors"):
        from_torch(export(Residual()))


def test_module_that_is_no_sequential():
    with pytest.raises(BadInput, match=r"Residual is no nn.Sequential; give torch.export"):
        from_torch(Residual())


def test_dropout_in_training_mode():
    module = nn.Sequential(nn.Linear(8, 4), nn.Dropout())
    program = torch.export.export(module.train(), (torch.zeros(2, 8),))
    with pytest.raises(BadInput, match="call eval"):
        from_torch(program)


def test_to_torch_and_back():
    network = from_torch(mlp())
    again = from_torch(to_torch(network))
    for before, after in zip(network.layers, again.layers, strict=True):
        np.testing.assert_array_equal(before.weight, after.weight)
        np.testing.assert_array_equal(before.bias, after.bias)
        assert before.activation == after.activation


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"hello", "not a complete .pt2 file")])
def test_file_that_is_no_program(tmp_path, content, message):
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read(tmp_path / "model.pt2")


def edited(path, name, edit):
    """The archive at ``path`` with ``edit`` applied to the JSON record ``name``."""
    result = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(result, "w") as new:
        for record in old.namelist():
            content = old.read(record)
            if record.endswith(name):
                values = json.loads(content)
                edit(values)
                content = json.dumps(values)
            new.writestr(record, content)
    path.write_bytes(result.getvalue())
    return path


def test_weights_that_are_a_pickle(tmp_path):
    def edit(config):
        config["config"]["1.weight"]["use_pickle"] = True

    path = edited(saved(mlp(), tmp_path / "model.pt2"), "model_weights_config.json", edit)
    with pytest.raises(BadInput, match=r"'1\.weight' as a pickle, which could run code"):
        read(path)


def test_unknown_version(tmp_path):
    def edit(program):
        program["schema_version"]["major"] = 99

    path = edited(saved(mlp(), tmp_path / "model.pt2"), "model.json", edit)
    with pytest.raises(BadInput, match="version 99"):
        read(path)


def test_tensor_outside_its_bytes(tmp_path):
    def edit(config):
        config["config"]["1.weight"]["tensor_meta"]["sizes"][0]["as_int"] = 1000

    path = edited(saved(mlp(), tmp_path / "model.pt2"), "model_weights_config.json", edit)
    with pytest.raises(BadInput, match="not laid out as"):
        read(path)


def test_damaged_files_never_raise_anything_else(tmp_path):
    path = saved(mlp(), tmp_path / "model.pt2")
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    original = path.read_bytes()
    damaged = [original[:n] for n in range(1, len(original), 997)]
    names = [name for name in records if name.endswith("json")]
    for _ in range(300):    # without the check sums, so that the damage is seen
        name = names[RNG.integers(len(names))]
        content = bytearray(records[name])
        content[RNG.integers(len(content))] ^= 1 << RNG.integers(8)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for record, values in {**records, name: bytes(content)}.items():
                archive.writestr(record, values)
        damaged.append(file.getvalue())
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read(path)
        except BadInput:
            refused += 1
    assert refused > 30
