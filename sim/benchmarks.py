"""Measurements on the gateware: cycles of a layer, and the speed of the engines."""

import time
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.eie.config import CONFIGS, EIEConfig
from zeroskip.sim import eie_host
from zeroskip.sim.eie_host import EIEStatistics
from zeroskip.sim.engine import Engine
from zeroskip.sim.golden_engine import GoldenEngine
from zeroskip.sim.rtl_engine import RtlEngine
from zeroskip.sim.verify import verify
from zeroskip.sw import reference
from zeroskip.sw.compiler.eie import compile_layers, cut, deepened
from zeroskip.sw.parts.eie import EIEPart
from zeroskip.sw.program import Program
from zeroskip.sw.quantize.fixed import FixedLayer

PAPER = CONFIGS["eie-paper-64"]


@dataclass(frozen=True)
class LayerRun:
    """One layer of one vector, run in RTL and compared with the integer reference.

    ``work`` holds the entries that each PE must walk, int64 [pes, 2]: useful and padding,
    counted from the matrix and the vector alone.
    """

    part: EIEPart
    statistics: EIEStatistics
    exact: bool
    work: np.ndarray

    @property
    def ideal_cycles(self) -> float:
        """Useful multiplications over PEs: nobody needs fewer cycles."""
        return float(self.work[:, 0].sum() / len(self.work))

    def loss(self) -> dict[str, float]:
        """Share of all PE-cycles by cause, as the counters saw it; with the utilisation they
        add up to 1."""
        return {cause: float(share.mean()) for cause, share in self.statistics.shares().items()
                if cause != "useful"}

    def by_hand(self) -> dict[str, float]:
        """The same cycles explained by the work, as shares that add up to 1.

        ``useful`` and ``padding`` are the mean work of a PE, ``imbalance`` what the busiest PE
        has more, ``broadcast`` what the activations, sent one a cycle, take longer than that,
        and ``held``, a counter, what they take longer still because a queue was full. ``rest``
        is what remains of the cycles measured: filling and emptying the pipeline, and
        write-back.
        """
        mean, total = self.work.mean(axis=0), self.work.sum(axis=1)
        cycles, control = self.statistics.cycles, self.statistics.control
        busiest, sent = total.max(), control["broadcasts"]
        bound = max(busiest, sent)
        end = max(bound, sent + control["held"])
        parts = {"useful": mean[0], "padding": mean[1], "imbalance": busiest - total.mean(),
                 "broadcast": bound - busiest, "held": end - bound, "rest": cycles - end}
        return {name: float(part / cycles) for name, part in parts.items()}

    def bits_per_nonzero(self) -> float:
        """Stored bits, pointers included, over non-zero weights."""
        sizes = self.part.storage()
        stored = sizes["weights"] + sizes["indices"] + sizes["pointers"]
        return 8 * stored / max(1, self.part.layers[0].nonzeros)


def random_layer(outputs: int, inputs: int, density: float, activations: float,
                 seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codebook indices uint8 [outputs, inputs] and a vector int16 [inputs], both random with
    exactly these shares of non-zeros."""
    rng = np.random.default_rng(seed)
    indices = np.zeros(outputs * inputs, np.uint8)
    chosen = rng.permutation(indices.size)[:round(density * indices.size)]
    indices[chosen] = rng.integers(1, 16, len(chosen))
    vector = np.zeros(inputs, np.int16)
    chosen = rng.permutation(inputs)[:round(activations * inputs)]
    vector[chosen] = rng.integers(1, 1000, len(chosen))
    return indices.reshape(outputs, inputs), vector


def run_layer(indices: np.ndarray, vector: np.ndarray, config: EIEConfig,
              engine: Engine) -> LayerRun:
    """Runs one layer on an array whose memories are as deep as the layer needs; codebook and
    biases are arbitrary but fixed."""
    layer = FixedLayer(
        "layer", indices, np.array([0, *range(-7, 0), *range(1, 9)], np.int16),
        np.arange(len(indices), dtype=np.int64), 4, "relu", 1.0, 1.0)
    integers = reference.from_layers((layer,))
    part = cut(compile_layers((layer,), deepened(config)))
    program = Program((part,), reference.digest(integers))
    verdict = verify(program, vector[None], (GoldenEngine(program, integers), engine))
    return LayerRun(part, verdict.results[1][0].statistics, verdict.difference is None,
                    _work(part, vector))


def _work(part: EIEPart, vector: np.ndarray) -> np.ndarray:
    """Useful and padding entries per PE in the columns of the non-zero activations."""
    work = np.zeros((part.config.pes, 2), np.int64)
    columns = np.concatenate([np.arange(s.first, s.limit) for s in part.segments])
    used = columns[np.tile(vector != 0, len(columns) // len(vector))]
    for pe, (entries, pointers) in enumerate(zip(part.entries, part.pointers, strict=True)):
        padding = np.concatenate([[0], np.cumsum(entries & 15 == 0)])
        start, stop = pointers[used], pointers[used + 1]
        work[pe, 1] = (padding[stop] - padding[start]).sum()
        work[pe, 0] = (stop.astype(np.int64) - start).sum() - work[pe, 1]
    return work


def cycles_per_second(engine: RtlEngine, pes: int, images: int) -> float:
    """Clock cycles that ``engine`` simulates in a second of wall time.

    A 32 x 32 layer, half dense, on an array of ``pes``: loading it, then ``images`` vectors.
    Building the simulation is not in the figure.
    """
    indices, vector = random_layer(32, 32, 0.5, 0.5)
    layer = FixedLayer("layer", indices, np.arange(16, dtype=np.int16),
                       np.zeros(32, np.int64), 4, "relu", 1.0, 1.0)
    part = compile_layers((layer,), EIEConfig(pes=pes))
    model = engine.model(part)
    began = time.perf_counter()
    result = eie_host.run(model, part, np.tile(vector, (images, 1)))
    return float(result.times[-1].max() / (time.perf_counter() - began))
