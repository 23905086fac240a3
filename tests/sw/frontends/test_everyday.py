"""Nets as people write them, through torch's exporter and back: the graph computes what the module
does."""

import io
import os
import warnings

import numpy as np
import pytest
import torch

from zeroskip.sw.experiments.everyday import NETS
from zeroskip.sw.frontends import clean, lift
from zeroskip.sw.frontends.load import from_torch
from zeroskip.sw.frontends.pt2_archive import rebuild
from zeroskip.sw.frontends.pt2_child import load
from zeroskip.sw.frontends.torch_frontend import to_onnx

torch.set_num_threads(1)
REGRESSION = bool(os.environ.get("ZEROSKIP_REGRESSION"))
QUICK = ("functional_mlp", "embedding")
PT2 = ("two_two",)


def some(names):
    """All nets of the regression run; without it those of ``names``."""
    return pytest.mark.parametrize(
        "net", [net for net in NETS if REGRESSION or net.name in names], ids=lambda net: net.name)


def check(graph, net):
    """Three samples, of which a run takes one."""
    module, inputs = net.module(), net.inputs(3, seed=1)
    with torch.no_grad():
        expected = module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = graph.evaluate({name: x.numpy() for name, x in zip(graph.inputs, inputs, strict=True)},
                           graph.outputs)
    for name, y in zip(graph.outputs, expected, strict=True):
        y = y.numpy().reshape(3, -1)
        assert np.abs(found[name].reshape(3, -1) - y).max() <= 1e-4 * np.abs(y).max()


@some(QUICK)
def test_module(net):
    graph = from_torch(net.module(), net.inputs(1))
    assert graph.batch == 1
    check(graph, net)


@some(PT2)
def test_pt2(net, tmp_path):
    """As exported by default, with a batch of one, and rebuilt."""
    file = io.BytesIO()
    with warnings.catch_warnings():     # torch has some to say of masks and recurrent layers
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net.module(), net.inputs(1)), file)
        (tmp_path / "model.pt2").write_bytes(rebuild(file.getvalue(), "the file"))
        program = load(tmp_path / "model.pt2")
    check(lift.lift(clean.load(to_onnx(program, ()), "the file", {}), "the file"), net)
