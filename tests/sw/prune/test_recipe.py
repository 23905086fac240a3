"""Recipes: what is checked, read and written."""

import numpy as np
import pytest

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune.criteria import CRITERIA
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.recipe import CRITERION_NEEDS_DATA, Recipe, read_recipe

RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 16)).astype(np.float32)
DATA = Data(X, (X[:, 0] > X[:, 1]).astype(np.int64))


@pytest.fixture
def recipe(tmp_path):
    np.savez(tmp_path / "train.npz", x=DATA.x, y=DATA.y)

    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path
    return write


def test_every_key(recipe):
    path = recipe('''
        density = 0.25
        granularity = "block"
        size = 2
        criterion = "l2"
        rounds = 3
        rewind = "start.onnx"
        l1 = 1e-4
        l2 = 1
        centroids = 16
        data = "train.npz"
        epochs = 0
        learning_rate = 1e-2
        seed = 5''')
    read = read_recipe(path)
    assert read == Recipe(0.25, "block", 2, "l2", rounds=3, rewind="start.onnx", l1=1e-4, l2=1,
                          centroids=16, data="train.npz", epochs=0, learning_rate=1e-2,
                          seed=5)
    samples = read.samples(path.parent)
    np.testing.assert_array_equal(samples.x, DATA.x)
    np.testing.assert_array_equal(samples.y, DATA.y)
    assert Recipe(0.5).samples(path.parent) is None


def test_densities_of_many_layers_on_one_line(recipe):
    density = {f"features.{at}.0": 0.25 for at in range(30)}
    text = ", ".join(f'"{name}" = 0.25' for name in density)
    read = read_recipe(recipe(f"{'#' + '.' * 99}\ndensity = {{{text}}}"))
    assert read == Recipe(density)


def test_criteria_are_those_of_the_registry():
    needs = {name: each.needs for name, each in CRITERIA.items()}
    assert set(CRITERION_NEEDS_DATA) == {
        name for name in needs if needs[name] != "norm"} | {"lasso"}
    assert {name for name, data in CRITERION_NEEDS_DATA.items() if not data} == {
        name for name in needs if needs[name] == "nothing"}
    assert (needs["l1"], needs["scale"], needs["obd"]) == ("nothing", "norm", "curvature")


@pytest.mark.parametrize("given", [
    Recipe(0.5), Recipe(granularity="2:4", weight_bits=4),
    Recipe(1, "vector", 4, "obd", data="train.npz", learning_rate=1e-5, l2=1e-07, epochs=3),
    Recipe({"fc 1.\"a\\": 0.25, "größe": 1.0}, centroids=15, rounds=2, rewind="a/b.pt2",
           data="train.npz"),
    Recipe(0.5, reconstruct="sparsegpt", data="train.npz")])
def test_what_is_written_is_read_again(recipe, given):
    assert read_recipe(recipe(given.to_toml())) == given


def test_another_density(recipe):
    assert read_recipe(recipe("[density]\nfc1 = 0.5"), density=1.0) == Recipe(1.0)
    assert read_recipe(recipe("seed = 1"), density=1.0) == Recipe(1.0, seed=1)


@pytest.mark.parametrize(("text", "message"), [
    ("density = 0.5\nspeed = 3", "unknown key 'speed'; the keys are density, granularity"),
    ("seed = 1", "a recipe needs a density, or a granularity that says how many"),
    ("density = 0", "density must be above 0 and at most 1, not 0"),
    ("density = 1.5", "density must be above 0 and at most 1, not 1.5"),
    ("density = nan", "density must be above 0 and at most 1, not nan"),
    ("density = true", "density must be above 0 and at most 1, not True"),
    ('density = "low"', "density must be above 0 and at most 1, not 'low'"),
    ("[density]\nfc1 = -1", "density.fc1 must be above 0 and at most 1, not -1"),
    ("density = 0.5\ncentroids = 5", "centroids must be 15 or 16, or left out, not 5"),
    ("density = 0.5\ncentroids = 15.0", "centroids must be 15 or 16, or left out, not 15.0"),
    ("density = 0.5\nweight_bits = 5", "weight_bits must be 4 or 8, or left out, not 5"),
    ("density = 0.5\nweight_bits = 4\ncentroids = 15", "shared or rounded to integers, not both"),
    ("density = 0.5\nl1 = 1e-3", "l1 needs data to work with; add data or remove l1"),
    ('density = 0.5\ndata = "train.npz"\nl1 = -1', "l1 must be a number from 0, not -1"),
    ('density = 0.5\ndata = "train.npz"\nrounds = 0', "rounds must be a whole number from 1"),
    ('density = 0.5\ndata = "train.npz"\nrewind = 3', "rewind must be a path in quotes, not 3"),
    ('density = 0.5\ndata = "train.npz"\nrewind = "a.onnx"', "rewind goes back at each of sev"),
    ('granularity = "2:4"\ndata = "train.npz"\nrounds = 2', "granularity '2:4' cuts once; remove"),
    ('density = 0.5\ndata = "train.npz"\nrounds = 2\nreconstruct = "sparsegpt"',
     "reconstruct 'sparsegpt' cuts once; remove rounds"),
    ('density = 0.5\ndata = "train.npz"\nreconstruct = "obs"',
     "reconstruct must be least_squares or sparsegpt, or left out, not 'obs'"),
    ('density = 0.5\ndata = "train.npz"\nreconstruct = "sparsegpt"\ngranularity = "row"',
     "'sparsegpt' is for granularity 'element', 2:4"),
    ('density = 0.5\ndata = "train.npz"\nreconstruct = "sparsegpt"\ncriterion = "wanda"',
     "'sparsegpt' has a criterion of its own; remove criterion 'wanda'"),
    ('density = 0.5\ncriterion = "lasso"', "criterion 'lasso' is for channel and neuron, not for"),
    ('granularity = "3:4"', "there is no granularity '3:4'; choose one of element, vector"),
    ("granularity = 4", "there is no granularity 4"),
    ('granularity = ["row"]', "there is no granularity .'row'.;"),
    ("density = 0.5\ncriterion = []", r"there is no criterion \[\]; choose one of l1, l2, apoz"),
    ('density = 0.5\ncriterion = "l3"', "there is no criterion 'l3'; choose one of l1, l2, apoz"),
    ('density = 0.5\ncriterion = "scale"', "there is no criterion 'scale'"),
    ('density = 0.5\ncriterion = "obd"', "criterion 'obd' needs data to work with; add data or"),
    ('density = 0.5\ncentroids = 15\nstart = "linear"', "unknown key 'start'; the keys are"),
    ("[density]", "the table density names no layer; add one, or a number for all"),
    ('granularity = "2:4"\ndensity = 0.5', "granularity '2:4' says how many .* remove density"),
    ('granularity = "2:4"\ncentroids = 15', "centroids are for the EIE array and 2:4 for the"),
    ('granularity = "banks"\ndensity = 0.5', "'banks' needs a size, a whole number from 1"),
    ("density = 0.5\nsize = 4", "'element' takes no size; remove 4"),
    ('granularity = "banks"\nsize = 4', "a recipe needs a density, or a granularity that"),
    ('density = 0.5\ndata = "train.npz"\nepochs = -1', "epochs must be a whole number from 0"),
    ('density = 0.5\ndata = "train.npz"\nepochs = 1.5', "epochs must be a whole number from 0"),
    ('density = 0.5\ndata = "train.npz"\nlearning_rate = 0', "learning_rate must be a number abo"),
    ("density = 0.5\nseed = -1", "seed must be a whole number from 0"),
    ("density = 0.5\ndata = 3", "data must be a path in quotes, not 3"),
    ("density = 0.5\nepochs = 3", "epochs needs data to work with; add data or remove epochs"),
    ("density = ", r"is not valid TOML .*end of document"),
])
def test_recipe_that_is_wrong(recipe, text, message):
    with pytest.raises(BadInput, match=message):
        read_recipe(recipe(text))


def test_missing_recipe(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(("arrays", "message"), [
    ({"y": DATA.y}, "there is no array 'x' in it; write it with numpy.savez"),
    ({"x": X, "y": DATA.y, "labels": DATA.y}, "y and labels are both targets; leave one of them"),
    ({"x": X, "y": DATA.y[:5]}, r"y is int64 \[5\]; it must be numbers, a class or an output"),
    ({"x": X, "y": np.where(DATA.y, np.inf, 0)}, "y is not finite at sample"),
    ({"a": X, "b": X[:5], "y": DATA.y}, "b has 5 samples, and the others 96; give as many of each"),
    ({"x": X[:, 0], "y": DATA.y}, r"x is float32 \[96\]"),
    ({"x": X[:0], "y": DATA.y[:0]}, r"x is float32 \[0, 16\]"),
    ({"x": np.where(np.arange(96) == 7, np.nan, X.T).T, "y": DATA.y}, "not finite at sample 7"),
    ({"x": np.array([[None]]), "y": DATA.y}, "not a .npz file"),
])
def test_data_that_are_wrong(tmp_path, recipe, arrays, message):
    path = recipe('density = 0.5\ndata = "train.npz"')
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(BadInput, match=message):
        read_recipe(path).samples(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_data_file_that_is_no_npz(tmp_path, recipe, content):
    path = recipe('density = 0.5\ndata = "train.npz"')
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"not a \.npz file"):
        read_recipe(path).samples(tmp_path)


def test_data_file_that_is_one_array(tmp_path):
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(BadInput, match=r"not a \.npz file"):
        Recipe(0.5, data="one.npy").samples(tmp_path)
    with pytest.raises(BadInput, match="none.npz: there is no such file"):
        Recipe(0.5, data="none.npz").samples(tmp_path)


def test_structure_takes_no_size():
    with pytest.raises(BadInput, match="'neuron' takes no size; remove 4"):
        Recipe(0.5, "neuron", 4)
