"""A layer that is larger than the array's memories, cut into blocks that fit.

The rows are cut so that the array keeps the sums of several samples at a time: one load of a
block's weights then serves all of them. The columns of each block of rows are cut as the memories
ask for it.
"""

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array

from zeroskip.hw.eie.config import NIBBLES, EIEConfig
from zeroskip.sw.engines.checks import WEIGHTS, check_most
from zeroskip.sw.engines.eie.directory import words_for
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.loads import EIELoads, Grid
from zeroskip.sw.engines.eie.lower import (
    BROADCAST_BOUND,
    Misfit,
    assign,
    compile_block,
    compile_layers,
    directory_stride,
    pack_passes,
    prove_all,
    take,
)
from zeroskip.sw.engines.eie.pack import width

SAMPLES = 8
"""Samples whose sums are kept at a time, where no batch is asked for: loading a weight takes as
long as a few multiplications with it."""


def lower(layers: tuple[FixedLayer, ...], config: EIEConfig,
          batch: int | None = None) -> EIEImage | EIELoads:
    """The image of layers: one that is loaded once, where they fit, and else each layer in loads of
    its own, for up to ``batch`` samples at a time.

    ``BadInput`` where an accumulator could overflow, or a single weight does not fit.
    """
    if not larger(config, [(*layer.indices.shape, np.count_nonzero(layer.indices))
                           for layer in layers]):
        try:
            return compile_layers(layers, config)
        except Misfit:
            pass
    prove_all(layers, config)
    return EIELoads(config, tuple(cut_layer(layer, config, batch or SAMPLES) for layer in layers))


def larger(config: EIEConfig, sizes: list[tuple[int, int, int]]) -> bool:
    """Whether layers of so many outputs, inputs and non-zero weights are certainly larger than the
    memories, however they are packed."""
    vector = config.act_depth * config.pes
    return (len(sizes) > config.codebooks
            or sum(nonzeros for _, _, nonzeros in sizes) > config.entries * config.pes
            or max(max(outputs, inputs) for outputs, inputs, _ in sizes) > vector
            or sum(-(-outputs // config.clusters) for outputs, _, _ in sizes) > config.bias_depth)


def cut_layer(layer: FixedLayer, config: EIEConfig, samples: int) -> Grid:
    """A layer in blocks, for up to ``samples`` at a time; :class:`Misfit` where the memories do not
    hold a single row of each PE."""
    outputs, inputs = layer.indices.shape
    check_most(f"layer {layer.name}: unpacked, it has", outputs * inputs, WEIGHTS, "weights")
    turns = min(-(-outputs // config.pes), max(1, _depth(config, 1) // samples))
    sparse = np.count_nonzero(layer.indices) * turns < BROADCAST_BOUND * inputs * outputs
    groups, most = config.groups if sparse else 1, config.act_depth
    while True:
        owners, depth = config.pes // groups, _depth(config, groups)
        words = max(1, min(-(-outputs // owners), depth // samples, most))
        words = -(-outputs // (-(-outputs // (words * owners)) * owners))    # blocks alike
        try:
            rows = tuple(_cut_columns(layer, slice(at, at + words * owners), config, groups)
                         for at in range(0, outputs, words * owners))
            return Grid(rows, min(samples, depth // words))
        except Misfit:
            if words == groups == 1:
                raise
            most, groups = (words // 2, groups) if words > 1 else (config.act_depth, 1)


def _depth(config: EIEConfig, groups: int) -> int:
    """Words of sums that a PE keeps, each with its bias."""
    return min(config.act_depth, config.bias_depth * groups // config.groups)


def _cut_columns(layer: FixedLayer, rows: slice, config: EIEConfig,
                 groups: int) -> tuple[EIEImage, ...]:
    """A block of rows, in blocks of columns."""
    indices, columns = layer.indices[rows], layer.indices.shape[1]
    order = assign(csr_array(indices != 0), config, groups)
    room = _Room(layer.name, take(indices, order, axis=0), config, groups)
    unit = config.pes if groups > 1 else 1      # whole turns: a column keeps its group
    images, first = [], 0
    while first < columns:
        size = room.most(first, unit)
        while True:
            stop = min(first + size, columns)
            try:
                images.append(compile_block(_block(layer, rows, slice(first, stop)), order, groups,
                                            config))
                break
            except Misfit:      # what fills rows of the memory up is known once a block is packed
                if size == unit:
                    raise
                size = max(unit, size * 7 // 8 // unit * unit)
        first = stop
    return tuple(images)


def _block(layer: FixedLayer, rows: slice, columns: slice) -> FixedLayer:
    """Its part of the sums; the last block of columns ends them as the layer does."""
    indices, ends = layer.indices[rows, columns], columns.stop == layer.indices.shape[1]
    bias = layer.bias[rows]
    return FixedLayer(
        name=layer.name, activation=layer.activation if ends else "none", indices=indices,
        codebook=layer.codebook, bias=bias if ends else np.zeros_like(bias),
        shift=layer.shift if ends else 0, input=replace(layer.input, shape=indices.shape[1:]),
        output=replace(layer.output, shape=indices.shape[:1]))


class _Room:
    """How many columns of a block of rows the memories hold: physical rows, uint8 [slots, in]."""

    def __init__(self, name: str, indices: np.ndarray, config: EIEConfig, groups: int):
        passes = pack_passes(indices, config, groups)
        self._config, self._groups, self._passes = config, groups, len(passes)
        self._columns = indices.shape[1]
        self._starts = sum(own.starts.astype(np.int64) for own in passes)
        self._stride = directory_stride(name, max(own.longest for own in passes), config)

    def most(self, first: int, unit: int) -> int:
        """Columns from ``first`` on, in whole units, one at least."""
        fits, beyond = 1, -(-(self._columns - first) // unit) + 1
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if self._holds(first, min(first + middle * unit, self._columns)):
                fits = middle
            else:
                beyond = middle
        return fits * unit

    def _holds(self, first: int, stop: int) -> bool:
        config, columns = self._config, stop - first
        held = width(columns, config.pes, self._groups)
        before = first // self._groups
        taken = self._starts[:, before + held] - self._starts[:, before]
        places = NIBBLES * words_for(held, self._stride) if config.counts else held
        segments = self._passes * -(-columns // (config.block * config.pes))
        return (columns <= config.act_depth * config.pes and segments <= config.descriptors
                and taken.max() <= config.entries
                and self._passes * places + (not config.counts) <= config.pointers)
