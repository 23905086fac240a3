"""A small network that several tests run."""

import numpy as np
import pytest

from zeroskip.sim.cases import Case, make_case, random_layers


@pytest.fixture
def digits_like() -> Case:
    """Two small layers, five images, four PEs."""
    rng = np.random.default_rng(1)
    inputs = rng.integers(-100, 100, (5, 24)) * (rng.random((5, 24)) < 0.6)
    return make_case(random_layers(rng, (24, 30, 9), 0.3), inputs)
