"""Measurements on the gateware: cycles of a layer, and the speed of the backends."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, NIBBLES, EIEConfig, paper, zeroskip
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie import cycle_model
from zeroskip.sw.engines.eie import host as eie_host
from zeroskip.sw.engines.eie.host import EIEStatistics
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.lower import compile_layers, cut, deepened
from zeroskip.sw.experiments.layers import NINE, random_indices, random_vector
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.backend import Backend
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.rtl_backend import RtlBackend
from zeroskip.sw.runtime.verify import verify

CODEBOOK = np.array([0, *range(-7, 0), *range(1, 9)], np.int16)

AT_A_TIME = 2
"""Jobs that run at a time, at most; the largest layer takes two gigabytes."""


@dataclass(frozen=True)
class LayerRun:
    """One layer of one vector, run in RTL and compared with the integer reference.

    ``entries`` holds the entries that each PE must take, int64 [pes, 2]: useful and padding,
    counted from the memories and the vector alone.
    """

    image: EIEImage
    statistics: EIEStatistics
    exact: bool
    entries: np.ndarray
    model_cycles: int

    @property
    def ideal_cycles(self) -> float:
        """Useful multiplications over PEs: nobody needs fewer cycles."""
        return float(self.entries[:, 0].sum() / len(self.entries))

    def loss(self) -> dict[str, float]:
        """Share of all PE-cycles by cause, as the counters saw it; with the utilisation they
        add up to 1."""
        return {cause: float(share.mean()) for cause, share in self.statistics.shares().items()
                if cause != "useful"}

    def bits_per_nonzero(self) -> float:
        """Stored bits, the column directory included, over non-zero weights."""
        sizes = self.image.storage()
        stored = sizes["weights"] + sizes["indices"] + sizes["pointers"]
        return 8 * stored / max(1, self.image.layers[0].nonzeros)


def run_layer(indices: np.ndarray, vector: np.ndarray, config: EIEConfig, backend: Backend, *,
              balance: bool = True) -> LayerRun:
    """Runs one layer on an array whose memories are at least as deep as ``config`` says, and as
    the layer needs."""
    layer = fixed_layer(indices)
    image = _fitted(compile_layers((layer,), deepened(config), balance=balance), config)
    program = Program.chain((image,), (layer,))
    verdict = verify(program, vector[None], (GoldenBackend(program, (layer,)), backend))
    entries = sum(each.entries(image.config) for each in cycle_model.work(image, vector))
    return LayerRun(image, verdict.results[1][0].statistics, verdict.difference is None, entries,
                    cycle_model.predict(image, vector))


def fixed_layer(indices: np.ndarray) -> FixedLayer:
    """A layer of these codebook indices; codebook and biases are arbitrary but fixed."""
    outputs, inputs = indices.shape
    return FixedLayer(
        name="layer", activation="relu", indices=indices, codebook=CODEBOOK,
        bias=np.arange(outputs, dtype=np.int64), shift=4,
        input=TensorType.of(inputs, np.int16, 1.0), output=TensorType.of(outputs, np.int16, 1.0))


def _fitted(image: EIEImage, least: EIEConfig) -> EIEImage:
    """The image on memories as deep as it needs, and at least as deep as those of ``least``:
    layers that need no more share one compiled model."""
    needed = cut(image).config
    sizes = {name: max(getattr(needed, name), getattr(least, name))
             for name in ("weight_rows", "pointers", "act_depth", "bias_depth", "descriptors")}
    whole = {name: sizes["act_depth"] for name in ("block", "acc_depth")
             if getattr(least, name) == least.act_depth}
    return replace(image, config=replace(needed, **sizes, **whole))


MODES = {"paper": paper, "zeroskip": zeroskip}
"""By name: from a number of PEs and sizes to a configuration."""


LEAST_DEPTH = 65
"""Activations per PE: more than a block or a pass of the paper's, else these count as unbounded."""


def array_config(mode: str, pes: int, *, nine: bool = True) -> EIEConfig:
    """The array of a mode; with ``nine`` its memories hold any of the nine layers, so that all
    run on one compiled model: two bytes for a weight, two nibbles or a pointer for a column, and
    outputs in clusters of four PEs."""
    if not nine:
        return MODES[mode](pes, act_depth=LEAST_DEPTH)
    outputs, inputs, weights = (max(sizes) for sizes in zip(*(
        (layer.outputs, layer.inputs, layer.weight_density * layer.outputs * layer.inputs)
        for layer in NINE.values()), strict=True))
    slots = ceil(4 * outputs / pes)
    return MODES[mode](
        pes, weight_rows=ceil(2 * weights / pes / ENTRIES_PER_ROW), bias_depth=slots,
        act_depth=max(LEAST_DEPTH, slots, ceil(inputs / pes)), descriptors=32,
        pointers=(2 * inputs // NIBBLES + 2) * NIBBLES)


@dataclass(frozen=True)
class Job:
    """A layer to be run in one mode.

    Attributes
    ----------
    layer : str
        One of the nine layers, or the name of a given one.
    mask : str
        One of ``MASKS``; "given" for a given layer.
    mode : str
        What configuration and compiler are called together.
    config : EIEConfig
    balance : bool
        Whether the compiler assigns rows to PEs.
    given : (uint8 [out, in], int16 [in]), optional
        Codebook indices and activations.
    """

    layer: str
    mask: str
    mode: str
    config: EIEConfig
    balance: bool
    given: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Figures:
    """What a job gave; see :class:`LayerRun`."""

    ideal_cycles: float
    cycles: int
    model_cycles: int
    utilisation: float
    bits_per_nonzero: float
    loss: dict[str, float]
    exact: bool


def run_job(job: Job, backend: str) -> Figures:
    """Runs a job on the backend of this name."""
    layer = NINE.get(job.layer)
    indices, vector = job.given or (layer.weights(job.mask, job.config.pes), layer.activations())
    run = run_layer(indices, vector, job.config, backends.rtl(backend), balance=job.balance)
    return Figures(run.ideal_cycles, run.statistics.cycles, run.model_cycles,
                   run.statistics.utilisation, run.bits_per_nonzero(), run.loss(), run.exact)


def run_jobs(jobs: list[Job], backend: str) -> Iterator[tuple[int, Figures]]:
    """Runs jobs, ``AT_A_TIME`` or as many as there are cores; gives the number of each, and what
    it gave, as it ends."""
    workers = min(AT_A_TIME, os.cpu_count() or 1, len(jobs))
    if workers == 1:
        for number, job in enumerate(jobs):
            yield number, run_job(job, backend)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        started = {pool.submit(run_job, job, backend): number for number, job in enumerate(jobs)}
        for done in as_completed(started):
            yield started[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def ablation(pes: int) -> Iterator[tuple[str, EIEConfig, bool]]:
    """The paper's array and compiler, and what turns them into this project's, one by one:
    name, configuration, and whether the compiler assigns rows to PEs."""
    aim, config, balance = array_config("zeroskip", pes), array_config("paper", pes), False
    short = aim.queue_depth - 32    # still a power of two of slots
    yield "paper", config, balance
    for name, changes in {
        "no padding cycle": {"escapes": True},
        "no empty column": {"drops_empty": True, "runahead": aim.runahead},
        "balanced rows": {},
        f"queue {short}, no barrier": {"queue_depth": short, "block": aim.block},
        "one pass": {"acc_depth": aim.acc_depth},
        "counts for pointers": {"counts": True},
        f"queue {aim.queue_depth}": {"queue_depth": aim.queue_depth},
        "column groups": {"groups": aim.groups},
    }.items():
        config, balance = replace(config, **changes), balance or not changes
        yield f"+ {name}", config, balance


def cycles_per_second(backend: RtlBackend, pes: int, images: int) -> float:
    """Clock cycles that ``backend`` simulates in a second of wall time.

    A 32 x 32 layer, half dense, on an array of ``pes``: loading it, then ``images`` vectors.
    Building the simulation is not in the figure.
    """
    layer = fixed_layer(random_indices("random", (32, 32), 0.5))
    image = compile_layers((layer,), zeroskip(pes))
    model = backend.model(image)
    began = time.perf_counter()
    vectors = np.tile(random_vector(32, 0.5), (images, 1))
    result = eie_host.run(model, image, vectors)
    return float(result.times[-1].max() / (time.perf_counter() - began))
