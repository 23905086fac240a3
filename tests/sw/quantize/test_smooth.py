"""Outlier channels moved into weights: the float function stays, the integers come nearer to it."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import CONFIGS
from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import read
from zeroskip.sw.graph.graph import Graph, LayerNode, OperatorNode
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.quantize import smooth
from zeroskip.sw.runtime.float_model import FloatModel
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program

CORE = CONFIGS["tc-8"]
GRID = registry.engine("tensorcore").grid
CHANNELS = 12
node = helper.make_node


def model(path, nodes, weights, outputs=("y",)):
    """A graph of tokens x [1, 3, CHANNELS], whose ``s`` and ``b`` are a layer norm's, with
    outliers in two channels."""
    rng = np.random.default_rng(5)
    scale, bias = rng.normal(1, 0.1, CHANNELS), rng.normal(0, 0.1, CHANNELS)
    scale[3], bias[7] = 60, -45
    held = {"s": scale, "b": bias} | {
        name: rng.normal(size=shape) / np.sqrt(shape[0]) for name, shape in weights.items()}
    for name in weights:    # as training leaves them: all channels have their say
        if weights[name][0] == CHANNELS:
            held[name][[3, 7]] /= 50
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, CHANNELS))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(each.astype(np.float32), name) for name, each in held.items()])
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(onnx.shape_inference.infer_shapes(made), path)
    return read(path)


def samples(count=16, shape=(3, CHANNELS)):
    return np.random.default_rng(6).normal(size=(count, *shape)).astype(np.float32)


def smoothed(graph, x, grid=lambda node: GRID, method="min-max"):
    return smooth.smooth(graph, {graph.inputs[0]: x.reshape(len(x), -1)}, grid, method)


def smooths(layer_node):
    return layer_node.name.endswith(":smooth")


def same_function(graph, changed, x):
    given = {graph.inputs[0]: x.reshape(len(x), -1)}
    wanted, found = (each.evaluate(given, each.outputs) for each in (graph, changed))
    for name, y in wanted.items():
        np.testing.assert_allclose(found[name], y, rtol=0, atol=2e-6 * np.abs(y).max())


NORM = node("LayerNormalization", ["x", "s", "b"], ["n"], "norm")
SQUARE = (CHANNELS, CHANNELS)
GRAPHS = {
    # nodes, weights, outputs, groups: what makes a value, and who reads it
    "norm": ([NORM, node("MatMul", ["n", "A"], ["y"])], {"A": SQUARE}, ("y",),
             [(["n"], 1)]),
    "norm without a bias": ([node("LayerNormalization", ["x", "s"], ["n"]),
                             node("MatMul", ["n", "A"], ["y"])], {"A": SQUARE}, ("y",),
                            [(["n"], 1)]),
    "several readers": (
        [NORM, node("MatMul", ["n", "A"], ["q"]), node("MatMul", ["n", "B"], ["k"]),
         node("Add", ["q", "k"], ["y"])], {"A": SQUARE, "B": SQUARE}, ("y",), [(["n"], 2)]),
    "others read it too": (
        [NORM, node("MatMul", ["n", "A"], ["h"]), node("Add", ["h", "n"], ["y"])],
        {"A": SQUARE}, ("y",), [(["n"], 1)]),
    "it is an output": ([NORM, node("MatMul", ["n", "A"], ["y"])], {"A": SQUARE}, ("y", "n"),
                        [(["n"], 1)]),
    "tokens moved": (
        [NORM, node("Transpose", ["n"], ["t"], perm=[1, 0, 2]),
         node("MatMul", ["t", "A"], ["h"]), node("Transpose", ["h"], ["u"], perm=[1, 0, 2]),
         node("Add", ["u", "n"], ["y"])], {"A": SQUARE}, ("y",), [(["n"], 1)]),
    "channels moved": (
        [NORM, node("Transpose", ["n"], ["t"], perm=[0, 2, 1]), node("MatMul", ["t", "A"], ["y"])],
        {"A": (3, 5)}, ("y",), []),
    "another axis": ([node("LayerNormalization", ["x", "s", "b"], ["n"], axis=1),
                      node("MatMul", ["n", "A"], ["y"])], {"A": SQUARE}, ("y",), []),
    "layer and ReLU": (
        [node("MatMul", ["x", "A"], ["h"]), node("Add", ["h", "b"], ["a"]),
         node("Relu", ["a"], ["r"]), node("MatMul", ["r", "B"], ["y"])],
        {"A": SQUARE, "B": SQUARE}, ("y",), [(["r"], 1)]),
    "two layers behind a norm": (
        [NORM, node("MatMul", ["n", "A"], ["h"]), node("MatMul", ["h", "B"], ["y"])],
        {"A": SQUARE, "B": SQUARE}, ("y",), [(["n"], 1), (["h"], 1)]),
    "layer that others read": (
        [node("MatMul", ["x", "A"], ["h"]), node("MatMul", ["h", "B"], ["g"]),
         node("Add", ["g", "h"], ["y"])], {"A": SQUARE, "B": SQUARE}, ("y",), []),
    "layer that is an output": (
        [node("MatMul", ["x", "A"], ["h"]), node("MatMul", ["h", "B"], ["y"])],
        {"A": SQUARE, "B": SQUARE}, ("y", "h"), []),
    "operator between": (
        [node("MatMul", ["x", "A"], ["h"]), node("Tanh", ["h"], ["t"]),
         node("MatMul", ["t", "B"], ["y"])], {"A": SQUARE, "B": SQUARE}, ("y",), []),
}


@pytest.fixture(params=GRAPHS)
def case(request, tmp_path):
    nodes, weights, outputs, groups = GRAPHS[request.param]
    if request.param == "another axis":
        nodes = [node("Flatten", ["x"], ["f"], axis=2),
                 node("LayerNormalization", ["f", "S"], ["n"], axis=0),
                 node("MatMul", ["n", "A"], ["y"])]
        weights = {**weights, "S": (3, CHANNELS)}
    return model(tmp_path / "m.onnx", nodes, weights, outputs), groups


def test_groups(case):
    graph, wanted = case
    found = smooth.groups(graph, lambda node: True)
    assert [([maker.writes[0] for maker in group.makers], len(group.nodes))
            for group in found] == wanted


def test_the_float_function_stays(case, monkeypatch):
    """Whatever the factors, and also where they are worse than none."""
    graph, _ = case
    rng = np.random.default_rng(3)
    monkeypatch.setattr(smooth, "choose", lambda rows, *rest: np.float32(
        np.exp(rng.normal(size=rows.shape[1]))))
    changed, x = smoothed(graph, samples()), samples()
    same_function(graph, changed, x)
    for old, new in zip(graph.layers, changed.layers, strict=True):
        assert smooths(new) == any(old.name in [each.name for each in group.nodes] or (
            old is group.makers[0]) for group in smooth.groups(graph, lambda node: True))
        assert np.array_equal(old.layer.weight, new.layer.weight) != smooths(new)


def test_a_norm_that_nothing_else_reads_is_replaced(tmp_path):
    for name, norms in (("several readers", 1), ("others read it too", 2)):
        nodes, weights, outputs, _ = GRAPHS[name]
        changed = smoothed(model(tmp_path / "m.onnx", nodes, weights, outputs), samples())
        assert len([each for each in changed.nodes if isinstance(each, OperatorNode)
                    and each.operator == "LayerNormalization"]) == norms


def int8_error(x, weights, factors):
    """Independently of the pass: squared error of x @ w.T where both are int8."""
    x = x.astype(float) / factors
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = (high - low) / 255
    zero = -128 + round(-low / scale)
    rounded = (np.clip(np.rint(x / scale) + zero, -128, 127) - zero) * scale
    total = 0.0
    for weight in weights:
        own = weight * factors
        unit = np.abs(own).max(axis=1, keepdims=True) / 127
        error = rounded @ (np.rint(own / unit) * unit).T - x @ own.T
        total += (error ** 2).sum()
    return total


@pytest.mark.parametrize("outlier", [1, 4, 40])
def test_the_factors_have_the_least_error_of_all_that_are_tried(outlier):
    rng = np.random.default_rng(outlier)
    x = rng.normal(size=(100, 16)).astype(np.float32)
    x[:, 5] *= outlier
    weights = [rng.normal(size=(size, 16)).astype(np.float32) for size in (6, 9)]
    greatest = np.abs(x).max(axis=0), np.abs(np.concatenate(weights)).max(axis=0)
    tried = [np.ones(16)] + [greatest[0] ** a / greatest[1] ** (1 - a)
                             for a in np.arange(10) / 10]
    errors = [int8_error(x, weights, factors) for factors in tried]
    found = smooth.choose(x, weights, GRID, "min-max")
    found = np.ones(16) if found is None else found
    assert int8_error(x, weights, found) == pytest.approx(min(errors), rel=1e-3)
    if outlier == 40:
        assert min(errors) < errors[0] / 10


def test_dead_channels_and_dead_values_have_no_factors():
    x, weight = samples(4, (8,)), np.ones((3, 8), np.float32)
    x[:, 1], weight[:, 2], x[:, 3] = 0, 0, 500
    factors = smooth.choose(x, [weight], GRID, "min-max")
    assert (factors[[1, 2]] == 1).all()
    assert smooth.choose(0 * x, [weight], GRID, "min-max") is None


def test_what_takes_no_int8_stays(tmp_path):
    nodes, weights, outputs, _ = GRAPHS["two layers behind a norm"]
    graph = model(tmp_path / "m.onnx", nodes, weights, outputs)
    changed = smoothed(graph, samples(), lambda node: None)
    assert [each.layer for each in changed.layers] == [each.layer for each in graph.layers]
    second = graph.layers[1]
    changed = smoothed(graph, samples(), lambda node: GRID if node is second else None)
    assert not any(smooths(each) for each in changed.layers)  # its maker may not change


def test_a_layer_that_several_nodes_share_stays(tmp_path):
    nodes, weights, outputs, _ = GRAPHS["two layers behind a norm"]
    graph = model(tmp_path / "m.onnx", nodes, weights, outputs)
    first, second = graph.layers
    shared = replace(graph, nodes=tuple(
        replace(each, layer=first.layer) if each is second else each for each in graph.nodes))
    assert smooth.groups(shared, lambda node: True) == []


def test_2_4_patterns_and_zeros_stay():
    rng = np.random.default_rng(0)
    layers = []
    for name, activation in (("a", "relu"), ("b", "none")):
        weight = rng.normal(size=(16, 16)).astype(np.float32)
        weight.reshape(16, 4, 4)[:, :, 1:3] = 0
        layers.append(Linear(name, weight, np.zeros(16, np.float32), activation))
    layers[0].weight[5] *= 100
    graph, x = Graph.of(Network(tuple(layers))), samples(30, (16,))
    changed = smoothed(graph, x)
    assert any(smooths(each) for each in changed.layers)
    for old, new in zip(graph.layers, changed.layers, strict=True):
        np.testing.assert_array_equal(old.layer.weight == 0, new.layer.weight == 0)
    program = compile_network(graph, x, CORE, smooth=True).program
    assert [layer.pattern for layer in program.images[0].layers] == ["2:4", "2:4"]


# --- compiled ---

def cosine(a, b):
    a, b = a.ravel().astype(float), b.ravel().astype(float)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def encoder(norm_first):
    """Two blocks of attention and layers, with the norms ahead of them or behind the sums; up to
    the last sum, or to what the last layer gives to it, which is small beside the outliers."""
    nodes, value = [], "x"
    for at in "01":
        def norm(x, name, y):
            nodes.append(node("LayerNormalization", [x, "s", "b"], [y], name))
            return y

        def block(x, y, at=at):
            """Attention of one head, and what follows it."""
            nodes.extend([
                *(node("MatMul", [x, f"{name}{at}"], [f"{name.lower()}{at}"]) for name in "QKV"),
                node("Transpose", [f"k{at}"], [f"t{at}"], perm=[0, 2, 1]),
                node("MatMul", [f"q{at}", f"t{at}"], [f"l{at}"]),
                node("Softmax", [f"l{at}"], [f"p{at}"]),
                node("MatMul", [f"p{at}", f"v{at}"], [f"c{at}"]),
                node("MatMul", [f"c{at}", f"O{at}"], [y])])

        def layers(x, y, at=at):
            nodes.extend([node("MatMul", [x, f"F{at}"], [f"f{at}"]),
                          node("Relu", [f"f{at}"], [f"r{at}"]),
                          node("MatMul", [f"r{at}", f"G{at}"], [y])])

        for kind, part in (("attention", block), ("layers", layers)):
            name = f"{kind}{at}"
            part(norm(value, name, f"{name}n") if norm_first else value, f"{name}y")
            nodes.append(node("Add", [value, f"{name}y"], [f"{name}s"]))
            value = f"{name}s" if norm_first else norm(f"{name}s", name, f"{name}n")
    nodes.append(node("Identity", [value if norm_first else "layers1y"], ["y"]))
    weights = {f"{name}{at}": SQUARE for name in "QKVO" for at in "01"}
    return nodes, weights | {f"F{at}": (CHANNELS, 24) for at in "01"} | {
        f"G{at}": (24, CHANNELS) for at in "01"}


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_with_outlier_channels_comes_nearer(tmp_path, norm_first):
    graph, x = model(tmp_path / "m.onnx", *encoder(norm_first)), samples(40)
    assert len(smooth.groups(graph, lambda node: True)) == (6 if norm_first else 5)
    flat = x.reshape(len(x), -1)
    expected = graph.evaluate({"x": flat}, ["y"])["y"]

    def channels(y):
        """Each as important as the others."""
        y, own = y.reshape(-1, CHANNELS), expected.reshape(-1, CHANNELS)
        return (y - own.mean(axis=0)) / own.std(axis=0)

    losses = []
    for option in (False, True):
        compiled = compile_network(graph, x, CORE, smooth=option)
        run = run_program(compiled.program, GoldenBackend(compiled.program, compiled.reference),
                          {"x": flat})
        found = compiled.program.output.to_float(run.output)
        losses.append(1 - cosine(channels(found), channels(expected)))
    assert losses[1] < losses[0] / 5


def test_compiled_without_gain_it_is_as_without_the_option():
    """A layer alone, which nothing precedes."""
    net = Network((Linear("a", np.eye(8, dtype=np.float32), np.zeros(8, np.float32), "none"),))
    x = samples(10, (8,))
    a, b = (compile_network(net, x, CORE, smooth=option) for option in (False, True))
    assert a.program.reference == b.program.reference


def test_layers_of_the_array_stay():
    rng = np.random.default_rng(1)
    layers = [Linear(name, np.float32(rng.normal(size=(16, 16)) * (rng.random((16, 16)) < 0.3)),
                     np.zeros(16, np.float32), "none") for name in "ab"]
    layers[0].weight[5] *= 100
    net, x = Network(tuple(layers)), samples(20, (16,))
    a, b = (compile_network(net, x, EIEConfig(pes=2), smooth=option) for option in (False, True))
    assert a.program.reference == b.program.reference


def test_a_smoothed_program_has_no_layers_to_compare_with_the_model(tmp_path):
    nodes, weights, outputs, _ = GRAPHS["norm"]
    graph, x = model(tmp_path / "m.onnx", nodes, weights, outputs), samples()
    compiled = compile_network(graph, x, CORE, smooth=True)
    compiled.save(tmp_path / "m.zsk")
    program = Program.load(tmp_path / "m.zsk")
    layers = reference.load(tmp_path / "m.reference.safetensors")
    with pytest.raises(BadInput, match="layer y:smooth has other weights than"):
        FloatModel(tmp_path / "m.onnx", program, layers)
    plain = compile_network(graph, x, CORE)
    FloatModel(tmp_path / "m.onnx", plain.program, plain.reference)


def test_with_percentiles_a_group_is_still_a_group(tmp_path):
    nodes, weights, outputs, _ = GRAPHS["several readers"]
    graph, x = model(tmp_path / "m.onnx", nodes, weights, outputs), samples(40)
    for method in ("percentile", "mse"):
        changed = smoothed(graph, x, method=method)
        same_function(graph, changed, x)
        assert all(smooths(each) for each in changed.nodes if isinstance(each, LayerNode))
