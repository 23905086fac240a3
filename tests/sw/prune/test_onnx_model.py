"""ONNX files: what stays of them to the byte, what torch makes of their operators, what is
refused."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import load
from zeroskip.sw.prune import operators, pipeline
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.losses import named
from zeroskip.sw.prune.model import read
from zeroskip.sw.prune.recipe import Recipe

RNG = np.random.default_rng(0)
FIRST = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers():
    """Each test draws the same, whatever ran before it."""
    RNG.bit_generator.state = FIRST

LAYERS = ("conv", "one", "deep", "q", "k", "v", "out", "fc")


def tensor(*shape):
    return RNG.normal(size=shape).astype(np.float32) / 4


def node(operator, reads, writes, name="", **attributes):
    return helper.make_node(operator, reads, [writes], name or f"n_{writes}", **attributes)


def write(path, nodes, tensors, x, y, opset=21, **options):
    """A file with one input and one output."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(each, name) for name, each in tensors.items()])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets,
                              ir_version=helper.find_min_ir_version_for(opsets))
    helper.set_model_props(model, {"author": "somebody"})
    model.doc_string = "kept"
    onnx.checker.check_model(model)
    onnx.save(model, path, **options)
    return path


def everything(path, opset=21, **options):
    """A residual CNN with a depthwise branch, and attention over its pixels."""
    axes = {"axes": np.array([2, 3])} if opset >= 18 else {}
    t = {"conv.weight": tensor(8, 2, 3, 3), "conv.bias": tensor(8),
         "scale": tensor(8) + 1, "shift": tensor(8), "mean": tensor(8),
         "variance": np.abs(tensor(8)) + 1, "one.weight": tensor(8, 8, 1, 1),
         "deep.weight": tensor(8, 1, 3, 3), "tokens": np.array([0, 8, -1]),
         "Q": tensor(8, 8), "k.weight": tensor(8, 8), "V": tensor(8, 8), "v.bias": tensor(8),
         "out.weight": tensor(8, 8), "root": np.array(8**.5, np.float32),
         "fc.weight": tensor(3, 8), "fc.bias": tensor(3), "gamma": tensor(8), "beta": tensor(8),
         **axes}
    pooled = node("ReduceMean", ["r", "axes"], "pool", keepdims=0) if axes else node(
        "ReduceMean", ["r"], "pool", axes=[2, 3], keepdims=0)
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], "b"),
        node("Relu", ["b"], "a"),
        node("Conv", ["a", "one.weight"], "o"),
        node("Conv", ["a", "deep.weight"], "d", group=8, auto_pad="SAME_UPPER"),
        node("Add", ["o", "d"], "s"), node("Add", ["s", "a"], "r"),
        pooled,
        node("Reshape", ["r", "tokens"], "flat"), node("Transpose", ["flat"], "t", perm=[0, 2, 1]),
        node("MatMul", ["t", "Q"], "q"),
        node("Transpose", ["k.weight"], "K", perm=[1, 0]), node("MatMul", ["t", "K"], "k"),
        node("MatMul", ["t", "V"], "v0"), node("Add", ["v0", "v.bias"], "v"),
        node("Transpose", ["k"], "kt", perm=[0, 2, 1]), node("MatMul", ["q", "kt"], "qk"),
        node("Div", ["qk", "root"], "scaled"), node("Softmax", ["scaled"], "p", axis=-1),
        node("MatMul", ["p", "v"], "pv"),
        node("Transpose", ["out.weight"], "O"), node("MatMul", ["pv", "O"], "w"),
        *([node("LayerNormalization", ["w", "gamma", "beta"], "ln")] if opset >= 17 else [
            node("Mul", ["w", "gamma"], "g"), node("Add", ["g", "beta"], "ln")]),
        node("GlobalAveragePool", ["r"], "gap"), node("Flatten", ["gap"], "f"),
        node("Unsqueeze", ["f", "one"], "u"), node("Add", ["ln", "u"], "lu"),
        node("ReduceMean", ["lu", "one"], "m", keepdims=0) if axes else node(
            "ReduceMean", ["lu"], "m", axes=[1], keepdims=0),
        node("Add", ["m", "pool"], "mp"),
        node("Gemm", ["mp", "fc.weight", "fc.bias"], "y", transB=1)]
    t["one"] = np.array([1])
    return write(path, nodes, t, ["n", 2, 6, 6], ["n", 3], opset, **options)


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options).run(None, {"x": x})[0]


def stored(path):
    return {each.name: each for each in onnx.load(path).graph.initializer}


def save(given, recipe, out, **options):
    result, stages = pipeline.prune(given, recipe, **options)
    pipeline.save(result, recipe, stages, out)
    return result, stages


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("external", [False, True])
def test_all_but_the_pruned_weights_stays_to_the_byte(tmp_path, opset, external):
    options = {"save_as_external_data": True, "location": "dense.bin",
               "size_threshold": 64} if external else {}
    path, out = everything(tmp_path / "dense.onnx", opset, **options), tmp_path / "out.onnx"
    if external:
        assert (tmp_path / "dense.bin").exists()
    recipe = Recipe({"one": 0.5, "n_q": 0.25, "n_k": 0.5, "fc": 0.5, "deep": 0.5})
    save(read(path), recipe, out)
    before, after = onnx.load(path), onnx.load(out)
    changed = []
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        assert (old.name, old.dims, old.data_type) == (new.name, new.dims, new.data_type)
        a, b = numpy_helper.to_array(old), numpy_helper.to_array(new)
        if old != new:
            changed.append(old.name)
            np.testing.assert_array_equal(b[b != 0], a[b != 0])
            assert np.count_nonzero(b) == round(a.size * (0.25 if old.name == "Q" else 0.5))
            assert np.abs(a[b == 0]).max() <= np.abs(b[b != 0]).min()
    assert changed == ["one.weight", "deep.weight", "Q", "k.weight", "fc.weight"]
    assert {each.key for each in after.metadata_props} == {"author", "recipe", "history"}
    for model in (before, after):
        del model.graph.initializer[:]
        del model.metadata_props[:]
    assert before == after
    assert (tmp_path / "out.onnx.data").exists() == external
    if external:
        outside = {each.name for each in onnx.load(out, load_external_data=False).graph.initializer
                   if each.data_location == TensorProto.EXTERNAL}
        assert {"conv.weight", "Q", "fc.weight"} <= outside


@pytest.mark.parametrize("opset", [13, 21])
def test_torch_computes_what_onnxruntime_computes(tmp_path, opset):
    path = everything(tmp_path / "m.onnx", opset)
    model, x = read(path), tensor(5, 2, 6, 6)
    assert not model.obstacle
    with torch.no_grad():
        found = model.module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, run(path, x), rtol=1e-4, atol=1e-5)
    assert list(model.names) == ["conv", "one", "deep", "n_q", "n_k", "n_v0", "n_w", "fc"]
    assert list(model.names) == [node.name for node in load.read(path).layers]


def test_a_residual_cnn_with_attention_trains_and_its_zeros_stay(tmp_path):
    path, out = everything(tmp_path / "dense.onnx"), tmp_path / "out.onnx"
    x = tensor(96, 2, 6, 6)
    data = Data(x, run(path, x).argmax(axis=1))
    recipe = Recipe(0.3, epochs=8, learning_rate=5e-3)
    result, stages = save(read(path), recipe, out, data=data)
    assert stages[0].accuracy == 1
    assert stages[1].accuracy > 0.85
    for name, layer in result.layers.items():
        weight = layer.weight.detach().numpy()
        assert np.count_nonzero(weight) == round(0.3 * weight.size), name
    accuracy = np.mean(run(out, x).argmax(axis=1) == data.y)
    assert accuracy == stages[1].accuracy
    before, after = stored(path), stored(out)
    same = {name for name in before if before[name] == after[name]}
    assert {"scale", "shift", "mean", "variance", "tokens", "root"} <= same     # frozen
    assert not same & {"conv.bias", "gamma", "fc.bias", "V", "k.weight"}
    assert np.count_nonzero(numpy_helper.to_array(after["k.weight"])) == round(0.3 * 64)


def autoencoder(path):
    """Of strided convolutions and transposed ones."""
    t = {"e.weight": tensor(4, 1, 3, 3), "e.bias": tensor(4), "h.weight": tensor(16, 64),
         "h.bias": tensor(16), "g.weight": tensor(64, 16), "g.bias": tensor(64),
         "square": np.array([0, 4, 4, 4]), "up": tensor(4, 1, 2, 2), "up.bias": tensor(1)}
    nodes = [node("Conv", ["x", "e.weight", "e.bias"], "e", strides=[2, 2], pads=[1, 1, 0, 0]),
             node("Relu", ["e"], "a"), node("Flatten", ["a"], "f"),
             node("Gemm", ["f", "h.weight", "h.bias"], "h", transB=1), node("Relu", ["h"], "hr"),
             node("Gemm", ["hr", "g.weight", "g.bias"], "g", transB=1), node("Relu", ["g"], "gr"),
             node("Reshape", ["gr", "square"], "s"),
             node("ConvTranspose", ["s", "up", "up.bias"], "y", strides=[2, 2])]
    return write(path, nodes, t, ["n", 1, 8, 8], ["n", 1, 8, 8])


def test_an_autoencoder_trains_at_two_of_four_with_its_inputs_as_targets(tmp_path):
    path, out = autoencoder(tmp_path / "dense.onnx"), tmp_path / "out.onnx"
    x = np.abs(np.outer(np.linspace(0, 1, 64), np.ones(64))).astype(np.float32).reshape(64, 1, 8, 8)
    recipe = Recipe(granularity="2:4", loss="mse", epochs=30, learning_rate=1e-2)
    result, stages = save(read(path), recipe, out, data=Data(x))
    assert [stage.accuracy for stage in stages] == [None, None]
    assert stages[1].loss < 0.5 * stages[0].loss
    assert np.mean(np.square(run(out, x) - x)) == pytest.approx(stages[1].loss, rel=1e-3)
    for layer in result.layers.values():
        rows = layer.weight.detach().numpy().reshape(len(layer.weight), -1)
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
        assert np.count_nonzero(rows.reshape(-1, 4), axis=1).max() == 2


def tied(path):
    """An encoder whose decoder has its weight, transposed."""
    t = {"W": tensor(4, 6), "b": tensor(6)}
    nodes = [node("Gemm", ["x", "W"], "h", name="encode", transB=1), node("Tanh", ["h"], "a"),
             node("Gemm", ["a", "W", "b"], "y", name="decode")]
    return write(path, nodes, t, ["n", 6], ["n", 6])


def test_a_tied_weight_is_one(tmp_path):
    path, out = tied(tmp_path / "dense.onnx"), tmp_path / "out.onnx"
    model = read(path)
    assert (list(model.names), dict(model.tied)) == (["encode"], {"decode": "encode"})
    x = tensor(32, 6)
    _, stages = save(model, Recipe(0.5, loss="mse", epochs=20, learning_rate=1e-2), out,
                     data=Data(x))
    assert stages[1].density == 0.5
    assert np.count_nonzero(numpy_helper.to_array(stored(out)["W"])) == 12
    assert np.mean(np.square(run(out, x) - x)) == pytest.approx(stages[1].loss, rel=1e-3)
    with pytest.raises(BadInput, match="layer decode has the weight of layer encode; name that"):
        pipeline.plan(model, Recipe({"decode": 0.5}))


@pytest.mark.parametrize(("steps", "shape"), [
    ([("Identity", {})], (5, 6)), ([("Transpose", {"perm": [1, 0]})], (6, 5)),
    ([("Cast", {"to": TensorProto.FLOAT})], (5, 6)), ([("Flatten", {"axis": 1})], (5, 2, 3)),
    ([("Transpose", {}), ("Identity", {}), ("Cast", {"to": TensorProto.FLOAT})], (6, 5)),
    ([("Reshape", [5, -1])], (30,)), ([("Squeeze", [0])], (1, 5, 6)),
    ([("Unsqueeze", [0]), ("Squeeze", [0])], (5, 6))])
def test_a_weight_is_written_back_through_what_moves_it(tmp_path, steps, shape):
    kind = np.float16 if any(step[0] == "Cast" for step in steps) else np.float32
    t, nodes, name = {"W": tensor(*shape).astype(kind)}, [], "W"
    for at, (operator, given) in enumerate(steps):
        reads = [name]
        if isinstance(given, list):
            t[f"c{at}"] = np.array(given)
            reads.append(f"c{at}")
        nodes.append(node(operator, reads, f"w{at}", **(given if isinstance(given, dict) else {})))
        name = f"w{at}"
    nodes.append(node("Gemm", ["x", name], "y", name="fc", transB=1))
    path = write(tmp_path / "m.onnx", nodes, t, ["n", 6], ["n", 5])
    save(read(path), Recipe(0.5, "row"), tmp_path / "out.onnx")
    x = np.eye(6, dtype=np.float32)
    before, after = run(path, x), run(tmp_path / "out.onnx", x)
    rows = np.abs(before).sum(axis=0).argsort()[-2:]
    assert set(np.flatnonzero(after.any(axis=0))) == set(rows)
    np.testing.assert_array_equal(after[:, rows], before[:, rows])
    (held,) = (each for each in onnx.load(tmp_path / "out.onnx").graph.initializer
               if each.name == "W")
    assert (tuple(held.dims), numpy_helper.to_array(held).dtype) == (shape, kind)


def test_a_weight_of_a_constant_node(tmp_path):
    value = numpy_helper.from_array(tensor(6, 5), "value")
    path = write(tmp_path / "m.onnx", [node("Constant", [], "W", value=value),
                                       node("MatMul", ["x", "W"], "y", name="fc")], {}, ["n", 6],
                 ["n", 5])
    save(read(path), Recipe(0.2), tmp_path / "out.onnx")
    assert np.count_nonzero(run(tmp_path / "out.onnx", np.eye(6, dtype=np.float32))) == 6


def test_what_a_narrow_type_would_round_is_refused(tmp_path):
    path = write(tmp_path / "m.onnx", [
        node("Cast", ["W"], "w", to=TensorProto.FLOAT), node("MatMul", ["x", "w"], "y", name="fc")],
        {"W": tensor(6, 5).astype(np.float16)}, ["n", 6], ["n", 5])
    with pytest.raises(BadInput, match="'W' is float16, which would round .* to float32 first"):
        save(read(path), Recipe(1.0, weight_bits=8), tmp_path / "out.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(("nodes", "message"), [
    ([node("Mul", ["W", "W"], "w")], r"layer fc has a weight that Mul \('n_w'\) works out, which "
                                     "cannot be written back; leave it out, or"),
    ([node("DequantizeLinear", ["I", "s"], "w")], "layer fc is quantised and cannot be changed")])
def test_weights_that_cannot_be_written_back(tmp_path, nodes, message):
    t = {"W": tensor(6, 5), "V": tensor(5, 5), "I": np.ones((6, 5), np.int8),
         "s": np.array(0.5, np.float32)}
    path = write(tmp_path / "m.onnx", [
        *nodes, node("MatMul", ["x", "w"], "h", name="fc"),
        node("MatMul", ["h", "V"], "y", name="last")], t, ["n", 6], ["n", 5])
    model = read(path)
    with pytest.raises(BadInput, match=message):
        pipeline.prune(model, Recipe(0.5))
    _, stages = pipeline.prune(model, Recipe({"last": 0.4}))
    assert stages[1].layers == {"last": 0.4}


def test_an_operator_that_torch_does_not_have_is_refused_by_its_name(tmp_path):
    path = write(tmp_path / "m.onnx", [
        node("MatMul", ["x", "W"], "h", name="fc"), node("LRN", ["h"], "y", name="odd", size=1)],
        {"W": tensor(6, 5)}, ["n", 6], ["n", 5])
    data = Data(tensor(8, 6), np.arange(8) % 5)
    with pytest.raises(BadInput, match=r"operator LRN \('odd'\) does not run in torch, and .* by "
                                       "its weights alone, without data"):
        pipeline.prune(read(path), Recipe(0.5), data)
    _, stages = pipeline.prune(read(path), Recipe(0.5))
    assert stages[1].density == 0.5


def test_a_use_that_torch_does_not_have_is_refused(tmp_path):
    path = write(tmp_path / "m.onnx", [
        node("MatMul", ["x", "W"], "h", name="fc"),
        node("Resize", ["h", "", "s"], "y")], {"W": tensor(6, 5),
                                               "s": np.array([1, 1.4], np.float32)},
        ["n", 6], ["n", 7])
    with pytest.raises(BadInput, match="Resize by a fraction does not run in torch; prune it by"):
        read(path).prepared(Data(tensor(8, 6), np.arange(8) % 5), named("cross_entropy"))


def test_what_torch_computes_otherwise_is_not_trained(tmp_path, monkeypatch):
    path = everything(tmp_path / "m.onnx")
    x = tensor(8, 2, 6, 6)
    monkeypatch.setitem(operators.TABLE, "Softmax", operators.TABLE["LogSoftmax"])
    with pytest.raises(BadInput, match="torch does not compute what onnxruntime does; prune it by"):
        pipeline.prune(read(path), Recipe(0.5), Data(x, np.arange(8) % 3))


def test_a_fixed_batch_is_trained_at_that_batch(tmp_path):
    path = write(tmp_path / "m.onnx", [node("Gemm", ["x", "fc.weight"], "y", transB=1)],
                 {"fc.weight": tensor(3, 6)}, [4, 6], [4, 3])
    model, x = read(path), tensor(10, 6)
    assert model.batch == 4
    data = Data(x, x.argmax(axis=1) % 3)
    _, stages = pipeline.prune(model, Recipe(0.5, epochs=40, learning_rate=2e-2), data)
    weight = numpy_helper.to_array(stored(path)["fc.weight"])
    assert stages[0].accuracy == np.mean((x @ weight.T).argmax(axis=1) == data.y)
    assert stages[1].accuracy > stages[0].accuracy


@pytest.mark.parametrize("granularity", ["neuron", "channel"])
def test_units_leave_a_file(tmp_path, granularity):
    """A convolution whose image is flattened to sizes that the file states."""
    t = {"conv.weight": tensor(8, 1, 3, 3), "conv.bias": tensor(8), "scale": tensor(8) + 1,
         "shift": tensor(8), "mean": tensor(8), "variance": np.abs(tensor(8)) + 1,
         "flat": np.array([-1, 128]), "A": tensor(128, 12), "A.bias": tensor(12),
         "fc.weight": tensor(3, 12), "fc.bias": tensor(3)}
    nodes = [node("Conv", ["x", "conv.weight", "conv.bias"], "c", pads=[1, 1, 1, 1]),
             node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], "b"),
             node("Relu", ["b"], "r"), node("Reshape", ["r", "flat"], "f"),
             node("MatMul", ["f", "A"], "m", name="a"), node("Add", ["m", "A.bias"], "s"),
             node("Relu", ["s"], "h"), node("Gemm", ["h", "fc.weight", "fc.bias"], "y", transB=1)]
    path = write(tmp_path / "m.onnx", nodes, t, ["n", 1, 4, 4], ["n", 3])
    x = tensor(64, 1, 4, 4)
    data = Data(x, run(path, x).argmax(axis=1))
    result, stages = save(read(path), Recipe(0.5, granularity, epochs=10, learning_rate=1e-2),
                          tmp_path / "out.onnx", data=data)
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    shapes = {each.name: list(each.dims) for each in onnx.load(tmp_path / "out.onnx")
              .graph.initializer}
    if granularity == "channel":
        assert (shapes["conv.weight"], shapes["mean"], shapes["A"]) == ([4, 1, 3, 3], [4], [64, 12])
    else:
        assert (shapes["A"], shapes["A.bias"], shapes["fc.weight"]) == ([128, 6], [6], [3, 6])
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path / "out.onnx", x), result.module(
            torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-4)
    assert np.mean(run(tmp_path / "out.onnx", x).argmax(axis=1) == data.y) == stages[1].accuracy
    assert list(stages[1].layers) == ["conv", "a", "fc"]


OPERATORS = [
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "strides": [2, 1]}, ()),
    ("AveragePool", {"kernel_shape": [2, 2], "count_include_pad": 1, "pads": [1, 1, 1, 1]}, ()),
    ("MaxPool", {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER", "dilations": [1, 1]}, ()),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 1], "pads": [0, 1, 1, 0]}, ()),
    ("ConvTranspose", {"strides": [2, 3], "pads": [0, 1, 1, 0], "output_padding": [1, 0]},
     (tensor(4, 2, 3, 3), tensor(2))),
    ("ConvTranspose", {"group": 2, "dilations": [1, 2]}, (tensor(4, 3, 2, 2),)),
    ("Pad", {}, (np.array([0, 1, 0, 2, 0, 0, 1, 0]), np.array(3, np.float32))),
    ("Pad", {"mode": "reflect"}, (np.array([0, 0, 0, 2, 0, 0, 1, 0]),)),
    ("Pad", {"mode": "edge"}, (np.array([0, 0, 1, 2, 0, 0, 1, 3]),)),
    ("Slice", {}, (np.array([-1, 1]), np.array([-1000, 1000]), np.array([2, 3]),
                   np.array([-1, 2]))),
    ("Split", {"axis": 1, "num_outputs": 2}, ()), ("Split", {"axis": 3}, (np.array([1, 4]),)),
    ("Gather", {"axis": -1}, (np.array([[0, -1], [2, 1]]),)),
    ("DepthToSpace", {"blocksize": 2}, ()), ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, ()),
    ("Resize", {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor"}, (None, np.array([1, 1, 2, 3], np.float32))),
    ("ReduceL2", {"keepdims": 0}, (np.array([1, -1]),)), ("ReduceMax", {}, ()),
    ("ReduceLogSumExp", {}, (np.array([2]),)),
    ("Clip", {}, (None, np.array(0.25, np.float32))), ("PRelu", {}, (tensor(4, 1, 1),)),
    ("HardSigmoid", {"alpha": 0.3}, ()), ("Gelu", {"approximate": "tanh"}, ()), ("Selu", {}, ()),
    ("Elu", {"alpha": 0.5}, ()), ("LeakyRelu", {"alpha": 0.2}, ()), ("HardSwish", {}, ()),
    ("Mish", {}, ()), ("Softplus", {}, ()), ("Erf", {}, ()),
    ("InstanceNormalization", {}, (tensor(4), tensor(4))),
    ("LayerNormalization", {"axis": 2, "epsilon": 1e-3}, (tensor(5, 5), tensor(5, 5))),
    ("LogSoftmax", {"axis": 1}, ()), ("Tile", {}, (np.array([1, 2, 1, 3]),)),
    ("Expand", {}, (np.array([2, 2, 4, 5, 5]),)), ("Max", {}, (tensor(5), tensor(4, 1, 1))),
    ("Sum", {}, (tensor(5),)), ("Einsum", {"equation": "ncij,jk->nick"}, (tensor(5, 2),)),
    ("Squeeze", {}, (np.array([0]),)), ("Unsqueeze", {}, (np.array([-1, 0]),)),
    ("Trilu", {"upper": 0}, (np.array(1),)), ("ArgMax", {"axis": 1, "keepdims": 0}, ()),
    ("Flatten", {"axis": 3}, ()), ("Flatten", {"axis": -1}, ()), ("Shape", {"start": 1}, ()),
    ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
     (tensor(3, 4, 2, 3), tensor(3))),
]


@pytest.mark.parametrize(("operator", "given", "operands"), OPERATORS,
                         ids=[f"{each[0]}-{at}" for at, each in enumerate(OPERATORS)])
def test_each_operator_is_that_of_onnxruntime(operator, given, operands):
    """Of a wrong table the training would go wrong, where the comparison before it did not see
    it."""
    x = tensor(1, 4, 5, 5)
    names = [("" if each is None else f"o{at}") for at, each in enumerate(operands)]
    writes = ["y", "z"] if operator == "Split" else ["y"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *names], writes, **given)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [onnx.ValueInfoProto(name=name) for name in writes],
        [numpy_helper.from_array(each, name) for name, each in zip(names, operands, strict=True)
         if each is not None])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    attributes = {each.name: helper.get_attribute_value(each)
                  for each in graph.node[0].attribute} | {"opset": 20, "outputs": len(writes)}
    found = operators.TABLE[operator](attributes, torch.from_numpy(x), *(
        None if each is None else torch.from_numpy(each) for each in operands))
    for own, other in zip(found if len(writes) > 1 else [found], expected, strict=True):
        assert tuple(own.shape) == other.shape
        np.testing.assert_allclose(own.numpy(), other, rtol=1e-4, atol=1e-5)


def test_softmax_of_old_operator_sets_goes_over_all_axes_from_its_own():
    x = torch.from_numpy(tensor(2, 3, 4))
    found = operators.TABLE["Softmax"]({"opset": 11}, x)
    np.testing.assert_allclose(found.sum(dim=(1, 2)), np.ones(2), rtol=1e-5)


def test_a_layer_may_be_called_like_anything_in_torch(tmp_path):
    names = ("forward", "training", "a", "a.b", "names", "..", "weight")
    t = {f"W{at}": tensor(6, 6) for at in range(len(names))}
    nodes = [node("MatMul", ["x" if not at else f"v{at}", f"W{at}"],
                  f"v{at + 1}" if at + 1 < len(names) else "y", name=name)
             for at, name in enumerate(names)]
    model = read(write(tmp_path / "m.onnx", nodes, t, ["n", 6], ["n", 6]))
    assert tuple(model.names) == names
    result, _ = pipeline.prune(model, Recipe(dict.fromkeys(names, 0.5)))
    assert all(int(each.weight.count_nonzero()) == 18 for each in result.layers.values())
    assert isinstance(result.layers["forward"], nn.Linear)


def test_data_beside_a_model_that_belong_to_no_model(tmp_path):
    path = everything(tmp_path / "dense.onnx", save_as_external_data=True, size_threshold=64,
                      location="dense.bin")
    (tmp_path / "out.onnx.data").write_text("mine")
    with pytest.raises(BadInput, match=r"out.onnx.data would be overwritten and belongs to no"):
        save(read(path), Recipe(0.5), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_text() == "mine"
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(("content", "message"), [
    (b"\xff\xff\xff", "is not a valid ONNX model"), (b"", "holds no linear layer")])
def test_files_that_are_no_models(tmp_path, content, message):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read(tmp_path / "m.onnx")
    with pytest.raises(BadInput, match=r"none.onnx cannot be read \(No such file or directory\)"):
        read(tmp_path / "none.onnx")


def test_a_weight_that_is_turned_and_reshaped_is_refused(tmp_path):
    """Its values lie nowhere in the file in the order in which a change could go back."""
    nodes = [node("Transpose", ["W"], "t", perm=[2, 0, 1]), node("Reshape", ["t", "s"], "v"),
             node("MatMul", ["x", "v"], "y", name="fc")]
    path = write(tmp_path / "m.onnx", nodes, {
        "W": tensor(8, 4, 2), "s": np.array([16, 4], np.int64)}, ["n", 16], ["n", 4])
    with pytest.raises(BadInput, match="is turned and reshaped, which cannot be written back"):
        save(read(path), Recipe(density=0.25), tmp_path / "out.onnx")
