"""Training on arrays, the same bytes for the same seed on the same machine."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune import losses
from zeroskip.sw.prune.data import Data, filled

BATCH = 64


def fit(
    forward: Callable[..., torch.Tensor],
    parameters: Iterable[nn.Parameter],
    data: Data,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    after_step: Callable[[float], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    text: str = "train",
    penalty: Callable[[], torch.Tensor] | None = None,
    loss: str | Callable = "cross_entropy",
):
    """Minimises the mean ``loss`` of ``forward`` over ``data`` with Adam, in place.

    ``forward`` maps a batch of the inputs to outputs, ``loss`` is as
    :func:`zeroskip.sw.prune.losses.named` takes it. The learning rate falls to zero along a
    cosine; ``seed`` sets the order of the samples, and what dropout draws. ``after_step`` gets the
    fraction of the steps that are done, ``progress`` the epochs done, their total and ``text``.
    ``penalty`` returns a scalar that is added to each batch's loss. Raises BadInput where the loss
    becomes infinite or NaN.
    """
    with one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        _fit(forward, parameters, data, epochs, learning_rate, seed, after_step, progress, text,
             penalty, losses.named(loss))


def layers(module: nn.Module) -> dict[str, nn.Linear | nn.Conv1d | nn.Conv2d]:
    """The Linear, Conv1d and Conv2d layers of ``module`` by their names in it, in order."""
    return {n: m for n, m in module.named_modules()
            if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}


@contextmanager
def one_thread():
    """Keeps torch on one thread: batches are small, so threads cost more than they gain; and sums
    keep one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(forward, parameters, data, epochs, learning_rate, seed, after_step, progress, text,
         penalty, criterion):
    inputs = [torch.from_numpy(np.ascontiguousarray(each)) for each in data.inputs]
    y = torch.from_numpy(np.ascontiguousarray(data.targets))
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    size = data.batch or BATCH
    steps, step = epochs * -(-len(data) // size), 0
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for epoch in range(epochs):
        for some in torch.randperm(len(data), generator=order).split(size):
            rows = filled(some, data.batch)
            optimizer.zero_grad()
            loss = criterion(forward(*(each[rows] for each in inputs)), y[rows])
            if penalty:
                loss = loss + penalty()
            loss.backward()
            optimizer.step()
            decay.step()
            step += 1
            if after_step:
                after_step(step / steps)
        if not torch.isfinite(loss):
            raise BadInput(f"the loss is {loss.item()} after epoch {epoch + 1}; lower "
                           f"learning_rate, which is {learning_rate}.")
        if progress:
            progress(epoch + 1, epochs, text)
