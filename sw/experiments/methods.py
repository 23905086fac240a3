"""Every way to prune where it is at its best, on handwritten digits: what stays, what it costs.

Recipes run on the networks of :mod:`zeroskip.sw.experiments.digits`. What these do not have is
in modules of this file: batch norms; attention; blocks that may be left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any

from zeroskip.sw.experiments import digits
from zeroskip.sw.frontends.load import require_torch
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.pipeline import prune
from zeroskip.sw.prune.ratios import macs
from zeroskip.sw.prune.recipe import Recipe

LINEAR, CONVOLUTIONAL, NORMED, ATTENTION = (
    "fully-connected", "convolutional", "with batch norms", "transformer")

SMALL, THIRD, HALF = digits.DENSITY, 0.3, 0.5

ONE_CUT = {
    "magnitude": {"density": THIRD},
    "OBD": {"density": THIRD, "criterion": "obd"},
    "Wanda": {"density": THIRD, "criterion": "wanda"},
    "magnitude, least squares": {"density": THIRD, "reconstruct": "least_squares"},
    "SparseGPT": {"density": THIRD, "reconstruct": "sparsegpt"},
    "2:4, magnitude": {"granularity": "2:4"},
    "2:4, Wanda": {"granularity": "2:4", "criterion": "wanda"},
    "2:4, SparseGPT": {"granularity": "2:4", "reconstruct": "sparsegpt"},
}
"""Recipes for the fully-connected network, which is not trained any more."""

TRAINED = {
    "magnitude, bit by bit": {"density": SMALL},
    "magnitude, one cut": {"density": SMALL, "rounds": 1},
    "magnitude, 4 rounds": {"density": SMALL, "rounds": 4},
    "lottery ticket, 4 rounds": {"density": SMALL, "rounds": 4, "rewind": "untrained"},
    "magnitude, L1 penalty": {"density": SMALL, "l1": 1e-4},
    "magnitude, L2 penalty": {"density": SMALL, "l2": 1e-3},
    "OBD, bit by bit": {"density": SMALL, "criterion": "obd"},
    "Wanda, bit by bit": {"density": SMALL, "criterion": "wanda"},
    "vectors of 4": {"density": SMALL, "granularity": "vector", "size": 4},
    "blocks of 4 x 4": {"density": SMALL, "granularity": "block", "size": 4},
    "4 banks": {"density": SMALL, "granularity": "banks", "size": 4},
    "2:4": {"granularity": "2:4"},
    "1:4": {"granularity": "1:4"},
    "4:8": {"granularity": "4:8"},
    "neurons, magnitude": {"density": HALF, "granularity": "neuron"},
    "neurons, APoZ": {"density": HALF, "granularity": "neuron", "criterion": "apoz"},
    "15 centroids": {"density": SMALL, "centroids": 15},
    "8-bit integers": {"density": SMALL, "weight_bits": 8},
    "4-bit integers": {"density": SMALL, "weight_bits": 4},
}
"""Recipes for the fully-connected network, with training."""

CHANNELS = {
    "channels, magnitude": {"density": HALF, "granularity": "channel"},
    "channels, APoZ": {"density": HALF, "granularity": "channel", "criterion": "apoz"},
    "channels, He 2017": {"density": HALF, "granularity": "channel", "criterion": "lasso"},
}
"""Recipes for the convolutional network, once with training and once without."""

KERNELS = {
    "kernels": {"density": {"1": HALF, "3": 0.25, "5": 0.25}, "granularity": "kernel"},
    "2:4": {"granularity": "2:4"},
}
"""Recipes for the convolutional network, with training."""

SPARSE_SCALES = 1e-3
"""What the loss gains by each |scale| of a batch norm, so that some become small."""


@dataclass(frozen=True)
class Outcome:
    """A pruned network: fractions of the dense one's weights and multiplications, and the
    accuracies of both on the test images."""

    model: str
    method: str
    trained: bool
    weights: float
    macs: float
    dense: float
    accuracy: float


def outcomes(seed: int) -> Iterator[Outcome]:
    """Every method once, on networks that are trained from ``seed``; raises ToolMissing without
    torch."""
    require_torch()
    train, test = digits.load()
    dense = digits.train_linear(train, seed)
    untrained = digits.train_widths(digits.WIDTHS, {**digits.LINEAR, "epochs": 0}, train, seed)
    run = partial(_recipe, data=train, test=test, seed=seed)
    for method, changes in ONE_CUT.items():
        yield run(LINEAR, method, dense, changes, None)
    for method, changes in TRAINED.items():
        start = untrained if "rewind" in changes else None
        yield run(LINEAR, method, dense, changes, digits.LINEAR, start)
    dense = digits.train_convolutional(train, seed)
    for training in (None, digits.CONVOLUTIONAL):
        for method, changes in CHANNELS.items():
            yield run(CONVOLUTIONAL, method, dense, changes, training)
    for method, changes in KERNELS.items():
        yield run(CONVOLUTIONAL, method, dense, changes, digits.CONVOLUTIONAL)
    yield from _modules(train, test, seed)


def _recipe(model: str, method: str, dense: Any, changes: dict, training: dict | None,
            start: Any = None, *, data: Data, test: Data, seed: int) -> Outcome:
    from zeroskip.sw.prune.model import of_module

    recipe, given = Recipe(**changes, **(training or {"epochs": 0}), seed=seed), of_module(dense)
    result, stages = prune(given, recipe, data, lambda now: digits.accuracy(now, test),
                           start=start and of_module(start))
    work = macs(test.rows(slice(0, 1)))
    return Outcome(model, method, training is not None, stages[-1].density,
                   work(result) / work(given), stages[0].accuracy, stages[-1].accuracy)


def _modules(train: Data, test: Data, seed: int) -> Iterator[Outcome]:
    """What no recipe reaches: scales of batch norms, heads, blocks."""
    import torch

    from zeroskip.sw.prune import structure
    from zeroskip.sw.prune.scores import scores
    from zeroskip.sw.prune.train import fit, layers

    def fitted(module, penalty=None):
        fit(module, module.parameters(), train, seed=seed, penalty=penalty,
            **digits.CONVOLUTIONAL)
        return module.eval()

    x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)

    def right(module):
        with torch.no_grad():
            return float((module(x).argmax(1) == y).float().mean())

    def outcome(model, method, dense, granularity, keep, found):
        before = right(dense), *work(dense, x)
        smaller = structure.remove(dense, x[:2], granularity, keep, found).module
        result = fitted(smaller.train())
        weights, products = work(result, x)
        return Outcome(model, method, True, weights / before[1], products / before[2], before[0],
                       right(result))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, behind = normed()
        norms = list(behind.values())
        dense = fitted(module, lambda: SPARSE_SCALES * sum(n.weight.abs().sum() for n in norms))
        convolutions = {name: layers(dense)[name] for name in behind}
        keep = dict.fromkeys(behind, HALF)
        for method, criterion in (("channels, batch-norm scale", "scale"),
                                  ("channels, magnitude", "l1")):
            found = scores(criterion, dense, convolutions, after=behind)
            yield outcome(NORMED, method, dense, "channel", keep, found)
        dense = fitted(transformer())
        found = scores("l1", dense, layers(dense))
        heads = {f"blocks.{at}.attention": HALF for at in range(len(dense.blocks))}
        yield outcome(ATTENTION, "heads, magnitude", dense, "head", heads, found)
        yield outcome(ATTENTION, "depth, magnitude", dense, "depth", {"blocks": HALF}, found)


def normed():
    """The convolutional network with a batch norm behind each convolution; these by its name."""
    from torch import nn

    def block(i, o, stride):
        return nn.Conv2d(i, o, 3, stride, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()
    blocks = [block(i, o, stride)
              for (i, o), stride in zip(pairwise(digits.CHANNELS), (1, 2, 2), strict=True)]
    flat = digits.CHANNELS[-1] * digits.IMAGE[1] * digits.IMAGE[2] // 16
    module = nn.Sequential(nn.Unflatten(1, digits.IMAGE), *chain.from_iterable(blocks),
                           nn.Flatten(), nn.Linear(flat, 10))
    return module, {str(1 + 3 * at): norm for at, (_, norm, _) in enumerate(blocks)}


def transformer(size: int = 32, heads: int = 4, blocks: int = 2):
    """Attention over the rows of an image: a module from [batch, 64] to [batch, 10]."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.size = heads, size // heads
            self.q, self.k, self.v, self.out = (nn.Linear(size, size) for _ in range(4))

        def forward(self, x):
            shape = (*x.shape[:2], self.num_heads, self.size)
            q, k, v = (part(x).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v))
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(1, 2).flatten(2))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.attention = nn.LayerNorm(size), Attention()
            self.norm2 = nn.LayerNorm(size)
            self.inner, self.outer = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

        def forward(self, x):
            x = x + self.attention(self.norm1(x))
            return x + self.outer(nn.functional.relu(self.inner(self.norm2(x))))

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(8, size)
            self.place = nn.Parameter(torch.randn(8, size) / 8)
            self.blocks = nn.Sequential(*(Block() for _ in range(blocks)))
            self.classify = nn.Linear(8 * size, 10)

        def forward(self, x):
            return self.classify(self.blocks(self.embed(x.view(-1, 8, 8)) + self.place).flatten(1))
    return Rows()


def work(module, x) -> tuple[int, int]:
    """Weights of the Linear and Conv2d layers of ``module`` that are not zero, and how many
    multiplications by them a sample of ``x`` takes."""
    import torch

    from zeroskip.sw.prune.statistics import output_rows, watched
    from zeroskip.sw.prune.train import layers

    counts = []

    def count(layer, _inputs, output):
        nonzero = int(layer.weight.count_nonzero())
        counts.append((nonzero, nonzero * output_rows(layer, output).shape[1]))
    with torch.no_grad(), watched(module, [(layer, count) for layer in layers(module).values()]):
        module(x[:1])
    weights, products = zip(*counts, strict=True)
    return sum(weights), sum(products)


METHODS = 2 * len(CHANNELS) + len(ONE_CUT) + len(TRAINED) + len(KERNELS) + 4
"""Outcomes of a seed."""
