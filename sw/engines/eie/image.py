"""What a host writes into an EIE array before it can run."""

from dataclasses import asdict

import numpy as np

from zeroskip.hw.eie.layouts import (
    LoadTarget,
    descriptor_layout,
    descriptor_stride,
    descriptor_words,
)
from zeroskip.sw.engines.eie.directory import WORDS
from zeroskip.sw.engines.eie.part import EIEPart


def load_words(part: EIEPart) -> np.ndarray:
    """The writes that load a part, in order: uint32 [n, 4] of target, PE, address, data.

    The PE of a bias is the number of its cluster.
    """
    writes = [np.array([[LoadTarget.COUNTERS.value, 0, 0, 0]], np.uint32)]
    codebooks = part.codebooks.view(np.uint16).reshape(1, -1)
    memories = {
        LoadTarget.WEIGHTS: part.entries.view("<u4"),
        LoadTarget.POINTERS: part.pointers,
        LoadTarget.BIASES: part.biases.view(np.uint32),
        LoadTarget.CODEBOOK: codebooks.repeat(part.config.pes, axis=0),
    }
    for target, images in memories.items():
        address = np.arange(images.shape[1])
        if target is LoadTarget.POINTERS and part.config.counts:
            address += address // WORDS     # a word of counts has four addresses
        writes += [_writes(target, pe, address, image) for pe, image in enumerate(images)]
    words = descriptor_words(part.config)
    stride = descriptor_stride(part.config)
    layout = descriptor_layout(part.config)
    for at, segment in enumerate(part.segments):
        bits = layout.const(asdict(segment)).as_bits()
        data = [bits >> 32 * k & 0xFFFFFFFF for k in range(words)]
        writes.append(_writes(LoadTarget.DESCRIPTORS, 0, stride * at + np.arange(words), data))
    return np.concatenate(writes)


def _writes(target: LoadTarget, pe: int, address: np.ndarray, data) -> np.ndarray:
    writes = np.empty((len(address), 4), np.uint32)
    writes[:, 0], writes[:, 1], writes[:, 2], writes[:, 3] = target.value, pe, address, data
    return writes
