"""``torch.compile(module, backend="zeroskip")`` gives what ``zeroskip.compile`` of the module
gives, bit for bit, for any batch; and what no engine takes torch computes, with the reason."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import zeroskip
from zeroskip.sw.api import dynamo
from zeroskip.sw.errors import BadInput

torch.set_num_threads(1)

TC = {"target": "tc-8", "engine": "tensorcore"}


@pytest.fixture(autouse=True)
def fresh():
    """No graph of another test, and no gradients."""
    torch._dynamo.reset()
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def no_warning_of_torch():
    """torch's own imports warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", module="torch|copyreg|sympy|onnxscript")
        yield


class Branch(nn.Module):
    """Looks at its values between two layers, so that torch captures two graphs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x):
        y = torch.relu(self.a(x))
        if y.sum() < 0:
            return y
        return self.b(y)


class Attention(nn.Module):
    """A block of an encoder, and a mean over its tokens."""

    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.block(x).mean(1))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))


def cnn():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))


MODULES = {"mlp": (mlp, (3, 4), (4, 7, 1)), "cnn": (cnn, (2, 6, 6), ()),
           "attention": (Attention, (5, 8), (4,))}
"""What makes each, the shape of a sample, and batches behind the first."""


def made(make, shape, samples=9):
    torch.manual_seed(0)
    return make().eval(), torch.randn(samples, *shape)


def captured(module, **options):
    return torch.compile(module, backend="zeroskip", options={**TC, **options})


SCALES = "samples of this call set the scales"


@pytest.mark.parametrize("name", MODULES)
def test_outputs_are_those_of_compile_for_every_batch(name):
    """The graphs that torch captures: of a batch of 9, of any, of 1."""
    make, shape, batches = MODULES[name]
    module, x = made(make, shape)
    own, compiled = zeroskip.compile(module, x, **TC), captured(module)
    with pytest.warns(UserWarning, match=f"the 9 {SCALES}"):
        y = compiled(x)
    assert (y.dtype, y.shape) == (torch.float32, (9, len(y[0])))
    np.testing.assert_array_equal(y, own(x))
    for samples in batches:
        some = torch.randn(samples, *x.shape[1:])
        np.testing.assert_array_equal(compiled(some), own(some))
    near = module(x)
    assert (y - near).abs().max() < 0.2 * near.std()


def test_a_branch_makes_two_graphs():
    """The second has what the first gives for its samples."""
    module, x = made(Branch, (12,))
    compiled = captured(module)
    with pytest.warns(UserWarning, match=SCALES) as said:
        y = compiled(x)
    assert len(said) == 2
    first = zeroskip.compile(nn.Sequential(module.a, nn.ReLU()), x, **TC)(x)
    second = zeroskip.compile(module.b, first, **TC)(first)
    np.testing.assert_array_equal(y, second)


def test_calibration_comes_before_programs():
    module, x = made(mlp, (3, 4), 20)
    compiled = captured(module, calibration=14)
    assert torch.equal(compiled(x[:9]), module(x[:9]))
    wanted = zeroskip.compile(module, x[:18], **TC)     # the call that makes it enough counts whole
    np.testing.assert_array_equal(compiled(x[9:18]), wanted(x[9:18]))


def test_weights_that_are_changed():
    """In gateware."""
    module, x = made(mlp, (3, 4))
    compiled = captured(module, backend="cxxrtl")
    with pytest.warns(UserWarning, match=SCALES):
        before = compiled(x)
    module[3].bias += 1
    np.testing.assert_array_equal(compiled(x), zeroskip.compile(module, x, **TC)(x))
    assert (compiled(x) - before - 1).abs().max() < 0.1


class Several(nn.Module):
    """Gives an input as it is, and two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x, y):
        return {"sum": self.a(x) + self.b(y), "x": x, "argmax": self.b(y).argmax(1)}


def test_several_inputs_and_outputs():
    module, x = made(Several, (6,))
    y = torch.randn(9, 6)
    with pytest.warns(UserWarning, match=SCALES):
        found = captured(module)(x, y)
    own = zeroskip.compile(module, x, y, **TC)(x, y)
    assert found["x"] is x
    assert list(found) == ["sum", "x", "argmax"]
    for name, at in (("sum", 0), ("argmax", -1)):
        np.testing.assert_array_equal(found[name], list(own.values())[at].squeeze())
    assert found["argmax"].dtype == torch.int64


class Changes(nn.Module):
    """Counts in a buffer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.fc(x)


class Mixes(nn.Module):
    """Takes the mean of the batch from each sample."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(x - x.mean(0))


class Noise(nn.Module):
    """Draws numbers."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(x + torch.rand_like(x))


@pytest.mark.parametrize(("make", "message"), [
    (Changes, "it changes its inputs or its buffers"),
    (Noise, "drawn anew on each run"),
    (lambda: nn.Sequential(nn.Linear(6, 4)).bfloat16(), "it takes bfloat16"),
])
def test_what_no_engine_takes(make, message):
    module, x = made(make, (6,))
    x = x.to(next(module.parameters()).dtype)
    compiled = captured(module)
    for call in range(2):
        torch.manual_seed(1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            y = compiled(x)
        assert [message in str(each.message) for each in said if "zeroskip" in str(each.message)] \
            == [True] * (call == 0)
        torch.manual_seed(1)
        assert torch.equal(y, module(x))
    if make is Changes:
        assert module.calls == 4


def test_samples_that_depend_on_one_another():
    """A program for one batch computes them together; one for any batch would not."""
    module, x = made(Mixes, (6,))
    compiled = captured(module)
    with pytest.warns(UserWarning, match=SCALES):
        y = compiled(x)
    assert (y - module(x)).abs().max() < 0.1
    with pytest.warns(UserWarning, match="its samples depend on one another"):
        assert torch.equal(compiled(x[:5]), module(x[:5]))


def test_gradients_are_left_to_torch():
    module, x = made(mlp, (3, 4))
    with torch.enable_grad():
        with pytest.warns(UserWarning, match="call the module under torch.no_grad"):
            y = captured(module)(x)
        y.sum().backward()
    assert module[1].weight.grad.abs().sum() > 0


def test_training_mode():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)).train()
    with pytest.warns(UserWarning, match="training mode"):
        captured(module)(torch.randn(4, 6))


@pytest.mark.parametrize(("options", "message"), [
    ({"targets": "tc-8"}, "there is no option 'targets'; choose of target, "),
    ({"backend": "fast"}, "there is no backend 'fast'; choose one of golden, "),
    ({"calibration": 0}, "'calibration' is how many samples set the scales, 1 or more, not 0"),
    ({"calibration": "x"}, "1 or more, not 'x'"),
])
def test_options_that_are_none(options, message):
    with pytest.raises(BadInput, match=message):
        dynamo.backend(None, (), options=options)


def test_torch_knows_it():
    assert "zeroskip" in torch.compiler.list_backends()


def test_no_samples():
    module, x = made(mlp, (3, 4))
    assert captured(module)(x[:0]).shape == (0, 5)
