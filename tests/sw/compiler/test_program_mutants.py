"""Programs that somebody changed, every CRC-32 made good again: each is refused, or gives the
real outputs that it gave before. With ``ZEROSKIP_REGRESSION=1``, 2,000 in place of 60."""

import json
import os
import random
import zlib
from contextlib import suppress

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie import lower as eie
from zeroskip.sw.engines.tensorcore import lower as tensorcore
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.run import run_program

MUTANTS = 2000 if os.environ.get("ZEROSKIP_REGRESSION") == "1" else 60
VALUES = (0, 1, -1, 2, 127, 128, 1 << 31, 1 << 62, 1 << 70, 10**400, 0.5, 1e-300, 1e300, True,
          False, None, "", "relu", "none", "dense", "2:4", "float32", "uint8", [], {}, [1, 2])


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A convolution on a tensor core, then two layers on an array."""
    rng = np.random.default_rng(7)
    weight = rng.integers(-128, 128, (3, 8)).astype(np.int8)
    weight[:, 1::2] = 0
    conv = Int8Layer(
        name="conv", weight=weight, bias=rng.integers(-999, 999, 3),
        multiplier=np.full(3, 1 << 30, np.int32), shift=np.full(3, 38, np.int32),
        activation="relu", geometry=Geometry((2, 4, 4), (2, 2), (1, 2), (0, 1, 1, 0), (1, 1)),
        input=TensorType.of(32, np.int8, 0.5, 3), output=TensorType.of(24, np.int8, 0.25, -5))
    layers = random_layers(rng, (24, 9, 5), 0.4)
    core = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=16, activation_words=16)
    images = (tensorcore.compile_layers((conv,), core),
              eie.compile_layers(layers, EIEConfig(pes=2)))
    path = tmp_path_factory.mktemp("program") / "model.zsk"
    whole = (conv, *layers)
    Program.chain(images, whole).save(path)
    return path.read_bytes()


def leaves(value):
    """Every container of the header with a key of it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from leaves(value[key])


def mutant(content, rng):
    """The file with one to three changes of header or tensors."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8:8 + length])["__metadata__"]["zeroskip"])
    tensors = load_tensors(content)
    del header["crc32"]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.3:
            name = rng.choice(sorted(name for name in tensors if tensors[name].size))
            tensors[name] = tensors[name].copy()
            bits = tensors[name].reshape(-1).view(np.uint8)
            bits[rng.randrange(bits.size)] ^= 1 << rng.randrange(8)
            continue
        owner, key = rng.choice(list(leaves(header)))
        old = owner[key]
        nearby = [old + 1, old - 1, old * 2] if isinstance(old, int | float) else []
        owner[key] = rng.choice(nearby or VALUES) if rng.random() < 0.6 else rng.choice(VALUES)
    for number, config in ((0, TensorCoreConfig), (1, EIEConfig)):
        with suppress(TypeError, ValueError, KeyError, IndexError):
            image = header["images"][number]
            image["digest"] = config(**image["config"]).digest()
    header["crc32"] = {name: zlib.crc32(tensor.tobytes()) for name, tensor in tensors.items()}
    text = json.dumps(header)
    return save_tensors(tensors, {"zeroskip": text, "crc32": str(zlib.crc32(text.encode()))})


def outputs(path):
    """Real outputs of real inputs, in RTL."""
    program = Program.load(path)
    x, _ = program.input.to_integer(np.random.default_rng(1).normal(0, 20, (2, program.input.size)))
    return program.output.to_float(run_program(program, backends.rtl("python"), x).output)


@pytest.mark.timeout(3600 if MUTANTS > 60 else 300)
def test_no_mutant_gives_other_outputs(tmp_path, content, run_seed):
    path, rng, refused = tmp_path / "model.zsk", random.Random(1 + run_seed), 0
    path.write_bytes(content)
    expected = outputs(path)
    assert len(np.unique(expected)) >= 5
    for number in range(MUTANTS):
        path.unlink()
        path.write_bytes(mutant(content, rng))
        try:
            found = outputs(path)
        except BadInput:
            refused += 1
        else:
            assert np.array_equal(found, expected), number
    assert refused > 0.7 * MUTANTS
