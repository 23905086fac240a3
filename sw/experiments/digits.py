"""The demo's models: handwritten digits, trained and pruned in seconds, for each engine.

The data are scikit-learn's ``load_digits``: 1,797 images of 8 × 8 pixels from 0 to 16, of the
UCI Optical Recognition of Handwritten Digits set.
"""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.pipeline import Stage, prune
from zeroskip.sw.prune.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from zeroskip.sw.prune.model import Model

TEST_IMAGES = 360
IMAGE = (1, 8, 8)
WIDTHS = (64, 128, 64, 10)
"""Of the fully-connected network, for the EIE array."""
CHANNELS = (1, 16, 32, 32)
"""Of the convolutional network, for the tensor core; 3 x 3 kernels, the last two in steps of 2."""
DENSITY = {"0": 0.11, "2": 0.11, "4": 0.35}
"""By layer; the last layer is small, and stays denser. Together 11.9 % of the weights."""
LINEAR = {"epochs": 60, "learning_rate": 2e-3}
CONVOLUTIONAL = {"epochs": 40, "learning_rate": 5e-3}
"""How long and how fast each network is trained, and once more while it is pruned."""


def load() -> tuple[Data, Data]:
    """Training and test data, pixels as float32 in [0, 1]; the split is always the same."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=TEST_IMAGES, stratify=y, random_state=0)
    return Data(x_train, y_train), Data(x_test, y_test)


def train_linear(
    data: Data,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> "nn.Sequential":
    """A 64-128-64-10 network with ReLU, trained on ``data``; raises ToolMissing without torch."""
    return train_widths(WIDTHS, LINEAR, data, seed, progress)


def train_convolutional(
    data: Data,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> "nn.Sequential":
    """Three convolutions with ReLU, 8 x 8 to 2 x 2, and a linear layer, trained on ``data``;
    raises ToolMissing without torch."""
    require_torch()
    from torch import nn

    def layers():
        convolutions = [
            (nn.Conv2d(i, o, 3, stride, padding=1), nn.ReLU())
            for (i, o), stride in zip(pairwise(CHANNELS), (1, 2, 2), strict=True)]
        flat = CHANNELS[-1] * IMAGE[1] * IMAGE[2] // 16
        return [nn.Unflatten(1, IMAGE), *chain.from_iterable(convolutions), nn.Flatten(),
                nn.Linear(flat, 10)]
    return _train(layers, CONVOLUTIONAL, data, seed, progress)


def train_widths(
    widths: Sequence[int],
    training: dict,
    data: Data,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> "nn.Sequential":
    """Fully-connected layers with ReLU between, ``widths`` from input to output, trained on
    ``data`` with what ``training`` says to ``fit``; raises ToolMissing without torch."""
    require_torch()
    from torch import nn

    def layers():
        found = [(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(widths)]
        return [*chain.from_iterable(found)][:-1]
    return _train(layers, training, data, seed, progress)


def accuracy(model: "Model", data: Data) -> float:
    """Fraction of the samples whose greatest output is that of their class."""
    from zeroskip.sw.prune.losses import named
    return model.judge(data, named("cross_entropy"))["accuracy"]


def _train(layers, training, data, seed, progress) -> "nn.Sequential":
    """A network of ``layers``, a function that makes torch modules, trained on ``data``."""
    import torch
    from torch import nn

    from zeroskip.sw.prune.train import fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(*layers())
    fit(module, module.parameters(), data, seed=seed, progress=progress, **training)
    return module.eval()


def run_linear(
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple["nn.Module", list[Stage]]:
    """The fully-connected network pruned and shared, and its stages from the dense one, with
    accuracies on the test images.

    The same seed gives the same bytes on the same computer. Raises ToolMissing without torch.
    """
    train, _ = load()
    return _run(train_linear(train, seed, progress),
                Recipe(DENSITY, centroids=15, seed=seed, **LINEAR), progress)


def run_convolutional(
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple["nn.Module", list[Stage]]:
    """The convolutional network 2:4 pruned, and its stages; see :func:`run_linear`."""
    train, _ = load()
    return _run(train_convolutional(train, seed, progress),
                Recipe(granularity="2:4", seed=seed, **CONVOLUTIONAL), progress)


def _run(network: "nn.Module", recipe: Recipe, progress) -> tuple["nn.Module", list[Stage]]:
    from zeroskip.sw.prune.model import of_module
    train, test = load()
    result, stages = prune(of_module(network), recipe, train, lambda now: accuracy(now, test),
                           progress=progress)
    return result.module, stages


def graph(module: "nn.Module", inputs: int = WIDTHS[0]) -> Graph:
    """A network as the compiler takes it."""
    import torch

    from zeroskip.sw.frontends.load import from_torch
    return from_torch(module, (torch.zeros(1, inputs),))


def to_onnx(module: "nn.Module", inputs: int = WIDTHS[0]) -> bytes:
    """A network as an ONNX file."""
    import torch

    from zeroskip.sw.frontends import torch_frontend
    return torch_frontend.to_onnx(module, (torch.zeros(1, inputs),))
