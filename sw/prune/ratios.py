"""Ratios: how many weights each layer keeps, so that the network costs no more than a budget.

A *cost* maps a network to a float: its density or multiplications here, its bytes or cycles on an
EIE array in :mod:`zeroskip.sw.engines.eie.cost`. An *allocator* answers a :class:`Task` with
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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.graph.network import Network
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.granularity import Granularity
from zeroskip.sw.prune.lookup import LookUp

Cost = Callable[[Network], float]
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


def density(network: Network) -> float:
    """Fraction of all weights that are not zero."""
    kept = sum(np.count_nonzero(layer.weight) for layer in network.layers)
    return float(kept / sum(layer.weight.size for layer in network.layers))


def macs(network: Network) -> float:
    """Multiplications per sample by weights that are not zero."""
    return float(sum(np.count_nonzero(layer.weight)
                     * (layer.geometry.positions if layer.geometry else 1)
                     for layer in network.layers))


@dataclass(frozen=True, eq=False)
class OneShot:
    """Cuts a network at once, without training, by scores that are taken once.

    Attributes
    ----------
    network : Network
        In floats. A weight that is zero scores zero.
    granularity : Granularity
        One that leaves the density open.
    criterion : str
        A key of :data:`zeroskip.sw.prune.criteria.CRITERIA`.
    samples : float32 array [samples, inputs] or None
        For the criteria that need some.
    """

    network: Network
    granularity: Granularity
    criterion: str = "l1"
    samples: np.ndarray | None = None

    def __post_init__(self):
        if self.granularity.density is not None:
            raise BadInput(f"granularity {self.granularity.name!r} says how many weights stay, and "
                           "leaves no ratio to choose; take another.")
        for layer in self.network.layers:
            self.granularity.check(f"layer {layer.name}", layer.weight.shape)

    @property
    def names(self) -> list[str]:
        """The layers, in order."""
        return [layer.name for layer in self.network.layers]

    @cached_property
    def _scores(self) -> list[np.ndarray]:
        """By layer, float32 like its weight."""
        require_torch()
        import torch

        from zeroskip.sw.frontends.torch_frontend import to_torch
        from zeroskip.sw.prune.scores import scores
        from zeroskip.sw.prune.train import layers

        module = to_torch(self.network)
        batches = None if self.samples is None else torch.from_numpy(self.samples).split(BATCH)
        found = scores(self.criterion, module, layers(module), batches)
        return [score.numpy() * (layer.weight != 0)
                for score, layer in zip(found.values(), self.network.layers, strict=True)]

    def __call__(self, densities: Densities) -> Network:
        """The network at these densities; a layer that has none stays as it is.

        Raises BadInput for a name that no layer has, and like
        :func:`zeroskip.sw.prune.scores.scores`.
        """
        for name in densities:
            if name not in self.names:
                raise BadInput(f"there is no layer {name!r}; the layers are "
                               f"{', '.join(self.names)}.")
        return replace(self.network, layers=tuple(
            layer if layer.name not in densities else replace(layer, weight=np.where(
                self.granularity.mask(score, densities[layer.name]), layer.weight, np.float32(0)))
            for layer, score in zip(self.network.layers, self._scores, strict=True)))


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
        From a network to its accuracy, on samples that are not those of the test.
    low : float
        The lowest density of a layer, above 0 and below 1.
    """

    cut: OneShot
    cost: Cost
    budget: float
    evaluate: Callable[[Network], float]
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
    if len(data.x) < 2:
        raise BadInput("a search evaluates on one half of the data and may train on the other; "
                       "give 2 samples or more.")
    order = np.random.default_rng(seed).permutation(len(data.x))
    return tuple(Data(data.x[rows], data.y[rows]) for rows in np.array_split(order, 2))


def density_steps(low: float = LOW) -> np.ndarray:
    """The densities of a scan, from ``low`` to 1 by equal factors."""
    return np.array([*np.geomspace(low, 1, POINTS)[:-1], 1])


def scan(
    cut: OneShot,
    densities: Sequence[float],
    evaluate: Callable[[Network], float],
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
