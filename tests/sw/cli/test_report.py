"""``run --report``: a page that needs nothing else, whose figures are those of the run."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

import zeroskip
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.runtime.facts import steps

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed, and keeps the tables' cells by row."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.links = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1][-1] += data


def check(path):
    """A page that is whole and links to nothing; its rows."""
    text = path.read_text()
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert all(link.startswith("#") for link in page.links)
    assert not re.findall(r"<script|<link|<img|<iframe|@import|url\((?!#)", text)
    addresses = re.findall(r"https?://[^\"' ]+", text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    (picture,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    drawn = ["".join(each.itertext()).strip() for each in ElementTree.fromstring(picture).iter()
             if each.tag.endswith("}text")]
    return page.rows, drawn


def run(folder, *options):
    return ("run", folder / "model.zsk", "--input", folder / "x.npy", "-o", folder / "y.npy",
            "--report", folder / "page.html", *options)


def test_a_page_of_a_run(cli, folder):
    done = cli(*run(folder, "--backend", "cxxrtl", "--json", "--model", folder / "model.onnx"))
    assert (done.code, done.stderr) == (0, "")
    rows, drawn = check(folder / "page.html")
    layers = [row for row in rows if row[1:2] == ["eie, eie-4"]]
    (step,) = steps(Program.load(folder / "model.zsk"))
    assert [row[2] for row in layers] == ["fc1", "fc2"]
    assert [row[5:7] for row in layers] == [
        [f"{layer.multiplications:,.0f}", f"{layer.bytes:,}"] for layer in step.layers]
    assert [float(row[4].rstrip("%")) / 100 for row in layers] == pytest.approx(
        [layer.density for layer in step.layers], abs=1e-3)
    # counted together, so they stand in the first row alone
    assert layers[0][7] == f"{done.json['cycles_per_image']:,.0f}"
    assert layers[0][8] == f"{done.json['utilisation']:.1%}"
    assert layers[0][10] == str(done.json["outputs_saturated"])
    assert [len(row) for row in layers] == [12, 8]
    assert all(0 < float(row[-1]) < 1 for row in layers)
    assert ["the host's share of all operations", "0.00%"] in rows
    assert "fc1 to fc2, 2 layers" in drawn


def test_the_worst_difference_is_that_of_golden_and_the_float_layer(cli, folder):
    """Of the first layer, whose inputs are the samples as integers have them."""
    assert cli(*run(folder, "--backend", "golden", "--model", folder / "model.onnx")).code == 0
    rows, _ = check(folder / "page.html")
    program = zeroskip.load(folder / "model.zsk")
    from zeroskip.sw.frontends.load import read
    from zeroskip.sw.runtime.run import run_program
    layer = read(folder / "model.onnx").layers[0].layer
    x = np.load(folder / "x.npy")
    traced = run_program(program.program.traced(), program._backend("golden"),
                         program._inputs([x]).buffers)
    kinds = traced.program.buffers
    real = kinds["input"].to_float(traced.buffers["input"])
    wanted = layer.forward(real.astype(np.float32))
    error = np.abs(wanted - kinds["fc1"].to_float(traced.buffers["fc1"])).max()
    (found,) = [row[-1] for row in rows if row[2:3] == ["fc1"]]
    assert float(found) == pytest.approx(error, rel=1e-2)


def test_without_a_model_or_counters_there_are_dashes(cli, folder):
    assert cli(*run(folder, "--backend", "golden", "-q")) == (0, "", "")
    rows, _ = check(folder / "page.html")
    first, second = [row for row in rows if row[1:2] == ["eie, eie-4"]]
    assert (first[7:10], first[-1], second[-1]) == (["-"] * 3, "-", "-")


@pytest.mark.parametrize(("options", "message"), [
    (("--report", "page.pdf"), "page.pdf: a report is a page; give a name that ends in .html"),
    (("--report", "none/page.html"), "the folder none does not exist"),
    (("--model", "model.onnx"), "--model is the float model that a report compares with; add"),
    (("--report", "page.html", "--model", "model.pt2"), "only an ONNX model can be run beside"),
    (("--report", "page.html", "--model", "x.npy"), "is no model file by its name"),
])
def test_what_is_refused_before_the_run(refused, folder, monkeypatch, options, message):
    monkeypatch.chdir(folder)
    assert message in refused("run", "model.zsk", "--input", "x.npy", "-o", "y.npy", *options)
