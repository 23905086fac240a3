"""What the README shows as code runs, and is true."""

import re
import textwrap
from pathlib import Path

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program

README = Path(__file__).parents[1] / "README.md"


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

    lines = re.search(r"^    import json, numpy.*? else y$", README.read_text(), re.S | re.M)[0]
    names = {}
    exec(textwrap.dedent(lines), names)
    golden = GoldenBackend(compiled.program, compiled.reference)
    expected = run_program(compiled.program, golden, integers).output
    np.testing.assert_array_equal(names["y"], expected)


def test_every_command_of_the_readme_exists():
    from typer.main import get_command

    from zeroskip.sw.cli.main import app

    known = get_command(app).commands
    named = set(re.findall(r"zeroskip ([a-z]+)", README.read_text()))
    assert named <= set(known)
    assert set(known) - {"demo"} <= named
    benches = re.findall(r"^    zeroskip bench ([a-z]+)", README.read_text(), re.MULTILINE)
    assert sorted(benches) == sorted(known["bench"].commands)
