"""``bench eie``, ``bench scaling`` and ``bench ablation`` on small layers, or on no array."""

import os
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import scipy.sparse

from zeroskip.sw.experiments import benchmarks
from zeroskip.sw.experiments.benchmarks import Figures
from zeroskip.sw.experiments.layers import NINE, PaperLayer

ROW = ["layer", "mode", "mask", "pes", "ideal_cycles", "cycles", "model_cycles", "utilisation",
       "bits_per_nonzero", "loss", "exact", "speedup", "paper_cycles", "paper_utilisation"]
CAUSES = ["padding", "empty", "fill", "full", "tail"]


@pytest.fixture
def small(cli, monkeypatch):
    """``small(*options)`` runs ``bench eie`` on 4 PEs, on two small layers of known names."""
    layers = {name: PaperLayer(name, inputs, outputs, 0.2, 0.5, 1.0, 1.25, 0.77)
              for name, inputs, outputs in (("Alex-6", 40, 24), ("NT-We", 30, 300))}
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with mock.patch.dict(NINE, layers, clear=True):
        yield lambda *options: cli("bench", "eie", "--pes", "4", "--backend", "python", *options)


@pytest.fixture
def fake(monkeypatch):
    """Jobs end at once, in the order of the list that this fixture gives, filled with them."""
    asked = []

    def run_jobs(jobs, _backend):
        asked.extend(jobs)
        for number, job in reversed(list(enumerate(jobs))):
            cycles = {"paper": 1000}.get(job.mode, 800) + number
            yield number, Figures(600.0, cycles, cycles + 4, 600 / cycles, 10.0,
                                  dict.fromkeys(CAUSES, (1 - 600 / cycles) / 5), exact=True)
    monkeypatch.setattr(benchmarks, "run_jobs", run_jobs)
    return asked


def test_eie_as_json(small):
    done = small("--mask", "skewed", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert set(done.json) == {"rows", "means"}
    rows = done.json["rows"]
    assert [list(row) for row in rows] == [ROW] * 4
    assert [(row["layer"], row["mode"], row["mask"], row["pes"]) for row in rows] == [
        (layer, mode, "skewed", 4) for layer in ("Alex-6", "NT-We")
        for mode in ("paper", "zeroskip")]
    for row in rows:
        assert row["exact"] is True
        assert row["utilisation"] == pytest.approx(row["ideal_cycles"] / row["cycles"])
        assert list(row["loss"]) == CAUSES
        assert row["utilisation"] + sum(row["loss"].values()) == pytest.approx(1)
        assert (row["paper_cycles"], row["paper_utilisation"]) == (1000, 0.77)
    for base, ours in (rows[:2], rows[2:]):
        assert base["ideal_cycles"] == ours["ideal_cycles"]
        assert base["speedup"] == 1
        assert ours["speedup"] == base["cycles"] / ours["cycles"] > 1
    means = done.json["means"]
    assert [(mean["mode"], mean["mask"]) for mean in means] == [
        ("paper", "skewed"), ("zeroskip", "skewed")]
    assert means[1]["speedup"] ** 2 == pytest.approx(rows[1]["speedup"] * rows[3]["speedup"])


def test_eie_as_tables(small):
    done = small("--layers", "Alex-6", "--mask", "skewed")
    assert done.code == 0
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        f"Alex-6, skewed, {mode}, 4 PEs" for mode in ("paper", "zeroskip")]
    assert "Alex-6" in done.stdout
    assert "NT-We" not in done.stdout
    assert "where the PE-cycles went" in done.stdout
    assert "geometric means" in done.stdout
    assert "equals the integer reference in 2 of 2 runs" in done.stdout


def test_eie_takes_all_layers_both_modes_and_two_masks(cli, fake):
    rows = cli("bench", "eie", "--json").json["rows"]
    asked = [(row["layer"], row["mask"], row["mode"]) for row in rows]
    assert asked == [(layer, mask, mode) for layer in NINE for mask in ("random", "skewed")
                     for mode in ("paper", "zeroskip")]
    assert asked == [(job.layer, job.mask, job.mode) for job in fake]
    assert [job.balance for job in fake] == [job.mode == "zeroskip" for job in fake]
    assert len({job.config for job in fake}) == 2
    assert [row["cycles"] for row in rows[:3]] == [1000, 801, 1002]


def test_eie_in_one_mode_has_no_speedup(cli, fake):
    rows = cli("bench", "eie", "--mode", "zeroskip", "--mask", "balanced", "--layers",
               "NT-We, NT-Wd", "--json").json["rows"]
    assert [(row["layer"], row["speedup"]) for row in rows] == [("NT-We", None), ("NT-Wd", None)]
    assert cli("bench", "eie", "--mode", "zeroskip").code == 0
    assert {job.mode for job in fake} == {"zeroskip"}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_eie_as_a_plot(cli, tmp_path, suffix):
    path = tmp_path / f"plot{suffix}"
    assert cli("bench", "eie", "--layers", "VGG-6,NT-We", "--plot", path, "-q") == (0, "", "")
    text = path.read_text()
    assert text.startswith("<svg" if suffix == ".svg" else "<!doctype html>")
    assert text.count("<svg") == 1
    for words in ("VGG-6, random, paper", "NT-We, skewed, zeroskip", "padding entries",
                  "useful in the paper"):
        assert words in text


def test_eie_of_a_matrix_in_both_modes(small, tmp_path):
    path = tmp_path / "mine.npz"
    rng = np.random.default_rng(3)
    scipy.sparse.save_npz(path, scipy.sparse.random_array((40, 30), density=0.2, rng=rng))
    done = small("--matrix", path, "--plot", tmp_path / "plot.svg", "--json")
    assert (done.code, done.stderr) == (0, "")
    rows = done.json["rows"]
    assert [(row["layer"], row["mask"], row["mode"], row["exact"]) for row in rows] == [
        ("mine", "given", "paper", True), ("mine", "given", "zeroskip", True)]
    assert rows[0]["paper_cycles"] is rows[0]["paper_utilisation"] is None
    assert "in the paper" not in (tmp_path / "plot.svg").read_text()


def test_eie_of_a_matrix_without_work(small, tmp_path):
    path = tmp_path / "none.npz"
    scipy.sparse.save_npz(path, scipy.sparse.csr_array((5, 6)))
    done = small("--matrix", path, "--mode", "zeroskip", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["rows"][0]["utilisation"] == 0
    assert done.json["means"][0]["utilisation"] is None


def test_an_output_that_is_not_exact_fails(small, monkeypatch):
    run_job = benchmarks.run_job
    monkeypatch.setattr(benchmarks, "run_job", lambda job, backend: replace(
        run_job(job, backend), exact=job.mode == "paper"))
    done = small("--layers", "Alex-6", "--mask", "random", "--json")
    assert (done.code, done.stderr) == (1, "")
    assert [row["exact"] for row in done.json["rows"]] == [True, False]


@pytest.mark.parametrize(("options", "message"), [
    (["--layers", "Alex-9"], "there is no layer 'Alex-9'; choose from Alex-6, Alex-7, "),
    (["--layers", "Alex-6,"], "there is no layer ''; choose from Alex-6, "),
    (["--mode", "fast"], "there is no mode 'fast'; choose from paper, zeroskip"),
    (["--mask", "random,even"], "there is no mask 'even'; choose from random, skewed, balanced"),
    (["--pes", "0"], "--pes must be 1 to 256, not 0"),
    (["--pes", "257"], "--pes must be 1 to 256, not 257"),
    (["--matrix", "x.npz", "--layers", "Alex-6"], "leave out --layers and --mask"),
    (["--matrix", "x.npz", "--mask", "random"], "leave out --layers and --mask"),
    (["--matrix", "x.npz"], "x.npz: there is no such file; write one with"),
    (["--plot", "plot.png"], "plot.png: a plot is a picture or a page; give a name that ends in"),
    (["--plot", "nowhere/plot.svg"], "the folder nowhere does not exist; make it first"),
    (["--backend", "golden"], "'golden' runs no hardware; choose one of python"),
])
def test_eie_refuses(cli, fake, options, message):
    done = cli("bench", "eie", *options)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert fake == []


def test_scaling(cli, fake):
    done = cli("bench", "scaling", "--json")
    assert (done.code, done.stderr) == (0, "")
    rows = done.json["rows"]
    both, three = ["paper", "zeroskip"], ["paper", "zeroskip", "zeroskip, one group"]
    assert [(row["layer"], row["pes"], row["mode"]) for row in rows] == [
        (layer, pes, mode) for layer in ("Alex-7", "NT-We") for pes in (1, 4, 16, 64, 128, 256)
        for mode in (three if pes >= 64 else both)]
    assert [job.config.groups for job in fake[:15]] == [1, 1] * 3 + [1, 4, 1] * 3
    assert {job.mask for job in fake} == {"random"}
    table = cli("bench", "scaling", "--layers", "NT-LSTM").stdout
    assert table.count("NT-LSTM") == 15


@pytest.mark.usefixtures("fake")
def test_ladder(cli):
    done = cli("bench", "ablation", "--layers", "NT-We,NT-LSTM", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert len(done.json["rows"]) == 9 * 2 * 2
    means = done.json["means"]
    assert [mean["mask"] for mean in means] == ["random", "skewed"] * 9
    assert means[0]["mode"] == "paper"
    assert means[-1]["mode"] == "+ column groups"
    first, second = (row["utilisation"] for row in done.json["rows"][:2])
    assert means[0]["utilisation"] == pytest.approx((first * second) ** 0.5)
    assert "one improvement after another" in cli("bench", "ablation", "--layers", "NT-We").stdout


@pytest.mark.parametrize("command", ["scaling", "ablation"])
def test_scaling_and_ladder_refuse(cli, fake, command):
    done = cli("bench", command, "--layers", "NT-We,Alex")
    assert (done.code, done.stdout) == (2, "")
    assert "there is no layer 'Alex'; choose from Alex-6" in done.stderr
    assert fake == []
