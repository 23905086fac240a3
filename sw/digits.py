"""The demo's model: handwritten digits, trained, pruned and shared in seconds.

The data are scikit-learn's ``load_digits``: 1,797 images of 8 × 8 pixels from 0 to 16, of the
UCI Optical Recognition of Handwritten Digits set.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from zeroskip.sw.compiler.frontend import require_torch
from zeroskip.sw.network import Network
from zeroskip.sw.prune.data import Data, accuracy
from zeroskip.sw.prune.recipe import Recipe, Stage, run_recipe

TEST_IMAGES = 360
WIDTHS = (64, 128, 64, 10)
DENSITY = {"0": 0.11, "2": 0.11, "4": 0.35}
"""By layer; the last layer is small, and stays denser. Together 11.9 % of the weights."""
EPOCHS = 60
LEARNING_RATE = 2e-3


def load() -> tuple[Data, Data]:
    """Training and test data, pixels as float32 in [0, 1]; the split is always the same."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=TEST_IMAGES, stratify=y, random_state=0)
    return Data(x_train, y_train), Data(x_test, y_test)


def train_dense(
    data: Data,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> Network:
    """A 64-128-64-10 network with ReLU, trained on ``data``; raises ToolMissing without torch."""
    require_torch()
    import torch
    from torch import nn

    from zeroskip.sw.compiler.torch_frontend import from_torch
    from zeroskip.sw.prune.train import fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, last = (nn.Linear(i, o) for i, o in pairwise(WIDTHS))
    module = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    fit(module, module.parameters(), data, epochs=EPOCHS, learning_rate=LEARNING_RATE, seed=seed,
        progress=progress)
    return from_torch(module)


def run(
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Stage]:
    """The stages dense, pruned and shared, with their accuracies on the test images.

    The same seed gives the same bytes on the same machine. Raises ToolMissing without torch.
    """
    train, test = load()
    recipe = Recipe(density=DENSITY, share_bits=4, data=train, epochs=EPOCHS,
                    learning_rate=LEARNING_RATE, seed=seed)
    _, stages = run_recipe(train_dense(train, seed, progress), recipe, progress)
    return [replace(stage, accuracy=accuracy(stage.network, test)) for stage in stages]
