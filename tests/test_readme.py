"""What README and docs/usage.md show as code runs, and is true."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program

ROOT = Path(__file__).parents[1]
README, USAGE = ROOT / "README.md", ROOT / "docs/usage.md"


def test_the_numpy_lines_give_the_integer_outputs(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    layers = tuple(
        Linear(f"fc{i}", (rng.normal(size=(out, inputs)) * (rng.random((out, inputs)) < 0.3))
               .astype(np.float32), rng.normal(size=out).astype(np.float32), activation)
        for i, (inputs, out, activation) in enumerate([(20, 30, "relu"), (30, 7, "none")]))
    x = rng.normal(size=(9, 20))
    compiled = compile_network(Network(layers), x, EIEConfig())
    compiled.save(tmp_path / "model.zsk")
    integers, _ = compiled.program.input.to_integer(x)
    np.save(tmp_path / "x_int16.npy", integers)
    monkeypatch.chdir(tmp_path)

    lines = re.search(r"^    import json, numpy.*? else y$", USAGE.read_text(), re.S | re.M)[0]
    names = {}
    exec(textwrap.dedent(lines), names)
    golden = GoldenBackend(compiled.program, compiled.reference)
    expected = run_program(compiled.program, golden, integers).output
    np.testing.assert_array_equal(names["y"], expected)


def test_every_command_is_shown_and_exists():
    from typer.main import get_command

    from zeroskip.sw.cli.main import app

    known = get_command(app).commands
    named = {path: set(re.findall(r"zeroskip ([a-z]+(?:-[a-z]+)*)", path.read_text()))
             for path in (README, USAGE)}
    assert named[README] < set(known)
    assert named[USAGE] | {"demo"} == set(known)
    benches = re.findall(r"^    zeroskip bench ([a-z]+)", USAGE.read_text(), re.MULTILINE)
    assert sorted(benches) == sorted(known["bench"].commands)


@pytest.mark.parametrize("path", sorted(
    (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))), ids=lambda path: path.name)
def test_every_link_and_file_that_is_named_is_there(path):
    text = path.read_text()
    links = re.findall(r"\]\(([^)#]+)", text)
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    if path.name not in ("CHANGELOG.md", "mutation.md"):   # which tell of what was
        named = re.findall(r"`((?:hw|sw|sim|fpga|tests|docs|examples)/[\w/.-]+)`", text)
        missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_the_readme_fits_a_screen():
    assert len(README.read_text().splitlines()) <= 55
