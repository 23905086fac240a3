"""PyTorch modules: the same outputs, or the reason why not."""

import logging
import os

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import from_torch

torch.set_num_threads(1)


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


def check(graph, module):
    x = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(1))
    found = graph.evaluate({graph.inputs[0]: x.numpy()}, graph.outputs)[graph.outputs[0]]
    with torch.no_grad():
        np.testing.assert_allclose(found, module.eval()(x).numpy(), rtol=1e-5, atol=1e-6)


def test_module():
    """Linear layers in a row, which are named after their weights, of one sample."""
    graph = from_torch(mlp(), (torch.zeros(1, 2, 4),))
    check(graph, mlp())
    assert [(layer.name, layer.activation) for layer in graph.network().layers] == [
        ("1", "relu"), ("5.1", "none")]


@SAME
def test_convolutions():
    graph = from_torch(convnet(), (torch.zeros(1, 2, 4),))
    check(graph, convnet())
    network = graph.network()
    assert [(layer.name, layer.activation) for layer in network.layers] == [
        ("2", "relu"), ("5", "relu"), ("7", "none"), ("9", "none")]
    assert network.layers[0].padding == (1, 0, 1, 1)


def test_exported_program():
    """It has inputs of its own, and a fixed batch; a layer is used twice."""
    torch.manual_seed(0)
    module = Functional()
    graph = from_torch(torch.export.export(module.eval(), (torch.zeros(3, 2, 4),)), ())
    assert len(graph.layers) == 3
    check(graph, module)


class Recurrent(nn.Module):
    """Two layers of it, both ways."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = kind(4, 5, 2, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.skipif(not os.environ.get("ZEROSKIP_REGRESSION"), reason="a long run")
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_recurrent_layers_compute_what_those_of_torch_do(kind):
    """ONNX has two kinds of GRU, and torch's is not the default one."""
    module = Recurrent(kind).eval()
    graph = from_torch(module, (torch.zeros(1, 2, 4),))
    x = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module(x).numpy().reshape(6, -1)
    np.testing.assert_allclose(graph.evaluate({"x": x.numpy()}, graph.outputs)[graph.outputs[0]],
                               expected, rtol=1e-5, atol=1e-6)


class Fixed(nn.Module):
    """Takes a batch of two."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(x.reshape(2, 8)) + torch.arange(2).view(2, 1)


def test_module_for_one_batch_only():
    inputs = (torch.zeros(2, 2, 4),)
    assert from_torch(Fixed(), inputs).batch == 2
    assert vars(inputs[0]) == {}    # torch marks tensors whose sizes are open
    with pytest.raises(BadInput, match=r"torch cannot export Fixed \(.*\); change it so that "
                       r"torch\.export\.export\(module, inputs\) accepts it"):
        from_torch(Fixed(), (torch.zeros(1, 2, 4),))


def test_evaluation_mode_is_for_the_export_only(capfd):
    """Dropout and batch norm compute as in inference, each part is as it was, and torch is silent;
    it logs that torchvision is not there, and warns of training mode."""
    module = mlp().train()
    module[2].eval()
    modes, fast = [part.training for part in module.modules()], torch.backends.mha
    before = fast.get_fastpath_enabled(), logging.root.manager.disable
    graph = from_torch(module, (torch.zeros(1, 2, 4),))
    assert [part.training for part in module.modules()] == modes
    assert (fast.get_fastpath_enabled(), logging.root.manager.disable) == before
    assert capfd.readouterr() == ("", "")
    check(graph, mlp())


@pytest.mark.parametrize("part", [nn.Dropout(), nn.BatchNorm1d(4)])
def test_program_in_training_mode(part):
    program = torch.export.export(nn.Sequential(nn.Linear(8, 4), part).train(),
                                  (torch.zeros(2, 8),))
    with pytest.raises(BadInput, match=r"in training mode \((dropout|batch_norm) in \w+\); call "
                       r"eval\(\) on the module before torch\.export\.export"):
        from_torch(program, ())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_half_and_double_are_exact(dtype):
    module = nn.Sequential(nn.Linear(4, 2)).half().to(dtype)
    layer, = from_torch(module, (torch.zeros(1, 4, dtype=dtype),)).layers
    assert layer.layer.weight.dtype == np.float32
    np.testing.assert_array_equal(layer.layer.weight, module[0].weight.detach().double().numpy())


def test_weight_that_is_not_finite():
    module = mlp()
    with torch.no_grad():
        module[1].weight[4, 7] = float("nan")
    with pytest.raises(BadInput, match=r"weight of layer '1' is nan at \[4, 7\]"):
        from_torch(module, (torch.zeros(1, 2, 4),))


class Decides(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x)


@pytest.mark.parametrize(("module", "inputs", "message"), [
    (Decides(), (torch.zeros(1, 4),), r"torch cannot export Decides \(.*\); change it so that"),
    (nn.Linear(3, 2), (torch.zeros(1, 4),), r"torch cannot export Linear \(.*1, 4.*3, 2.*\);"),
    (Spectrum(), (torch.zeros(4, 4),), r"torch cannot write the module as ONNX \(.*eig.*\); take"),
    (nn.Linear(3, 2), torch.zeros(1, 3), "the inputs of a module must be a tuple of tensors"),
    (nn.Linear(3, 2), (), "the inputs of a module must be a tuple of tensors"),
    (nn.Linear(3, 2), ([1, 2, 3],), "the inputs of a module must be a tuple of tensors"),
])
def test_what_torch_cannot_export_is_one_sentence(module, inputs, message):
    with pytest.raises(BadInput, match=message) as refused:
        from_torch(module, inputs)
    assert "\n" not in str(refused.value)


def test_image_of_unknown_size():
    program = torch.export.export(
        nn.Conv2d(1, 1, 3), (torch.zeros(2, 1, 8, 8),),
        dynamic_shapes=({2: torch.export.Dim.DYNAMIC},))
    with pytest.raises(BadInput, match=r"all but the batch must be known; say it with"):
        from_torch(program, ())
