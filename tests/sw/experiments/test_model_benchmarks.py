"""Everyday nets in RTL: every buffer of golden and of the gateware is the same."""

import os

import pytest
import torch

from zeroskip.sw.experiments import model_benchmarks
from zeroskip.sw.experiments.everyday import NETS
from zeroskip.sw.runtime import backends

torch.set_num_threads(1)
REGRESSION = bool(os.environ.get("ZEROSKIP_REGRESSION"))
KINDS = tuple(model_benchmarks.EXPORTS) if REGRESSION else ("legacy",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_golden_and_rtl_agree(net, kind, tmp_path):
    run = model_benchmarks.run(net, kind, tmp_path, backends.rtl(backends.default()))
    assert run.equal
    assert run.compared > 0
    assert run.error < 0.1      # of int8, random weights and four samples
    assert run.cycles > 0
