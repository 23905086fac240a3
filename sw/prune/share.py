"""Weight sharing: few values a layer, fine-tuned as the centroids of their weights.

Source: Han et al., "Deep Compression", 2016, section 3: the gradient of a centroid is the sum of
the gradients of the weights that share it.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call

from zeroskip.sw.prune import train
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.model import Model
from zeroskip.sw.quantize import kmeans


def share(
    model: Model,
    centroids: int = 15,
    *,
    data: Data | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    loss: str | Callable = "cross_entropy",
):
    """Leaves each Linear layer of ``model`` at most ``centroids`` values beside zero, in place.

    :func:`zeroskip.sw.quantize.kmeans.share` chooses the values; zeros stay zero. With ``data``,
    the values and the biases are then trained for ``epochs``, while each weight keeps its centroid.
    """
    layers, module = model.layers, model.module
    values, indices = {}, {}
    for name, layer in layers.items():
        shared = kmeans.share(layer.weight.detach().numpy(), centroids)
        values[name] = nn.Parameter(torch.from_numpy(shared.codebook[1:].copy()))
        indices[name] = torch.from_numpy(shared.indices.astype("int64"))

    def weights():
        # indexing sums the gradients per centroid; entry 0 is no parameter, so it stays 0
        return {f"{model.names[name]}.weight".removeprefix("."):
                torch.cat([torch.zeros(1), values[name]])[indices[name]] for name in layers}

    if data is not None:
        biases = [layer.bias for layer in layers.values() if layer.bias is not None]
        with model.training():
            train.fit(lambda *x: functional_call(module, weights(), x),
                      [*values.values(), *biases], data, epochs=epochs, text="share", loss=loss,
                      learning_rate=learning_rate, seed=seed, progress=progress)
    with torch.no_grad():
        for layer, weight in zip(layers.values(), weights().values(), strict=True):
            layer.weight.copy_(weight)
