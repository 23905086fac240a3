"""N:M pruning: one cut to the largest of each group, then fine-tuning with the mask held.

Source: Mishra et al., "Accelerating Sparse Deep Neural Networks" (arXiv 2104.08378), section 4.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from zeroskip.sw.pack import nm
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.train import fit, layers


def mask(weight: torch.Tensor, pattern: str) -> torch.Tensor:
    """Bool tensor like ``weight`` [out, ...], true at what stays of each group along the rest.

    A last group that the row does not fill counts as filled with zeros.
    """
    matrix = weight.detach().reshape(len(weight), -1).numpy()
    columns = matrix.shape[1]
    whole = np.pad(matrix, ((0, 0), (0, -columns % nm.PATTERNS[pattern].columns)))
    return torch.from_numpy(nm.mask(whole, pattern)[:, :columns].copy()).view_as(weight)


def prune(
    module: nn.Module,
    pattern: str,
    *,
    data: Data | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
):
    """Prunes the Linear and Conv2d layers of ``module`` to ``pattern``, in place.

    With ``data`` what is left is trained on; a zeroed weight stays zero.
    """
    weights = [layer.weight for layer in layers(module).values()]
    masks = [mask(weight, pattern) for weight in weights]

    @torch.no_grad()
    def cut(_fraction=1.0):
        for weight, kept in zip(weights, masks, strict=True):
            weight.masked_fill_(~kept, 0)

    cut()
    if data is not None:
        fit(module, module.parameters(), data, epochs=epochs, learning_rate=learning_rate,
            seed=seed, after_step=cut, progress=progress, text="prune")
