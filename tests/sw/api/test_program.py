"""``import zeroskip``: compile, call, verify, report, save, load."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zeroskip
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import to_onnx
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.graph.network import Linear, Network

torch.set_num_threads(1)


class Two(nn.Module):
    """Two inputs and two outputs, and an operator between layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, y):
        z = torch.tanh(self.a(x) + self.b(y))
        return self.c(z), z


@pytest.fixture(scope="module")
def two():
    torch.manual_seed(0)
    return Two().eval()


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(20, size)).astype(np.float32) for size in (6, 4)]


@pytest.fixture(scope="module")
def program(two, inputs):
    return zeroskip.compile(two, *inputs, target="tc-8")


def near(two, inputs, found):
    with torch.no_grad():
        expected = two(*map(torch.from_numpy, inputs))
    for y, own in zip(expected, found.values(), strict=True):
        assert own.shape == tuple(y.shape)
        assert np.abs(y.numpy() - own).max() < 0.1 * y.std()


def test_outputs_are_near_those_of_the_module(two, inputs, program):
    near(two, inputs, program(*inputs))


def test_tensors_and_names_are_taken_too(inputs, program):
    found = program(*(torch.from_numpy(x).requires_grad_() for x in inputs))
    names = [port.name for port in program.program.inputs]
    again = program(dict(zip(names, inputs, strict=True)))
    for name, y in found.items():
        np.testing.assert_array_equal(y, again[name])


def test_inputs_by_name_may_stand_in_any_order(two, inputs):
    x, y = inputs
    near(two, inputs, zeroskip.compile(two, {"y": y, "x": x}, target="tc-8")(x, y))


def test_it_is_verified_in_rtl(inputs, program):
    verdict = program.verify(*(x[:3] for x in inputs))
    assert verdict.difference is None
    assert verdict.compared == 3 * (8 + 8 + 3)


def test_the_report_has_a_row_a_layer_and_a_step_of_the_host(program):
    rows = program.report()
    assert [row["layer"] for row in rows if row["step"] == "tensorcore"] == ["a", "b", "c"]
    assert {row["target"] for row in rows if row["step"] == "tensorcore"} == {"tc-8"}
    assert any(row["step"] == "host" for row in rows)
    assert "<td>tensorcore, tc-8</td><td>a</td><td>dense</td>" in program._repr_html_()


def test_a_saved_program_computes_the_same(tmp_path, inputs, program):
    program.save(tmp_path / "two.zsk")
    again = zeroskip.load(tmp_path / "two.zsk")
    for name, y in program(*inputs).items():
        np.testing.assert_array_equal(y, again(*inputs)[name])


def test_calibration_options_are_handed_on(inputs):
    weight = np.random.default_rng(1).normal(size=(2, 8, 8)).astype(np.float32)
    weight[0, 3] *= 200
    layers = [Linear(name, each, np.zeros(8, np.float32), "none")
              for name, each in zip("ab", weight, strict=True)]
    graph, x = Graph.of(Network(tuple(layers))), np.repeat(inputs[0], 600, axis=0)
    x = np.concatenate([x, x[:, :2]], axis=1)
    x[7, 2] = 1000
    plain, other = (zeroskip.compile(graph, x, target="tc-8", **options) for options in (
        {}, {"calibration_method": "percentile", "smooth": True}))
    assert other.program.input.scale < plain.program.input.scale / 100
    assert [layer.name for layer in other.reference] == ["a:smooth", "b:smooth"]


def test_inputs_far_outside_the_calibrated_range_are_a_warning():
    """Called and verified; half of the range beyond is nothing to speak of."""
    layer = Linear("fc", np.eye(2, dtype=np.float32), np.zeros(2, np.float32), "none")
    x = np.array([[-1, 1], [0, 0.5]], np.float32)
    program = zeroskip.compile(Graph.of(Network((layer,))), x, target="tc-8")
    program(1.9 * x)
    said = "2 of 4 inputs lie far outside -1.004 to 0.9961, the range that the program takes"
    for use in (program, program.verify):
        with pytest.warns(UserWarning, match=said) as found:
            use(2.1 * x)
        assert [Path(each.filename) for each in found] == [Path(__file__)]


def test_a_file(tmp_path):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(3, 5)).astype(np.float32)
    to_onnx(Network((Linear("fc", weight, np.zeros(3, np.float32), "none"),)),
            tmp_path / "m.onnx")
    x = rng.normal(size=(9, 5)).astype(np.float32)
    y = zeroskip.compile(tmp_path / "m.onnx", x, engine="tensorcore")(x)
    assert np.abs(y - x @ weight.T).max() < 0.1


@pytest.mark.parametrize(("call", "message"), [
    (lambda program, x, y: program(x), "1 inputs are given, but the model takes 2: "),
    (lambda program, x, y: program(x, y[:3]), "arrays of different numbers of samples"),
    (lambda program, x, y: program(x[:, :5], y), "but the model takes 6 values per sample"),
    (lambda program, x, y: program(x, y, backend="fast"), "there is no backend 'fast'"),
    (lambda program, x, y: program(x * np.nan, y), "must be a finite float32"),
])
def test_bad_input(program, inputs, call, message):
    with pytest.raises(BadInput, match=message):
        call(program, *inputs)


def test_unknown_target(two, inputs):
    with pytest.raises(BadInput, match="there is no configuration 'tc-9'"):
        zeroskip.compile(two, *inputs, target="tc-9")


def test_importing_is_cheap_and_names_are_known():
    code = ("import sys, zeroskip; assert 'numpy' not in sys.modules; "
            "print(sorted(zeroskip.__all__))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['Program', 'compile', 'load', 'prune']"
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = zeroskip.train


class Across(torch.nn.Module):
    """What a sample gives depends on those before it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x):
        return torch.cumsum(self.layer(x), 0)


def test_samples_that_depend_on_one_another_are_refused():
    torch.manual_seed(0)
    with pytest.raises(BadInput, match="samples depend on one another"):
        zeroskip.compile(Across(), torch.randn(16, 8))
