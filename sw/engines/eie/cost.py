"""What a network costs on an EIE array: costs for :mod:`zeroskip.sw.prune.ratios`.

A layer of more than 15 values is shared by k-means first, without training, as
:func:`zeroskip.sw.engines.eie.quantize.quantize` does it. Where the network needs deeper memories
than the array has, it gets them; its cycles do not depend on their depth.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.sw.engines.eie import golden
from zeroskip.sw.engines.eie.cycle_model import predict
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.lower import compile_layers, deepened
from zeroskip.sw.engines.eie.quantize import quantize
from zeroskip.sw.graph.network import Network


def packed_bytes(config: EIEConfig, samples: np.ndarray) -> Callable[[Network], float]:
    """Bytes of weights, indices, column directory, codebooks and biases.

    ``samples``, floats [batch, ...], set the scales. The cost raises BadInput where a layer cannot
    run on an EIE array, a convolution for example.
    """
    def cost(network: Network) -> float:
        _, image = _compiled(network, samples, config)
        rows = max(config.weight_rows, image.entries.shape[1] // ENTRIES_PER_ROW)
        # a pointer is as wide as the memory is deep
        sizes = replace(image, config=replace(config, weight_rows=rows)).storage()
        return float(sum(sizes.values()) - sizes["float32"])
    return cost


def cycles(config: EIEConfig, samples: np.ndarray) -> Callable[[Network], float]:
    """Computing cycles per sample, the mean over ``samples``, by the cycle model.

    Otherwise like :func:`packed_bytes`; a sample takes some tens of milliseconds for each thousand
    cycles.
    """
    def cost(network: Network) -> float:
        layers, image = _compiled(network, samples, config)
        x, _ = image.input.to_integer(samples.reshape(len(samples), -1))
        vectors, total = x, 0
        for number, layer in enumerate(layers):
            alone = replace(image, segments=tuple(
                segment for segment in image.segments if segment.codebook == number))
            total += sum(predict(alone, vector) for vector in vectors)
            x, _ = golden.layer(x, layer.weight, layer.bias, layer.shift, layer.activation)
            # the next layer's inputs are where this one's outputs lie
            vectors = np.zeros((len(x), image.layers[number].slots), x.dtype)
            vectors[:, image.positions(number)] = x
        return total / len(samples)
    return cost


def _compiled(network: Network, samples: np.ndarray,
              config: EIEConfig) -> tuple[tuple[FixedLayer, ...], EIEImage]:
    """The network in integers, and its image for an array of any depth."""
    layers, _ = quantize(network, samples, config.acc_width)
    return layers, compile_layers(layers, deepened(config))
