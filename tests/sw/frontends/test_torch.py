"""PyTorch modules and .pt2 files: the same outputs, or the reason why not."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.compiler.placement import inspect
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import from_torch, read, to_pt2
from zeroskip.sw.frontends.torch_frontend import to_torch, with_weights
from zeroskip.sw.graph.network import Conv2d, Linear, Network, Quantised
from zeroskip.sw.graph.types import TensorType

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


# torch warns that an even kernel makes it pad a copy; here it is what tells the sides apart
SAME = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def convnet(kernel=(3, 2)):
    """Every padding, a batch norm with statistics of its own, and an image from a flat vector."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, (1, 2, 4)),
        nn.Conv2d(1, 3, kernel, padding="same", bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 4, (2, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1)), nn.ReLU(),
        nn.Conv2d(4, 4, 1, padding="valid"), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5))
    for norm in (module[3], module[10]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return module.eval()


class FunctionalConv(nn.Module):
    """A convolution as a function, with the arguments that torch fills in, and view."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 3, 2), nn.Linear(27, 2)

    def forward(self, x):
        x = nn.functional.conv2d(x.view(x.size(0), 2, 2, 2), self.conv.weight, padding=1)
        return self.fc(x.relu().view(x.size(0), -1))


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


@SAME
def test_convolutions_of_a_sequential():
    network = from_torch(convnet())
    check(network, convnet())
    assert [(layer.name, layer.activation) for layer in network.layers] == [
        ("2", "relu"), ("5", "relu"), ("7", "none"), ("9", "none")]
    assert network.layers[0].padding == (1, 0, 1, 1)


@SAME
def test_convolutions_of_a_pt2_file(tmp_path):
    network = read(saved(convnet(), tmp_path / "model.pt2"))
    check(network, convnet())
    assert [layer.name for layer in network.layers] == ["2", "5", "7", "9"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")   # torch's own use of it
def test_convolution_of_the_core_operators():
    """aten.convolution, as run_decompositions writes it."""
    module = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv2d(1, 3, (2, 1), padding=(0, 1)))
    program = export(module).run_decompositions()
    assert "aten.convolution.default" in str(program.graph)
    check(from_torch(program), nn.Sequential(module, nn.Flatten()))
    module[1] = nn.ConvTranspose2d(1, 3, 1)
    with pytest.raises(BadInput, match="a transposed convolution cannot run"):
        from_torch(export(module).run_decompositions())


@SAME
@pytest.mark.parametrize("batch", ["any", "fixed"])
@pytest.mark.parametrize("make", [mlp, Functional, convnet, FunctionalConv])
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
        ("linear", "tensorcore"), ("aten.tanh.default", None), ("linear", "tensorcore")]


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


REFUSED = {
    "groups": (nn.Conv2d(2, 2, 1, groups=2), "2 groups: write the grouped convolution as"),
    "transposed": (nn.ConvTranspose2d(2, 2, 1), "a transposed convolution cannot run"),
    "padding": (nn.Conv2d(2, 2, 2, padding=1, padding_mode="reflect"),
                "(its padding_mode is 'reflect': only zeros|take it out of the model)"),
    "batch norm": (nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)),
                   "it normalises, but not directly after"),
    "batch norm without parameters": (
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, affine=False)), "as it is by default"),
    "layer norm": (nn.Sequential(nn.Flatten(), nn.LayerNorm(8)), "only batch norm can be folded"),
    "pooling": (nn.MaxPool2d(2), "a stride in its place"),
    "unflatten": (nn.Sequential(nn.Conv2d(2, 2, 1), nn.Unflatten(1, (2, 1))),
                  "(it must unflatten everything|not provably)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_names_the_convolution_that_cannot_run(name):
    bad, reason = REFUSED[name]
    module = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 2, 2)), bad)
    for model in (module.eval(), export(module)):
        with pytest.raises(BadInput, match=reason):
            from_torch(model)


def test_batch_norm_in_training_mode():
    module = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)).train()
    with pytest.raises(BadInput, match="normalises by the batch: call eval"):
        from_torch(module)
    program = torch.export.export(module, (torch.zeros(2, 8),))
    with pytest.raises(BadInput, match="normalises by the batch: call eval"):
        from_torch(program)


def test_sequential_that_does_not_say_how_large_its_image_is():
    with pytest.raises(BadInput, match=r"put nn.Unflatten\(1, \(channels, height, width\)\) first"):
        from_torch(nn.Sequential(nn.Conv2d(1, 1, 1)))


def test_image_of_unknown_size():
    program = torch.export.export(
        nn.Conv2d(1, 1, 3), (torch.zeros(2, 1, 8, 8),),
        dynamic_shapes=({2: torch.export.Dim.DYNAMIC},))
    with pytest.raises(BadInput, match="export the model with an input of fixed size"):
        from_torch(program)


def images():
    """conv - conv - linear - conv, with padding that differs by side."""
    rng = np.random.default_rng(1)

    def conv(name, shape, out, kernel, padding, activation):
        weight = rng.standard_normal((out, shape[0], *kernel)).astype(np.float32)
        return Conv2d(name, weight, np.ones(out, np.float32), activation, shape, (1, 2), padding,
                      (1, 1))

    first = conv("c1", (1, 2, 4), 3, (2, 2), (1, 0, 1, 0), "relu")
    second = conv("c2", first.output_shape, 2, (1, 1), (1, 2, 0, 1), "none")
    flat = Linear("fc", rng.standard_normal((8, second.outputs)).astype(np.float32),
                  np.zeros(8, np.float32), "relu")
    return Network((first, second, flat, conv("c3", (2, 2, 2), 3, (2, 1), (0, 0, 0, 0), "none")))


def test_to_torch_computes_the_same():
    """On flat samples, whatever the layers take."""
    module, x = to_torch(images()), torch.randn(5, 8)
    expected = images().forward(x.numpy())[-1]
    np.testing.assert_allclose(module(x).detach(), expected, rtol=1e-4, atol=1e-4)


def test_with_weights_of_a_module():
    module = to_torch(images())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    for before, after in zip(images().layers, with_weights(images(), module).layers, strict=True):
        np.testing.assert_array_equal(2 * before.weight, after.weight)
        np.testing.assert_array_equal(2 * before.bias, after.bias)
        assert before.geometry == after.geometry


def test_to_torch_refuses_a_quantised_layer():
    own = Quantised(np.ones((1, 1), np.int8), np.ones(1), np.zeros(1, np.int64),
                    TensorType((1,), np.dtype(np.int8), 1.0),
                    TensorType((1,), np.dtype(np.int8), 1.0))
    layer = Linear("fc", np.ones((1, 1), np.float32), np.zeros(1, np.float32), "none", own)
    with pytest.raises(BadInput, match="layer fc is quantised and cannot be trained"):
        to_torch(Network((layer,)))


@pytest.mark.parametrize("make", [mlp, lambda: convnet((3, 3))])
def test_to_torch_and_back(make):
    network = from_torch(make())
    again = from_torch(to_torch(network))
    for before, after in zip(network.layers, again.layers, strict=True):
        np.testing.assert_array_equal(before.weight, after.weight)
        np.testing.assert_array_equal(before.bias, after.bias)
        assert (before.activation, before.geometry) == (after.activation, after.geometry)


def test_to_pt2_and_back(tmp_path):
    network = from_torch(mlp())
    to_pt2(network, tmp_path / "model.pt2", {"recipe": "half"})
    held = {"recipe": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=held)
    assert held == {"recipe": "half"}
    for before, after in zip(network.layers, read(tmp_path / "model.pt2").layers, strict=True):
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


@SAME
@pytest.mark.parametrize("make", [mlp, convnet])
def test_damaged_files_never_raise_anything_else(tmp_path, make):
    path = saved(make(), tmp_path / "model.pt2")
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
