"""Measurements on the tensor core: cycles of a GEMM with sparse weights and with dense ones."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.tensorcore.host import TensorCoreStatistics
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.formats.nm import mask
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.verify import verify

SHAPES = ((768, 768, 128), (3072, 768, 128), (768, 3072, 128), (384, 1536, 16), (64, 64, 1))
"""M, K, N of layers of BERT-base and MiniLM, and a single small vector."""


@dataclass(frozen=True)
class GemmRun:
    """One GEMM with the weights of a pattern, in that mode and in dense mode of one core.

    ``exact`` says that both gave what the integer reference gives.
    """

    m: int
    k: int
    n: int
    pattern: str
    dense: TensorCoreStatistics
    sparse: TensorCoreStatistics
    exact: bool

    @property
    def speedup(self) -> float:
        """Dense cycles over sparse cycles, from the command to the last output."""
        return self.dense.cycles / self.sparse.cycles


def random_layer(m: int, k: int, pattern: str, seed: int = 0) -> Int8Layer:
    """A fully-connected layer with random int8 weights of exactly this pattern, and random
    requantisation that spreads the outputs over int8."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, (m, k)).astype(np.int8)
    if pattern != "dense":
        weight = np.where(mask(weight, pattern), weight, 0).astype(np.int8)
    return Int8Layer(
        name="gemm", weight=weight, bias=rng.integers(-1000, 1000, m),
        multiplier=rng.integers(1 << 30, 1 << 31, m, np.int32),
        shift=np.full(m, 38 + k.bit_length() // 2, np.int32), activation="relu", geometry=None,
        input=TensorType.of(k, np.int8, 1.0, 3), output=TensorType.of(m, np.int8, 1.0, -5))


def run_gemm(m: int, k: int, n: int, pattern: str, config: TensorCoreConfig, backend: Backend,
             progress: Callable[[int, int], None] | None = None) -> GemmRun:
    """Runs A [m, k] . B [k, n] twice; ``n`` columns are the images of a batch."""
    layer = random_layer(m, k, pattern)
    x = np.random.default_rng(1).integers(-128, 128, (n, k)).astype(np.int8)
    found = {}
    for mode in ("dense", pattern):
        image = TensorCoreImage.packed(config, (layer, mode), batch=n)
        program = Program.chain((image,), (layer,))
        verdict = verify(program, x, (GoldenBackend(program, (layer,)), backend))
        found[mode] = (verdict.results[1][0].statistics, verdict.difference is None)
        if progress:
            progress(len(found), 2)
    return GemmRun(m, k, n, pattern, found["dense"][0], found[pattern][0],
                   found["dense"][1] and found[pattern][1])


def steady_state(pattern: str, config: TensorCoreConfig, backend: Backend) -> float:
    """Dense over sparse cycles of what a second half of the columns adds: without the start
    and the end."""
    few, many = (run_gemm(256, 768, n, pattern, config, backend) for n in (64, 128))
    return ((many.dense.cycles - few.dense.cycles)
            / (many.sparse.cycles - few.sparse.cycles))
