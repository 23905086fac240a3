"""Runs by recipe: every stage, what is refused, what a dry run says, what is written."""

import json
import sys
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from zeroskip.sw.engines.tensorcore import quantize as int8
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.formats.tensorfile import read_safetensors, write_safetensors
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.prune import pipeline
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.model import Model, read
from zeroskip.sw.prune.pipeline import plan, save
from zeroskip.sw.prune.recipe import Recipe, read_recipe

RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 16)).astype(np.float32)
DATA = Data(X, (X[:, 0] > X[:, 1]).astype(np.int64))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where chains become files."""
    monkeypatch.setattr(sys.modules[__name__], "HERE", tmp_path, raising=False)


def model(chain) -> Model:
    """A chain as it is read from a file; a model itself."""
    if isinstance(chain, Model):
        return chain
    path = HERE / f"chain{len(list(HERE.iterdir()))}.onnx"      # noqa: F821 - see above
    frontend.to_onnx(chain, path)
    return read(path)


def prune(chain, *args, start=None, **options):
    """What the pipeline makes of a chain; the layers with their weights as arrays."""
    result, stages = pipeline.prune(model(chain), *args, start=start and model(start), **options)
    return as_chain(chain, result), stages


def as_chain(chain, result) -> Network:
    """The chain with the weights of a model, which it keeps as ``model``."""
    found = Network(tuple(
        replace(layer, weight=own.weight.detach().numpy(), bias=own.bias.detach().numpy(),
                **({"input_shape": (own.weight.shape[1], *layer.input_shape[1:])}
                   if isinstance(layer, Conv2d) else {}))
        for layer, own in zip(chain.layers, result.layers.values(), strict=True)))
    object.__setattr__(found, "model", result)
    return found


def network():
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((12, 16)) / 4, rng.standard_normal((2, 12)) / 4
    return Network((
        Linear("fc1", first.astype(np.float32), np.zeros(12, np.float32), "relu"),
        Linear("fc2", second.astype(np.float32), np.zeros(2, np.float32), "none")))


def test_density_by_layer():
    result, stages = prune(network(), Recipe({"fc1": 0.25}))
    assert [np.count_nonzero(layer.weight) for layer in result.layers] == [48, 24]
    assert [stage.name for stage in stages] == ["dense", "pruned"]
    assert stages[-1].density == 72 / 216
    assert stages[-1].accuracy is None


def test_run_with_data():
    calls = []
    given = network()
    before = given.layers[0].weight.copy()
    result, stages = prune(given, Recipe(0.25, centroids=15, epochs=80, learning_rate=1e-2), DATA,
                           progress=lambda *call: calls.append(call))
    assert [stage.name for stage in stages] == ["dense", "pruned", "shared"]
    assert stages[2].accuracy > 0.9 > stages[0].accuracy
    assert stages[2].density == 54 / 216
    assert all(len(np.unique(layer.weight)) <= 16 for layer in result.layers)
    assert [(layer.name, layer.activation) for layer in result.layers] == [
        ("fc1", "relu"), ("fc2", "none")]
    assert (len(calls), calls[0], calls[-1]) == (160, (1, 80, "prune"), (80, 80, "share"))
    np.testing.assert_array_equal(given.layers[0].weight, before)


def test_unknown_layer():
    with pytest.raises(BadInput, match="layer 'fc3', which .*its layers are fc1, fc2"):
        prune(network(), Recipe({"fc3": 0.5}))


def test_data_that_do_not_fit_the_network():
    with pytest.raises(BadInput, match=r"x is \[96, 4\], but the model takes 16 values"):
        prune(network(), Recipe(0.5), Data(X[:, :4], DATA.y))
    with pytest.raises(BadInput, match="y holds class 2, but the network has 2 outputs"):
        prune(network(), Recipe(0.5), Data(X, DATA.y + 1))


def test_without_torch(monkeypatch):
    monkeypatch.setattr(frontend, "find_spec", lambda _name: None)
    with pytest.raises(ToolMissing, match="torch is not installed"):
        prune(network(), Recipe(0.5))


def test_refuses_to_share_a_convolution():
    layer = Conv2d("conv", np.ones((1, 1, 3, 3), np.float32), np.zeros(1, np.float32), "none",
                   (1, 4, 4), (1, 1), (0, 0, 0, 0), (1, 1))
    with pytest.raises(BadInput, match="layer conv is a convolution, and the EIE array"):
        prune(Network((layer,)), Recipe(0.25, centroids=15))


def conv_network():
    """A 3 x 3 convolution of two channels (18 columns), and a layer of 32 inputs."""
    rng = np.random.default_rng(2)
    return Network((
        Conv2d("conv", rng.normal(size=(2, 2, 3, 3)).astype(np.float32), np.zeros(2, np.float32),
               "relu", (2, 4, 4), (1, 1), (1, 1, 1, 1), (1, 1)),
        Linear("fc", rng.normal(size=(3, 32)).astype(np.float32), np.zeros(3, np.float32), "none"),
    ))


@pytest.mark.parametrize(("pattern", "kept"), [("2:4", 2), ("1:4", 1)])
def test_pattern_keeps_the_largest_of_each_group(pattern, kept):
    given = conv_network()
    result, _ = prune(given, Recipe(granularity=pattern))
    for before, after in zip(given.layers, result.layers, strict=True):
        pad = ((0, 0), (0, -before.matrix.shape[1] % 4))
        groups, left = (np.pad(layer.matrix, pad).reshape(-1, 4) for layer in (before, after))
        assert (np.count_nonzero(left, axis=1) == np.minimum(
            np.count_nonzero(groups, axis=1), kept)).all()
        np.testing.assert_array_equal(np.abs(left).sum(axis=1),
                                      np.sort(np.abs(groups), axis=1)[:, 4 - kept:].sum(axis=1))
        np.testing.assert_array_equal(left[left != 0], groups[left != 0])


def test_pattern_holds_while_training():
    data = Data(np.random.default_rng(3).normal(size=(64, 32)).astype(np.float32),
                np.arange(64) % 3)
    result, stages = prune(conv_network(), Recipe(granularity="2:4", epochs=3), data)
    matrix = result.layers[1].matrix
    assert np.count_nonzero(matrix.reshape(-1, 4), axis=1).max() == 2
    assert not np.array_equal(matrix[matrix != 0], conv_network().layers[1].matrix[matrix != 0])
    assert [stage.name for stage in stages] == ["dense", "pruned"]


def test_banks_keep_equal_numbers_of_every_column_and_share():
    result, stages = prune(network(), Recipe(
        0.25, "banks", 2, centroids=15, epochs=80, learning_rate=1e-2), DATA)
    first, second = (layer.weight != 0 for layer in result.layers)
    assert (first.reshape(6, 2, 16).sum(axis=0) == 2).all()     # 1.5 of six rows, rounded to even
    assert second.all()                                         # one row a bank, at least one kept
    assert [stage.name for stage in stages] == ["dense", "pruned", "shared"]
    assert [stage.density for stage in stages[1:]] == [(64 + 24) / 216] * 2
    assert stages[-1].accuracy > 0.9 > stages[0].accuracy
    assert all(len(np.unique(layer.weight)) <= 16 for layer in result.layers)


def test_banks_without_data_keep_the_largest():
    given = network()
    result, _ = prune(given, Recipe({"fc1": 0.25}, granularity="banks", size=4))
    before, after = given.layers[0].weight, result.layers[0].weight
    np.testing.assert_array_equal(np.abs(after).reshape(3, 4, 16).sum(axis=0),
                                  np.abs(before).reshape(3, 4, 16).max(axis=0))
    np.testing.assert_array_equal(result.layers[1].weight, given.layers[1].weight)


def test_more_banks_than_a_layer_has_outputs():
    with pytest.raises(BadInput, match="layer fc2 has 2 outputs, too few for 4 banks; lower"):
        prune(network(), Recipe(0.5, granularity="banks", size=4))
    prune(network(), Recipe({"fc1": 0.5}, granularity="banks", size=12))
    with pytest.raises(BadInput, match="layer fc1 has 12 outputs, too few for 13 banks"):
        prune(network(), Recipe({"fc1": 0.5}, granularity="banks", size=13))


def test_refuses_a_convolution_in_banks():
    with pytest.raises(BadInput, match=r"layer conv is \[2, 2, 3, 3\], a convolution, and the EIE"):
        prune(conv_network(), Recipe(0.5, granularity="banks", size=2))
    result, _ = prune(conv_network(), Recipe({"fc": 0.5}, granularity="banks", size=3))
    assert result.layers[0].weight.all()


def test_criterion_that_lacks_what_it_needs():
    with pytest.raises(BadInput, match="criterion wanda needs samples; give data"):
        prune(network(), Recipe(0.5, criterion="wanda"))


@pytest.mark.parametrize(("criterion", "granularity", "size"), [
    ("l2", "block", 2), ("l1", "vector", 4), ("apoz", "row", None), ("wanda", "2:4", None),
    ("obd", "element", None), ("wanda", "banks", 2)])
def test_criteria_and_granularities_combine(criterion, granularity, size):
    density = None if granularity == "2:4" else 0.5     # a bank of one row keeps it
    result, stages = prune(network(), Recipe(
        density, granularity, size, criterion, epochs=4), DATA)
    assert stages[-1].density == ((96 + 24) / 216 if granularity == "banks" else 0.5)
    if granularity == "row":
        assert [int((layer.weight != 0).any(axis=1).sum()) for layer in result.layers] == [6, 1]


def test_neurons_and_channels_leave_the_network():
    result, stages = prune(network(), Recipe(0.5, "neuron", epochs=80, learning_rate=1e-2), DATA)
    assert [layer.weight.shape for layer in result.layers] == [(6, 16), (2, 6)]
    assert stages[-1].density == (96 + 12) / 216
    assert [layer.name for layer in result.layers] == ["fc1", "fc2"]
    assert stages[-1].accuracy > 0.9
    given = conv_network()
    result, _ = prune(given, Recipe(0.5, "channel", criterion="l2"))
    conv, fc = result.layers
    assert (conv.weight.shape, conv.output_shape, fc.weight.shape) == (
        (1, 2, 3, 3), (1, 4, 4), (3, 16))
    kept = int(np.square(given.layers[0].weight).sum(axis=(1, 2, 3)).argmax())
    x = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    zeroed = given.layers[0].weight * (np.arange(2) == kept)[:, None, None, None]
    masked = Network((replace(given.layers[0], weight=zeroed), given.layers[1]))
    np.testing.assert_allclose(result.forward(x)[-1], masked.forward(x)[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("recipe", "message"), [
    (Recipe(0.5, "channel"), "no layer but the last has units of granularity 'channel'"),
    (Recipe({"fc2": 0.5}, "neuron"), "layer fc2 has no neuron that could go: .* choose from fc1"),
    (Recipe({"fc1": 0.5}, "channel"), "no layer but the last has units of granularity 'chan"),
])
def test_structure_that_cannot_go(recipe, message):
    with pytest.raises(BadInput, match=message):
        prune(network(), recipe)


@pytest.mark.parametrize(("changes", "message"), [
    ({"reconstruct": "sparsegpt"}, "sparsegpt needs samples; give data"),
    ({"granularity": "neuron", "criterion": "lasso"}, "lasso needs samples; give data"),
])
def test_reconstruction_needs_samples(changes, message):
    with pytest.raises(BadInput, match=message):
        prune(network(), Recipe(0.5, **changes))


def test_another_measure_of_accuracy():
    _, stages = prune(network(), Recipe(0.5), evaluate=lambda now: now.density() / 2)
    assert [stage.accuracy for stage in stages] == [0.5, 0.25]
    _, stages = prune(network(), Recipe(0.5), evaluate=lambda _: 0.25)
    assert [stage.accuracy for stage in stages] == [0.25, 0.25]


def test_rewinding_takes_the_weights_of_another_network():
    given = network()
    other = Network(tuple(replace(layer, weight=-layer.weight) for layer in given.layers))
    result, _ = prune(given, Recipe(0.5, rounds=1, rewind="other.onnx", epochs=0), DATA,
                      start=other)
    for before, after in zip(given.layers, result.layers, strict=True):
        kept = after.weight != 0
        np.testing.assert_array_equal(after.weight[kept], -before.weight[kept])
    with pytest.raises(BadInput, match=r"rewind to has weights of \[\[12, 16\]\], and the one to"):
        prune(given, Recipe(0.5, rounds=1), DATA, start=Network(given.layers[:1]))


def test_rewinding_to_other_activations_takes_weights_alone():
    given = network()
    other = Network(tuple(replace(layer, weight=-layer.weight, activation="none")
                          for layer in given.layers))
    result, _ = prune(given, Recipe(0.5, rounds=1, epochs=0), DATA, start=other)
    assert [layer.activation for layer in result.layers] == ["relu", "none"]
    kept = result.layers[0].weight != 0
    np.testing.assert_array_equal(result.layers[0].weight[kept], -given.layers[0].weight[kept])


def test_outputs_that_are_no_channels_of_the_next_layer():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(72, 16)).astype(np.float32)
    layers = Network((
        Linear("fc", weight, np.zeros(72, np.float32), "relu"),
        Conv2d("conv", rng.normal(size=(2, 2, 3, 3)).astype(np.float32), np.zeros(2, np.float32),
               "none", (2, 6, 6), (1, 1), (0, 0, 0, 0), (1, 1))))
    with pytest.raises(BadInput, match="layer fc has 72 outputs, which are no channels of layer"):
        prune(layers, Recipe(0.5, "neuron", criterion="lasso", epochs=0, loss="mse"),
              Data(X, np.zeros((96, 32), np.float32)))


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_rounded_to_integers_learn_and_keep_their_zeros(bits):
    recipe = Recipe(0.5, weight_bits=bits, epochs=40, learning_rate=1e-2)
    result, stages = prune(network(), recipe, DATA)
    floats, _ = prune(network(), replace(recipe, weight_bits=None), DATA)
    assert [stage.name for stage in stages] == ["dense", "pruned", "rounded"]
    assert stages[-1].density <= stages[-2].density == 0.5
    assert stages[-1].accuracy > 0.9
    peak = 2**(bits - 1) - 1
    for before, after in zip(floats.layers, result.layers, strict=True):
        assert not after.weight[before.weight == 0].any()
        scale = np.abs(before.weight).max(axis=1, keepdims=True) / peak
        multiples = after.weight / scale
        np.testing.assert_allclose(multiples, multiples.round(), atol=1e-4)
        assert np.abs(multiples).max() <= peak + 1e-4


def test_rounding_without_data_is_to_the_nearest():
    given = network()
    result, _ = prune(given, Recipe(1.0, weight_bits=4))
    for before, after in zip(given.layers, result.layers, strict=True):
        scale = np.abs(before.weight).max(axis=1, keepdims=True) / 7
        assert (np.abs(after.weight - before.weight) <= scale / 2 * (1 + 1e-5)).all()


def test_an_output_without_weights_is_rounded():
    first = replace(network().layers[0], weight=np.zeros((12, 16), np.float32))
    result, _ = prune(Network((first, network().layers[1])), Recipe(1.0, weight_bits=8))
    assert not result.layers[0].weight.any()


def test_plan():
    rows = plan(model(network()), Recipe({"fc1": 0.25}, "row"))
    assert rows == [
        {"layer": "fc1", "shape": [12, 16], "units": 12, "kept": 3, "reason": None},
        {"layer": "fc2", "shape": [2, 12], "units": None, "kept": None, "reason": None}]
    rows = plan(model(conv_network()), Recipe(granularity="1:4"))
    assert [(row["units"], row["kept"]) for row in rows] == [(4, 1), (4, 1)]
    rows = plan(model(conv_network()), Recipe(0.5, "kernel"))
    assert (rows[0]["units"], rows[0]["kept"], rows[0]["reason"]) == (4, 2, None)
    assert "no convolution, and has no kernels" in rows[1]["reason"]
    rows = plan(model(conv_network()), Recipe(0.5, "channel"))
    assert [(row["units"], row["kept"]) for row in rows] == [(2, 1), (None, None)]


def exported(path):
    """``path``, with the network of ``conv_network`` as torch writes it, or as a chain."""
    if path.suffix == ".onnx":
        frontend.to_onnx(conv_network(), path)
    else:
        module = torch.nn.Sequential(OrderedDict(
            conv=torch.nn.Conv2d(2, 2, 3, padding=1), relu=torch.nn.ReLU(),
            flat=torch.nn.Flatten(), fc=torch.nn.Linear(32, 3)))
        torch.export.save(torch.export.export(
            module, (torch.zeros(2, 2, 4, 4),), dynamic_shapes=({0: torch.export.Dim("b")},)), path)
    return path


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_one_artefact(tmp_path, suffix):
    recipe = Recipe({"conv": 0.5}, data="train.npz", seed=3)
    result, stages = pipeline.prune(read(exported(tmp_path / f"dense{suffix}")), recipe)
    for name in "ab":
        save(result, recipe, stages, tmp_path / f"{name}{suffix}")
    for kind in (suffix, ".safetensors"):
        assert (tmp_path / f"a{kind}").read_bytes() == (tmp_path / f"b{kind}").read_bytes()
    notes, tensors = read_safetensors(tmp_path / "a.safetensors")
    assert sorted(tensors) == ["conv.bias", "conv.weight", "fc.bias", "fc.weight"]
    again = read(tmp_path / f"a{suffix}")
    for name, layer in result.layers.items():
        np.testing.assert_array_equal(tensors[f"{name}.weight"], layer.weight.detach())
        np.testing.assert_array_equal(again.layers[name].weight.detach(), layer.weight.detach())
    (tmp_path / "recipe.toml").write_text(notes["recipe"])
    assert read_recipe(tmp_path / "recipe.toml") == recipe
    assert json.loads(notes["history"]) == [
        {"stage": "dense", "density": 1.0, "accuracy": None, "layers": {"conv": 1.0, "fc": 1.0}},
        {"stage": "pruned", "density": stages[1].density, "accuracy": None,
         "layers": {"conv": 0.5, "fc": 1.0}}]
    if suffix == ".onnx":
        held = {prop.key: prop.value for prop in onnx.load(tmp_path / "a.onnx").metadata_props}
    else:
        held = dict.fromkeys(notes)
        torch.export.load(tmp_path / "a.pt2", extra_files=held)
    assert held == notes


def test_weights_of_another_are_not_overwritten(tmp_path):
    result, stages = prune(network(), Recipe(0.5))
    (tmp_path / "a.safetensors").mkdir()
    write_safetensors(tmp_path / "b.safetensors", {"w": np.zeros(3)}, {"mine": "yes"})
    for name in "ab":
        with pytest.raises(BadInput, match="was not written by prune; give another name"):
            save(result.model, Recipe(0.5), stages, tmp_path / f"{name}.onnx")
    save(result.model, Recipe(0.5), stages, tmp_path / "c.onnx")
    save(result.model, Recipe(0.5), stages, tmp_path / "c.onnx")


@pytest.mark.parametrize(("bits", "greatest"), [(4, 7), (8, 127)])
def test_the_integers_are_those_that_run(bits, greatest):
    """After training too, which leaves the greatest weight of some outputs a smaller multiple."""
    pruned, _ = prune(network(), Recipe(0.5, weight_bits=bits, epochs=20, learning_rate=1e-2), DATA)
    layers, report = int8.quantize(pruned, X)
    shrunk = 0
    for layer, source, entry in zip(layers, pruned.layers, report, strict=True):
        assert entry.rms < 2.0**-23
        for own, row in zip(layer.weight.astype(int), source.weight, strict=True):
            integers = own // np.gcd.reduce(own)
            assert np.abs(integers).max() <= greatest
            scale = np.abs(row).max() / np.abs(integers).max()
            np.testing.assert_allclose(integers * scale, row, rtol=2.0**-22)
            shrunk += np.abs(integers).max() < greatest
    assert shrunk


@pytest.mark.parametrize("recipe", [
    Recipe(0.5, reconstruct="sparsegpt"), Recipe(granularity="2:4", reconstruct="sparsegpt"),
    Recipe(0.5, reconstruct="least_squares"), Recipe(0.5, "neuron", criterion="lasso")])
def test_a_dead_layer_is_pruned_without_training(recipe):
    """Its outputs, and so all inputs of the next layer, are zero on every sample."""
    first, second = network().layers
    given = Network((replace(first, bias=np.full(12, -100, np.float32)), second))
    result, stages = prune(given, replace(recipe, epochs=0), DATA)
    assert stages[-1].density <= 0.5
    for layer in result.layers:
        assert np.isfinite(layer.weight).all()
        assert layer.weight.any()


def test_an_artefact_of_another_name(tmp_path):
    result, stages = prune(network(), Recipe(0.5))
    with pytest.raises(BadInput, match=r"a.pth: .* give a name that ends in .onnx"):
        save(result.model, Recipe(0.5), stages, tmp_path / "a.pth")
    assert not list(tmp_path.glob("a.*"))


def test_the_same_seed_prunes_to_the_same_bytes(tmp_path):
    recipe = Recipe(0.25, centroids=15, l2=1e-4, epochs=3, seed=4)
    for name in "ab":
        result, stages = prune(network(), recipe, DATA)
        save(result.model, recipe, stages, tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
