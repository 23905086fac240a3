"""A look-up table of cost, so that a search need not measure it at every step.

Source: Yang et al., "NetAdapt", ECCV 2018, section 3.3: the cost of a network is estimated as the
sum of those of its layers, each measured beforehand.
"""

from collections.abc import Callable

import numpy as np

POINTS = 16
"""Densities of each layer that are measured; between them the saving is taken to be linear."""


class LookUp:
    """What each layer saves at each density, measured with it alone cut.

    ``price`` says what the network costs at densities of some of its layers, ``names`` and ``low``
    are the layers to measure and their lowest density.

    Attributes
    ----------
    dense : float
        Cost of the network as it is.
    """

    def __init__(self, price: Callable[[dict[str, float]], float], names: list[str], low: float):
        self.dense = price({})
        self._densities = np.geomspace(1, low, POINTS)
        self._densities[-1] = low
        self._savings = {name: np.maximum.accumulate([
            0.0, *(self.dense - price({name: float(density)}) for density in self._densities[1:])])
            for name in names}

    def fit(self, densities: dict[str, float], cost: float):
        """Scales all savings so that the price at ``densities`` is ``cost``: layers that are cut
        together save more or less than the sum of those that are cut alone."""
        saved = self.dense - self.price(densities)
        if saved > 0:
            factor = (self.dense - cost) / saved
            self._savings = {name: factor * each for name, each in self._savings.items()}

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

    def price(self, densities: dict[str, float]) -> float:
        """The cost at ``densities``, as estimated."""
        return self.dense - sum(self.saving(*each) for each in densities.items())
