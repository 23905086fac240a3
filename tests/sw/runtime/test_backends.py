"""The engines give the same bits in the same cycles, and say so when they cannot run."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from zeroskip.sim import cxxrtl
from zeroskip.sim.cases import make_case, random_layers
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.golden_backend import GoldenBackend


def test_all_engines_agree_bit_for_bit_and_cycle_for_cycle(digits_like):
    slow, fast = (backends.rtl(name).run(digits_like.image, digits_like.inputs)
                  for name in ("python", "cxxrtl"))
    for a, b, golden in zip(slow.outputs, fast.outputs, digits_like.expected, strict=True):
        np.testing.assert_array_equal(a, golden)
        np.testing.assert_array_equal(b, golden)
    assert slow.statistics.as_json() == fast.statistics.as_json()
    for a, b in zip(slow.times, fast.times, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not os.environ.get("ZEROSKIP_REGRESSION"), reason="a long run")
def test_cxxrtl_runs_entries_beyond_16_bits_of_reach():
    rng = np.random.default_rng(8)
    layers = random_layers(rng, (400, 300), 0.9)
    inputs = (rng.random((1, 400)) < 0.2) * rng.integers(-9, 9, (1, 400))
    case = make_case(layers, inputs, pes=1, acc_depth=512)
    assert case.image.pointers.max() > 1 << 16
    result = backends.rtl("cxxrtl").run(case.image, case.inputs)
    np.testing.assert_array_equal(result.outputs[0], case.expected[0])


@pytest.mark.skipif(not os.environ.get("ZEROSKIP_REGRESSION"), reason="a long run")
def test_cxxrtl_runs_pointers_beyond_16_bits_of_reach():
    rng = np.random.default_rng(11)
    layers = random_layers(rng, (70_000, 2), 0.001)
    inputs = (rng.random((1, 70_000)) < 0.5) * rng.integers(-9, 9, (1, 70_000))
    inputs[0, layers[0].indices.any(axis=0)] = 3
    case = make_case(layers, inputs, pes=1, block=1 << 20)
    assert case.image.config.pointers > 1 << 16
    result = backends.rtl("cxxrtl").run(case.image, case.inputs)
    np.testing.assert_array_equal(result.outputs[0], case.expected[0])


def test_progress_reaches_the_number_of_images():
    seen = []
    case = make_case(random_layers(np.random.default_rng(2), (3, 2), 0.5), np.ones((18, 3)))
    backends.rtl("python").run(case.image, case.inputs, lambda *step: seen.append(step))
    assert seen == [(0, 18), (1, 18), (17, 18), (18, 18)]


def test_a_program_of_another_reference_is_refused(digits_like):
    rng = np.random.default_rng(9)
    integers = tuple(random_layers(rng, (24, 9), 0.3))
    with pytest.raises(BadInput, match="belongs to another program"):
        GoldenBackend(digits_like.program, integers)


def test_an_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(BadInput, match="golden, python, cxxrtl, verilator"):
        backends.create("fpga", None, tuple)


def test_the_golden_engine_is_no_rtl():
    with pytest.raises(BadInput, match="'golden' runs no hardware; choose one of python, cxxrtl"):
        backends.rtl("golden")


def test_without_a_compiler_the_default_is_the_amaranth_simulator(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(cxxrtl.importlib.util, "find_spec", lambda name: None)
    assert backends.default() == "python"
    with pytest.raises(ToolMissing, match="install g"):
        cxxrtl.compiler()


def test_two_processes_may_build_the_same_model_at_once(tmp_path):
    script = textwrap.dedent("""
        from zeroskip.hw.eie.queue import ActivationQueue
        from zeroskip.hw.eie.config import EIEConfig
        from zeroskip.sim.cxxrtl import Model, build
        Model(build(lambda: ActivationQueue(EIEConfig()), "queue", "")).tick(3)
    """)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert {path.suffix for path in (tmp_path / "zeroskip/cxxrtl").iterdir()} == {".so", ".sum"}


def test_a_silent_machine_ends_in_a_timeout(digits_like):
    from zeroskip.hw.eie.array import EIE

    model = cxxrtl.Model(cxxrtl.build(lambda: EIE(digits_like.image.config), "eie",
                                       digits_like.image.config.digest()))
    with pytest.raises(TimeoutError, match="'outputs' moved 0 of 1 items"):
        model.run({}, {"outputs": 1}, patience=100)
