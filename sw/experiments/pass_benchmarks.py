"""Layers that are larger than an EIE array's memories: compiled, loaded block by block, run."""

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.verify import verify

LAYERS = {"vgg-fc6": (4096, 25088, 0.04), "ddddocr": (8210, 1024, 0.10), "small": (2000, 600, 0.10)}
"""Outputs, inputs and density: the largest layer of VGG-16, the last one of ddddocr, and one that
is run in seconds."""

ACTIVATIONS = 0.35
"""Share of inputs that are not zero; that of the paper's fully-connected layers."""


@dataclass(frozen=True)
class PassRun:
    """What a layer took.

    ``cycles`` are computing cycles, ``load_cycles`` those in which the load bus takes an item, at
    the least; both of all ``images`` together. ``compile_mb`` is what compiling took beyond the
    imports, the float32 weights of ``float32_mb`` included.
    """

    layer: str
    outputs: int
    inputs: int
    density: float
    blocks: int
    samples: int
    images: int
    loads: int
    load_words: int
    load_bytes: int
    load_cycles: int
    cycles: int
    utilisation: float
    exact: bool
    float32_mb: float
    compile_mb: float
    compile_seconds: float
    run_seconds: float


def run(name: str, config: EIEConfig, images: int, backend: str) -> PassRun:
    """Compiles a layer of :data:`LAYERS` and compares ``images`` samples in RTL with the integer
    reference; in a process of its own, so that its memory is what it alone took."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, name, config, images, backend).result()


def _run(name: str, config: EIEConfig, images: int, backend: str) -> PassRun:
    from zeroskip.sw.engines.eie import blocks
    from zeroskip.sw.engines.eie.loads import EIELoads

    before, start = _peak(), time.perf_counter()
    outputs, inputs, density = LAYERS[name]
    network, x = _network(name)
    compiled = compile_network(network, x, config, batch=blocks.SAMPLES)
    made, took = time.perf_counter(), _peak() - before
    (image,) = compiled.program.images
    integers, _ = compiled.program.input.to_integer(x[:images])
    verdict = verify(compiled.program, integers, (
        GoldenBackend(compiled.program, compiled.reference), backends.rtl(backend)))
    counts = verdict.results[1][0].statistics
    grid = image.layers[0] if isinstance(image, EIELoads) else None
    return PassRun(
        layer=name, outputs=outputs, inputs=inputs, density=density,
        blocks=len(list(grid.blocks)) if grid else 1, samples=grid.samples if grid else 1,
        images=images, loads=counts.loads, load_words=counts.load_words,
        load_bytes=4 * counts.load_words, load_cycles=counts.load_words // 2,
        cycles=counts.cycles, utilisation=counts.utilisation, exact=verdict.difference is None,
        float32_mb=4 * outputs * inputs / 1e6, compile_mb=took, compile_seconds=made - start,
        run_seconds=time.perf_counter() - made)


def _network(name: str) -> tuple[Network, np.ndarray]:
    """The layer with random weights, and samples."""
    (outputs, inputs, density), rng = LAYERS[name], np.random.default_rng(0)
    weight = np.zeros((outputs, inputs), np.float32)
    for row in weight:      # a row at a time: little memory beside the matrix
        held = rng.random(inputs, np.float32) < density
        row[held] = rng.normal(size=np.count_nonzero(held))
    x = rng.normal(size=(8, inputs)).astype(np.float32)
    x[rng.random(x.shape) >= ACTIVATIONS] = 0
    return Network((Linear(name, weight, np.zeros(outputs, np.float32), "relu"),)), x


def _peak() -> float:
    """Most memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
