"""Ratios: how many weights each layer keeps, so that the network costs no more than a budget.

A *cost* maps a model to a float: its multiplications, or the sum of what an engine says of its
layers (:func:`priced`). An *allocator* answers a :class:`Task` with
densities by layer, for :class:`zeroskip.sw.prune.recipe.Recipe`:

===============  =============================================================================
name             densities
===============  =============================================================================
``uniform``      the same for all layers
``sensitivity``  of each layer the lowest at which cutting it alone loses no more accuracy than a
                 threshold, the same for all (Han et al., "Learning both Weights and Connections
                 for Efficient Neural Networks", 2015, section 4.1: a scan of each layer alone)
===============  =============================================================================

Those that try many densities are in :mod:`zeroskip.sw.prune.search`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.graph import network
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.granularity import Granularity
from zeroskip.sw.prune.lookup import LookUp

if TYPE_CHECKING:
    from zeroskip.sw.prune.model import Model

Cost = Callable[["Model"], float]
Densities = dict[str, float]
"""Fraction of the weights that stay, by layer."""
Progress = Callable[[int, int, str], None]
"""Called with the evaluations done, their number in all, and what they are for."""

HALVINGS = 16
"""Of the interval in which the answer that just meets a budget is sought."""
LOW = 0.02
"""The lowest density of a layer."""
POINTS = 10
"""Densities of a scan."""
BATCH = 512
"""Samples that are run at a time to score weights."""


def macs(data: Data) -> Cost:
    """A cost: multiplications per sample by weights that are not zero; ``data`` say how often."""
    def cost(model: Model) -> float:
        return float(sum(np.count_nonzero(layer.weight) * len(rows) / len(data) * (
            layer.geometry.positions if layer.geometry else 1)
            for layer, rows in seen(model, data)))
    return cost


def priced(price: Callable[[np.ndarray], Callable[[network.Network], float]], data: Data, *,
           per_sample: bool) -> Cost:
    """A cost: what each layer costs on an engine for what reaches it while samples run, in all.

    ``price`` makes of such rows the cost of a network of one layer; ``per_sample`` says that it is
    a mean over them, as cycles are and bytes are not.
    """
    def cost(model: Model) -> float:
        return sum(price(rows)(network.Network((layer,)))
                   * (len(rows) / len(data) if per_sample else 1)
                   for layer, rows in seen(model, data))
    return cost


def seen(model: Model, data: Data) -> list[tuple[network.Layer, np.ndarray]]:
    """The layers as an engine takes them, and what reaches each, flat rows: samples, tokens."""
    import torch

    from zeroskip.sw.prune.statistics import watched

    found: dict[str, list] = {name: [] for name in model.names}
    hooks = [(layer, lambda _module, inputs, _output, own=found[name]: own.append(
        inputs[0].detach().numpy())) for name, layer in model.layers.items()]
    with torch.no_grad(), watched(model.module, hooks):
        for inputs in data.split(BATCH):
            model.module(*inputs)
    for name, each in found.items():
        if not each:
            raise BadInput(f"no sample reaches layer {name}, so that its cost is not known.")
    return [_as_layer(name, layer, np.concatenate(found[name]))
            for name, layer in model.layers.items()]


def _as_layer(name, layer, x) -> tuple[network.Layer, np.ndarray]:
    weight = layer.weight.detach().numpy()
    bias = np.zeros(len(weight), np.float32) if layer.bias is None \
        else layer.bias.detach().numpy()
    if weight.ndim == 2:
        return network.Linear(name, weight, bias, "none"), x.reshape(-1, weight.shape[1])
    weight = weight.reshape(*weight.shape[:2], -1, weight.shape[-1])
    image = x.reshape(len(x), x.shape[1], -1, x.shape[-1])
    ahead = layer._reversed_padding_repeated_twice      # knows "same" too; the last axis first
    left, right, top, bottom = *ahead, *[0] * (4 - len(ahead))
    one = (1,) * (3 - x.ndim + 1)
    return network.Conv2d(
        name, np.ascontiguousarray(weight), bias, "none", image.shape[1:],
        (*one, *layer.stride), (top, left, bottom, right), (*one, *layer.dilation),
        groups=layer.groups), image.reshape(len(image), -1)


@dataclass(frozen=True, eq=False)
class OneShot:
    """Cuts a model at once, without training, by scores that are taken once.

    Attributes
    ----------
    model : Model
        A weight that is zero scores zero.
    granularity : Granularity
        One that leaves the density open.
    criterion : str
        A key of :data:`zeroskip.sw.prune.criteria.CRITERIA`.
    data : Data or None
        For the criteria that need some; prepared for the model.
    loss : str
        Of the criterion ``obd``.
    """

    model: Model
    granularity: Granularity
    criterion: str = "l1"
    data: Data | None = None
    loss: str = "cross_entropy"

    def __post_init__(self):
        if self.granularity.density is not None:
            raise BadInput(f"granularity {self.granularity.name!r} says how many weights stay, and "
                           "leaves no ratio to choose; take another.")
        for reason in self.model.refused.values():
            raise BadInput(reason)
        for name, layer in self.model.layers.items():
            self.granularity.check(f"layer {name}", layer.weight.shape)

    @property
    def names(self) -> list[str]:
        """The layers, in order."""
        return list(self.model.names)

    @cached_property
    def _scores(self) -> dict[str, np.ndarray]:
        """By layer, float32 like its weight."""
        require_torch()
        from zeroskip.sw.prune.scores import scores

        layers = self.model.layers
        batches = None if self.data is None else list(self.data.split(BATCH))
        found = scores(self.criterion, self.model.module, layers, batches, loss=self.loss)
        return {name: score.numpy() * (layers[name].weight.detach().numpy() != 0)
                for name, score in found.items()}

    def __call__(self, densities: Densities) -> Model:
        """A copy of the model at these densities; a layer that has none stays as it is.

        Raises BadInput for a name that no layer has, and like
        :func:`zeroskip.sw.prune.scores.scores`.
        """
        import torch
        for name in densities:
            if name not in self.names:
                raise BadInput(f"there is no layer {name!r}; the layers are "
                               f"{', '.join(self.names)}.")
        cut = self.model.copy()
        layers = cut.layers
        with torch.no_grad():
            for name, density in densities.items():
                mask = self.granularity.mask(self._scores[name], density)
                layers[name].weight.masked_fill_(~torch.from_numpy(mask), 0)
        return cut


@dataclass(frozen=True)
class Trial:
    """Densities that were tried: what they cost, and the accuracy of the network there."""

    densities: Densities
    cost: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Task:
    """What an allocator is asked: densities at which the network costs no more than a budget.

    Attributes
    ----------
    cut : OneShot
    cost : function
        Less where more weights are zero.
    budget : float
        Like what ``cost`` returns.
    evaluate : function
        From a model to its accuracy, or minus its loss, on samples that are not those of the test.
    low : float
        The lowest density of a layer, above 0 and below 1.
    """

    cut: OneShot
    cost: Cost
    budget: float
    evaluate: Callable[[Model], float]
    low: float = LOW

    def __post_init__(self):
        if not 0 < self.low < 1:
            raise BadInput(f"low must be above 0 and below 1, not {self.low!r}.")

    @cached_property
    def table(self) -> LookUp:
        """Estimates :meth:`price`, at the budget exactly where all layers have one density.

        It is measured when it is first asked for; BadInput where the budget cannot be met.
        """
        table, alike = LookUp(self.price, self.cut.names, self.low), uniform(self)
        table.fit(alike, self.price(alike))
        return table

    def price(self, densities: Densities) -> float:
        """What the network costs that is cut to ``densities``."""
        return self.cost(self.cut(densities))

    def scaled(self, densities: Densities,
               price: Callable[[Densities], float] | None = None) -> Densities:
        """``densities`` times the greatest number at which they meet the budget.

        Each stays within ``low`` and 1. ``price`` stands for :meth:`price`. Raises BadInput where
        the budget cannot be met.
        """
        least = min(densities.values())
        return self.greatest(lambda part: {
            name: min(max(part * each / least, self.low), 1.0) for name, each in densities.items()
        }, price)

    def greatest(self, family: Callable[[float], Densities],
                 price: Callable[[Densities], float] | None = None) -> Densities:
        """The member of ``family`` with the greatest number, 0 to 1, that meets the budget.

        It costs more for greater numbers. Raises BadInput where even that of 0 costs too much.
        """
        price = price or self.price
        if price(family(1.0)) <= self.budget:
            return family(1.0)
        least = price(family(0.0))
        if least > self.budget:
            raise BadInput(f"the budget of {self.budget:g} is below {least:g}, what the network "
                           "costs at its lowest densities; raise the budget.")
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = ((middle, high) if price(family(middle)) <= self.budget
                         else (low, middle))
        return family(low)


def uniform(task: Task, _progress: Progress | None = None) -> Densities:
    """The greatest density of all layers that meets the budget; BadInput where none does."""
    return task.scaled(dict.fromkeys(task.cut.names, 1.0))


def halves(data: Data, seed: int) -> tuple[Data, Data]:
    """The samples that a search evaluates on, and those that it may train on; drawn by ``seed``."""
    if len(data) < 2:
        raise BadInput("a search evaluates on one half of the data and may train on the other; "
                       "give 2 samples or more.")
    order = np.random.default_rng(seed).permutation(len(data))
    first, second = np.array_split(order, 2)
    return data.rows(first), data.rows(second)


def density_steps(low: float = LOW) -> np.ndarray:
    """The densities of a scan, from ``low`` to 1 by equal factors."""
    return np.array([*np.geomspace(low, 1, POINTS)[:-1], 1])


def scan(
    cut: OneShot,
    densities: Sequence[float],
    evaluate: Callable[[Model], float],
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """By layer, its accuracy at each of ``densities`` where it alone is cut, without training."""
    table, total = {}, len(cut.names) * len(densities)
    for name in cut.names:
        table[name] = []
        for each in densities:
            table[name].append(evaluate(cut({name: each})))
            if progress:
                progress(sum(map(len, table.values())), total, "scan")
    return table


def sensitivity(task: Task, progress: Progress | None = None) -> Densities:
    """By layer the lowest density whose accuracy, and that of all above, is within a threshold.

    The threshold is the least that meets the budget; between two densities of the scan accuracy
    is taken to be linear. Raises BadInput where the budget cannot be met.
    """
    densities = density_steps(task.low)
    table = scan(task.cut, densities, task.evaluate, progress)
    # what is lost at a density or one above it, from the lowest density up
    losses = {name: np.maximum.accumulate((each[-1] - np.array(each))[::-1])[::-1]
              for name, each in table.items()}
    most = max(float(each[0]) for each in losses.values())

    def within(part):
        threshold = (1 - part) * most
        return {name: _lowest(densities, each, threshold) for name, each in losses.items()}
    return task.greatest(within)


def _lowest(densities: np.ndarray, losses: np.ndarray, threshold: float) -> float:
    """The lowest density at which the loss, which falls as the density grows, is in bounds."""
    first = int((losses <= threshold).argmax())
    if not first:
        return float(densities[0])
    steep = losses[first - 1] - losses[first]
    part = (losses[first - 1] - threshold) / steep
    return float(densities[first - 1] + part * (densities[first] - densities[first - 1]))


ALLOCATORS: dict[str, Callable[[Task, Progress | None], Densities]] = {
    "uniform": uniform, "sensitivity": sensitivity}
"""By name; each raises BadInput where the budget cannot be met."""
