"""The float model beside golden: every kind of ONNX file, the bound, and what is refused."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import load
from zeroskip.sw.frontends.load import read, to_onnx
from zeroskip.sw.graph.graph import LayerNode
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.runtime import golden_network
from zeroskip.sw.runtime.arrays import inputs
from zeroskip.sw.runtime.float_model import FloatModel
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program

node = helper.make_node
KINDS = {np.dtype(np.int8): TensorProto.INT8, np.dtype(np.uint8): TensorProto.UINT8,
         np.dtype(np.int32): TensorProto.INT32, np.dtype(np.int64): TensorProto.INT64,
         np.dtype(np.float32): TensorProto.FLOAT}
SMALL = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=64, activation_words=64)


def write(path, nodes, shapes, given=np.float32, opset=21, functions=(), **constants):
    """An ONNX file from ``x``, or the inputs that have ``shapes``, to ``y``, the last node's
    output."""
    shapes = shapes if isinstance(shapes, dict) else {"x": shapes}
    last = nodes[-1].op_type
    result = np.int32 if last.endswith("Integer") else np.float32
    if last in ("QuantizeLinear", "QLinearMatMul", "QLinearConv"):
        result = constants[nodes[-1].input[2 if last == "QuantizeLinear" else 7]].dtype
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info(name, KINDS[np.dtype(given)], shape)
                        for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", KINDS[np.dtype(result)],
                                       list("nabc" if "Conv" in last else "na"))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    path.write_bytes(helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("own", 1)],
        ir_version=8, functions=functions).SerializeToString())
    return path


def opinion(path, x, *configs, shapes=None, wishes=None):
    """The opinion on what a model became, for its own inputs; they calibrate it too."""
    graph = read(path, shapes)
    quantised = all(node.layer.quantised for node in graph.layers)
    compiled = compile_network(graph, None if quantised else x, *configs or (SMALL,),
                               wishes=wishes)
    return compare(path, compiled, x, shapes=shapes)


def compare(path, compiled, x, *layers, known=True, spoil=None, shapes=None):
    """The opinion on a program whose reference is these ``layers``, its own by default; its inputs
    are ``x``, of which the opinion knows unless not ``known``, as buffers after ``spoil``."""
    layers = layers or compiled.reference
    program = replace(compiled.program, reference=compiled.program.digest(layers))
    taken = inputs(program, "x", x)
    if spoil:
        spoil(taken.buffers)
    run = run_program(program.traced(), GoldenBackend(program, layers), taken.buffers)
    return FloatModel(path, program, layers, shapes).compare(run, taken.real if known else None)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def agrees(found, layers):
    """The opinion has nothing against so many layers."""
    assert found.disagreement is None
    assert len(found.layers) == layers
    assert all(0 <= layer.share <= 1 for layer in found.layers)
    assert not any(layer.cleaned for layer in found.layers)


# --- float models ---

RNG = np.random.default_rng(0)
W, B = normal(RNG, 5, 8), 5 * normal(RNG, 5)
KERNEL = normal(RNG, 3, 2, 3, 2)
NORM = {"g": np.float32([1, -2, 0.5]), "o": np.float32([0, 1, -3]), "m": np.float32([2, 0, -1]),
        "v": np.float32([1, 4, 0.25])}
CONV = node("Conv", ["x", "K", "B"], ["h"], pads=[1, 2, 3, 0], strides=[2, 1], dilations=[1, 2])
TAIL = [node("Relu", ["h"], ["r"]), node("Flatten", ["r"], ["f"]),
        node("Gemm", ["f", "F"], ["y"], transB=1)]
IMAGE = {"K": KERNEL, "B": B[:3], "F": normal(RNG, 4, 3 * 4 * 7)}
FLOAT = {
    "gemm": (1, ("n", 8), [node("Gemm", ["x", "W", "B"], ["y"], transB=1)], {"W": W, "B": B}),
    "alpha and beta": (1, ("n", 8), [
        node("Gemm", ["x", "W", "B"], ["h"], transB=1, alpha=0.5, beta=-2.0),
        node("Relu", ["h"], ["y"])], {"W": W, "B": B}),
    "matmul and add, size unknown": (1, ("n", "size"), [
        node("MatMul", ["x", "W"], ["h"]), node("Add", ["B", "h"], ["y"])], {"W": W.T, "B": B}),
    "norm behind a linear layer": (1, ("n", 8), [
        node("Gemm", ["x", "W", "B"], ["h"], transB=1),
        node("BatchNormalization", ["h", "g", "o", "m", "v"], ["y"], epsilon=0.5)],
        {"W": W[:3], "B": B[:3], **NORM}),
    "convolution": (2, ("n", 2, 6, 7), [CONV, *TAIL], IMAGE),
    "norm behind a convolution": (2, ("n", 2, 6, 7), [
        node("Conv", ["x", "K", "B"], ["c"], pads=[1, 2, 3, 0], strides=[2, 1], dilations=[1, 2]),
        node("BatchNormalization", ["c", "g", "o", "m", "v"], ["h"]), *TAIL], {**IMAGE, **NORM}),
    "batch of 4, image of a vector": (2, (4, 84), [
        node("Reshape", ["x", "s"], ["i"]),
        node("Conv", ["i", "K", "B"], ["h"], pads=[1, 2, 3, 0], strides=[2, 1],
             dilations=[1, 2]),
        node("Relu", ["h"], ["r"]), node("Reshape", ["r", "t"], ["f"]),
        node("Gemm", ["f", "F"], ["y"], transB=1)],
        {**IMAGE, "s": np.array([4, 2, 6, 7]), "t": np.array([4, 84])}),
    "constants as nodes": (1, ("n", 8), [
        node("Constant", [], ["c"], value=numpy_helper.from_array(W)),
        node("Identity", ["c"], ["w"]), node("Dropout", ["x"], ["d"]),
        node("Gemm", ["d", "w"], ["y"], transB=1)], {}),
}


@pytest.mark.parametrize("opset", [14, 21])
@pytest.mark.parametrize("name", FLOAT)
def test_float_models(tmp_path, name, opset):
    layers, shape, nodes, constants = FLOAT[name]
    path = write(tmp_path / "m.onnx", nodes, shape, opset=opset, **constants)
    sample = [8 if size == "size" else size for size in shape[1:]]
    agrees(opinion(path, normal(np.random.default_rng(1), 10, *sample),
                   shapes={"x": (1, 8)} if "size" in shape else None), layers)


@given(seed=st.integers(0, 2**32 - 1), magnitude=st.integers(-20, 20), bias=st.integers(-8, 8),
       convolution=st.booleans(), density=st.sampled_from([0.2, 0.6, 1]), engine=st.booleans())
@example(0, 0, 20, True, 1, False)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_no_network_is_beyond_the_bound(tmp_path_factory, seed, magnitude, bias, convolution,
                                        density, engine):
    """Whatever scales its numbers have, on both engines."""
    rng = np.random.default_rng(seed)

    def linear(name, rows, columns, activation):
        weight = normal(rng, rows, columns) * (rng.random((rows, columns)) < density)
        return Linear(name, weight.astype(np.float32), normal(rng, rows) * np.float32(2.0**bias),
                      activation)
    layers, sample = [linear("b", 9, 24, "relu"), linear("c", 5, 9, "none")], (24,)
    if convolution:
        sample = 2, 6, 5
        first = Conv2d("a", normal(rng, 2, 2, 2, 3), normal(rng, 2) * np.float32(2.0**bias),
                       "relu", sample, (1, 2), (0, 2, 0, 1), (2, 1))
        layers = [first, replace(layers[0], weight=linear("", 9, first.outputs, "").weight),
                  layers[1]]
    path = tmp_path_factory.mktemp("bound") / "m.onnx"
    to_onnx(Network(tuple(layers)), path)
    x = normal(rng, 20, *sample) * np.float32(2.0**magnitude)
    configs = [EIEConfig(pes=2), SMALL] if engine else [SMALL]
    try:
        found = opinion(path, x, *configs, wishes={"[bc]": "eie"} if engine else None)
    except BadInput:    # no scale holds such a bias
        reject()
    agrees(found, len(layers))


# --- graphs ---

def conv(name, before, after, **attributes):
    return node("Conv", [before, f"{name}.weight", f"{name}.bias"], [after], name, **attributes)


def linear(name, before, after):
    return node("Gemm", [before, f"{name}.weight", f"{name}.bias"], [after], name, transB=1)


def parameters(**shapes):
    """Weights of these shapes, and biases."""
    rng = np.random.default_rng(20)
    return {f"{name}.{part}": normal(rng, *shape[:1 if part == "bias" else None])
            for name, shape in shapes.items() for part in ("weight", "bias")}


GRAPHS = {
    "residual": (("x",), (3, 8, 8), np.float32, [
        conv("stem", "x", "a", pads=[0, 1, 2, 1]), node("Relu", ["a"], ["b"]),
        node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("depthwise", "c", "d", group=8, pads=[2, 0, 0, 2]), node("Relu", ["d"], ["e"]),
        conv("point", "e", "f"), conv("skip", "c", "g"), node("Add", ["f", "g"], ["h"]),
        node("Relu", ["h"], ["i"]), node("GlobalAveragePool", ["i"], ["j"]),
        node("Flatten", ["j"], ["k"]), linear("head", "k", "y")],
        parameters(stem=(8, 3, 3, 3), depthwise=(8, 1, 3, 3), point=(6, 8, 1, 1),
                   skip=(6, 8, 1, 1), head=(5, 6))),
    "tokens": (("x",), (7,), np.int64, [
        node("Gather", ["table", "x"], ["a"]),
        node("LayerNormalization", ["a", "gain", "offset"], ["b"]),
        node("MatMul", ["b", "U"], ["c"], "up"), node("Add", ["c", "V"], ["d"]),
        node("Gelu", ["d"], ["e"]), node("MatMul", ["e", "D"], ["f"], "down"),
        node("Add", ["a", "f"], ["g"]), node("ReduceMean", ["g", "axes"], ["h"], keepdims=0),
        linear("head", "h", "y")],
        {"table": normal(RNG, 20, 8), "gain": normal(RNG, 8), "offset": normal(RNG, 8),
         "U": normal(RNG, 8, 12), "V": normal(RNG, 12), "D": normal(RNG, 12, 8),
         "axes": np.array([1]), **parameters(head=(4, 8))}),
    "two inputs": (("x", "z"), (6,), np.float32, [
        linear("left", "x", "a"), linear("right", "z", "b"), node("Add", ["a", "b"], ["c"]),
        node("Relu", ["c"], ["d"]), linear("head", "d", "y")],
        parameters(left=(9, 6), right=(9, 6), head=(4, 9))),
    "rows and views": (("x",), (4, 10), np.float32, [
        conv("row", "x", "a", group=2, strides=[2], pads=[3, 1]), node("Relu", ["a"], ["b"]),
        node("Reshape", ["b", "shape"], ["c"]), node("MatMul", ["c", "M"], ["d"], "each"),
        node("Flatten", ["d"], ["e"]), linear("head", "e", "y")],
        {"shape": np.array([-1, 9, 4]), "M": normal(RNG, 4, 5),
         **parameters(row=(6, 2, 3), head=(3, 45))}),
}
LAYERS = {"residual": ["stem", "depthwise", "point", "skip", "head"],
          "tokens": ["up", "down", "head"], "two inputs": ["left", "right", "head"],
          "rows and views": ["row", "each", "head"]}
EVERY = pytest.mark.parametrize(("name", "layer"), [
    (name, layer) for name, layers in LAYERS.items() for layer in layers])


def build(folder, name):
    """A graph's file, and inputs."""
    names, shape, dtype, nodes, constants = GRAPHS[name]
    path = write(folder / "m.onnx", nodes, dict.fromkeys(names, ("n", *shape)), dtype,
                 **constants)
    rng = np.random.default_rng(21)
    x = {each: normal(rng, 5, *shape) if dtype == np.float32 else rng.integers(0, 20, (5, *shape))
         for each in names}
    return path, x if len(x) > 1 else x["x"]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """By its name: each graph's file, what it became, and its inputs."""
    found = {}
    for name in GRAPHS:
        path, x = build(tmp_path_factory.mktemp("graph"), name)
        found[name] = path, compile_network(load.read(path), x, SMALL), x
    return found


def with_layer(compiled, name, change):
    """The reference with one layer changed."""
    return [change(layer) if layer.name == name else layer for layer in compiled.reference]


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(graphs, name):
    found = compare(*graphs[name])
    agrees(found, len(LAYERS[name]))
    assert {layer.layer for layer in found.layers} == set(LAYERS[name])


def test_a_graph_on_both_engines(tmp_path):
    path, x = build(tmp_path, "two inputs")
    model = onnx.load(path)
    (weight,) = (each for each in model.graph.initializer if each.name == "right.weight")
    values = numpy_helper.to_array(weight) * (np.random.default_rng(0).random((9, 6)) < 0.4)
    weight.CopyFrom(numpy_helper.from_array(values.astype(np.float32), weight.name))
    onnx.save(model, path)
    compiled = compile_network(read(path), x, SMALL, EIEConfig(pes=2),
                               wishes={"right": "eie"})
    assert [image.engine for image in compiled.program.images] == [
        "tensorcore", "eie", "tensorcore"]
    agrees(compare(path, compiled, x), 3)


def coarser(layer):
    if layer.raw:   # nothing is requantised: what is coarser is a weight
        return replace(layer, weight=layer.weight - layer.weight // 10)
    return replace(layer, multiplier=layer.multiplier - layer.multiplier // 10)


def biased(layer, steps=4):
    if layer.raw:   # as if each input were so many steps greater
        return replace(layer, bias=layer.bias + steps * np.abs(
            layer.weight.astype(np.int64)).sum(axis=1))
    units = np.rint(steps * 2.0**layer.shift / layer.multiplier).astype(int)
    return replace(layer, bias=layer.bias + units)


def permuted(layer):
    weight = layer.weight.copy()
    weight[1] = np.roll(weight[1], 1)
    return replace(layer, weight=weight)


@EVERY
@pytest.mark.parametrize("fault", [coarser, biased, permuted])
def test_faults_of_the_quantiser(graphs, name, layer, fault):
    path, compiled, x = graphs[name]
    found = compare(path, compiled, x, *with_layer(compiled, layer, fault)).disagreement
    assert (found.layer, found.tensor) == (layer, "output")


@pytest.mark.parametrize(("name", "layer"), [
    ("residual", "stem"), ("residual", "depthwise"), ("rows and views", "row")])
def test_padding_on_the_wrong_side(graphs, name, layer):
    def turned(own):
        top, left, bottom, right = own.geometry.padding
        return replace(own, geometry=replace(own.geometry, padding=(bottom, right, top, left)))
    path, compiled, x = graphs[name]
    found = compare(path, compiled, x, *with_layer(compiled, layer, turned)).disagreement
    assert (found.layer, found.tensor) == (layer, "output")


@pytest.mark.parametrize(("name", "layer"), [("tokens", "up")])
def test_conversions_by_the_host(graphs, monkeypatch, name, layer):
    """The first layer whose inputs are made of what operators gave."""
    def shifted(before, after, x, right=golden_network.convert):
        y, saturated = right(before, after, x)
        return (y if y.dtype.kind == "f" else np.where(y < 127, y + 1, y)), saturated
    monkeypatch.setattr(golden_network, "convert", shifted)
    found = compare(*graphs[name]).disagreement
    assert (found.layer, found.tensor) == (layer, "input")


@pytest.mark.parametrize("port", ["x", "z"])
def test_conversions_of_each_input(graphs, port):
    def spoil(buffers):
        buffers[port][2, 3] = -buffers[port][2, 3]
    found = compare(*graphs["two inputs"], spoil=spoil).disagreement
    assert (found.layer, found.tensor, found.image, found.index) == (
        {"x": "left", "z": "right"}[port], "input", 2, 3)


@pytest.mark.parametrize(("name", "layer", "change"), [
    ("residual", "skip", {"reads": ("e",)}),        # another value of its size
    ("residual", "head", {"reads": ("j",)}),        # the same value
    ("two inputs", "right", {"reads": ("x",)}),
    ("tokens", "up", {"reads": ("a",)}),            # one behind which there is more
    ("tokens", "down", {"reads": ("d",)}),
])
def test_a_layer_that_reads_another_value(tmp_path, monkeypatch, name, layer, change):
    """The front end says so, and both golden and the opinion take it from there."""
    def wrong(*args, right=load.read):
        graph = right(*args)
        return replace(graph, nodes=tuple(
            replace(each, **change) if isinstance(each, LayerNode) and each.name == layer else each
            for each in graph.nodes))
    path, x = build(tmp_path, name)
    monkeypatch.setattr(load, "read", wrong)
    found = compare(path, compile_network(load.read(path), x, SMALL), x)
    if change == {"reads": ("j",)}:
        agrees(found, 5)
    else:
        assert (found.disagreement.layer, found.disagreement.tensor) == (layer, "output")


def test_samples_of_a_fixed_batch(tmp_path):
    """Whole runs of the model, the last one filled."""
    path = write(tmp_path / "m.onnx", [
        node("MatMul", ["x", "W"], ["h"]), node("Softmax", ["h"], ["s"]),
        node("MatMul", ["s", "V"], ["y"])], (3, 8), W=W.T, V=normal(RNG, 5, 2))
    found = opinion(path, normal(np.random.default_rng(1), 7, 8))
    agrees(found, 2)
    assert [layer.outputs for layer in found.layers] == [9 * 5, 9 * 2]


# --- where the file has no value of the name ---

def test_layers_in_a_function_run_as_cleaned(tmp_path):
    block = helper.make_function(
        "own", "Block", ["a", "w", "v"], ["c"],
        [node("MatMul", ["a", "w"], ["b"], "inner"), node("Tanh", ["b"], ["t"]),
         node("MatMul", ["t", "v"], ["c"], "outer")], [helper.make_opsetid("", 21)])
    path = write(tmp_path / "m.onnx", [
        node("Block", ["x", "W", "V"], ["h"], domain="own"),
        node("MatMul", ["h", "U"], ["y"], "last")], ("n", 8), functions=[block],
        W=W.T, V=normal(RNG, 5, 6), U=normal(RNG, 6, 3))
    found = opinion(path, normal(np.random.default_rng(1), 10, 8))
    assert found.disagreement is None
    assert [layer.cleaned for layer in found.layers] == [True, True, False]


def test_a_model_that_is_one_function(tmp_path):
    whole = helper.make_function(
        "own", "Whole", ["a", "w"], ["c"],
        [node("MatMul", ["a", "w"], ["b"]), node("Tanh", ["b"], ["c"])],
        [helper.make_opsetid("", 21)])
    path = write(tmp_path / "m.onnx", [node("Whole", ["x", "W"], ["y"], domain="own")], ("n", 8),
                 functions=[whole], W=W.T)
    found = opinion(path, normal(np.random.default_rng(1), 10, 8))
    assert found.disagreement is None
    assert [layer.cleaned for layer in found.layers] == [True]


def test_shapes_that_the_file_takes_from_its_input(tmp_path):
    """Inside of a layer, between its product and the integers that it gives."""
    batch = helper.make_function(
        "own", "Batch", ["a", "zero"], ["b"],
        [node("Shape", ["a"], ["s"]), node("Gather", ["s", "zero"], ["b"])],
        [helper.make_opsetid("", 21)])
    path = write(tmp_path / "m.onnx", [
        *rounded("x", "a"), node("DequantizeLinear", ["W", "s"], ["w"]),
        node("MatMul", ["a", "w"], ["h"]), node("Batch", ["x", "zero"], ["n"], domain="own"),
        node("Concat", ["n", "rest"], ["t"], axis=0), node("Reshape", ["h", "t"], ["f"]),
        *rounded("f", "b")[:1], node("DequantizeLinear", ["bq", "bs", "bz"], ["y"])],
        ("n", 2, 8), functions=[batch], W=int8(1, 8, 5), s=np.float32(0.01), zero=np.array([0]),
        rest=np.array([-1]), **grids(np.int8, "a", "b"))
    graph = read(path)
    assert [node.reads for node in graph.layers] == [("aq",)]
    agrees(opinion(path, normal(np.random.default_rng(1), 10, 2, 8)), 1)


# --- quantised models ---

def grids(kind, *names):
    """A scale and a zero point for each tensor, every one coarser than the one before."""
    low = np.iinfo(kind).min
    return {f"{name}{part}": value for at, name in enumerate(names) for part, value in (
        ("s", np.float32(0.013 * 5**at)), ("z", kind(low + (100, 0, 130)[at])))}


def rounded(tensor, name):
    """QuantizeLinear and DequantizeLinear of a tensor."""
    return [node("QuantizeLinear", [tensor, f"{name}s", f"{name}z"], [f"{name}q"]),
            node("DequantizeLinear", [f"{name}q", f"{name}s", f"{name}z"], [name])]


class Samples(CalibrationDataReader):
    """Samples by the names of the inputs, one by one."""

    def __init__(self, x):
        count = len(next(iter(x.values())))
        self._left = iter([{name: each[i:i + 1] for name, each in x.items()}
                           for i in range(count)])

    def get_next(self):
        return next(self._left, None)


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("name", ["two inputs", "rows and views"])
def test_graphs_that_onnxruntime_quantised(tmp_path, name, kind):
    """All outputs are equal but at ties; groups, one dimension, a view of integers, operators."""
    path, x = build(tmp_path, name)
    quantize_static(path, tmp_path / "q.onnx", Samples(x if isinstance(x, dict) else {"x": x}),
                    quant_format=QuantFormat.QDQ, activation_type=kind, per_channel=True)
    graph = read(tmp_path / "q.onnx")
    assert all(node.layer.quantised for node in graph.layers)
    compiled = compile_network(graph, None, SMALL)
    agrees(compare(tmp_path / "q.onnx", compiled, x), 3)
    for layer in LAYERS[name]:
        wrong = with_layer(compiled, layer, lambda own: biased(own, 0.4))
        found = compare(tmp_path / "q.onnx", compiled, x, *wrong).disagreement
        assert (found.layer, found.tensor) == (layer, "output")


def int8(seed, *shape):
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("end", ["float", "integers"])
def test_layers_between_dequantise_and_quantise(tmp_path, kind, end):
    scales = np.float32([0.01, 0.02, 0.015])
    constants = {**grids(kind, "a", "b", "c"), "W": int8(1, 3, 8), "Ws": scales,
                 "B": np.array([900, -9000, 90], np.int32), "Bs": np.float32(0.013) * scales,
                 "V": int8(2, 3, 5), "Vs": np.float32(0.01), "C": np.float32([1, -2, 0, 3, 4])}
    nodes = [*rounded("x", "a"), node("DequantizeLinear", ["W", "Ws"], ["w"], axis=0),
             node("DequantizeLinear", ["B", "Bs"], ["bias"], axis=0),
             node("Gemm", ["a", "w", "bias"], ["h"], transB=1), node("Relu", ["h"], ["r"]),
             *rounded("r", "b"), node("DequantizeLinear", ["V", "Vs"], ["v"]),
             node("MatMul", ["b", "v"], ["p"]), node("Add", ["p", "C"], ["o"]), *rounded("o", "c")]
    if end == "integers":
        nodes.pop()
    nodes[-1].output[0] = "y"
    path = write(tmp_path / "m.onnx", nodes, ("n", 8), **constants)
    agrees(opinion(path, normal(np.random.default_rng(3), 50, 8)), 2)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("weights", [np.int8, np.uint8])
def test_fused_operators_on_integers(tmp_path, kind, weights):
    """QLinearConv, a Flatten of integers, QLinearMatMul; onnxruntime has no kernel for int8 with
    uint8 weights."""
    zero = weights(128 if weights is np.uint8 else 0)

    def stored(seed, *shape):
        return (int8(seed, *shape).astype(int) // 2 + zero).astype(weights)
    constants = {**grids(kind, "a", "b", "c"), "K": stored(4, 3, 2, 2, 3), "z": zero,
                 "s": np.float32(0.01), "B": np.array([500, -700, 90], np.int32),
                 "V": stored(5, 3 * 5 * 3, 4)}
    nodes = [node("QLinearConv", ["x", "as", "az", "K", "s", "z", "bs", "bz", "B"], ["h"],
                  pads=[1, 0, 0, 2]),
             node("Flatten", ["h"], ["f"]),
             node("QLinearMatMul", ["f", "bs", "bz", "V", "s", "z", "cs", "cz"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, ("n", 2, 5, 3), kind, **constants)
    x = int8(6, 20, 2, 5, 3).astype(np.int16) - np.iinfo(np.int8).min + np.iinfo(kind).min
    agrees(opinion(path, x.astype(kind)), 2)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("operator", ["MatMulInteger", "ConvInteger"])
def test_sums_are_equal(tmp_path, operator, kind):
    shape, weight = {"MatMulInteger": ((9, 6), (6, 5)), "ConvInteger": ((9, 2, 5, 4), (3, 2, 2, 3))
                     }[operator]
    path = write(tmp_path / "m.onnx", [node(operator, ["x", "W", "z"], ["y"])], ("n", *shape[1:]),
                 kind, W=int8(7, *weight), z=kind(np.iinfo(kind).min + 100))
    x = int8(8, *shape).astype(np.int16) - np.iinfo(np.int8).min + np.iinfo(kind).min
    found = opinion(path, x.astype(kind))
    assert found.disagreement is None
    assert [layer.share for layer in found.layers] == [0]


@pytest.mark.parametrize("steps", [0.01, 0.4, 2])
def test_a_quantised_model_is_equal_but_at_ties(tmp_path, steps):
    """Its grid is coarse, and an output that is a step off is not near."""
    constants = {**grids(np.int8, "a", "b"), "W": int8(9, 8, 5), "s": np.float32(0.01),
                 "z": np.int8(0)}
    nodes = [node("QLinearMatMul", ["x", "as", "az", "W", "s", "z", "bs", "bz"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, ("n", 8), np.int8, **constants)
    x = int8(10, 500, 8)
    compiled = compile_network(read(path), None, SMALL)
    (layer,) = compiled.reference
    agrees(compare(path, compiled, x), 1)
    unit = layer.multiplier * 2.0**-layer.shift     # steps that a sum's unit is
    wrong = replace(layer, bias=layer.bias + np.maximum(np.rint(steps / unit), 1).astype(int))
    assert compare(path, compiled, x, wrong).disagreement.layer == layer.name


def test_outputs_one_step_apart_are_within_the_bound(tmp_path):
    """A sum counts in half of an output but for float32, which makes every other one a tie. The
    real values of two neighbours are a step apart, again but for float32."""
    constants = {"as": np.float32(0.013), "az": np.int8(7), "W": np.random.default_rng(9).integers(
        -3, 4, (6, 5)).astype(np.int8), "s": np.float32(0.01), "z": np.int8(0),
        "bs": np.float32(0.013 * 0.01 * 2), "bz": np.int8(-3)}
    nodes = [node("QLinearMatMul", ["x", "as", "az", "W", "s", "z", "bs", "bz"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, ("n", 6), np.int8, **constants)
    found = opinion(path, int8(10, 500, 6) // np.int8(5))
    agrees(found, 1)
    assert found.layers[0].share > 0.999


def test_exact_weights_leave_half_a_step(tmp_path):
    """Nothing but the rounding of an output is allowed, and hardly more than that."""
    weight = np.random.default_rng(11).integers(-127, 128, (5, 8)).astype(np.float32) / 32
    weight[:, 0] = 127 / 32
    path = write(tmp_path / "m.onnx", [node("Gemm", ["x", "W"], ["y"], transB=1)], ("n", 8),
                 W=weight)
    x = normal(np.random.default_rng(12), 40, 8)
    compiled = compile_network(read(path), x, SMALL)
    agrees(compare(path, compiled, x), 1)
    (layer,) = compiled.reference
    bias = layer.bias + np.rint(0.2 * 2.0**layer.shift / layer.multiplier).astype(int)
    found = compare(path, compiled, x, replace(layer, bias=bias)).disagreement
    assert 0.5 < found.bound / layer.output.scale < 0.505


# --- what is refused, what is said ---

@pytest.fixture
def gemm(tmp_path):
    """A model, what it became, and its inputs."""
    path = write(tmp_path / "m.onnx", [node("Gemm", ["x", "W", "B"], ["y"], transB=1, name="fc")],
                 ("n", 8), W=W, B=B)
    x = normal(np.random.default_rng(2), 6, 8)
    compiled = compile_network(read(path), x, SMALL)
    return path, compiled, x


def test_the_worst_output_of_the_first_layer_is_named(gemm):
    path, compiled, x = gemm
    (layer,) = compiled.reference
    bias = layer.bias.copy()
    bias[3] += 5000
    found = compare(path, compiled, x, replace(layer, bias=bias)).disagreement
    assert (found.layer, found.tensor, found.index) == ("fc", "output", 3)
    assert found.error == abs(found.values[0] - found.values[1]) > found.bound
    assert found.outputs == 6
    assert str(found).startswith(f"image {found.image}, layer fc, output 3: ")


def test_the_first_layer_that_disagrees_is_named(tmp_path):
    path = write(tmp_path / "m.onnx", [
        node("Gemm", ["x", "W"], ["h"], transB=1, name="first"),
        node("MatMul", ["h", "V"], ["y"], name="second")], ("n", 8), W=W, V=normal(RNG, 5, 2))
    x = normal(np.random.default_rng(2), 6, 8)
    compiled = compile_network(read(path), x, SMALL)
    layers = [replace(layer, bias=layer.bias + 9999) for layer in compiled.reference]
    for number, wrong in enumerate((layers, (compiled.reference[0], layers[1]))):
        found = compare(path, compiled, x, *wrong)
        assert found.disagreement.layer == ["first", "second"][number]
        assert found.layers[1].share > 1


def test_inputs_that_were_converted_wrongly(gemm):
    def spoil(buffers):
        integers = buffers["x"]
        integers[4, 2] += 1 if integers[4, 2] < 127 else -1
    path, compiled, x = gemm
    found = compare(path, compiled, x, spoil=spoil).disagreement
    assert (found.image, found.layer, found.tensor, found.index, found.outputs) == (
        4, "fc", "input", 2, 1)
    assert compare(path, compiled, x, spoil=spoil, known=False).disagreement is None


def test_integers_that_a_float_model_takes_are_real_values(gemm):
    path, compiled, _ = gemm
    x = np.random.default_rng(3).integers(0, 2, (6, 8)).astype(np.uint8)
    agrees(compare(path, compiled, x), 1)


def test_external_data_behind_a_link(gemm, tmp_path):
    path, compiled, x = gemm
    folder = tmp_path / "external"
    folder.mkdir()
    onnx.save_model(onnx.load(path), folder / "m.onnx", save_as_external_data=True,
                    size_threshold=0, location="real.data")
    (folder / "real.data").rename(folder / "moved.data")
    (folder / "real.data").symlink_to("moved.data")
    agrees(compare(folder / "m.onnx", compiled, x), 1)


def test_saturated_outputs_are_compared_at_the_end_of_the_range(gemm):
    path, compiled, x = gemm
    (layer,) = compiled.reference
    halved = replace(layer, shift=layer.shift - 1, output=replace(
        layer.output, scale=layer.output.scale / 2, zero_point=0))
    found = compare(path, compiled, x, halved)
    assert found.disagreement is None
    assert found.layers[0].outside > 0


@pytest.mark.parametrize(("change", "message"), [
    ({"W": W[:4], "B": B[:4]}, "has 4 x 8 weights in layer fc, but the program has 5 x 8; give"),
    ({"W": W[:, :7], "x": ("n", 7)}, "has 5 x 7 weights in layer fc"),
    ({"name": "other"}, "has no layer fc, but the program does; give the model that the program"),
])
def test_another_model(gemm, tmp_path, change, message):
    _, compiled, _ = gemm
    shape, name = change.pop("x", ("n", 8)), change.pop("name", "fc")
    other = write(tmp_path / "other.onnx", [node(
        "Gemm", ["x", "W", "B"], ["y"], transB=1, name=name)], shape, **{"W": W, "B": B} | change)
    with pytest.raises(BadInput, match=message):
        FloatModel(other, compiled.program, compiled.reference)


def test_a_model_of_more_layers(gemm, tmp_path):
    _, compiled, _ = gemm
    other = write(tmp_path / "other.onnx", [
        node("Gemm", ["x", "W"], ["h"], transB=1, name="fc"), node("MatMul", ["h", "V"], ["y"])],
        ("n", 8), W=W, V=normal(RNG, 5, 2))
    with pytest.raises(BadInput, match=r"has outputs of \[2\] values, but the program of \[5\]"):
        FloatModel(other, compiled.program, compiled.reference)


def test_a_convolution_of_another_stride(tmp_path):
    """The outputs behind it are as many as ever."""
    paths = [write(tmp_path / f"{stride}.onnx", [
        node("Conv", ["x", "K"], ["h"], strides=[stride, 1], name="conv"),
        node("GlobalAveragePool", ["h"], ["p"]), node("Flatten", ["p"], ["y"])],
        ("n", 2, 6, 7), K=KERNEL) for stride in (1, 2)]
    x = normal(np.random.default_rng(2), 6, 2, 6, 7)
    compiled = compile_network(read(paths[0]), x, SMALL)
    with pytest.raises(BadInput, match=r"2.onnx gives 36 outputs in layer conv, but the program "
                                       "72; give"):
        compare(paths[1], compiled, x)


def test_an_exported_program_is_no_onnx(gemm, tmp_path):
    _, compiled, _ = gemm
    with pytest.raises(BadInput, match="only an ONNX model .* torch.onnx.export"):
        FloatModel(tmp_path / "m.pt2", compiled.program, compiled.reference)


def test_what_onnxruntime_does_not_take(gemm, tmp_path):
    _, compiled, _ = gemm
    path = write(tmp_path / "m.onnx", [node("Gemm", ["x", "W"], ["y"], transB=1, name="fc")],
                 ("n", 8), W=W.astype(np.float64))
    with pytest.raises(BadInput, match="m.onnx does not run in onnxruntime .*export it again"):
        FloatModel(path, compiled.program, compiled.reference)


def test_values_that_are_not_finite(tmp_path):
    """The sum overflows float32, and infinity times nothing is no number."""
    path = write(tmp_path / "m.onnx", [
        node("Gemm", ["x", "W"], ["h"], transB=1),
        node("BatchNormalization", ["h", "g", "o", "o", "v"], ["y"])], ("n", 2),
        W=np.float32([[3e38, 3e38]]), g=np.float32([0]), o=np.float32([0]), v=np.float32([1]))
    x = np.float32([[1e-3, 1e-3], [0, 1e-3]])
    compiled = compile_network(read(path), x, SMALL)
    broken = [replace(layer, input=replace(layer.input, scale=1e5))
              for layer in compiled.reference]
    with pytest.raises(BadInput, match="outputs that are not numbers"):
        compare(path, compiled, x, *broken, known=False)
