"""Recipes: what is checked, and what a run returns."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.sw.compiler import frontend
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.network import Conv2d, Linear, Network
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.recipe import Recipe, read_recipe, run_recipe

RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 16)).astype(np.float32)
DATA = Data(X, (X[:, 0] > X[:, 1]).astype(np.int64))


def network():
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((12, 16)) / 4, rng.standard_normal((2, 12)) / 4
    return Network((
        Linear("fc1", first.astype(np.float32), np.zeros(12, np.float32), "relu"),
        Linear("fc2", second.astype(np.float32), np.zeros(2, np.float32), "none")))


@pytest.fixture
def recipe(tmp_path):
    np.savez(tmp_path / "train.npz", x=DATA.x, y=DATA.y)

    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path
    return write


def test_every_key(recipe):
    read = read_recipe(recipe('density = 0.25\ngranularity = "block"\nsize = 2\ncriterion = "l2"\n'
                              'share_bits = 4\ndata = "train.npz"\nepochs = 3\n'
                              'learning_rate = 1e-2\nseed = 5\n'))
    np.testing.assert_array_equal(read.data.x, DATA.x)
    np.testing.assert_array_equal(read.data.y, DATA.y)
    assert replace(read, data=None) == Recipe(
        0.25, "block", 2, "l2", 4, None, 3, 1e-2, 5)


def test_density_by_layer(recipe):
    read = read_recipe(recipe("[density]\nfc1 = 0.25\n"))
    result, stages = run_recipe(network(), read)
    assert [np.count_nonzero(layer.weight) for layer in result.layers] == [48, 24]
    assert [stage.name for stage in stages] == ["dense", "pruned"]
    assert stages[-1].density == 72 / 216
    assert stages[-1].accuracy is None


def test_run_with_data():
    calls = []
    given = network()
    before = given.layers[0].weight.copy()
    result, stages = run_recipe(given, Recipe(
        0.25, share_bits=4, data=DATA, epochs=80, learning_rate=1e-2),
                                lambda *call: calls.append(call))
    assert [stage.name for stage in stages] == ["dense", "pruned", "shared"]
    assert stages[0].network is given
    assert stages[2].network is result
    assert stages[2].accuracy > 0.9 > stages[0].accuracy
    assert stages[2].density == 54 / 216
    assert all(len(np.unique(layer.weight)) <= 16 for layer in result.layers)
    assert [(layer.name, layer.activation) for layer in result.layers] == [
        ("fc1", "relu"), ("fc2", "none")]
    assert (len(calls), calls[0], calls[-1]) == (160, (1, 80, "prune"), (80, 80, "share"))
    np.testing.assert_array_equal(given.layers[0].weight, before)


@pytest.mark.parametrize(("text", "message"), [
    ("density = 0.5\nspeed = 3", "unknown key 'speed'; the keys are density, granularity"),
    ("seed = 1", "a recipe needs a density, or a granularity that says how many"),
    ("density = 0", "density must be above 0 and at most 1, not 0"),
    ("density = 1.5", "density must be above 0 and at most 1, not 1.5"),
    ("density = nan", "density must be above 0 and at most 1, not nan"),
    ("density = true", "density must be above 0 and at most 1, not True"),
    ('density = "low"', "density must be above 0 and at most 1, not 'low'"),
    ("[density]\nfc1 = -1", "density.fc1 must be above 0 and at most 1, not -1"),
    ("density = 0.5\nshare_bits = 5", "share_bits must be 4, or left out, not 5"),
    ("density = 0.5\nshare_bits = 4.0", "share_bits must be 4, or left out, not 4.0"),
    ('density = 0.5\ndata = "train.npz"\nepochs = 0', "epochs must be a whole number from 1"),
    ('density = 0.5\ndata = "train.npz"\nepochs = 1.5', "epochs must be a whole number from 1"),
    ('density = 0.5\ndata = "train.npz"\nlearning_rate = 0', "learning_rate must be a number abo"),
    ("density = 0.5\nseed = -1", "seed must be a whole number from 0"),
    ("density = 0.5\ndata = 3", "data must be a path in quotes, not 3"),
    ('density = 0.5\ndata = "none.npz"', "none.npz does not exist"),
    ("density = 0.5\nepochs = 3", "epochs needs data to train on; add data or remove epochs"),
    ("density = ", r"is not valid TOML .*end of document"),
])
def test_recipe_that_is_wrong(recipe, text, message):
    with pytest.raises(BadInput, match=message):
        read_recipe(recipe(text))


def test_missing_recipe(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")


def test_unknown_layer():
    with pytest.raises(BadInput, match="layer 'fc3', which .*its layers are fc1, fc2"):
        run_recipe(network(), Recipe({"fc3": 0.5}))


@pytest.mark.parametrize(("arrays", "message"), [
    ({"x": X}, "no .npz file with arrays x and y"),
    ({"x": X, "y": DATA.y[:5]}, r"y is int64 \[5\]; it must be one class"),
    ({"x": X, "y": DATA.y.astype(float)}, "y is float64"),
    ({"x": X, "y": DATA.y - 1}, "one class from 0"),
    ({"x": X[:, 0], "y": DATA.y}, r"x is float32 \[96\]"),
    ({"x": X[:0], "y": DATA.y[:0]}, r"x is float32 \[0, 16\]"),
    ({"x": np.where(np.arange(96) == 7, np.nan, X.T).T, "y": DATA.y}, "not finite at sample 7"),
    ({"x": np.array([[None]]), "y": DATA.y}, "no .npz file"),
])
def test_data_that_are_wrong(tmp_path, recipe, arrays, message):
    path = recipe('density = 0.5\ndata = "train.npz"')
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(BadInput, match=message):
        read_recipe(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_data_file_that_is_no_npz(tmp_path, recipe, content):
    path = recipe('density = 0.5\ndata = "train.npz"')
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"no \.npz file"):
        read_recipe(path)


def test_data_file_that_is_one_array(tmp_path, recipe):
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(BadInput, match=r"no \.npz file"):
        read_recipe(recipe('density = 0.5\ndata = "one.npy"'))


def test_data_that_do_not_fit_the_network():
    with pytest.raises(BadInput, match="x has 4 values a sample, but the network takes 16"):
        run_recipe(network(), Recipe(0.5, data=Data(X[:, :4], DATA.y)))
    with pytest.raises(BadInput, match="y holds class 2, but the network has 2 outputs"):
        run_recipe(network(), Recipe(0.5, data=Data(X, DATA.y + 1)))


def test_without_torch(monkeypatch):
    monkeypatch.setattr(frontend, "find_spec", lambda _name: None)
    with pytest.raises(ToolMissing, match="torch is not installed"):
        run_recipe(network(), Recipe(0.5))


def test_refuses_to_share_a_convolution():
    layer = Conv2d("conv", np.ones((1, 1, 3, 3), np.float32), np.zeros(1, np.float32), "none",
                   (1, 4, 4), (1, 1), (0, 0, 0, 0), (1, 1))
    with pytest.raises(BadInput, match="layer conv is a convolution, and the EIE array"):
        run_recipe(Network((layer,)), Recipe(0.25, share_bits=4))


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
    result, _ = run_recipe(given, Recipe(granularity=pattern))
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
    result, stages = run_recipe(conv_network(), Recipe(granularity="2:4", data=data, epochs=3))
    matrix = result.layers[1].matrix
    assert np.count_nonzero(matrix.reshape(-1, 4), axis=1).max() == 2
    assert not np.array_equal(matrix[matrix != 0], conv_network().layers[1].matrix[matrix != 0])
    assert [stage.name for stage in stages] == ["dense", "pruned"]


def test_banks_keep_equal_numbers_of_every_column_and_share(recipe):
    read = read_recipe(recipe('density = 0.25\ngranularity = "banks"\nsize = 2\n'
                              'share_bits = 4\ndata = "train.npz"\n'
                              'epochs = 80\nlearning_rate = 1e-2\n'))
    assert (read.granularity, read.size) == ("banks", 2)
    result, stages = run_recipe(network(), read)
    first, second = (layer.weight != 0 for layer in result.layers)
    assert (first.reshape(6, 2, 16).sum(axis=0) == 2).all()     # 1.5 of six rows, rounded to even
    assert second.all()                                         # one row a bank, at least one kept
    assert [stage.name for stage in stages] == ["dense", "pruned", "shared"]
    assert [stage.density for stage in stages[1:]] == [(64 + 24) / 216] * 2
    assert stages[-1].accuracy > 0.9 > stages[0].accuracy
    assert all(len(np.unique(layer.weight)) <= 16 for layer in result.layers)


def test_banks_without_data_keep_the_largest():
    given = network()
    result, _ = run_recipe(given, Recipe({"fc1": 0.25}, granularity="banks", size=4))
    before, after = given.layers[0].weight, result.layers[0].weight
    np.testing.assert_array_equal(np.abs(after).reshape(3, 4, 16).sum(axis=0),
                                  np.abs(before).reshape(3, 4, 16).max(axis=0))
    np.testing.assert_array_equal(result.layers[1].weight, given.layers[1].weight)


def test_more_banks_than_a_layer_has_outputs():
    with pytest.raises(BadInput, match="layer fc2 has 2 outputs, too few for 4 banks; lower"):
        run_recipe(network(), Recipe(0.5, granularity="banks", size=4))
    run_recipe(network(), Recipe({"fc1": 0.5}, granularity="banks", size=12))
    with pytest.raises(BadInput, match="layer fc1 has 12 outputs, too few for 13 banks"):
        run_recipe(network(), Recipe({"fc1": 0.5}, granularity="banks", size=13))


def test_refuses_a_convolution_in_banks():
    with pytest.raises(BadInput, match=r"layer conv is \[2, 2, 3, 3\], a convolution, and the EIE"):
        run_recipe(conv_network(), Recipe(0.5, granularity="banks", size=2))
    result, _ = run_recipe(conv_network(), Recipe({"fc": 0.5}, granularity="banks", size=3))
    assert result.layers[0].weight.all()


@pytest.mark.parametrize(("text", "message"), [
    ('granularity = "3:4"', "there is no granularity '3:4'; choose one of element, vector"),
    ("granularity = 4", "there is no granularity 4"),
    ('granularity = ["row"]', "there is no granularity .'row'.;"),
    ("density = 0.5\ncriterion = []", "criterion must be a name in quotes"),
    ('granularity = "2:4"\ndensity = 0.5', "granularity '2:4' says how many .* remove density"),
    ('granularity = "2:4"\nshare_bits = 4', "share_bits is for the EIE array and 2:4 for the"),
    ('granularity = "banks"\ndensity = 0.5', "'banks' needs a size, a whole number from 1"),
    ("density = 0.5\nsize = 4", "'element' takes no size; remove 4"),
    ('granularity = "banks"\nsize = 4', "a recipe needs a density, or a granularity that"),
    ('density = 0.5\ncriterion = "l3"', "unknown criterion 'l3'; choose one of l1, l2"),
])
def test_granularity_or_criterion_that_is_wrong(recipe, text, message):
    with pytest.raises(BadInput, match=message):
        run_recipe(network(), read_recipe(recipe(text)))


def test_criterion_that_lacks_what_it_needs():
    with pytest.raises(BadInput, match="criterion wanda needs samples; give data"):
        run_recipe(network(), Recipe(0.5, criterion="wanda"))
    with pytest.raises(BadInput, match="criterion scale needs the batch norm behind layer"):
        run_recipe(network(), Recipe(0.5, criterion="scale"))


@pytest.mark.parametrize(("criterion", "granularity", "size"), [
    ("l2", "block", 2), ("l1", "vector", 4), ("apoz", "row", None), ("wanda", "2:4", None),
    ("obd", "element", None), ("wanda", "banks", 2)])
def test_criteria_and_granularities_combine(criterion, granularity, size):
    density = None if granularity == "2:4" else 0.5     # a bank of one row keeps it
    result, stages = run_recipe(network(), Recipe(
        density, granularity, size, criterion, data=DATA, epochs=4))
    assert stages[-1].density == ((96 + 24) / 216 if granularity == "banks" else 0.5)
    if granularity == "row":
        assert [int((layer.weight != 0).any(axis=1).sum()) for layer in result.layers] == [6, 1]


def test_neurons_and_channels_leave_the_network():
    result, stages = run_recipe(network(), Recipe(0.5, "neuron", data=DATA, epochs=80,
                                                  learning_rate=1e-2))
    assert [layer.weight.shape for layer in result.layers] == [(6, 16), (2, 6)]
    assert stages[-1].density == (96 + 12) / 216
    assert [layer.name for layer in result.layers] == ["fc1", "fc2"]
    assert stages[-1].accuracy > 0.9
    given = conv_network()
    result, _ = run_recipe(given, Recipe(0.5, "channel", criterion="l2"))
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
        run_recipe(network(), recipe)


def test_structure_takes_no_size():
    with pytest.raises(BadInput, match="'neuron' takes no size; remove 4"):
        Recipe(0.5, "neuron", 4)
