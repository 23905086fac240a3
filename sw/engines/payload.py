"""Payloads of streams as hosts exchange them: rows of 32-bit words, little-endian.

A ``layout`` is an Amaranth ``StructLayout``, whose fields have an offset and a width in bits.
"""

import numpy as np


def as_words(payload: np.ndarray) -> np.ndarray:
    """Bytes uint8 [n, bytes] as whole words uint32 [n, words], zeros behind."""
    padded = np.zeros((len(payload), -(-payload.shape[1] // 4) * 4), np.uint8)
    padded[:, :payload.shape[1]] = payload
    return padded.view("<u4")


def pack_fields(layout, values: dict[str, np.ndarray]) -> np.ndarray:
    """Unsigned field values, each [n], as payloads uint32 [n, words].

    ``ValueError`` where a value exceeds its field.
    """
    n = len(next(iter(values.values())))
    payload = np.zeros((n, -(-layout.size // 32)), np.uint32)
    for name, field in layout:
        value = np.asarray(values[name], np.uint64)
        if value.max(initial=0) >> np.uint64(field.width):
            raise ValueError(f"field {name} of {field.width} bits cannot hold {value.max()}")
        value = value << np.uint64(field.offset % 32)
        word = field.offset // 32
        payload[:, word] |= (value & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        if field.offset % 32 + field.width > 32:
            payload[:, word + 1] |= (value >> np.uint64(32)).astype(np.uint32)
    return payload


def unpack_fields(layout, payload: np.ndarray) -> dict[str, np.ndarray]:
    """The inverse of :func:`pack_fields`: uint64 [n] per field."""
    wide = np.concatenate([payload, np.zeros((len(payload), 1), np.uint32)], 1).astype(np.uint64)
    values = {}
    for name, field in layout:
        word = field.offset // 32
        both = wide[:, word] | wide[:, word + 1] << np.uint64(32)
        values[name] = both >> np.uint64(field.offset % 32) & np.uint64((1 << field.width) - 1)
    return values
