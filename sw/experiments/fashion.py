"""LeNet-300-100, the network of the pruning papers, on images of clothes instead of digits.

The data are Fashion-MNIST (Xiao et al., arXiv 1708.07747): 60,000 images of 28 x 28 pixels to train
on and 10,000 to test, of ten kinds. The network is that of Han et al., "Deep Compression", ICLR
2016, section 5.1, whose MNIST is easier.
"""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zeroskip.sw.errors import ToolMissing
from zeroskip.sw.experiments.digits import accuracy, train_widths
from zeroskip.sw.prune import pipeline
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.pipeline import Stage
from zeroskip.sw.prune.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""
WIDTHS = (784, 300, 100, 10)
TRAINING = {"epochs": 12, "learning_rate": 1e-3}
"""How long and how fast the network is trained, and once more while it is pruned and shared."""


def load(folder: Path = FOLDER) -> tuple[Data, Data]:
    """Training and test data, pixels as float32 in [0, 1]; ToolMissing where they are not."""
    return _read(folder, "train"), _read(folder, "t10k")


def _read(folder: Path, name: str) -> Data:
    try:
        with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as images, \
                gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as labels:
            pixels = np.frombuffer(images.read(), np.uint8, offset=16)
            kinds = np.frombuffer(labels.read(), np.uint8, offset=8)
    except FileNotFoundError:
        raise ToolMissing(f"Fashion-MNIST is not in {folder}; get it with: make data") from None
    return Data((pixels.reshape(len(kinds), -1) / 255).astype(np.float32), kinds.astype(np.int64))


def train(
    data: Data,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> "nn.Sequential":
    """The network, trained on ``data``; raises ToolMissing without torch."""
    return train_widths(WIDTHS, TRAINING, data, seed, progress)


def prune(
    network: "nn.Module",
    density: dict[str, float],
    data: Data,
    test: Data,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple["nn.Module", list[Stage]]:
    """The network pruned and shared, and its stages from the dense one, with accuracies on
    ``test``.

    ``density`` is by layer, ``"0"``, ``"2"`` and ``"4"``. Raises ToolMissing without torch.
    """
    recipe = Recipe(density, centroids=15, seed=seed, **TRAINING)
    from zeroskip.sw.prune.model import of_module
    result, stages = pipeline.prune(of_module(network), recipe, data,
                                    lambda now: accuracy(now, test), progress=progress)
    return result.module, stages
