"""Criteria: every score by hand, and Optimal Brain Damage against the loss itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call, jacrev

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune.criteria import CRITERIA
from zeroskip.sw.prune.scores import curvature, scores

torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def convolutional(inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=inplace),
        nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(8, 3)).eval()


def layers(module):
    return {name: part for name, part in module.named_modules()
            if isinstance(part, nn.Linear | nn.Conv2d)}


def gauss_newton(module, x, loss):
    """Diagonal by layer from whole Jacobians of each sample, and the Hessian of its loss."""
    names = [f"{name}.weight" for name in layers(module)]
    weights = {name: module.get_parameter(name).detach() for name in names}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for sample in x:
        outputs = module(sample[None]).detach()[0]
        inner = hessian(loss, outputs)
        jacobian = jacrev(lambda w, sample=sample: functional_call(module, w, (sample[None],))[0])
        for name, j in jacobian(weights).items():
            total[name] += torch.einsum("a...,ab,b...->...", j, inner, j) / len(x)
    return {name.removesuffix(".weight"): each for name, each in total.items()}


LOSSES = {"cross_entropy": lambda y: nn.functional.cross_entropy(y, torch.tensor(1)),
          "mse": lambda y: nn.functional.mse_loss(y, torch.zeros(len(y)))}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("module", "shape"), [
    (mlp(), (5,)), (convolutional(), (2, 6, 6)), (convolutional(inplace=True), (2, 6, 6))])
def test_curvature_is_the_diagonal_of_the_gauss_newton_matrix(module, shape, loss):
    x = random(7, *shape)
    expected = gauss_newton(module, x, LOSSES[loss])
    result = curvature(module, layers(module), [x[:3], x[3:]], loss=loss)
    for name, each in result.items():
        assert each.dtype == torch.float32
        torch.testing.assert_close(each, expected[name])


def test_curvature_sums_positions_before_it_squares():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, tokens):
            return self.fc(tokens).mean(1)
    module, x = Mean(), random(6, 5, 4)
    torch.testing.assert_close(
        curvature(module, {"fc": module.fc}, [x], loss="mse")["fc"],
        (2 / 3 * x.mean(1).square().mean(0)).expand(3, 4))


def test_curvature_of_a_layer_that_is_used_twice_adds_up():
    layer, x = nn.Linear(4, 4, bias=False), random(6, 4)
    module = nn.Sequential(layer, nn.ReLU(), layer)
    each, a_call = {"fc": layer}, nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 4, bias=False))
    a_call[2].load_state_dict(layer.state_dict())
    torch.testing.assert_close(
        curvature(module, each, [x])["fc"],
        sum(curvature(a_call, {"a": a_call[0], "b": a_call[2]}, [x]).values()))


def test_curvature_of_frozen_weights_is_the_same():
    module, x = mlp(), random(9, 5)
    free = curvature(module, layers(module), [x])
    module.requires_grad_(False)
    frozen = curvature(module, layers(module), [x])
    assert all(torch.equal(free[name], frozen[name]) for name in free)
    assert all(p.grad is None for p in module.parameters())


def test_obd_is_the_rise_of_a_quadratic_loss_at_its_minimum():
    x, y = random(40, 6).double(), random(40, 3, seed=1).double()
    module = nn.Linear(6, 3, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    least = module.weight.detach().double()
    score = scores("obd", module, {"fc": module}, [x.float()], loss="mse")["fc"]

    def loss(weight):
        return nn.functional.mse_loss(x @ weight.T, y)
    for row, column in np.ndindex(3, 6):
        cut = least.clone()
        cut[row, column] = 0
        assert float(loss(cut) - loss(least)) == pytest.approx(float(score[row, column]), rel=1e-4)


@pytest.mark.parametrize("name", CRITERIA)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999))
def test_scores_are_like_the_weights_and_not_negative(name, seed):
    module = convolutional().train()
    behind = ["0"] if CRITERIA[name].needs == "norm" else layers(module)
    own = {key: layers(module)[key] for key in behind}
    x = random(5, 2, 6, 6, seed=seed)
    result = scores(name, module, own, [x[:2], x[2:]], after={"0": module[1]})
    assert list(result) == list(own)
    for key, score in result.items():
        assert score.shape == own[key].weight.shape
        assert score.dtype == torch.float32
        assert not score.requires_grad
        assert (score >= 0).all()
    assert module[1].training


def test_magnitudes():
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-3.0, 0.5]]))
    assert scores("l1", layer, {"fc": layer})["fc"].tolist() == [[3, 0.5]]
    assert scores("l2", layer, {"fc": layer})["fc"].tolist() == [[9, 0.25]]


def test_scale_of_a_filter_is_that_of_its_batch_norm():
    conv, norm = nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -4, 0]))
    score = scores("scale", nn.Sequential(conv, norm), {"conv": conv}, after={"conv": norm})
    assert score["conv"][:, 1, 0, 1].tolist() == [0.25, 0.5, 0]
    assert score["conv"].sum((1, 2, 3)).tolist() == [2, 4, 0]


def test_apoz_equals_a_hand_count():
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1]]))
        layer.bias.copy_(torch.tensor([0.0, 2]))
    batches = [torch.tensor([[-1.0], [0]]), torch.tensor([[1.0], [3]])]
    # after the ReLU 0 0 1 3 and 3 2 1 0
    assert scores("apoz", layer, {"fc": layer}, batches)["fc"].tolist() == [[0.5], [0.75]]


def test_apoz_counts_behind_the_batch_norm():
    conv, norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
    norm.running_mean.copy_(torch.tensor([100.0, -100]))
    score = scores("apoz", nn.Sequential(conv, norm), {"conv": conv}, [random(3, 1, 2, 2)],
                   after={"conv": norm})
    assert score["conv"].flatten().tolist() == [0, 1]


def test_wanda_by_hand():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2], [0, 3]]))
    batches = [torch.tensor([[3.0, 1]]), torch.tensor([[-1.0, 1]]), torch.tensor([[-1.0, -1]])]
    torch.testing.assert_close(scores("wanda", layer, {"fc": layer}, batches)["fc"],
                               torch.tensor([[(11 / 3)**0.5, 2], [0, 3]]))


def test_wanda_of_a_convolution():
    conv, x = nn.Conv2d(2, 3, 2), random(4, 2, 5, 5)
    energy = torch.stack([x[:, c, i:i + 4, j:j + 4].square().mean().sqrt()
                          for c in range(2) for i in range(2) for j in range(2)])
    torch.testing.assert_close(scores("wanda", conv, {"conv": conv}, [x])["conv"],
                               conv.weight.detach().abs() * energy.view(2, 2, 2))


@pytest.mark.parametrize("name", ["apoz", "wanda", "obd"])
def test_refuses_to_guess_without_samples(name):
    with pytest.raises(BadInput, match=f"criterion {name} needs samples; give data, or choose"):
        scores(name, mlp(), layers(mlp()))
    module = mlp()
    with pytest.raises(BadInput, match="no sample reaches layer 0;"):
        scores(name, module, layers(module), [])
    with pytest.raises(BadInput, match="no sample reaches layer other;"):
        scores(name, module, {**layers(module), "other": nn.Linear(5, 4)}, [random(2, 5)])


@pytest.mark.parametrize("after", [None, {"other": nn.BatchNorm2d(3)},
                                   {"0": nn.BatchNorm2d(3, affine=False)}])
def test_refuses_scale_without_scales(after):
    module = convolutional()
    with pytest.raises(BadInput, match="scale needs the batch norm behind layer 0, with its"):
        scores("scale", module, {"0": module[0]}, after=after)


@pytest.mark.parametrize(("name", "value"), [("l1", float("nan")), ("l2", float("inf"))])
def test_refuses_scores_that_are_not_finite(name, value):
    module = mlp()
    with torch.no_grad():
        module[2].weight[1, 2] = value
    with pytest.raises(BadInput, match=f"scores of layer 2 by {name} are not all finite; look"):
        scores(name, module, layers(module))


def test_refuses():
    module, x = mlp(), random(2, 5)
    with pytest.raises(BadInput, match="unknown criterion 'l3'; choose one of l1, l2, scale, apoz"):
        scores("l3", module, layers(module))
    with pytest.raises(BadInput, match="unknown loss 'hinge'; choose one of cross_entropy, mse"):
        curvature(module, layers(module), [x], loss="hinge")
    with pytest.raises(BadInput, match=r"outputs of a batch are \[2\], not \[samples, outputs\]"):
        curvature(module, layers(module), [x], run=lambda module, x: module(x)[:, 0])
    with pytest.raises(BadInput, match="layer conv is a convolution in 2 groups"):
        curvature(module, {"conv": nn.Conv2d(4, 4, 3, groups=2)}, [x])
