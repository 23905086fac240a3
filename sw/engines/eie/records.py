"""What a host exchanges with an EIE array: what it writes before the array can run, and what each
sample takes."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import (
    INPUT,
    LoadTarget,
    descriptor_layout,
    descriptor_stride,
    descriptor_words,
    load_word_layout,
)
from zeroskip.sw.engines.eie.directory import WORDS
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.loads import Grid
from zeroskip.sw.engines.eie.schedule import Segment
from zeroskip.sw.engines.payload import pack_fields
from zeroskip.sw.engines.wire import Read, Record, Write

CLEAR = np.array([[LoadTarget.COUNTERS.value, 0, 0, 0]], np.uint32)
"""The write that clears every counter."""

MEMORIES = {
    LoadTarget.WEIGHTS: lambda image: image.entries.view("<u4"),
    LoadTarget.POINTERS: lambda image: image.pointers,
    LoadTarget.BIASES: lambda image: image.biases.view(np.uint32),
    LoadTarget.CODEBOOK: lambda image: image.codebooks.view(np.uint16).reshape(1, -1)
    .repeat(image.config.pes, axis=0),
}
"""What goes to each target, [PEs or clusters, words]."""


def load_words(image: EIEImage) -> np.ndarray:
    """The writes that load an image, in order: uint32 [n, 4] of target, PE, address, data.

    The PE of a bias is the number of its cluster.
    """
    return np.concatenate([CLEAR, *(_memory(image, target) for target in MEMORIES),
                           _descriptors(image.config, image.segments)])


def load_items(image: EIEImage) -> np.ndarray:
    """The same as items of the stream ``load``, uint32 [n, words]."""
    return _items(image.config, load_words(image))


def clear_items(config: EIEConfig) -> np.ndarray:
    """The item that clears every counter."""
    return _items(config, CLEAR)


def row_items(grid: Grid, row: int) -> np.ndarray:
    """Items that load what a block of rows of a layer needs beside its weights: codebook, and
    biases for each sample."""
    block = grid.rows[row][-1]
    biases = _memory(block, LoadTarget.BIASES)
    step = grid.stride(row) // block.config.clusters
    copies = np.tile(biases, (grid.samples, 1))
    copies[:, 2] += np.repeat(np.arange(grid.samples, dtype=np.uint32) * step, len(biases))
    return _items(block.config, np.concatenate([_memory(block, LoadTarget.CODEBOOK), copies]))


def block_items(block: EIEImage) -> np.ndarray:
    """Items that load the weights of a block and their directory."""
    return _items(block.config, np.concatenate([
        _memory(block, target) for target in (LoadTarget.WEIGHTS, LoadTarget.POINTERS)]))


def start_items(grid: Grid, row: int, column: int, sample: int, *, send: bool) -> np.ndarray:
    """Items that load what is done for one sample with a block; see :meth:`Grid.segments`."""
    config = grid.rows[row][column].config
    return _items(config, _descriptors(config, grid.segments(row, column, sample, send=send)))


def input_items(x: np.ndarray) -> np.ndarray:
    """A vector, int16 [inputs], as items of the stream ``inputs``."""
    last = np.arange(len(x)) == len(x) - 1
    return pack_fields(INPUT, {"value": np.ascontiguousarray(x).view(np.uint16), "last": last})


def records(image: EIEImage, inputs: np.ndarray) -> Iterator[Record]:
    """What the host exchanges with a loaded array for ``inputs`` int16 [batch, in]."""
    wanted = sum(segment.outputs for segment in image.segments)
    for sample in inputs:
        yield Write("inputs", input_items(sample))
        yield Read("outputs", wanted)


def _items(config: EIEConfig, writes: np.ndarray) -> np.ndarray:
    fields = ("target", "pe", "address", "data")
    return pack_fields(load_word_layout(config), dict(zip(fields, writes.T, strict=True)))


def _memory(image: EIEImage, target: LoadTarget) -> np.ndarray:
    """The writes of one memory, all PEs or clusters one after another."""
    memory = MEMORIES[target](image)
    address = np.arange(memory.shape[1])
    if target is LoadTarget.POINTERS and image.config.counts:
        address += address // WORDS     # a word of counts has four addresses
    return np.concatenate([_writes(target, pe, address, words) for pe, words in enumerate(memory)])


def _descriptors(config: EIEConfig, segments: Sequence[Segment]) -> np.ndarray:
    words, stride = descriptor_words(config), descriptor_stride(config)
    layout, writes = descriptor_layout(config), []
    for at, segment in enumerate(segments):
        bits = layout.const(asdict(segment)).as_bits()
        data = [bits >> 32 * k & 0xFFFFFFFF for k in range(words)]
        writes.append(_writes(LoadTarget.DESCRIPTORS, 0, stride * at + np.arange(words), data))
    return np.concatenate(writes)


def _writes(target: LoadTarget, pe: int, address: np.ndarray, data) -> np.ndarray:
    writes = np.empty((len(address), 4), np.uint32)
    writes[:, 0], writes[:, 1], writes[:, 2], writes[:, 3] = target.value, pe, address, data
    return writes
