"""Everyday nets in RTL: every buffer of golden and of the gateware is the same."""

import os

import pytest
import torch

from zeroskip.sw.errors import BadInput
from zeroskip.sw.experiments import model_benchmarks, reference_nets
from zeroskip.sw.experiments.everyday import NETS
from zeroskip.sw.runtime import backends

torch.set_num_threads(1)
REGRESSION = bool(os.environ.get("ZEROSKIP_REGRESSION"))
KINDS = tuple(model_benchmarks.EXPORTS) if REGRESSION else ("legacy",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_golden_and_rtl_agree(net, kind, tmp_path):
    run = model_benchmarks.run(model_benchmarks.Job(net, kind), tmp_path,
                               backends.rtl(backends.default()))
    assert run.equal
    assert run.share is None if kind == "pt2" else run.share <= 1
    assert run.compared > 0
    assert run.error < 0.1      # of int8, random weights and four samples
    assert run.cycles > 0


def test_jobs():
    assert len(model_benchmarks.jobs(None)) == 3 * len(NETS)
    job, = model_benchmarks.jobs(["resnet_18"])
    assert (job.net.name, job.export, job.samples) == ("resnet_18", "default", 1)
    with pytest.raises(BadInput, match="no net 'resnet_19'; choose from mlp, "):
        model_benchmarks.jobs(["resnet_19"])


@pytest.mark.parametrize(("name", "weights"), [
    ("ds_cnn", 23180), ("mobilenet_v1", 213586), ("resnet_8", 78042), ("autoencoder", 267928),
    ("resnet_18", 11689512), ("mobilenet_v2", 3504872)])
def test_reference_nets_have_their_size(name, weights):
    net = next(net for net in reference_nets.NETS if net.name == name)
    assert sum(each.numel() for each in net.module().parameters()) == weights
