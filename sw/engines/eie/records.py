"""What a host exchanges with an EIE array: what it writes before the array can run, and what each
sample takes."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

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
from zeroskip.sw.engines.payload import pack_fields
from zeroskip.sw.engines.wire import Read, Record, Write


def load_words(image: EIEImage) -> np.ndarray:
    """The writes that load an image, in order: uint32 [n, 4] of target, PE, address, data.

    The PE of a bias is the number of its cluster.
    """
    writes = [np.array([[LoadTarget.COUNTERS.value, 0, 0, 0]], np.uint32)]
    codebooks = image.codebooks.view(np.uint16).reshape(1, -1)
    memories = {
        LoadTarget.WEIGHTS: image.entries.view("<u4"),
        LoadTarget.POINTERS: image.pointers,
        LoadTarget.BIASES: image.biases.view(np.uint32),
        LoadTarget.CODEBOOK: codebooks.repeat(image.config.pes, axis=0),
    }
    for target, memory in memories.items():
        address = np.arange(memory.shape[1])
        if target is LoadTarget.POINTERS and image.config.counts:
            address += address // WORDS     # a word of counts has four addresses
        writes += [_writes(target, pe, address, words) for pe, words in enumerate(memory)]
    words = descriptor_words(image.config)
    stride = descriptor_stride(image.config)
    layout = descriptor_layout(image.config)
    for at, segment in enumerate(image.segments):
        bits = layout.const(asdict(segment)).as_bits()
        data = [bits >> 32 * k & 0xFFFFFFFF for k in range(words)]
        writes.append(_writes(LoadTarget.DESCRIPTORS, 0, stride * at + np.arange(words), data))
    return np.concatenate(writes)


def load_items(image: EIEImage) -> np.ndarray:
    """The same as items of the stream ``load``, uint32 [n, words]."""
    fields = ("target", "pe", "address", "data")
    words = load_words(image).T
    return pack_fields(load_word_layout(image.config), dict(zip(fields, words, strict=True)))


def records(image: EIEImage, inputs: np.ndarray) -> Iterator[Record]:
    """What the host exchanges with a loaded array for ``inputs`` int16 [batch, in]."""
    wanted = sum(segment.outputs for segment in image.segments)
    last = np.arange(image.inputs) == image.inputs - 1
    for sample in np.ascontiguousarray(inputs).view(np.uint16):
        yield Write("inputs", pack_fields(INPUT, {"value": sample, "last": last}))
        yield Read("outputs", wanted)


def _writes(target: LoadTarget, pe: int, address: np.ndarray, data) -> np.ndarray:
    writes = np.empty((len(address), 4), np.uint32)
    writes[:, 0], writes[:, 1], writes[:, 2], writes[:, 3] = target.value, pe, address, data
    return writes
