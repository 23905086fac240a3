"""Reconstruction: against brute force in small, and the order of the methods in large."""

from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.experiments import digits
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.reconstruct import lasso_channels, least_squares, output_error, sparsegpt
from zeroskip.sw.prune.statistics import collect
from zeroskip.sw.prune.train import fit, layers

torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(columns, samples=1000, seed=0):
    """Second moment of inputs that share a few causes and differ in size."""
    causes = random(samples, columns // 4, seed=seed) @ random(columns // 4, columns, seed=seed + 1)
    x = (causes + random(samples, columns, seed=seed + 2)) * random(columns, seed=seed + 3).exp()
    return x.T @ x / samples


def choose(score, name="element", density=0.5):
    return torch.from_numpy(granularity(name).mask(score.numpy(), density))


def half_of_each_row(score):
    return torch.cat([choose(row[None]) for row in score])


TWO_OF_FOUR = partial(choose, name="2:4", density=None)
CHOICES = {"half": (choose, half_of_each_row, 128), "2:4": (TWO_OF_FOUR, TWO_OF_FOUR, 4)}
"""Choice over what it is given, the same with outputs apart as Wanda has it, and the block."""


def test_output_error_is_the_mean_square_of_the_change():
    before, after, x = random(3, 5), random(3, 5, seed=1), random(20, 5, seed=2)
    expected = float((x @ (after - before).T).square().sum(1).mean())
    assert output_error(before, after, x.T @ x / 20) == pytest.approx(expected)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("seed", range(5))
def test_sparsegpt_is_better_than_wanda_is_better_than_magnitude(choice, seed):
    choose, by_row, block = CHOICES[choice]
    weight, hessian = random(64, 256, seed=seed), correlated(256, seed=10 * seed)
    pruned, mask = sparsegpt(weight, hessian, choose, block=block)
    by_wanda = by_row(weight.abs() * hessian.diagonal().sqrt())
    errors = [output_error(weight, each, hessian) for each in (
        pruned, weight * by_wanda, weight * choose(weight.abs()))]
    assert errors == sorted(errors)
    assert errors[0] < errors[1] / 2
    assert output_error(weight, least_squares(weight, hessian, mask), hessian) < errors[0]
    assert not pruned[~mask].any()
    if choice == "half":
        assert int(mask.sum()) == mask.numel() // 2
    else:
        assert (mask.view(64, 64, 4).sum(2) == 2).all()


def brute_force(weight, hessian, choose, block):
    """Optimal Brain Surgeon column by column, from the inverse of what is left of the Hessian."""
    weight, hessian = weight.double().numpy().copy(), hessian.double().numpy()
    hessian = hessian + 0.01 * hessian.diagonal().mean() * np.eye(len(hessian))
    mask = np.ones(weight.shape, bool)
    left = [np.linalg.inv(hessian[j:, j:]) for j in range(len(hessian))]
    for start in range(0, len(hessian), block):
        columns = range(start, min(start + block, len(hessian)))
        # what the loss gains with the weight, the columns to its right making up for it
        score = np.stack([weight[:, j]**2 / left[j][0, 0] for j in columns], axis=1)
        mask[:, columns] = choose(torch.from_numpy(score).float())
        for j in columns:
            for row in weight[~mask[:, j]]:
                row[j] = 0
            lost = np.where(mask[:, j], 0, weight[:, j])
            weight[:, j:] -= np.outer(lost / left[j][0, 0], left[j][0])
    return weight * mask, mask


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 13), st.integers(1, 14), st.integers(0, 99))
def test_sparsegpt_is_optimal_brain_surgeon_column_by_column(rows, columns, block, seed):
    weight, x = random(rows, columns, seed=seed), random(30, columns, seed=seed + 100)
    pruned, mask = sparsegpt(weight, x.T @ x / 30, choose, block=block)
    expected, expected_mask = brute_force(weight, x.T @ x / 30, choose, block)
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_allclose(pruned, expected, rtol=1e-4, atol=1e-5)


def test_one_weight_of_the_first_column_is_that_of_optimal_brain_surgeon():
    """The score is the rise of the error, and the others change as least squares has them."""
    weight, hessian, seen = random(1, 6), correlated(6), []
    mask = torch.tensor([[False, True, True, True, True, True]])

    def choose(score):
        seen.append(score)
        return mask
    pruned, _ = sparsegpt(weight, hessian, choose, damping=0)
    torch.testing.assert_close(pruned, least_squares(weight, hessian, mask), rtol=1e-3, atol=1e-4)
    assert output_error(weight, pruned, hessian) == pytest.approx(float(seen[0][0, 0]), rel=1e-4)


def test_the_given_weight_and_hessian_stay():
    weight, hessian = random(4, 8).double().requires_grad_(), correlated(8).double()
    before = weight.detach().clone(), hessian.clone()
    pruned, mask = sparsegpt(weight, hessian, half_of_each_row, block=3)
    assert not least_squares(weight, hessian, mask).requires_grad
    assert not pruned.requires_grad
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])


def test_inputs_that_are_always_zero_or_equal():
    x = random(50, 8)
    x[:, 3] = 0
    x[:, 5] = x[:, 4]
    weight, hessian = random(3, 8, seed=1), x.T @ x / 50
    pruned, mask = sparsegpt(weight, hessian, half_of_each_row)
    assert not mask[:, 3].any()
    assert pruned.isfinite().all()
    solved = least_squares(weight, hessian, torch.arange(8).ne(5).expand(3, 8))
    torch.testing.assert_close(solved[:, 4], weight[:, 4] + weight[:, 5], rtol=1e-4, atol=1e-4)


def test_inputs_that_are_all_zero():
    """Nothing can make up for anything: weights go by magnitude, and the others stay."""
    weight, hessian = random(3, 8), torch.zeros(8, 8)
    pruned, mask = sparsegpt(weight, hessian, half_of_each_row)
    assert torch.equal(mask, half_of_each_row(weight.abs()))
    torch.testing.assert_close(pruned, weight * mask)
    torch.testing.assert_close(least_squares(weight, hessian, weight > 0), weight.clamp(min=0))
    result, kept = lasso_channels(weight, hessian, 3)
    assert int(kept.sum()) == 3
    torch.testing.assert_close(result, weight * kept)


def test_one_input_that_is_zero_without_damping():
    """It changes nothing for the others."""
    weight, hessian = random(2, 5), correlated(5)
    with_dead = torch.zeros(6, 6)
    with_dead[1:, 1:] = hessian
    wide = torch.cat([torch.ones(2, 1), weight], dim=1)
    mask = half_of_each_row(weight)
    expected, _ = sparsegpt(weight, hessian, lambda _: mask, damping=0)
    pruned, _ = sparsegpt(wide, with_dead, lambda _: torch.cat([mask[:, :1], mask], 1), damping=0)
    torch.testing.assert_close(pruned[:, 1:], expected)
    torch.testing.assert_close(pruned[:, 0], mask[:, 0].float())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
def test_least_squares_row_by_row(rows, columns, seed):
    weight, x = random(rows, columns, seed=seed), random(40, columns, seed=seed + 100)
    mask = random(rows, columns, seed=seed + 200) > 0
    result = least_squares(weight, x.T @ x / 40, mask)
    for row, kept, own in zip(weight, mask, result, strict=True):
        solution = torch.linalg.lstsq(x[:, kept].double(), x.double() @ row.double()[:, None])
        torch.testing.assert_close(own[kept].double(), solution.solution.flatten(), rtol=1e-3,
                                   atol=1e-4)
        assert not own[~kept].any()


def test_least_squares_of_all_is_the_weight_and_of_none_is_zero():
    weight, hessian = random(3, 5), correlated(5)
    mask = torch.tensor([[True], [False], [True]]).expand(3, 5)
    result = least_squares(weight, hessian, mask)
    torch.testing.assert_close(result[::2], weight[::2])
    assert not result[1].any()


@pytest.fixture(scope="module")
def trained():
    """A convolutional network for digits with its statistics, trained for a second or two."""
    data, _ = digits.load()
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Unflatten(1, digits.IMAGE), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(module, module.parameters(), data, epochs=5, learning_rate=5e-3, seed=0)
    x = torch.from_numpy(data.x)
    assert (module(x).argmax(1).numpy() == data.y).mean() > 0.95
    found = layers(module)
    seen = collect(module, found, x.split(256))
    weights = {name: layer.weight.detach() for name, layer in found.items()}
    weights["9"] = weights["9"].view(64, 32, 2, 2)      # channels of the convolution before it
    return [(weight, seen[name].moment) for name, weight in weights.items() if weight.shape[1] > 1]


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_lasso_is_better_than_magnitude_on_every_layer(trained, fraction):
    assert len(trained) == 4
    for weight, moment in trained:
        keep = round(fraction * weight.shape[1])
        result, kept = lasso_channels(weight, moment, keep)
        assert int(kept.sum()) == keep
        assert not result[:, ~kept].any()
        largest = weight.transpose(0, 1).flatten(1).norm(dim=1).argsort(descending=True)[:keep]
        mask = torch.zeros_like(weight, dtype=torch.bool)
        mask[:, largest] = True
        flat = weight.flatten(1)
        cut = output_error(flat, (weight * mask).flatten(1), moment)
        solved = output_error(flat, least_squares(flat, moment, mask.flatten(1)), moment)
        error = output_error(flat, result.flatten(1), moment)
        assert error < cut / 10
        # where many stay, least squares makes up for a choice that is not the best
        assert error < solved or fraction > 0.25


def test_sparsegpt_is_better_than_magnitude_on_every_layer(trained):
    for weight, moment in trained:
        flat = weight.flatten(1)
        cut = output_error(flat, flat * choose(flat.abs()), moment)
        assert output_error(flat, sparsegpt(flat, moment, choose)[0], moment) < cut / 2


def test_lasso_finds_the_channels_that_carry_the_output():
    """Of two that say the same one goes, and so do those of no weight and no input."""
    x = random(200, 6)
    x[:, 1] = x[:, 0]
    x[:, 3] = 0
    weight = random(8, 6, seed=1)
    weight[:, 1], weight[:, 4] = weight[:, 0], 0
    result, kept = lasso_channels(weight, x.T @ x / 200, 3)
    assert kept[2]
    assert kept[5]
    assert kept[0] != kept[1]
    assert output_error(weight, result, x.T @ x / 200) < 1e-6


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 3), st.integers(0, 99), st.data())
def test_lasso_keeps_as_many_as_it_is_to(outputs, channels, size, seed, data):
    keep = data.draw(st.integers(1, channels))
    weight = random(outputs, channels, size, seed=seed)
    weight[:, data.draw(st.integers(0, channels - 1))] = 0
    x = random(30, channels * size, seed=seed + 100)
    moment = x.T @ x / 30
    result, kept = lasso_channels(weight, moment, keep)
    assert kept.dtype == torch.bool
    assert int(kept.sum()) == keep
    assert result.shape == weight.shape
    assert torch.equal(kept, lasso_channels(1e3 * weight, 1e-9 * moment, keep)[1])


def test_lasso_of_half_is_near_the_best_of_all_choices():
    worst = []
    for seed in range(10):
        weight, moment = random(5, 8, seed=seed), correlated(8, seed=seed)
        result, _ = lasso_channels(weight, moment, 4)
        every = sorted(output_error(weight, least_squares(
            weight, moment, torch.zeros(5, 8).index_fill(1, torch.tensor(own), 1).bool()), moment)
            for own in combinations(range(8), 4))
        worst.append(np.searchsorted(every, 0.999 * output_error(weight, result, moment)))
    assert np.median(worst) <= 5    # of 70


def test_zero_weights_keep_the_first_channels():
    _, kept = lasso_channels(torch.zeros(3, 4), correlated(4), 2)
    assert kept.tolist() == [True, True, False, False]


@pytest.mark.parametrize("method", [
    lambda weight, hessian: sparsegpt(weight, hessian, half_of_each_row),
    lambda weight, hessian: least_squares(weight, hessian, weight > 0),
    lambda weight, hessian: lasso_channels(weight, hessian, 2)])
def test_refuses_a_hessian_that_is_none(method):
    weight, hessian = random(3, 4), correlated(4)
    with pytest.raises(BadInput, match=r"weight is \[3, 4\] and its Hessian \[5, 5\]; they must"):
        method(weight, correlated(5))
    with pytest.raises(BadInput, match="not all finite; look for NaN"):
        method(weight, hessian / 0)
    with pytest.raises(BadInput, match="not all finite; look for NaN"):
        method(weight / 0, hessian)
    with pytest.raises(BadInput, match="Hessian is not positive definite; collect it from"):
        method(weight, -hessian)


def test_refuses():
    weight, hessian = random(3, 4), correlated(4)
    with pytest.raises(BadInput, match=r"mask is torch.float32 \[3, 4\]; it must be bool \[3, 4\]"):
        least_squares(weight, hessian, weight)
    with pytest.raises(BadInput, match=r"mask is torch.bool \[4\]; it must be bool \[3, 4\]"):
        least_squares(weight, hessian, torch.ones(4, dtype=torch.bool))
    for keep in (0, 5):
        with pytest.raises(BadInput, match=f"keep is {keep}, of 4 channels; it must be from 1"):
            lasso_channels(weight, hessian, keep)
