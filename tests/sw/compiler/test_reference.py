"""The integer reference: numpy alone computes from it what the golden engine gives."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from zeroskip.hw.eie.config import CONFIGS
from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.engines.tensorcore import golden as tensorcore
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime.golden_backend import GoldenBackend


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


GEOMETRY = Geometry((2, 4, 5), (2, 3), (1, 2), (0, 1, 1, 0), (1, 1))


def int8(name="conv", geometry=GEOMETRY, dtype=np.int8, **fields):
    """A random tensor-core layer."""
    rng = np.random.default_rng(6)
    positions = geometry.positions if geometry else 1
    return Int8Layer(**{
        "name": name, "weight": rng.integers(-128, 128, (3, 12)).astype(np.int8),
        "bias": rng.integers(-9999, 9999, 3), "activation": "relu", "geometry": geometry,
        "multiplier": rng.integers(1 << 24, 1 << 30, 3).astype(np.int32),
        "shift": np.array([36, 37, 38], np.int32),
        "input": TensorType.of(40 if geometry else 12, np.int8, 0.5, 4),
        "output": TensorType.of(3 * positions, dtype, 2.0, -6), **fields})


CORE = (int8(), int8("fc", None), int8("last", None, np.int32, activation="none"))
"""A tensor core's layers, each on its own."""


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
    return reference.beside(tmp_path / "model.zsk")


def test_numpy_alone_gives_the_golden_outputs(compiled, path, data):
    x, _ = compiled.program.input.to_integer(2 * data)      # beyond range: saturates
    golden = GoldenBackend(compiled.program, compiled.reference)
    outputs = golden.run(compiled.program.images[0].traced(), x).outputs
    alone = numpy_alone(path, x)
    assert len(outputs) == len(alone) == 3
    for found, expected in zip(outputs, alone, strict=True):
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
        "input_scale": compiled.program.layers[0].output.scale,
        "output_scale": compiled.program.layers[1].output.scale}


def test_round_trip(compiled, path):
    loaded = reference.load(path)
    assert len(loaded) == 3
    for found, expected in zip(loaded, compiled.reference, strict=True):
        for name, value in vars(found).items():
            assert np.array_equal(getattr(expected, name), value), name


def test_program_carries_the_digest_of_the_file(compiled, path):
    assert compiled.program.digest(reference.load(path)) == compiled.program.reference


def test_digest_changes_with_any_weight(compiled, path):
    first, *rest = reference.load(path)
    digests = {compiled.program.reference}
    for at in np.ndindex(first.weight.shape):
        weight = first.weight.copy()
        weight[at] ^= 1
        digests.add(compiled.program.digest((replace(first, weight=weight), *rest)))
    assert len(digests) == 1 + first.weight.size


def test_digest_changes_with_any_bias(compiled):
    first, *rest = compiled.reference
    digests = {compiled.program.reference}
    for at in range(len(first.bias)):
        bias = first.bias.copy()
        bias[at] += 1
        digests.add(compiled.program.digest((replace(first, bias=bias), *rest)))
    assert len(digests) == 1 + first.bias.size


@pytest.mark.parametrize("change", [
    {"shift": 1}, {"activation": "none"}, {"name": "other"}],
    ids=lambda change: next(iter(change)))
@pytest.mark.parametrize("at", [0, 2])
def test_digest_changes_with(compiled, change, at):
    changed = list(compiled.reference)
    changed[at] = replace(changed[at], **change)
    assert compiled.program.digest(tuple(changed)) != compiled.program.reference


def typed(layer, name, **change):
    """The layer with another input or output."""
    return replace(layer, **{name: replace(getattr(layer, name), **change)})


@pytest.mark.parametrize("name", ["input", "output"])
@pytest.mark.parametrize("change", [{"scale": 3.0}, {"zero_point": 1}], ids=str)
@pytest.mark.parametrize("at", [0, 2])
def test_digest_changes_with_a_type(compiled, name, change, at):
    changed = list(compiled.reference)
    changed[at] = typed(changed[at], name, **change)
    assert compiled.program.digest(tuple(changed)) != compiled.program.reference


def test_digest_changes_with_the_shape(compiled, path):
    first, *rest = reference.load(path)
    reshaped = replace(first, weight=first.weight.reshape(12, 9))
    assert compiled.program.digest((reshaped, *rest)) != compiled.program.reference


def test_reference_of_another_program_is_refused(compiled):
    first, *rest = compiled.reference
    with pytest.raises(BadInput, match="another program"):
        GoldenBackend(compiled.program, (replace(first, bias=first.bias + 1), *rest))


def test_missing_file(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        reference.load(reference.beside(tmp_path / "model.zsk"))


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


# --- a tensor core's layers ---

@pytest.fixture
def core_path(tmp_path):
    reference.save(reference.beside(tmp_path / "model.zsk"), CORE)
    return reference.beside(tmp_path / "model.zsk")


def test_core_round_trip(core_path):
    for found, expected in zip(reference.load(core_path), CORE, strict=True):
        assert isinstance(found, Int8Layer)
        for name, value in vars(expected).items():
            assert np.array_equal(getattr(found, name), value), name


def test_both_engines_in_one_reference(compiled, tmp_path):
    both = (*compiled.reference, *CORE)
    reference.save(reference.beside(tmp_path / "model.zsk"), both)
    loaded = reference.load(reference.beside(tmp_path / "model.zsk"))
    assert [layer.engine for layer in loaded] == ["eie"] * 3 + ["tensorcore"] * 3
    assert reference.digest(loaded) == reference.digest(both)


def test_core_tensors_are_as_documented(core_path):
    tensors = load_file(core_path)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()
            if name.startswith("layer0.")} == {
        "layer0.weight": (np.int8, (3, 12)), "layer0.bias": (np.int64, (3,)),
        "layer0.multiplier": (np.int32, (3,)), "layer0.shift": (np.int32, (3,))}


def test_core_metadata_is_as_documented(core_path):
    layers = json.loads(safe_open(core_path, "numpy").metadata()["layers"])
    assert layers[0] == {
        "name": "conv", "engine": "tensorcore", "activation": "relu",
        "input_zero_point": 4, "output_zero_point": -6, "input_scale": 0.5, "output_scale": 2.0,
        "ties": "even", "raw": False, "input_shape": [2, 4, 5], "kernel": [2, 3], "stride": [1, 2],
        "padding": [0, 1, 1, 0], "dilation": [1, 1], "groups": 1}
    assert [layer["raw"] for layer in layers] == [False, False, True]
    assert not any("kernel" in layer for layer in layers[1:])


def core_by_hand(path, number, x):
    """Outputs of one layer; nothing of zeroskip is used, and loops in place of patches."""
    described = json.loads(safe_open(path, "numpy").metadata()["layers"])[number]
    tensors = load_file(path)
    weight, bias, multiplier, shift = (
        tensors[f"layer{number}.{name}"].astype(np.int64)
        for name in ("weight", "bias", "multiplier", "shift"))
    patches = [patch for sample in x for patch in (
        patches_of(sample, described) if "kernel" in described else [sample])]
    sums = [(weight @ patch + bias).astype(np.int32).astype(np.int64) for patch in patches]
    if described["raw"]:
        y = np.array(sums)
    else:
        p = np.array(sums) * multiplier
        q = ((p + (1 << shift - 1) - 1 + (p >> shift & 1)) >> shift) + (
            described["output_zero_point"])
        low = described["output_zero_point"] if described["activation"] == "relu" else -128
        y = np.clip(q, low, 127)
    return y.reshape(len(x), -1, len(weight)).transpose(0, 2, 1).reshape(len(x), -1)


def patches_of(sample, described):
    """The patches of one sample, by loops."""
    channels, height, width = described["input_shape"]
    top, left, bottom, right = described["padding"]
    image = np.full((channels, height + top + bottom, width + left + right),
                    described["input_zero_point"], np.int64)
    image[:, top:top + height, left:left + width] = sample.reshape(channels, height, width)
    (tall, wide), (down, along) = described["kernel"], described["stride"]
    for row in range(0, image.shape[1] - tall + 1, down):
        for column in range(0, image.shape[2] - wide + 1, along):
            yield image[:, row:row + tall, column:column + wide].reshape(-1)


@pytest.mark.parametrize("number", range(3))
def test_numpy_alone_gives_the_golden_outputs_of_a_core(core_path, number):
    layer = CORE[number]
    x = np.random.default_rng(number).integers(-128, 128, (5, layer.inputs)).astype(np.int8)
    golden, _ = tensorcore.layer(x, layer)
    assert len(np.unique(golden)) > 5
    np.testing.assert_array_equal(golden, core_by_hand(core_path, number, x))


@pytest.mark.parametrize("change", [
    {"name": "other"}, {"activation": "none"}, {"geometry": replace(GEOMETRY, stride=(2, 2))},
    {"geometry": None}],
    ids=lambda change: next(iter(change)))
def test_core_digest_changes_with(change):
    changed = (replace(CORE[0], **change), *CORE[1:])
    assert reference.digest(changed) != reference.digest(CORE)


@pytest.mark.parametrize(("name", "change"), [
    ("input", {"scale": 3.0}), ("output", {"scale": 3.0}), ("input", {"zero_point": 0}),
    ("output", {"zero_point": 0}), ("output", {"dtype": np.dtype(np.int32)})], ids=str)
def test_core_digest_changes_with_a_type(name, change):
    changed = (typed(CORE[0], name, **change), *CORE[1:])
    assert reference.digest(changed) != reference.digest(CORE)


@pytest.mark.parametrize("tensor", ["weight", "bias", "multiplier", "shift"])
def test_core_digest_changes_with_any_tensor(tensor):
    value = getattr(CORE[1], tensor).copy()
    value[-1] ^= 1
    changed = (CORE[0], replace(CORE[1], **{tensor: value}), CORE[2])
    assert reference.digest(changed) != reference.digest(CORE)


@pytest.mark.parametrize("change", [{"kernel": [9, 9]}, {"stride": 1}, {"engine": "gpu"}])
def test_core_metadata_that_makes_no_sense(core_path, change):
    layers = json.loads(safe_open(core_path, "numpy").metadata()["layers"])
    layers[0] |= change
    save_file(load_file(core_path), core_path, {"layers": json.dumps(layers)})
    with pytest.raises(BadInput, match="not an integer reference"):
        reference.load(core_path)


def test_tensor_of_another_kind(core_path):
    metadata = safe_open(core_path, "numpy").metadata()
    tensors = load_file(core_path)
    save_file(tensors | {"layer1.weight": tensors["layer1.weight"].astype(np.int16)}, core_path,
              metadata)
    with pytest.raises(BadInput, match=r"'layer1\.weight' is int16, expected int8"):
        reference.load(core_path)
