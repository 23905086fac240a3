"""Pruning: the units with the least score go, bit by bit while training goes on, or in cuts.

Sources: Zhu and Gupta, "To prune, or not to prune", 2017, for the cubic schedule; Han et al.,
"Learning both Weights and Connections", 2015, section 3.4, for rounds of cut and training; Frankle
and Carbin, "The Lottery Ticket Hypothesis", 2019, section 2, for rewinding; Mishra et al.,
"Accelerating Sparse Deep Neural Networks" (arXiv 2104.08378), section 4, for N:M: one cut, then
training with the mask held.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune import structure
from zeroskip.sw.prune.criteria import CRITERIA
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.granularity import Granularity
from zeroskip.sw.prune.losses import named
from zeroskip.sw.prune.model import Model
from zeroskip.sw.prune.reconstruct import lasso_channels, least_squares, sparsegpt
from zeroskip.sw.prune.scores import scores
from zeroskip.sw.prune.statistics import collect
from zeroskip.sw.prune.train import fit

RAMP = 0.5
"""Fraction of the training during which the density falls; the rest recovers accuracy."""

CUTS = 200
"""Cuts over a training, at most; where scores need samples, an epoch's end is one."""

BATCH = 512
"""Samples that are run at a time to score weights."""

SPARSEGPT_BLOCK = 128
"""Columns that SparseGPT chooses from together, where no pattern says it."""


@dataclass(frozen=True, eq=False)
class Training:
    """How weights are trained while they are pruned: ``epochs`` and what :func:`fit` takes.

    ``l1`` and ``l2`` are what the loss gains by each weight's absolute value and square.
    """

    data: Data
    epochs: int = 20
    learning_rate: float = 1e-3
    seed: int = 0
    l1: float = 0.0
    l2: float = 0.0
    progress: Callable[[int, int, str], None] | None = None
    loss: str | Callable = "cross_entropy"

    @property
    def batches(self) -> list[tuple[torch.Tensor, ...]]:
        """The samples without their labels, to score weights by."""
        return list(self.data.split(BATCH))

    def run(self, model: Model, after_step: Callable[[float], None] | None = None):
        """Trains all parameters of ``model``; ``after_step`` as of :func:`fit`."""
        weights = [layer.weight for layer in model.layers.values()]

        def penalty():
            return sum(self.l1 * w.abs().sum() + self.l2 * w.square().sum() for w in weights)
        with model.training():
            fit(model.module, model.module.parameters(), self.data, epochs=self.epochs,
                learning_rate=self.learning_rate, seed=self.seed, after_step=after_step,
                progress=self.progress, penalty=penalty if self.l1 or self.l2 else None,
                text="prune", loss=self.loss)


def density_at(fraction: float, final: float) -> float:
    """Density after ``fraction`` of the training, from 1 to ``final``, cubic until ``RAMP``."""
    left = max(0.0, 1 - fraction / RAMP)
    return final + (1 - final) * left**3


def prune(
    model: Model,
    granularity: Granularity,
    density: dict[str, float | None],
    *,
    criterion: str = "l1",
    reconstruct: str | None = None,
    rounds: int | None = None,
    start: Model | None = None,
    training: Training | None = None,
):
    """Zeroes weights of layers of ``model``, in place.

    ``density`` has by the layer's name the fraction of weights that stay, None where the
    granularity says it; other layers stay as they are. A weight that went stays zero, but for
    banks, as :mod:`zeroskip.sw.prune.banks` says. Raises BadInput where the criterion lacks what
    it needs.

    =============================  =============================================================
    without ``training``           all are cut at once
    ``rounds``                     so many cuts by equal factors, trained after each; each takes
                                   the weights and biases of ``start`` first, where it is given
    N:M, ``reconstruct``           one cut, then training
    else                           the density falls step by step while training goes on
    =============================  =============================================================

    ``reconstruct``, a name in :data:`zeroskip.sw.prune.recipe.RECONSTRUCTIONS`, goes layer by
    layer: each makes up for what it lost, with the inputs that the layers before it give now.
    """
    cut = _Cut(model, granularity, density, criterion, training)
    if reconstruct is not None:
        cut.rebuild(reconstruct)
    elif training is None or granularity.density is not None or not (rounds or training.epochs):
        cut.choose()
    elif rounds is not None:
        for done in range(rounds):
            cut.choose(lambda final, part=(done + 1) / rounds: final**part)
            if start is not None:
                cut.rewind(start)
            training.run(model, lambda _: cut.hold())
        return
    else:
        cuts = training.epochs if CRITERIA[criterion].needs_data else CUTS
        training.run(model, cut.falling(cuts))
        return
    if training is not None:
        training.run(model, lambda _: cut.hold())


def remove(
    model: Model,
    granularity: str,
    density: dict[str, float],
    *,
    example: tuple[torch.Tensor, ...],
    criterion: str = "l1",
    reconstruct: str | None = None,
    training: Training | None = None,
) -> Model:
    """A smaller copy of ``model``: filters or neurons are gone.

    They go at once, see :func:`zeroskip.sw.prune.structure.remove`; with ``training`` what is left
    is trained. ``density`` has by the layer's name the fraction of units that stay. The criterion
    ``"lasso"`` chooses them by what the next layer makes of them, and that layer, like any with
    ``reconstruct``, makes up for them by least squares. On ``example``, some inputs, the smaller
    copy is compared.
    """
    if criterion == "lasso" or reconstruct:
        smaller = _rebuilt(model, granularity, density, criterion, example, training)
    else:
        parts = {model.names[name]: layer for name, layer in model.layers.items()}
        found = _scored(criterion, model, parts, training)
        smaller = model.of(structure.remove(
            model.module, example, granularity,
            {model.names[name]: each for name, each in density.items()}, found).module)
    if training is not None:
        training.run(smaller)
    return smaller


def _scored(criterion, model, layers, training):
    """Their scores, by the names that they have in ``layers``."""
    if training is None:
        return scores(criterion, model.module, layers)
    return scores(criterion, model.module, layers, training.batches, loss=named(training.loss).name)


def _rebuilt(model, granularity, density, criterion, example, training) -> Model:
    """A copy of ``model`` from which units went layer by layer, each made up for by the next."""
    batches = training.batches
    for name, part in density.items():
        parts, own = model.layers, model.names[name]
        readers = structure.readers(model.module, example, own)
        following = next((each for each, place in model.names.items() if [place] == readers), None)
        if following is None:
            raise BadInput(f"the outputs of layer {name} go to {len(readers)} layers, and only one "
                           "can make up for what it lost; leave it out, or take another criterion "
                           "and no reconstruction.")
        layer, after = parts[name], parts[following]
        moment = collect(model.module, {following: after}, batches)[following].moment
        outputs = len(layer.weight)
        if after.weight[0].numel() % outputs:
            raise BadInput(f"layer {name} has {outputs} outputs, which are no channels of layer "
                           f"{following} behind it; leave it out, or remove the reconstruction.")
        keep = max(1, round(part * outputs))
        by_unit = after.weight.detach().reshape(len(after.weight), outputs, -1)
        if criterion == "lasso":
            weight, kept = lasso_channels(by_unit, moment, keep)
        else:
            score = _scored(criterion, model, {name: layer}, training)[name].flatten(1).sum(1)
            kept = torch.zeros(outputs, dtype=torch.bool)
            kept[score.argsort(descending=True, stable=True)[:keep]] = True
            mask = kept.repeat_interleave(by_unit.shape[2]).expand(len(by_unit), -1)
            weight = least_squares(by_unit.flatten(1), moment, mask)
        with torch.no_grad():
            after.weight.copy_(weight.view_as(after.weight))
        model = model.of(structure.remove(model.module, example, granularity, {own: kept}).module)
    return model


class _Cut:
    """The masks of some layers, as they shrink."""

    def __init__(self, model, granularity, density, criterion, training):
        self.model, self.granularity, self.density = model, granularity, density
        self.criterion, self.training = criterion, training
        layers = model.layers
        self.layers = {name: layers[name] for name in density}
        self.masks = {name: torch.ones_like(layer.weight, dtype=torch.bool)
                      for name, layer in self.layers.items()}

    def choose(self, now: Callable[[float], float] = lambda final: final):
        """Cuts to the densities that ``now`` makes of the final ones."""
        for name, score in self._scores(self.layers).items():
            self.masks[name] = self._mask(name, score, now)
        self.hold()

    def falling(self, cuts: int) -> Callable[[float], None]:
        """What to do after each step of a training, over which the density falls in ``cuts``."""
        done = 0

        def step(fraction):
            nonlocal done
            # training that diverges is reported by its loss
            if int(fraction * cuts) > done and self._finite():
                self.choose(lambda final: density_at(fraction, final))
                done = int(fraction * cuts)
            self.hold()
        return step

    @torch.no_grad()
    def rebuild(self, method: str):
        """Cuts layer by layer to the final densities; what stays makes up for what goes."""
        for name, layer in self.layers.items():
            moment = collect(self.model.module, {name: layer}, self.training.batches)[name].moment
            matrix = layer.weight.flatten(1)
            if method == "sparsegpt":
                pattern = self.granularity.density is not None
                weight, mask = sparsegpt(
                    matrix, moment, lambda score, name=name: self._mask(name, score),
                    block=self.granularity.units(()) if pattern else SPARSEGPT_BLOCK)
            else:
                score = self._scores({name: layer})[name]
                mask = self._mask(name, score).flatten(1)
                weight = least_squares(matrix, moment, mask)
            layer.weight.copy_(weight.view_as(layer.weight))
            self.masks[name] = mask.view_as(layer.weight)

    @torch.no_grad()
    def rewind(self, start: Model):
        """Takes weights and biases of ``start``, where they stay."""
        for own, first in zip(self.model.layers.values(), start.layers.values(), strict=True):
            own.load_state_dict(first.state_dict())
        self.hold()

    @torch.no_grad()
    def hold(self):
        """Zeroes what training has moved."""
        for name, layer in self.layers.items():
            layer.weight.masked_fill_(~self.masks[name], 0)

    def _scores(self, some):
        """By layer, zero for what went: it does not come back."""
        found = _scored(self.criterion, self.model, some, self.training)
        return {name: score * self.masks[name] for name, score in found.items()}

    def _mask(self, name, score, now=lambda final: final):
        final = self.density[name]
        return torch.from_numpy(self.granularity.mask(
            score.numpy(), None if final is None else now(final)))

    def _finite(self) -> bool:
        return all(layer.weight.isfinite().all() for layer in self.layers.values())
