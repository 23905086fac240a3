"""A look-up table of cost, so that a search need not measure it at every step.

Source: Yang et al., "NetAdapt", ECCV 2018, section 3.3: the cost of a network is estimated as the
sum of those of its layers, each measured beforehand.
"""

import numpy as np

from zeroskip.sw.prune.ratios import Densities, Task

POINTS = 16
"""Densities of each layer that are measured; between them the saving is taken to be linear."""


class LookUp:
    """What each layer saves at each density, measured with it alone cut.

    Attributes
    ----------
    dense : float
        Cost of the network as it is.
    """

    def __init__(self, task: Task):
        self.dense = task.cost(task.cut.network)
        self._densities = np.geomspace(1, task.low, POINTS)
        self._densities[-1] = task.low
        self._savings = {name: np.maximum.accumulate([
            0.0, *(self.dense - task.price({name: float(density)})
                   for density in self._densities[1:])])
            for name in task.cut.names}

    def saving(self, name: str, density: float) -> float:
        """What cutting layer ``name`` to ``density`` saves."""
        return float(np.interp(density, self._densities[::-1], self._savings[name][::-1]))

    def most(self, name: str) -> float:
        """The greatest saving of a layer."""
        return float(self._savings[name][-1])

    def density(self, name: str, saving: float) -> float:
        """The greatest density at which a layer saves so much; the lowest where none does."""
        savings = self._savings[name]
        after = int((savings >= saving).argmax())
        if savings[after] < saving:
            return float(self._densities[-1])
        if not after:
            return 1.0
        part = (saving - savings[after - 1]) / (savings[after] - savings[after - 1])
        low, high = self._densities[after], self._densities[after - 1]
        return float(high - part * (high - low))

    def price(self, densities: Densities) -> float:
        """The cost at ``densities``, as estimated."""
        return self.dense - sum(self.saving(*each) for each in densities.items())
