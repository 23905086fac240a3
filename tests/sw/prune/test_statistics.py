"""Statistics: second moments and zeros as counted by hand, for every shape of layer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune.statistics import collect, input_rows

torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def patches(x, kernel, stride, padding, dilation):
    """The patches of images [n, channels, h, w], one after the other, by the definition."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel, stride, padding, dilation
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    height = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    return np.stack([
        image[:, i * sh:i * sh + dh * (kh - 1) + 1:dh, j * sw:j * sw + dw * (kw - 1) + 1:dw].ravel()
        for image in x for i in range(height) for j in range(width)]).astype(np.float64)


def check(statistics, rows):
    assert statistics.count == len(rows)
    np.testing.assert_allclose(statistics.moment, rows.T @ rows / len(rows), rtol=1e-6, atol=1e-6)
    assert torch.equal(statistics.squares, statistics.moment.diagonal())
    assert statistics.moment.dtype == statistics.squares.dtype == torch.float32


def test_linear_by_hand():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0], [0, -1]]))
    batches = [torch.tensor([[1.0, 2], [3, 0]]), torch.tensor([[-2.0, -2]])]
    seen = collect(layer, {"fc": layer}, batches)["fc"]
    assert seen.count == 3
    torch.testing.assert_close(seen.moment, torch.tensor([[14.0, 6], [6, 8]]) / 3)
    torch.testing.assert_close(seen.squares, torch.tensor([14.0, 8]) / 3)
    torch.testing.assert_close(seen.zeros, torch.tensor([1, 2]) / 3)    # an output of 0 counts


def test_tokens_are_positions():
    layer, x = nn.Linear(4, 3), random(2, 5, 4)
    seen = collect(layer, {"": layer}, [x])[""]
    check(seen, x.reshape(10, 4).double().numpy())
    torch.testing.assert_close(seen.zeros, (layer(x) <= 0).float().mean((0, 1)))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_convolution_is_unfolded(data):
    def pair(low, high):
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))
    kernel, stride, padding, dilation = pair(1, 3), pair(1, 3), pair(0, 2), pair(1, 2)
    size = [max(d * (k - 1) + 1, 3) + extra
            for k, d, extra in zip(kernel, dilation, pair(0, 4), strict=True)]
    layer = nn.Conv2d(2, 3, kernel, stride, padding, dilation)
    x = random(2, 2, *size, seed=data.draw(st.integers(0, 99)))
    seen = collect(layer, {"conv": layer}, [x[:1], x[1:]])["conv"]
    check(seen, patches(x.numpy(), kernel, stride, padding, dilation))
    torch.testing.assert_close(seen.zeros, (layer(x) <= 0).float().mean((0, 2, 3)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")     # slow, torch says
@pytest.mark.parametrize("layer", [
    nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(3, 1)), nn.Conv2d(2, 3, 3, padding="valid"),
    nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")])
def test_rows_times_weight_are_the_outputs(layer):
    x = random(2, 2, 6, 5)
    outputs = input_rows(layer, x) @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(outputs.transpose(1, 2), layer(x).flatten(2))


def test_zeros_are_those_behind_the_batch_norm():
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(10)
    module = nn.Sequential(nn.Conv2d(2, 3, 1), norm, nn.ReLU())
    x = random(2, 2, 4, 4)
    own = collect(module, {"conv": module[0]}, [x])["conv"]
    behind = collect(module, {"conv": module[0]}, [x], after={"conv": norm})["conv"]
    assert (own.zeros < 1).any()
    assert behind.zeros.tolist() == [1, 1, 1]
    assert torch.equal(own.moment, behind.moment)


def test_a_relu_in_place_hides_nothing():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    plain = nn.Sequential(module[0], nn.ReLU(), module[2])
    first, second = (collect(each, {"a": each[0], "b": each[2]}, [random(9, 4)])
                     for each in (module, plain))
    for name in "ab":
        assert torch.equal(first[name].moment, second[name].moment)
        assert torch.equal(first[name].zeros, second[name].zeros)


def test_without_moments_the_squares_are_the_same():
    layer, x = nn.Linear(4, 3), random(50, 4)
    with_moments, without = (collect(layer, {"fc": layer}, [x], moments=moments)["fc"]
                             for moments in (True, False))
    assert without.moment is None
    torch.testing.assert_close(without.squares, with_moments.squares)


def test_run_sends_a_batch_of_any_kind_through():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, *, left, right):
            return self.fc(left + right)
    module, x = Pair(), random(6, 4)
    seen = collect(module, {"fc": module.fc}, [{"left": x, "right": x}],
                   run=lambda module, batch: module(**batch))["fc"]
    check(seen, 2 * x.double().numpy())


def test_the_module_stays_as_it_is():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    module.train()
    module[1].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    first = collect(module, {"fc": module[3]}, [random(8, 4)])["fc"]
    second = collect(module, {"fc": module[3]}, [random(8, 4)])["fc"]
    assert torch.equal(first.moment, second.moment)     # no dropout
    assert [part.training for part in module] == [True, False, True, True]
    assert not any(part._forward_hooks for part in module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_hooks_end_with_an_error():
    layer = nn.Linear(4, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        collect(layer, {"fc": layer}, [random(2, 5)])
    assert layer.training
    assert not layer._forward_hooks


def test_refuses():
    layer, other = nn.Linear(4, 3), nn.Linear(4, 3)
    with pytest.raises(BadInput, match="no sample reaches layer fc; give at least one, or leave"):
        collect(layer, {"fc": layer}, [])
    with pytest.raises(BadInput, match="no sample reaches layer b;"):
        collect(layer, {"a": layer, "b": other}, [random(2, 4)])
    with pytest.raises(BadInput, match="layer conv is a convolution in 2 groups, whose outputs"):
        collect(layer, {"conv": nn.Conv2d(4, 4, 3, groups=2)}, [])
