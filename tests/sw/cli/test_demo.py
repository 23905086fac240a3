"""``demo`` on a network that is trained by nobody and a few images."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.compiler.program import Program
from zeroskip.sw.experiments import digits
from zeroskip.sw.formats import nm
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.pipeline import Stage


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(10, 64)).astype(np.float32) * (rng.random((10, 64)) < 0.2)
    module = of(weight)
    data = Data(rng.random((5, 64)).astype(np.float32), rng.integers(0, 10, 5))
    stages = [Stage(name, 0.2, {"fc": 0.2}, 0.1) for name in ("dense", "pruned", "shared")]
    halved = of(np.where(nm.mask(weight, "2:4"), weight, 0))
    monkeypatch.setattr(digits, "run_linear", lambda progress: (module, stages))
    monkeypatch.setattr(digits, "run_convolutional", lambda progress: (halved, stages))
    monkeypatch.setattr(digits, "load", lambda: (data, data))


def of(weight):
    """One layer."""
    module = nn.Linear(64, 10)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight))
        module.bias.zero_()
    return module


def test_demo_writes_a_report_and_a_program_that_runs(cli, tmp_path):
    done = cli("demo", "-o", tmp_path / "demo", "--backend", "python", "--json")
    assert (done.code, done.stderr) == (0, "")
    assert json.loads((tmp_path / "demo/report.json").read_text()) == done.json
    assert done.json["bit_exact"]
    assert [model["engine"] for model in done.json["models"]] == ["eie", "tensorcore"]
    for model in done.json["models"]:
        assert (model["simulator"], model["images"], model["outputs_compared"]) == ("python", 5, 50)
        assert model["speedup"] > 1
        program = tmp_path / "demo" / model["engine"] / "digits.zsk"
        assert Program.load(program).input.size == 64
        verified = cli("verify", program, "--input", tmp_path / "demo/digits.npy",
                       "--backend", "golden,python", "--model", program.with_suffix(".onnx"), "-q")
        assert verified == (0, "", "")
    page = (tmp_path / "demo/report.html").read_text()
    assert page.count("<svg") == 8


def test_demo_takes_hardware_only(cli, tmp_path):
    done = cli("demo", "-o", tmp_path / "demo", "--backend", "golden")
    assert (done.code, done.stdout) == (2, "")
    assert "'golden' runs no hardware; choose one of python" in done.stderr
    assert not (tmp_path / "demo").exists()
