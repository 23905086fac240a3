"""The nine layers on which the paper measures (Han et al., ISCA 2016, tables III and IV), with
weights and activations that have their sizes and densities; those of the paper are not public."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from zeroskip.sw.prune.banks import bank_balanced, entries

ROW_SIGMA, COLUMN_SIGMA = 0.27, 0.5
"""Spread of the log-normal scales of a skewed mask. That of the rows was chosen so that the
busiest of 64 PEs has 1.20 to 1.34 times the weights of a mean one in the four layers of 4096
rows; for masks of pruned LSTMs the literature has 1.20 to 1.33."""


@dataclass(frozen=True)
class PaperLayer:
    """One of the nine layers, and what the paper's array of 64 PEs took for it.

    Attributes
    ----------
    name : str
    inputs, outputs : int
    weight_density, activation_density : float
        Share of the weights, and of the inputs, that is not zero.
    theoretical_us, actual_us : float
        Table IV, in microseconds at 800 MHz; the theoretical time has the padding in it.
    utilisation : float
        Useful multiplications over PEs times cycles, from the actual time.
    """

    name: str
    inputs: int
    outputs: int
    weight_density: float
    activation_density: float
    theoretical_us: float
    actual_us: float
    utilisation: float

    def weights(self, mask: str, pes: int, seed: int = 0) -> np.ndarray:
        """Codebook indices uint8 [outputs, inputs]; see :func:`random_indices`."""
        return random_indices(mask, (self.outputs, self.inputs), self.weight_density, pes, seed)

    def activations(self, seed: int = 0) -> np.ndarray:
        """int16 [inputs]; see :func:`random_vector`."""
        return random_vector(self.inputs, self.activation_density, seed)


def _read() -> dict[str, PaperLayer]:
    with files("zeroskip.sw.experiments").joinpath("nine_layers.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {name: PaperLayer(name, int(inputs), int(outputs), *map(float, figures))
            for name, inputs, outputs, *figures in rows}


NINE = _read()
"""The nine layers by name, in the paper's order."""


def random_indices(mask: str, shape: tuple[int, int], density: float, pes: int = 1,
                   seed: int = 0) -> np.ndarray:
    """Random codebook indices, uint8 ``shape`` ([outputs, inputs]), 0 where ``mask`` has none.

    ``mask`` is a key of ``MASKS``. Random and skewed masks have exactly ``round(density * size)``
    weights; a balanced one has the same number, near that density, in each column of each of
    ``pes`` banks of rows.
    """
    rng = np.random.default_rng(seed)
    kept = MASKS[mask](rng, shape, density, pes)
    indices = np.zeros(shape, np.uint8)
    indices[kept] = rng.integers(1, 16, np.count_nonzero(kept), np.uint8)
    return indices


def random_vector(inputs: int, density: float, seed: int = 0) -> np.ndarray:
    """int16 [inputs], of which exactly ``round(density * inputs)`` are positive, the others
    zero."""
    rng = np.random.default_rng(seed)
    vector = np.zeros(inputs, np.int16)
    chosen = rng.permutation(inputs)[:round(density * inputs)]
    vector[chosen] = rng.integers(1, 1000, len(chosen))
    return vector


def _random(rng: np.random.Generator, shape: tuple[int, int], density: float,
            _pes: int) -> np.ndarray:
    return _largest(rng.random(shape, np.float32), density)


def _skewed(rng: np.random.Generator, shape: tuple[int, int], density: float,
            _pes: int) -> np.ndarray:
    """What one cut over a whole matrix leaves where rows and columns differ in scale."""
    size = rng.standard_normal(shape, np.float32)
    np.abs(size, out=size)
    size *= np.exp(ROW_SIGMA * rng.standard_normal((shape[0], 1), np.float32))
    size *= np.exp(COLUMN_SIGMA * rng.standard_normal((1, shape[1]), np.float32))
    return _largest(size, density)


def _balanced(rng: np.random.Generator, shape: tuple[int, int], density: float,
              pes: int) -> np.ndarray:
    return bank_balanced(rng.random(shape, np.float32), pes, entries(shape[0], pes, density))


def _largest(size: np.ndarray, density: float) -> np.ndarray:
    """Where the ``round(density * size.size)`` largest are; of equal ones the first."""
    flat = size.ravel()
    count = round(density * flat.size)
    if not count:
        return np.zeros(size.shape, bool)
    least = np.partition(flat, -count)[-count]
    kept = flat > least
    kept[np.flatnonzero(flat == least)[:count - np.count_nonzero(kept)]] = True
    return kept.reshape(size.shape)


MASKS: dict[str, Callable] = {"random": _random, "skewed": _skewed, "balanced": _balanced}
"""By name: from a random generator, a shape [outputs, inputs], a density and a number of PEs to
where weights are, bool of that shape."""
