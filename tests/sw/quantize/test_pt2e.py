"""Modules quantised by torchao as the tensor core computes: nothing is calibrated, and every output
is onnxruntime's."""

import os
import warnings

import numpy as np
import onnxruntime
import pytest

from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.compiler.targets import targets
from zeroskip.sw.frontends.load import from_torch, read
from zeroskip.sw.graph.graph import OperatorNode
from zeroskip.sw.runtime import arrays
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program

torch = pytest.importorskip("torch")
with warnings.catch_warnings():     # torchao's own
    warnings.simplefilter("ignore")
    pytest.importorskip("torchao")
    from torchao.quantization.pt2e import (
        move_exported_model_to_eval,
        move_exported_model_to_train,
    )
    from torchao.quantization.pt2e.quantize_pt2e import (
        convert_pt2e,
        prepare_pt2e,
        prepare_qat_pt2e,
    )

    from zeroskip.sw.quantize.pt2e import TensorCoreQuantizer

nn = torch.nn
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")   # torch's own


class Residual(nn.Module):
    """Two convolutions, around the second of which its input goes, and a pool."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(128, 4)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = torch.max_pool2d(torch.relu(self.b(x) + x), 2)
        return self.fc(torch.flatten(x, 1))


NETS = {
    "mlp": ((12,), lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)), []),
    "cnn": ((3, 8, 8), lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 4)), ["MaxPool"]),
    "residual": ((3, 8, 8), Residual, ["Add", "Relu", "MaxPool"]),
    "depthwise": ((4, 6, 6), lambda: nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1),
        nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 4)), ["AveragePool"]),
    "one dimension": ((3, 16), lambda: nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 6, 3, stride=2, bias=False),
        nn.ReLU(), nn.Flatten(), nn.Linear(42, 4)), []),
}
"""Shape of a sample, the module, and the operators that stay on the host."""


def exported(module, x):
    return torch.export.export(module, (x,), dynamic_shapes=(
        {0: torch.export.Dim.DYNAMIC},)).module()


def golden(graph, x):
    compiled = compile_network(graph, None, *targets(None, ["tc-64"]))
    given = arrays.inputs(compiled.program, "x", x)
    run = run_program(compiled.program, GoldenBackend(compiled.program, compiled.reference),
                      given.buffers)
    found, = arrays.outputs(compiled.program, run.buffers, len(x)).values()
    return compiled, found


def onnxruntime_of(converted, x, path):
    """A file of the module, and what onnxruntime, as it is, gives."""
    torch.onnx.export(torch.export.export(converted, (torch.from_numpy(x[:2]),), dynamic_shapes=(
        {0: torch.export.Dim.DYNAMIC},)), (), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def integers(converted):
    """The int8 weights, as rows, that torchao leaves in a module."""
    constants = [getattr(converted, node.target) for node in converted.graph.nodes
                 if node.op == "get_attr"]
    return [each.numpy().reshape(len(each), -1) for each in constants if each.dtype == torch.int8]


@pytest.mark.parametrize("name", NETS)
def test_every_output_equals_onnxruntime(tmp_path, name):
    shape, make, operators = NETS[name]
    torch.manual_seed(1)
    module, x = make().eval(), torch.randn(32, *shape)
    if name == "depthwise":
        module[1].running_mean.uniform_(-0.5, 0.5)
        module[1].running_var.uniform_(0.5, 2)
    prepared = prepare_pt2e(exported(module, x), TensorCoreQuantizer())
    prepared(x)
    converted = convert_pt2e(prepared)
    samples = np.random.default_rng(0).normal(size=(200, *shape)).astype(np.float32)
    expected = onnxruntime_of(converted, samples, tmp_path / "m.onnx")
    graph = read(tmp_path / "m.onnx")
    assert all(node.layer.quantised for node in graph.layers)
    host = [each.operator for each in graph.nodes if isinstance(each, OperatorNode)]
    assert [each for each in host if each != "QuantizeLinear"] == operators
    _, found = golden(graph, samples)
    assert np.count_nonzero(found != expected) == 0
    assert len(np.unique(expected)) > 20
    with torch.no_grad():
        wanted = module(torch.from_numpy(samples)).numpy()
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.1 * wanted.std()


def test_a_module_that_is_alive_and_what_is_annotated():
    """Weights are symmetric, activations are not, biases are in units of the sums; and a ReLU is
    the layer's."""
    torch.manual_seed(2)
    x = torch.rand(32, 12) + 1
    prepared = prepare_pt2e(exported(NETS["mlp"][1]().eval(), x), TensorCoreQuantizer())
    prepared(x)
    converted = convert_pt2e(prepared)
    graph = from_torch(converted, (x[:1],))
    first, second = (node.layer for node in graph.layers)
    assert [first.activation, second.activation] == ["relu", "none"]
    assert len(graph.nodes) == 4    # with input and output in integers
    for layer in (first, second):
        own = layer.quantised
        assert own.weight.min() >= -127
        assert (np.abs(own.weight).max(axis=1) == 127).all()
        assert len(np.unique(own.weight_scale)) == len(own.weight)
    # from 0, because all are positive
    assert first.quantised.input.zero_point == first.quantised.output.zero_point == -128
    assert second.quantised.input == first.quantised.output
    compiled, found = golden(graph, x.numpy())
    for layer, weight in zip(compiled.reference, integers(converted), strict=True):
        np.testing.assert_array_equal(layer.weight, weight)
    with torch.no_grad():
        assert np.abs(converted(x).numpy() - found).max() <= second.quantised.output.scale * 1.001


@pytest.mark.parametrize("norm", [False, pytest.param(True, marks=pytest.mark.skipif(
    "ZEROSKIP_REGRESSION" not in os.environ, reason="torchao takes minutes to match batch norms"))])
def test_training_with_integers_in_mind_keeps_them(tmp_path, norm):
    """A net that is fine-tuned: what is compiled is what was trained."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *[nn.BatchNorm2d(8)] * norm, nn.ReLU(),
                           nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 4))
    x = torch.randn(64, 3, 8, 8)
    labels = (x[:, 0].mean(dim=(1, 2)) > 0) + 2 * (x[:, 1].mean(dim=(1, 2)) > 0)
    prepared = prepare_qat_pt2e(exported(module.train(), x), TensorCoreQuantizer(training=True))
    move_exported_model_to_train(prepared)
    optimiser, losses = torch.optim.Adam(prepared.parameters(), lr=0.01), []
    for _ in range(25):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(prepared(x), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    move_exported_model_to_eval(prepared)
    with torch.no_grad():
        trained = prepared(x).numpy()
    converted = convert_pt2e(prepared)
    expected = onnxruntime_of(converted, x.numpy(), tmp_path / "m.onnx")
    compiled, found = golden(read(tmp_path / "m.onnx"), x.numpy())
    assert np.count_nonzero(found != expected) == 0
    assert [layer.activation for layer in compiled.reference] == ["relu", "none"]
    kept = integers(converted)
    for layer in compiled.reference:
        assert any(np.array_equal(layer.weight, each) for each in kept)
    step = compiled.reference[-1].output.scale
    assert np.mean(np.abs(found - trained) > step / 2) < 0.05
    assert np.mean(found.argmax(axis=1) == labels.numpy()) > 0.8
