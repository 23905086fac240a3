"""Makes what the C program runs, in a folder: three compiled models, inputs and expected outputs,
and a simulated system with an EIE array and a tensor core."""

import shutil
import sys
from pathlib import Path

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.system.accelerator import Accelerator
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim import cxxrtl
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.engines import csource
from zeroskip.sw.formats.nm import mask
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.runtime.golden_backend import GoldenBackend

ARRAY = EIEConfig(pes=2, act_depth=16, acc_depth=8, bias_depth=32, weight_rows=64, pointers=64)
CORE = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=32, activation_words=64)
SAMPLES, BATCH = 4, 2


def weights(rng: np.random.Generator, rows: int, columns: int, pattern: str) -> np.ndarray:
    """Random float32 weights with zeros in a 2:4 pattern, or anywhere."""
    values = rng.normal(size=(rows, columns)).astype(np.float32)
    kept = mask(values, "2:4") if pattern == "2:4" else rng.random(values.shape) < 0.4
    return np.where(kept, values, 0).astype(np.float32)


def convolutional(rng: np.random.Generator) -> Network:
    """A convolution with stride, dilation and uneven padding, one in groups, and a layer."""
    conv = Conv2d("conv", weights(rng, 4, 24, "2:4").reshape(4, 4, 3, 2),
                  rng.normal(size=4).astype(np.float32), "relu", (4, 6, 5), (1, 2), (1, 0, 2, 1),
                  (1, 2))
    depth = Conv2d("depth", rng.normal(size=(4, 1, 2, 1)).astype(np.float32),
                   rng.normal(size=4).astype(np.float32), "relu", conv.output_shape, (1, 1),
                   (0, 0, 1, 0), (1, 1), groups=4)
    columns = -(-depth.outputs // 4) * 4
    dense = weights(rng, 5, columns, "2:4")[:, :depth.outputs]
    bias = rng.normal(size=5).astype(np.float32)
    return Network((conv, depth, Linear("fc", dense, bias, "none")))


def vector(rng: np.random.Generator) -> Network:
    """Two sparse layers."""
    return Network((
        Linear("a", weights(rng, 13, 10, "any"), rng.normal(size=13).astype(np.float32), "relu"),
        Linear("b", weights(rng, 7, 13, "any"), rng.normal(size=7).astype(np.float32), "none")))


def large(rng: np.random.Generator) -> Network:
    """Two sparse layers, of which the array holds neither."""
    return Network((
        Linear("a", weights(rng, 37, 53, "any"), rng.normal(size=37).astype(np.float32), "relu"),
        Linear("b", weights(rng, 41, 37, "any"), rng.normal(size=41).astype(np.float32), "none")))


def main(folder: Path) -> None:
    """Writes all files."""
    rng, data = np.random.default_rng(4), []
    models = (("net", convolutional(rng), CORE), ("vector", vector(rng), ARRAY),
              ("large", large(rng), ARRAY))
    for name, network, config in models:
        samples = rng.normal(size=(64, network.layers[0].inputs)).astype(np.float32)
        compiled = compile_network(network, samples, config, batch=BATCH)
        compiled.save(folder / f"{name}.zsk")
        x, _ = compiled.program.input.to_integer(samples[:SAMPLES])
        (image,) = compiled.program.images
        y = GoldenBackend(compiled.program, compiled.reference).run(image, x).outputs[-1]
        data += [csource.array(f"{name}_x", x), csource.array(f"{name}_y", y)]
    (folder / "data.h").write_text(
        "#include <stdint.h>\n" + csource.constants({"samples": SAMPLES}) + "".join(data))
    system = SystemConfig((ARRAY, CORE))
    shutil.copy(cxxrtl.build(lambda: Accelerator(system), "accelerator", f"{system.digest():x}"),
                folder / "model.so")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
