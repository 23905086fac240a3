"""Integer networks made up for tests: layers, arrays for them, and the expected outputs."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.lower import compile_layers, cut, deepened
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime.golden_backend import GoldenBackend

CODEBOOK = np.array([0, 1, -1, 2, -3, 5, -8, 13, -21, 34, -55, 89, -144, 233, -377, 610],
                    np.int16)


def fixed_layer(indices, name="layer", bias=0, shift=0, activation="none") -> FixedLayer:
    """A quantised layer with a codebook of fifteen weights of both signs."""
    indices = np.asarray(indices, np.uint8)
    bias = np.broadcast_to(np.asarray(bias, np.int64), len(indices)).copy()
    outputs, inputs = indices.shape
    return FixedLayer(name=name, activation=activation, indices=indices, codebook=CODEBOOK,
                      bias=bias, shift=shift, input=TensorType.of(inputs, np.int16, 1.0),
                      output=TensorType.of(outputs, np.int16, 1.0))


@dataclass(frozen=True)
class Case:
    """A program of one image, its inputs, and what the integer reference says of them."""

    program: Program
    golden: GoldenBackend
    inputs: np.ndarray

    @property
    def image(self) -> EIEImage:
        """The program's only image."""
        return self.program.images[0]

    @property
    def expected(self) -> tuple[np.ndarray, ...]:
        """Outputs of every layer, int16 [batch, out] each."""
        return self.golden.run(self.image, self.inputs).outputs


def make_case(layers, inputs, balance=True, **config) -> Case:
    """``layers`` on an array with memories as deep as they need; every layer's outputs are
    sent out."""
    layers = tuple(layers)
    image = cut(compile_layers(layers, deepened(EIEConfig(**config)),
                              balance=balance).traced())
    program = Program.chain((image,), layers)
    golden = GoldenBackend(program, layers)
    return Case(program, golden, np.atleast_2d(np.asarray(inputs, np.int16)))


def random_layers(rng, sizes, density):
    """A chain of random layers with ``sizes`` neurons, ReLU on all but the last."""
    return [
        fixed_layer(rng.integers(1, 16, (out, inputs)) * (rng.random((out, inputs)) < density),
                    f"layer{i}", rng.integers(-5000, 5000, out), int(rng.integers(0, 12)),
                    "relu" if i < len(sizes) - 2 else "none")
        for i, (inputs, out) in enumerate(pairwise(sizes))]
