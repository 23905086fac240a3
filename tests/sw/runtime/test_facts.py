"""What is told of a program and of its run is what it does, counted by hand."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import zeroskip
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.compiler.program import Builder, Port, Program
from zeroskip.sw.compiler.targets import name_of
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.graph.session import Session
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import backends, facts
from zeroskip.sw.runtime.run import run_program

torch.set_num_threads(1)


class Net(nn.Module):
    """A convolution, an operator of the host, and two fully-connected layers behind it."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(2, 4, 3), nn.Linear(64, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.b(torch.relu(self.a(torch.tanh(self.conv(x)).flatten(1))))


@pytest.fixture(scope="module")
def compiled():
    """A program whose second layer is 2:4, and 8 samples."""
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(8, 2, 6, 6)
    with torch.no_grad():
        net.a.weight.view(8, 16, 4)[:, :, 2:] = 0
    return zeroskip.compile(net, x, target="tc-8", engine="tensorcore"), x.numpy()


@pytest.fixture(scope="module")
def ran(compiled):
    """What a run in RTL gave, and what is told of it."""
    program, x = compiled
    run = run_program(program.program, backends.rtl(backends.default()),
                      program._inputs([x]).buffers)
    return run, facts.steps(program.program, run.results, [0.25, 0.5, 0.125])


def test_layers(ran):
    layers = [layer for step in ran[1] for layer in step.layers]
    assert [(each.name, each.shape, each.pattern, each.multiplications, each.bytes, each.error)
            for each in layers] == [
        ("conv", [4, 18], "dense", 16 * 4 * 18, 72, 0.25),
        ("a", [8, 64], "2:4", 8 * 64, 256 + 64, 0.5), ("b", [5, 8], "dense", 40, 40, 0.125)]
    assert 0.9 < layers[0].density <= 1
    assert 0.45 < layers[1].density <= 0.5


def test_counts_are_those_of_the_counters(ran):
    run, steps = ran
    counters = [layer for result in run.results for layer in result.statistics.layers]
    layers = [layer for step in steps for layer in step.layers]
    counts = [each for step in steps for each in step.counts]
    assert [each.layers for each in counts] == [1, 1, 1]
    for each, counted, layer in zip(counts, counters, layers, strict=True):
        assert each.cycles == counted["cycles"] / 8
        assert each.utilisation == counted["useful"] / (8 * counted["cycles"])
        assert each.speedup == pytest.approx(layer.multiplications / (8 * each.cycles))
        assert each.saturated == counted["saturated"]
    assert 1.6 < counts[1].speedup < 2 < counts[1].speedup + 0.4
    assert 0 < counts[0].speedup < 1


def test_saturated_outputs_of_each_layer():
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    program = zeroskip.compile(nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 5)).eval(), x,
                               target="tc-8", engine="tensorcore")
    with pytest.warns(UserWarning, match="far outside"):
        given = program._inputs([20 * x])
    run = run_program(program.program, backends.rtl(backends.default()), given.buffers)
    found = [each.saturated for step in facts.steps(program.program, run.results)
             for each in step.counts]
    assert found[0] > 0
    assert sum(found) == sum(result.saturated for result in run.results)


def test_the_host(ran):
    _, steps = ran
    host = [(step.operators, step.operations) for step in steps if step.engine == "host"]
    # sums become real values at the head of the model
    assert host == [(("Cast", "Mul", "Tanh"), 192), (("convert",), 64)]
    # int32 to float32, float32 to int8
    assert [step.moved for step in steps if step.engine == "host"] == [64 * 8, 64 * 5]
    assert [step.moved for step in steps if step.layers] == [72 + 256, 64 + 8 + 5]


def test_totals(ran):
    run, steps = ran
    sums = facts.totals(steps)
    work = 16 * 4 * 18 + 8 * 64 + 40
    cycles = sum(result.statistics.cycles for result in run.results) / 8
    assert (sums.multiplications, sums.operations) == (work, 256)
    assert sums.host_operations == 256 / (work + 256)
    assert sums.host_moved == 64 * 13 / (64 * 13 + 405)
    assert sums.cycles == cycles
    assert sums.speedup == pytest.approx(work / 8 / cycles)


def test_without_a_run_nothing_is_counted(compiled):
    steps = facts.steps(compiled[0].program)
    assert {each for step in steps for each in step.counts} == {facts.Counts(1), facts.Counts(2)}
    assert facts.totals(steps).cycles is None
    assert facts.totals(steps).speedup is None


def test_golden_counts_saturated_outputs_only(compiled):
    program, x = compiled
    run = run_program(program.program, program._backend("golden"), program._inputs([x]).buffers)
    counts = [each for step in facts.steps(program.program, run.results) for each in step.counts]
    assert [each.layers for each in counts] == [1, 2]
    assert [each.saturated for each in counts] == [result.saturated for result in run.results]
    assert {each.cycles for each in counts} == {None}


def test_layers_of_an_array_are_counted_together():
    """And an array of a configuration that has no name has its digest."""
    layers = random_layers(np.random.default_rng(5), (7, 9, 6), 0.6)
    image = compile_layers(layers, EIEConfig(pes=2))
    program = Program.chain((image,), layers)
    x = np.random.default_rng(6).integers(-99, 99, (3, 7)).astype(np.int16)
    run = run_program(program, backends.rtl("python"), x)
    (step,), (result,) = facts.steps(program, run.results), run.results
    (count,), statistics = step.counts, result.statistics
    assert step.target == name_of(image.config) == image.config.digest()
    assert [layer.pattern for layer in step.layers] == ["unstructured"] * 2
    assert [layer.bytes for layer in step.layers] == [layer.entries for layer in image.layers]
    assert (count.layers, count.cycles) == (2, statistics.cycles / 3)
    assert count.utilisation == pytest.approx(
        statistics.pe["useful"].sum() / (2 * statistics.cycles))
    assert count.speedup == pytest.approx((7 * 9 + 9 * 6) * 3 / (2 * statistics.cycles))
    assert count.saturated == statistics.saturated


def test_bytes_of_layers_are_those_of_the_image(compiled):
    for image in compiled[0].program.images:
        sizes = image.storage()
        assert sum(image.stored(layer)[1] for layer in image.layers) == \
            sizes["weights"] + sizes["indices"]


NODES = {
    "MatMul": (((3, 4), (4, 5)), (3, 5), 60), "Gemm": (((3, 4), (4, 5)), (3, 5), 60),
    "Conv": (((1, 2, 5, 5), (6, 2, 3, 3)), (1, 6, 3, 3), 54 * 18),
    "ConvTranspose": (((1, 2, 5, 5), (2, 6, 3, 3)), (1, 6, 7, 7), 50 * 54),
    "Relu": (((3, 4),), (3, 4), 12), "Add": (((3, 4), (3, 4)), (3, 4), 12),
    "GRU": (((7, 2, 4), (1, 9, 4), (1, 9, 3)), (7, 1, 2, 3), 14 * (36 + 27)),
}


@pytest.mark.parametrize("operator", NODES)
def test_operations_of_operators(operator):
    shapes, shape, operations = NODES[operator]
    fields = {"hidden_size": 3} if operator == "GRU" else {}
    names = [f"x{at}" for at in range(len(shapes))]
    model = helper.make_model(helper.make_graph(
        [helper.make_node(operator, names, ["y"], **fields)], "host",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
         for name, shape in zip(names, shapes, strict=True)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    kinds = {name: TensorType(shape, np.dtype(np.float32), 1.0)
             for name, shape in zip(names, shapes, strict=True)}
    session, made = Session(model.SerializeToString()), Builder(kinds)
    made.operators(session, names, {"y": TensorType(shape, np.dtype(np.float32), 1.0)})
    program = made.program(tuple(Port(name, "float32", name) for name in names),
                           (Port("y", "float32", "y"),), ())
    assert facts.steps(program)[0].operations == operations
