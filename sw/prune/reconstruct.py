"""Pruning by a layer's output: what stays makes up for what goes, and no training is needed.

A layer is a matrix ``weight`` [out, K], its inputs are known by their second moment ``hessian``
[K, K], the mean of ``x x^T``, see :mod:`zeroskip.sw.prune.statistics`. All is computed in float64
and returned in float32. To the diagonal is added a part of its mean, which stands for noise in the
inputs and makes up for those that always, or together, are zero. Where even so it is zero, with
all inputs dead behind a dead layer for example, it becomes one.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram

from zeroskip.sw.errors import BadInput

RIDGE = 1e-6
"""What least squares adds to the diagonal, as part of its mean."""


@torch.no_grad()
def output_error(before: torch.Tensor, after: torch.Tensor, hessian: torch.Tensor) -> float:
    """Mean square of what changes in the output, summed over the outputs."""
    change = (after - before).double()
    return float(((change @ hessian.double()) * change).sum())


@torch.no_grad()
def sparsegpt(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    choose: Callable[[torch.Tensor], torch.Tensor],
    *,
    damping: float = 0.01,
    block: int = 128,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pruned weight and its bool mask, both [out, K]; true is what stays.

    Block by block of columns ``choose`` maps scores, float32 [out, columns], to the mask. Then
    each column changes those to its right so that they make up best for what it lost. Source:
    Frantar and Alistarh, "SparseGPT", 2023, algorithm 1.

    ``block`` is the columns that are chosen together: 128 in the paper for a density, and M for
    N:M. ``damping`` is what the diagonal gains, as part of its mean. Raises BadInput for shapes
    that do not fit, and a Hessian that has no inverse.
    """
    weight = weight.to(torch.float64, copy=True)
    factor = _cholesky(_damped(_checked(weight, hessian), damping))
    # row j of this upper factor is how the columns from j on make up for column j
    factor = _cholesky(torch.cholesky_inverse(factor)).T
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for columns in torch.arange(weight.shape[1]).split(block):
        own, right = slice(columns[0], columns[-1] + 1), slice(columns[-1] + 1, None)
        part, local = weight[:, own], factor[own, own]      # views: part changes weight
        mask[:, own] = choose((part / local.diagonal()).square().float())
        lost = torch.zeros_like(part)
        for j in range(len(columns)):
            lost[:, j] = part[:, j].masked_fill(mask[:, own][:, j], 0) / local[j, j]
            part[:, j:] -= torch.outer(lost[:, j], local[j, j:])
        weight[:, right] -= lost @ factor[own, right]
    return weight.masked_fill(~mask, 0).float(), mask


@torch.no_grad()
def least_squares(weight: torch.Tensor, hessian: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The weight [out, K], zero outside of ``mask``, whose output is nearest to that of ``weight``.

    Rows with the same mask are solved together. Raises BadInput for shapes that do not fit, and a
    Hessian that is not positive.
    """
    weight = weight.double()
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise BadInput(f"mask is {mask.dtype} {list(mask.shape)}; it must be bool "
                       f"{list(weight.shape)}, like the weight.")
    hessian = _damped(_checked(weight, hessian), RIDGE)
    result = torch.zeros_like(weight)
    kinds, kind = mask.unique(dim=0, return_inverse=True)
    for number, kept in enumerate(kinds):
        rows = (kind == number).nonzero()
        columns = kept.nonzero().flatten()
        aim = hessian[columns] @ weight[rows.flatten()].T
        factor = _cholesky(hessian[columns][:, columns])
        result[rows, columns] = torch.cholesky_solve(aim, factor).T
    return result.float()


@torch.no_grad()
def lasso_channels(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    keep: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prunes input channels: the weight like ``weight`` and bool [channels], ``keep`` times true.

    ``weight`` is [out, channels, ...], K of ``hessian`` is all but the first. The channels are
    those that the LASSO gives a factor, where the sum of all, each times its factor, is to be the
    output: along its path the first ``keep``. Least squares then finds their weights. Source: He
    et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1.

    Raises BadInput for shapes that do not fit, ``keep`` out of range, and a Hessian that is not
    positive.
    """
    outputs, channels = weight.shape[:2]
    if not 1 <= keep <= channels:
        raise BadInput(f"keep is {keep}, of {channels} channels; it must be from 1 to that.")
    matrix = weight.flatten(1)
    # gram[a, b] is the mean product of what channels a and b add to the output; without a ridge,
    # under which equal channels would share their factor
    products = (matrix.double().T @ matrix.double()) * _checked(matrix, hessian)
    size = matrix.shape[1] // channels
    gram = products.reshape(channels, size, channels, size).sum(dim=(1, 3)).numpy()
    gram /= gram.trace() or 1       # the path ends at an absolute tolerance
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)     # equal channels: one of them stays
        _, _, path = lars_path_gram(gram.sum(axis=1), gram, n_samples=1, method="lasso",
                                    max_iter=8 * channels)
    enough = np.count_nonzero(path, axis=0) >= keep
    step = enough.argmax() if enough.any() else -1
    kept = torch.zeros(channels, dtype=torch.bool)
    kept[np.argsort(-np.abs(path[:, step]), kind="stable")[:keep]] = True
    mask = kept.repeat_interleave(size).expand(outputs, -1)
    return least_squares(matrix, hessian, mask).view_as(weight), kept


def _checked(weight, hessian):
    """The Hessian in float64; BadInput where it does not fit the weight or one is not finite."""
    if weight.ndim != 2 or list(hessian.shape) != [weight.shape[-1]] * 2:
        raise BadInput(f"weight is {list(weight.shape)} and its Hessian {list(hessian.shape)}; "
                       "they must be [out, K] and [K, K].")
    if not (weight.isfinite().all() and hessian.isfinite().all()):
        raise BadInput("the weight or its Hessian is not all finite; look for NaN and infinity in "
                       "the weights and in the samples.")
    return hessian.double()


def _damped(hessian, damping):
    """The Hessian, its diagonal more by ``damping`` times the mean of that; or one for zero."""
    diagonal = hessian.diagonal()
    gain = (damping * diagonal.mean()).expand_as(diagonal)
    return hessian + torch.diag(torch.where(diagonal + gain == 0, 1.0, gain))


def _cholesky(matrix):
    factor, wrong = torch.linalg.cholesky_ex(matrix)
    if wrong:
        raise BadInput("the Hessian is not positive definite; collect it from more samples.")
    return factor
