"""``scan`` and ``search`` on a small network with the classes that it gives itself."""

import numpy as np
import pytest

from zeroskip.sw.cli import ratios
from zeroskip.sw.frontends.load import to_onnx
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.prune.data import read_data
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.losses import named
from zeroskip.sw.prune.model import read
from zeroskip.sw.prune.ratios import OneShot, halves
from zeroskip.sw.prune.recipe import read_recipe

pytest.importorskip("torch")

METHODS = {"uniform": [], "sensitivity": [], "netadapt": [], "amc": ["--evaluations", 8],
           "random": ["--evaluations", 8]}
RECIPE = '# as it is here\ndata = "data/train.npz"\nepochs = 1\nseed = 3\n'


def network():
    rng = np.random.default_rng(0)
    sizes = {"fc1": (40, 16), "fc2": (24, 40), "fc3": (4, 24)}
    return Network(tuple(
        Linear(name, rng.standard_normal(shape).astype(np.float32), np.zeros(shape[0], np.float32),
               "none" if name == "fc3" else "relu") for name, shape in sizes.items()))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``model.onnx``, and ``recipes/recipe.toml`` with its data below; one sample has cycles."""
    monkeypatch.setattr(ratios, "SAMPLES", 1)
    to_onnx(network(), tmp_path / "model.onnx")
    (tmp_path / "recipes/data").mkdir(parents=True)
    x = np.random.default_rng(1).standard_normal((81, 16)).astype(np.float32)
    np.savez(tmp_path / "recipes/data/train.npz", x=x, y=network().forward(x)[-1].argmax(axis=1))
    (tmp_path / "recipes/recipe.toml").write_text(RECIPE)
    return tmp_path


def accuracy(model, data):
    return model.judge(data, named("cross_entropy"))["accuracy"]


def scan(folder, *options):
    return "scan", folder / "model.onnx", "--recipe", folder / "recipes/recipe.toml", *options


def search(folder, method="uniform", *options, budget=0.6, out="found.toml"):
    return ("search", folder / "model.onnx", "--recipe", folder / "recipes/recipe.toml",
            "--method", method, "--budget", budget, "-o", folder / out, *options)


def change(folder, text):
    (folder / "recipes/recipe.toml").write_text(text)


# --- scan ---

def test_scan_as_json(cli, folder):
    done = cli(*scan(folder, "--json"))
    assert (done.code, done.stderr) == (0, "")
    densities, found = done.json["densities"], done.json["accuracy"]
    assert (len(densities), densities[0], densities[-1]) == (10, 0.02, 1)
    assert list(found) == ["fc1", "fc2", "fc3"]
    data = read_data(folder / "recipes/data/train.npz")
    cut = OneShot(read(folder / "model.onnx"), granularity("element"))
    for name, values in found.items():
        assert values == [accuracy(cut({name: each}), data) for each in densities]
        assert values[-1] == 1


def test_scan_cuts_as_the_recipe_says(cli, folder):
    plain = cli(*scan(folder, "--json")).json["accuracy"]
    change(folder, RECIPE + 'granularity = "row"\ncriterion = "wanda"\ndensity = 0.3\n')
    cut = OneShot(read(folder / "model.onnx"), granularity("row"), "wanda",
                  read_data(folder / "recipes/data/train.npz"))
    found = cli(*scan(folder, "--json")).json["accuracy"]
    assert found != plain
    assert found["fc1"][4] == accuracy(cut({"fc1": 50 ** (-5 / 9)}),
                                       read_data(folder / "recipes/data/train.npz"))


def test_scan_as_a_table(cli, folder):
    done = cli(*scan(folder))
    assert (done.code, done.stderr) == (0, "")
    for text in ("in %", "fc1", "fc3", "11.4"):
        assert text in done.stdout


@pytest.mark.parametrize("name", ["curves.svg", "curves.html"])
def test_scan_as_a_plot(cli, folder, name):
    assert cli(*scan(folder, "--plot", folder / name, "-q")) == (0, "", "")
    text = (folder / name).read_text()
    assert "</svg>" in text
    assert text.startswith("<svg" if name.endswith("svg") else "<!doctype html>")
    for word in ("fc1", "fc2", "fc3", "accuracy"):
        assert f">{word}<" in text


# --- search ---

@pytest.mark.parametrize("method", METHODS)
def test_what_is_found_is_a_recipe_within_the_budget(cli, folder, method):
    (folder / "out").mkdir()
    done = cli(*search(folder, method, *METHODS[method], "--json", out="out/found.toml"))
    assert (done.code, done.stderr) == (0, "")
    densities, (given, cut) = done.json["densities"], done.json["networks"]
    assert (given["network"], cut["network"]) == ("given", "cut")
    assert (given["accuracy"], cut["accuracy"] < 1) == (1, True)
    assert 0.45 * given["cost"] < cut["cost"] <= 0.6 * given["cost"]

    found = read_recipe(folder / "out/found.toml")
    assert found.density == densities
    assert (found.epochs, found.seed, found.data) == (1, 3, "../recipes/data/train.npz")
    # the accuracy is that of the samples of the search, without training
    judge, _ = halves(found.samples(folder / "out"), 3)
    network_cut = OneShot(read(folder / "model.onnx"), granularity("element"))(densities)
    assert accuracy(network_cut, judge) == cut["accuracy"]

    pruned = cli("prune", folder / "model.onnx", "--recipe", folder / "out/found.toml",
                 "-o", folder / "out/pruned.onnx", "--json")
    assert pruned.code == 0
    assert [layer["density"] for layer in pruned.json["after"]] == pytest.approx(
        list(densities.values()), abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_again(cli, folder, method):
    found = []
    for _ in range(2):
        cli(*search(folder, method, *METHODS[method], "--cost", "macs", "-q"))
        found.append((folder / "found.toml").read_text())
    assert found[0] == found[1]


@pytest.mark.parametrize(("options", "least"), [
    (["--cost", "macs"], None), (["--cost", "bytes"], 600), (["--target", "eie-4"], 20)])
def test_costs(cli, folder, options, least):
    given, cut = cli(*search(folder, "uniform", *options, "--json")).json["networks"]
    if least is None:
        assert (given["cost"], cut["cost"]) == (40 * 16 + 24 * 40 + 4 * 24, 1017)
    else:
        assert given["cost"] > least
        assert cut["cost"] <= 0.6 * given["cost"]


def test_a_smaller_array_takes_more_cycles(cli, folder):
    small, large = (cli(*search(folder, "uniform", "--target", target, "--json", budget=0.9))
                    .json["networks"][0]["cost"] for target in ("eie-4", "eie-16"))
    assert small > 1.5 * large


def test_search_as_tables(cli, folder):
    done = cli(*search(folder, "uniform", "--cost", "macs"))
    assert (done.code, done.stderr) == (0, "")
    for text in ("fc1", "fc3", "given", "cut", "macs", "41 samples"):
        assert text in done.stdout


def test_densities_of_the_given_recipe_do_not_matter(cli, folder):
    cli(*search(folder, "uniform", "--cost", "macs", "-q"))
    expected = (folder / "found.toml").read_text()
    change(folder, RECIPE + "[density]\nunknown = 0.5\n")
    assert cli(*search(folder, "uniform", "--cost", "macs", "-q")).code == 0
    assert (folder / "found.toml").read_text() == expected


def test_the_path_of_rewind_moves_too(cli, folder):
    change(folder, RECIPE + 'rounds = 2\nrewind = "../model.onnx"\n')
    cli(*search(folder, "uniform", "--cost", "macs", "-q"))
    found = read_recipe(folder / "found.toml")
    assert (found.rewind, found.rounds) == ("model.onnx", 2)


def test_a_regression_is_judged_by_its_loss(cli, folder):
    data = np.load(folder / "recipes/data/train.npz")
    np.savez(folder / "line.npz", x=data["x"], targets=network().forward(data["x"])[-1])
    options = ("--data", folder / "line.npz", "--loss", "mse", "--json")
    found = cli(*scan(folder, *options, "--plot", folder / "a.svg")).json
    assert set(found) == {"densities", "loss"}
    assert found["loss"]["fc1"][0] > found["loss"]["fc1"][-1] == pytest.approx(0, abs=1e-9)
    assert ">loss<" in (folder / "a.svg").read_text()
    done = cli(*search(folder, "netadapt", "--cost", "macs", *options))
    assert (done.code, done.stderr) == (0, "")
    given, cut = done.json["networks"]
    assert 0 <= given["loss"] < cut["loss"]
    assert read_recipe(folder / "found.toml").data == "line.npz"
    assert read_recipe(folder / "found.toml").loss == "mse"


# --- bad input ---

@pytest.mark.parametrize(("method", "options", "budget", "message"), [
    ("grid", [], 0.4, "no method 'grid'; choose one of uniform, sensitivity, netadapt, amc, rando"),
    ("uniform", ["--cost", "watts"], 0.4, "no cost 'watts'; choose one of cycles, bytes, macs"),
    ("uniform", ["--target", "eie-5"], 0.4, "no configuration 'eie-5'; choose one of eie-4,"),
    ("uniform", ["--target", "tc-64"], 0.4, "in cycles is not known of tc-64; name a configura"),
    ("uniform", ["--target", "eie-4", "--cost", "macs"], 0.4, "is for cycles and bytes; leave it"),
    ("uniform", ["--evaluations", 9], 0.4, "--evaluations is for amc and random; leave it out"),
    ("random", ["--evaluations", 0], 0.4, "--evaluations must be 1 or more, not 0"),
    ("uniform", [], 0, "--budget must be above 0 and at most 1, not 0.0"),
    ("uniform", [], 1.5, "--budget must be above 0 and at most 1, not 1.5"),
    ("uniform", [], float("nan"), "--budget must be above 0 and at most 1, not nan"),
    *((method, ["--cost", "macs", *options], 0.001, "budget of 1.696 is below ")
      for method, options in METHODS.items()),
])
def test_options_that_cannot_be(refused, folder, method, options, budget, message):
    assert message in refused(*search(folder, method, *options, budget=budget))


@pytest.mark.parametrize(("text", "message"), [
    ("density = 0.5\n", "recipe.toml: accuracy needs samples with their classes; add data."),
    ('data = "none.npz"\n', "none.npz: there is no such file; write it with numpy.savez"),
    ('data = "data/train.npz"\nepoch = 3\n', "unknown key 'epoch'"),
    (RECIPE + 'granularity = "2:4"\n', "'2:4' says how many weights stay, and leaves no ratio"),
    (RECIPE + 'granularity = "neuron"\n', "granularity 'neuron' takes units out of the network"),
    (RECIPE + 'criterion = "largest"\n', "criterion 'largest'"),
    (RECIPE + 'granularity = "banks"\nsize = 8\n', "layer fc3 has 4 outputs, too few for 8 banks"),
])
def test_recipes_that_cannot_be_searched(refused, folder, text, message):
    change(folder, text)
    for command in (scan(folder), search(folder)):
        assert message in refused(*command)


def test_data_of_another_network(refused, folder):
    np.savez(folder / "recipes/data/train.npz", x=np.ones((9, 15)), y=np.arange(9) % 4)
    for command in (scan(folder), search(folder)):
        assert "x is [9, 15], but the model takes 16 values per sample" in refused(*command)


def test_a_single_sample(refused, folder):
    np.savez(folder / "recipes/data/train.npz", x=np.ones((1, 16)), y=[0])
    assert "give 2 samples or more" in refused(*search(folder))


def test_a_convolution_on_an_array(refused, folder):
    layer = Conv2d("conv", np.ones((4, 1, 1, 1), np.float32), np.zeros(4, np.float32), "none",
                   (1, 4, 4), (1, 1), (0, 0, 0, 0), (1, 1))
    last = Linear("fc", np.ones((4, 64), np.float32), np.zeros(4, np.float32), "none")
    to_onnx(Network((layer, last)), folder / "model.onnx")
    assert "layer conv is a convolution; the EIE array takes" in refused(*search(folder))


@pytest.mark.parametrize(("command", "message"), [
    (lambda folder: search(folder, out="found.txt"), "give a name that ends in .toml"),
    (lambda folder: search(folder, out="missing/found.toml"), "missing does not exist"),
    (lambda folder: scan(folder, "--plot", folder / "a.png"), "ends in .svg or .html"),
    (lambda folder: scan(folder, "--plot", folder / "missing/a.svg"), "missing does not exist"),
])
def test_outputs_that_cannot_be_written(refused, folder, command, message):
    assert message in refused(*command(folder))
