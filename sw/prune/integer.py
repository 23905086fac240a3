"""Rounding to integers: few bits a weight, one scale an output, trained as what they round to.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 3: the forward pass has rounded weights, and
their gradient goes to the weights before rounding, straight through.
"""

from collections.abc import Callable

import torch
from torch.func import functional_call

from zeroskip.sw.prune import train
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.model import Model


def round_weights(
    model: Model,
    bits: int,
    *,
    data: Data | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    loss: str | Callable = "cross_entropy",
):
    """Leaves each weight of the layers of ``model`` a multiple of its output's
    scale, in place.

    The multiples are integers of ``bits``, -(2^(bits - 1) - 1) to that; the scale is float32, so
    that the greatest weight of the output is the greatest multiple. With ``data`` weights and
    biases are then trained for ``epochs``, the scales and the zeros being held.
    """
    layers, module, peak = model.layers, model.module, 2 ** (bits - 1) - 1
    scales, zeros = {}, {}
    for name, layer in layers.items():
        greatest = layer.weight.detach().flatten(1).abs().amax(1)
        # an output without weights may have any scale
        scale = torch.where(greatest > 0, greatest / peak, 1.0)
        scales[name] = scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
        zeros[name] = layer.weight.detach() == 0

    @torch.no_grad()
    def nearest(name):
        weight = (layers[name].weight / scales[name]).round().clamp(-peak, peak) * scales[name]
        return weight.masked_fill(zeros[name], 0)

    def forward(*x):
        # the value is the rounded one, the gradient that of the weight
        weights = {f"{model.names[name]}.weight".removeprefix("."):
                   layer.weight + (nearest(name) - layer.weight.detach())
                   for name, layer in layers.items()}
        return functional_call(module, weights, x)

    if data is not None:
        with model.training():
            train.fit(forward, module.parameters(), data, epochs=epochs, text="round", loss=loss,
                      learning_rate=learning_rate, seed=seed, progress=progress)
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(nearest(name))
