"""Random N:M matrices of any type, with the values that are easily lost."""

import numpy as np
import pytest

from zeroskip.sw.formats.nm import PATTERNS

SPECIAL = {
    "float16": [0x8000, 0x7C00, 0xFC00, 0x7E01, 0x7C01, 0xFFFF, 0x0001],
    "bfloat16": [0x8000, 0x7F80, 0xFF80, 0x7FC1, 0x7F81, 0xFFFF, 0x0001],
    "float32": [1 << 31, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F800001, 0xFFFFFFFF, 1],
    "int8": [0x80, 0x81, 0x7F, 0x01],
}
"""Bits of -0.0, the infinities, NaNs with a payload (one signals) and the smallest number; for int8
of -128, -127, 127 and 1."""


def random_sparse(dtype, rows, columns, pattern, seed, density=0.8):
    """A matrix of ``pattern``; ``density`` of the values it may keep are not zero."""
    rng, rule, dtype = np.random.default_rng(seed), PATTERNS[pattern], np.dtype(dtype)
    shape = (rows, columns // rule.columns, rule.of, rule.unit)
    bits = rng.integers(1, 1 << 8 * dtype.itemsize, shape, dtype=f"u{dtype.itemsize}")
    special = rng.random(shape) < 0.3
    bits[special] = rng.choice(np.array(SPECIAL[dtype.name], bits.dtype), special.sum())
    order = rng.permuted(np.broadcast_to(np.arange(rule.of), shape[:3]), axis=2)
    bits[order >= rule.kept] = 0
    bits[rng.random(shape) >= density] = 0
    return bits.reshape(rows, columns).view(dtype)


@pytest.fixture(scope="session")
def sparse():
    """``sparse(dtype, rows, columns, pattern, seed, density=0.8)``."""
    return random_sparse
