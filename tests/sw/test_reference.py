"""The integer reference: numpy alone computes from it what the golden engine gives."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from zeroskip.hw.eie.config import CONFIGS
from zeroskip.sim.golden_engine import GoldenEngine
from zeroskip.sw import reference
from zeroskip.sw.compiler.compile import REFERENCE, compile_network
from zeroskip.sw.errors import BadInput
from zeroskip.sw.network import Linear, Network
from zeroskip.sw.quantize.fixed import to_integer


def numpy_alone(path, x):
    """Every layer's outputs; nothing of zeroskip is used."""
    t = load_file(path)
    layers = json.loads(safe_open(path, "numpy").metadata()["layers"])
    outputs, y = [], x.astype(np.int64)
    for i, layer in enumerate(layers):
        s = int(t[f"layer{i}.shift"])
        y = (t[f"layer{i}.weight"].astype(np.int64) @ y.T).T + t[f"layer{i}.bias"]
        y = np.clip((y + (1 << s >> 1)) >> s, -32768, 32767)
        y = np.maximum(y, 0) if layer["activation"] == "relu" else y
        outputs.append(y)
    return outputs


def linear(name, rows, columns, activation, rng):
    weight = rng.normal(size=(rows, columns)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.6] = 0
    return Linear(name, weight, rng.normal(size=rows).astype(np.float32), activation)


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(3).normal(size=(20, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def compiled(data):
    rng = np.random.default_rng(4)
    network = Network((linear("fc1", 9, 12, "relu", rng), linear("fc2", 7, 9, "none", rng),
                       linear("fc3", 5, 7, "relu", rng)))
    return compile_network(network, data, CONFIGS["eie-4"])


@pytest.fixture
def path(compiled, tmp_path):
    compiled.save(tmp_path / "model.zsk")
    return tmp_path / REFERENCE


def test_numpy_alone_gives_the_golden_outputs(compiled, path, data):
    x, _ = to_integer(2 * data, compiled.program.input_scale)      # beyond range: saturates
    golden = GoldenEngine(compiled.reference).run(compiled.program.traced(), x).outputs
    alone = numpy_alone(path, x)
    assert len(golden) == len(alone) == 3
    for found, expected in zip(golden, alone, strict=True):
        assert np.any(expected)
        assert np.array_equal(found, expected)


def test_tensors_are_as_documented(path):
    tensors = load_file(path)
    assert sorted(tensors) == sorted(
        f"layer{i}.{name}" for i in range(3) for name in ("weight", "bias", "shift"))
    assert (tensors["layer0.weight"].dtype, tensors["layer0.weight"].shape) == (np.int16, (9, 12))
    assert (tensors["layer0.bias"].dtype, tensors["layer0.bias"].shape) == (np.int64, (9,))
    assert (tensors["layer0.shift"].dtype, tensors["layer0.shift"].shape) == (np.int32, ())


def test_metadata_is_as_documented(compiled, path):
    layers = json.loads(safe_open(path, "numpy").metadata()["layers"])
    assert layers[1] == {
        "name": "fc2", "engine": "eie", "activation": "none",
        "input_zero_point": 0, "output_zero_point": 0,
        "input_scale": compiled.program.layers[0].output_scale,
        "output_scale": compiled.program.layers[1].output_scale}


def test_round_trip(compiled, path):
    loaded = reference.load(path)
    assert len(loaded) == 3
    for found, expected in zip(loaded, compiled.reference, strict=True):
        for name, value in vars(expected).items():
            assert np.array_equal(getattr(found, name), value), name


def test_program_carries_the_digest_of_the_file(compiled, path):
    assert reference.digest(reference.load(path)) == compiled.program.reference


def test_digest_changes_with_any_weight(compiled):
    first, *rest = compiled.reference
    digests = {compiled.program.reference}
    for at in np.ndindex(first.weight.shape):
        weight = first.weight.copy()
        weight[at] ^= 1
        digests.add(reference.digest((replace(first, weight=weight), *rest)))
    assert len(digests) == 1 + first.weight.size


def test_digest_changes_with_any_bias(compiled):
    first, *rest = compiled.reference
    digests = {compiled.program.reference}
    for at in range(len(first.bias)):
        bias = first.bias.copy()
        bias[at] += 1
        digests.add(reference.digest((replace(first, bias=bias), *rest)))
    assert len(digests) == 1 + first.bias.size


@pytest.mark.parametrize("change", [
    {"shift": 1}, {"activation": "none"}, {"name": "other"}, {"input_scale": 3.0},
    {"output_scale": 3.0}], ids=lambda change: next(iter(change)))
@pytest.mark.parametrize("at", [0, 2])
def test_digest_changes_with(compiled, change, at):
    changed = list(compiled.reference)
    changed[at] = replace(changed[at], **change)
    assert reference.digest(tuple(changed)) != compiled.program.reference


def test_digest_changes_with_the_shape(compiled):
    first, *rest = compiled.reference
    reshaped = replace(first, weight=first.weight.reshape(12, 9))
    assert reference.digest((reshaped, *rest)) != compiled.program.reference


def test_reference_of_another_program_is_refused(compiled, data):
    first, *rest = compiled.reference
    other = GoldenEngine((replace(first, bias=first.bias + 1), *rest))
    x, _ = to_integer(data, compiled.program.input_scale)
    with pytest.raises(BadInput, match="another program"):
        other.run(compiled.program, x)


def test_missing_file(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        reference.load(tmp_path / REFERENCE)


@pytest.mark.parametrize("layers", ["", "7", "{", "[7]", '[{"name": "fc"}]', '{"a": 1, "a": 2}'])
def test_metadata_that_does_not_describe_layers(path, layers):
    save_file(load_file(path), path, {"layers": layers})
    with pytest.raises(BadInput, match="not an integer reference"):
        reference.load(path)


def test_missing_tensor(path):
    tensors, metadata = load_file(path), safe_open(path, "numpy").metadata()
    del tensors["layer1.bias"]
    save_file(tensors, path, metadata)
    with pytest.raises(BadInput, match=r"layer1\.bias"):
        reference.load(path)
