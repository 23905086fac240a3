"""What a network costs on an EIE array: costs for :mod:`zeroskip.sw.prune.ratios`.

A layer of more than 15 values is shared by k-means first, without training, as
:func:`zeroskip.sw.compiler.compile.compile_network` does it. The array is the given one with
memories just deep enough for the network; its cycles do not depend on their depth.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sim.cycle_model import predict
from zeroskip.sw.compiler.compile import Compiled, compile_network, storage
from zeroskip.sw.compiler.eie import cut, deepened
from zeroskip.sw.golden import eie as golden
from zeroskip.sw.network import Network


def packed_bytes(config: EIEConfig, samples: np.ndarray) -> Callable[[Network], float]:
    """Bytes of weights, indices, column directory, codebooks and biases.

    ``samples``, floats [batch, ...], set the scales. The cost raises BadInput where a layer cannot
    run on an EIE array, a convolution for example.
    """
    def cost(network: Network) -> float:
        return float(storage(_compile(network, samples, config).program)["packed"])
    return cost


def cycles(config: EIEConfig, samples: np.ndarray) -> Callable[[Network], float]:
    """Computing cycles per sample, the mean over ``samples``, by the cycle model.

    Otherwise like :func:`packed_bytes`; a sample takes some tens of milliseconds for each thousand
    cycles.
    """
    def cost(network: Network) -> float:
        compiled = _compile(network, samples, config)
        (part,) = compiled.program.parts
        x, _ = part.input.to_integer(samples.reshape(len(samples), -1))
        vectors, total = x, 0
        for number, layer in enumerate(compiled.reference):
            alone = replace(part, segments=tuple(
                segment for segment in part.segments if segment.codebook == number))
            total += sum(predict(alone, vector) for vector in vectors)
            x, _ = golden.layer(x, layer.weight, layer.bias, layer.shift, layer.activation)
            # the next layer's inputs are where this one's outputs lie
            vectors = np.zeros((len(x), part.layers[number].slots), x.dtype)
            vectors[:, part.positions(number)] = x
        return total / len(samples)
    return cost


def _compile(network: Network, samples: np.ndarray, config: EIEConfig) -> Compiled:
    """The network on an array with memories that are just deep enough."""
    compiled = compile_network(network, samples, deepened(config))
    parts = tuple(cut(part) for part in compiled.program.parts)
    return replace(compiled, program=replace(compiled.program, parts=parts))
