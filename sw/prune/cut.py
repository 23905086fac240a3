"""Pruning: the units with the least score go, bit by bit while training goes on, or in one cut.

Sources: Zhu and Gupta, "To prune, or not to prune", 2017, for the cubic schedule; Mishra et al.,
"Accelerating Sparse Deep Neural Networks" (arXiv 2104.08378), section 4, for N:M: one cut, then
training with the mask held.
"""

from collections.abc import Callable

import torch
from torch import nn

from zeroskip.sw.prune import structure
from zeroskip.sw.prune.criteria import CRITERIA, scores
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.granularity import Granularity
from zeroskip.sw.prune.train import fit, layers

RAMP = 0.5
"""Fraction of the training during which the density falls; the rest recovers accuracy."""

CUTS = 200
"""Cuts over a training, at most; where scores need samples, an epoch's end is one."""

BATCH = 512
"""Samples that are run at a time to score weights."""


def density_at(fraction: float, final: float) -> float:
    """Density after ``fraction`` of the training, from 1 to ``final``, cubic until ``RAMP``."""
    left = max(0.0, 1 - fraction / RAMP)
    return final + (1 - final) * left**3


def prune(
    module: nn.Module,
    granularity: Granularity,
    density: dict[str, float | None],
    *,
    criterion: str = "l1",
    data: Data | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
):
    """Zeroes weights of Linear and Conv2d layers of ``module``, in place.

    ``density`` has by the layer's name the fraction of weights that stay, None where the
    granularity says it; other layers stay as they are. Without ``data`` all are cut at once and
    nothing is trained. With ``data`` the density falls step by step over ``epochs`` of training;
    N:M is cut at the start. A weight that went stays zero, but for banks, as
    :mod:`zeroskip.sw.prune.banks` says. Scores are taken anew at each of ``CUTS``. Raises BadInput
    where the criterion lacks what it needs.
    """
    cut = _Cut(module, granularity, density, criterion, data)
    at_once = data is None or granularity.density is not None
    if at_once:
        cut.choose(1.0)
    if data is None:
        return
    cuts, done = CUTS if CRITERIA[criterion].needs in ("nothing", "norm") else epochs, 0

    def step(fraction):
        nonlocal done
        # training that diverges is reported by its loss
        if not at_once and int(fraction * cuts) > done and cut.finite():
            cut.choose(fraction)
            done = int(fraction * cuts)
        cut.hold()

    fit(module, module.parameters(), data, epochs=epochs, learning_rate=learning_rate,
        seed=seed, after_step=step, progress=progress, text="prune")


def remove(
    module: nn.Module,
    granularity: str,
    density: dict[str, float],
    *,
    inputs: int,
    criterion: str = "l1",
    data: Data | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> nn.Module:
    """A smaller copy of ``module``, which takes [batch, ``inputs``]: filters or neurons are gone.

    They go at once, see :func:`zeroskip.sw.prune.structure.remove`; with ``data`` what is left is
    trained. ``density`` has by the layer's name the fraction of units that stay.
    """
    batches = data and torch.from_numpy(data.x).split(BATCH)
    example = torch.rand(2, inputs, generator=torch.Generator().manual_seed(seed))
    found = scores(criterion, module, layers(module), batches)
    smaller = structure.remove(module, example, granularity, density, found).module
    if data is not None:
        fit(smaller, smaller.parameters(), data, epochs=epochs, learning_rate=learning_rate,
            seed=seed, progress=progress, text="prune")
    return smaller


class _Cut:
    """The masks of some layers, as they shrink."""

    def __init__(self, module, granularity, density, criterion, data):
        self.module, self.granularity, self.density = module, granularity, density
        self.criterion = criterion
        self.layers = {name: layers(module)[name] for name in density}
        self.batches = data and torch.from_numpy(data.x).split(BATCH)
        self.masks = {name: torch.ones_like(layer.weight, dtype=torch.bool)
                      for name, layer in self.layers.items()}

    def choose(self, fraction: float):
        """Cuts to the densities after ``fraction`` of the training."""
        found = scores(self.criterion, self.module, self.layers, self.batches)
        for name, score in found.items():
            final = self.density[name]
            now = None if final is None else density_at(fraction, final)
            score = (score * self.masks[name]).numpy()      # what went does not come back
            self.masks[name] = torch.from_numpy(self.granularity.mask(score, now))
        self.hold()

    @torch.no_grad()
    def hold(self):
        """Zeroes what training has moved."""
        for name, layer in self.layers.items():
            layer.weight.masked_fill_(~self.masks[name], 0)

    def finite(self) -> bool:
        """Whether all weights are."""
        return all(layer.weight.isfinite().all() for layer in self.layers.values())
