"""What a network costs on an EIE array: costs for :mod:`zeroskip.sw.prune.ratios`, and estimates
for :mod:`zeroskip.sw.compiler.placement`.

The costs compile. A layer of more than 15 values is shared by k-means first, without training, as
:func:`zeroskip.sw.engines.eie.quantize.quantize` does it. Where the network needs deeper memories
than the array has, it gets them; its cycles do not depend on their depth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, NIBBLES, EIEConfig
from zeroskip.sw.engines.base import Estimate
from zeroskip.sw.engines.eie import golden
from zeroskip.sw.engines.eie.blocks import SAMPLES, larger
from zeroskip.sw.engines.eie.cycle_model import predict
from zeroskip.sw.engines.eie.directory import nibbles_for, words_for
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.lower import BROADCAST_BOUND, compile_layers, deepened
from zeroskip.sw.engines.eie.pack import width
from zeroskip.sw.engines.eie.quantize import quantize
from zeroskip.sw.graph.network import Layer, Network

LATENCY = 45
"""Cycles of a layer in which the array fills and empties (docs/cycles.md)."""


@dataclass(frozen=True)
class _Packing:
    """What a layer is likely to take, from its sizes and its zeros.

    Attributes
    ----------
    nonzeros, outputs, inputs : int
    columns : int
        Of a PE.
    entries : float
        Bytes in a PE, with escapes or padding.
    stride : int
        Places of a column in the directory.
    """

    nonzeros: int
    outputs: int
    inputs: int
    columns: int
    entries: float
    stride: int

    @classmethod
    def of(cls, layer: Layer, config: EIEConfig) -> "_Packing":
        outputs, inputs = layer.matrix.shape
        nonzeros = np.count_nonzero(layer.matrix)
        groups = config.groups if nonzeros < BROADCAST_BOUND * inputs * config.pes else 1
        columns = width(inputs, config.pes, groups)
        # A gap of independent zeros is longer than 15 with this probability; none reaches over
        # the end of a column.
        longer = (1 - nonzeros / (outputs * inputs)) ** 16
        rows = -(-min(outputs, config.acc_depth * config.pes // groups) * groups // config.pes)
        bridged = sum(longer ** gap * (1 - 16 * gap / rows)
                      for gap in range(1, 2 if config.escapes else rows // 16 + 1)
                      if 16 * gap < rows)
        entries = nonzeros / config.pes * (1 + bridged)
        mean = entries / columns
        stride = 1
        if config.counts:       # the longest of many columns that scatter around the mean
            longest = min(mean + 5 * mean ** 0.5 + 2, -(-outputs // (config.pes // groups)))
            stride = nibbles_for(min(int(longest), 65535))
        return cls(nonzeros, outputs, inputs, columns, entries, stride)

    def passes(self, config: EIEConfig) -> int:
        """Passes over the inputs."""
        return -(-self.outputs // (config.acc_depth * config.pes))

    def places(self, config: EIEConfig) -> int:
        """Nibbles or pointers of the directory."""
        one = NIBBLES * words_for(self.columns, self.stride) if config.counts else self.columns + 1
        return one * self.passes(config)

    def bytes(self, config: EIEConfig) -> int:
        """All that is stored."""
        bits = self.places(config) * (4 + config.pointer_width // NIBBLES if config.counts
                                      else config.pointer_width)
        return int(config.pes * (self.entries + bits / 8)) + self.outputs * config.acc_width // 8


def holds(layers: Sequence[Layer], config: EIEConfig) -> bool:
    """Whether the memories hold all layers at a time; a twentieth is left for what packing adds."""
    if larger(config, [(*layer.matrix.shape, np.count_nonzero(layer.matrix)) for layer in layers]):
        return False
    each = [_Packing.of(layer, config) for layer in layers]
    segments = sum(own.passes(config) * -(-own.inputs // (config.block * config.pes))
                   for own in each)
    return (sum(1.05 * own.entries + ENTRIES_PER_ROW for own in each) <= config.entries
            and sum(own.places(config) for own in each) <= config.pointers
            and segments <= config.descriptors)


def estimate(layer: Layer, config: EIEConfig, batch: int | None = None) -> Estimate:
    """Cycles of a sample whose inputs are all non-zero, and bytes. Of a layer that the array does
    not hold, the load bus's cycles count too: an item a cycle, for all samples of a batch."""
    own = _Packing.of(layer, config)
    positions = layer.geometry.positions if layer.geometry else 1
    mean = own.entries / own.columns
    idle = 0 if config.drops_empty else np.exp(-mean) * own.columns     # an empty column's cycle
    streams = config.groups if own.columns < own.inputs else 1
    # an escape goes by in the cycle of the entry behind it
    busy = own.nonzeros / config.pes if config.escapes else own.entries
    cycles = LATENCY + max(busy + idle, own.inputs / streams, own.inputs / config.clusters)
    basis = "no input zero"
    if not holds([layer], config):
        each = 3 / NIBBLES if config.counts else 1      # items for a place of the directory
        items = config.pes * (own.entries / 4 + each * own.places(config))
        samples = batch or SAMPLES
        loads = own.entries / config.entries + own.places(config) / config.pointers
        cycles += items / (samples * positions) + LATENCY * loads
        basis = f"no input zero, loaded for each {samples} samples"
    return Estimate(float(positions * cycles), own.bytes(config), basis)


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
