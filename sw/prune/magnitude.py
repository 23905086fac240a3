"""Magnitude pruning: gradually, with fine-tuning between the cuts, or in one shot.

Source: Zhu and Gupta, "To prune, or not to prune", 2017, for the cubic schedule.
"""

from collections.abc import Callable

import torch
from torch import nn

from zeroskip.sw.prune.banks import bank_balanced, entries
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.train import fit, layers

RAMP = 0.5
"""Fraction of the training during which the density falls; the rest recovers accuracy."""


def density_at(fraction: float, final: float) -> float:
    """Density after ``fraction`` of the training, from 1 to ``final``, cubic until ``RAMP``."""
    left = max(0.0, 1 - fraction / RAMP)
    return final + (1 - final) * left**3


def mask(weight: torch.Tensor, density: float) -> torch.Tensor:
    """Bool tensor, true at the greatest magnitudes: ``round(density * size)``, at least one.

    Of equal magnitudes the first ones stay.
    """
    keep = max(1, round(density * weight.numel()))
    order = torch.argsort(weight.abs().flatten(), descending=True, stable=True)
    kept = torch.zeros(weight.numel(), dtype=torch.bool)
    kept[order[:keep]] = True
    return kept.view_as(weight)


def bank_mask(weight: torch.Tensor, density: float, banks: int) -> torch.Tensor:
    """Bool tensor like ``weight`` [out, in], true at what stays of each bank and column.

    Every bank keeps the number of :func:`~zeroskip.sw.prune.banks.entries`.
    """
    # training that diverges is reported by its loss
    finite = torch.nan_to_num(weight.detach()).numpy()
    return torch.from_numpy(bank_balanced(finite, banks, entries(len(weight), banks, density)))


def prune(
    module: nn.Module,
    density: float | dict[str, float],
    *,
    banks: int | None = None,
    data: Data | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
):
    """Zeroes the smallest weights of the Linear and Conv2d layers of ``module``, in place.

    ``density`` is the fraction of weights that stay, of each layer or by the layer's name in
    ``module``; a layer that a dict leaves out stays as it is. With ``data``, the density falls
    step by step over ``epochs`` of training, in which a zeroed weight stays zero; without, all
    are cut at once and nothing is trained. With ``banks``, for Linear layers only, the smallest of
    each bank and column are zeroed, as :mod:`zeroskip.sw.prune.banks` says; there a weight comes
    back where only it can bridge a gap.
    """
    found = layers(module)
    if not isinstance(density, dict):
        density = dict.fromkeys(found, density)

    @torch.no_grad()
    def cut(fraction):
        for name, final in density.items():
            weight = found[name].weight
            now = density_at(fraction, final)
            # what is zero already has the least magnitude, so the masks only ever shrink
            weight.mul_(mask(weight, now) if banks is None else bank_mask(weight, now, banks))

    if data is None:
        cut(1.0)
    else:
        fit(module, module.parameters(), data, epochs=epochs, learning_rate=learning_rate,
            seed=seed, after_step=cut, progress=progress, text="prune")
