"""LSTM, GRU and RNN unrolled: what their products and operators give is what onnxruntime, ONNX's
own reference and torch give."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.frontends import clean, lift
from zeroskip.sw.frontends.load import apart, from_torch, read
from zeroskip.sw.graph.graph import LayerNode, OperatorNode
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.float_model import FloatModel
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

torch.set_num_threads(1)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
NEAR = {"rtol": 2e-5, "atol": 2e-6}
"""Of float32: sums in another order."""


def model(kind, time=4, batch=1, inputs=3, hidden=2, direction="forward", bias=True, state=False,
          layout=0, extra=(), seed=0, dtype=np.float32, **attributes):
    """A model of one node; ``state`` is True, for inputs, or "constant"; ``extra`` are further
    operands by their index."""
    rng, count = np.random.default_rng(seed), 2 if direction == "bidirectional" else 1
    rows, states = GATES[kind] * hidden, ["h", "c"][:1 + (kind == "LSTM")]
    tensors = {"W": rng.normal(size=(count, rows, inputs)),
               "R": rng.normal(size=(count, rows, hidden)),
               "B": rng.normal(size=(count, 2 * rows))}
    lead = (batch, count) if layout else (count, batch)
    shapes = {"x": (batch, time, inputs) if layout else (time, batch, inputs)}
    operands = ["x", "W", "R", "B" * bias, "", *(states if state else [])]
    for name in states:
        if state == "constant":
            tensors[name] = rng.normal(size=(*lead, hidden))
        elif state:
            shapes[name] = (*lead, hidden)
    given = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    held = [numpy_helper.from_array(values.astype(dtype), name)
            for name, values in tensors.items() if name in operands]
    for index, values in dict(extra).items():
        operands += [""] * (index + 1 - len(operands))
        operands[index] = f"extra{index}"
        held.append(numpy_helper.from_array(values, operands[index]))
    kind_of = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node(kind, operands, ["y", "yh", "yc"][:1 + len(states)], "net",
                            hidden_size=hidden, direction=direction, **attributes,
                            **({"layout": 1} if layout else {}))
    return helper.make_model(helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(name, kind_of, shape)
                      for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, kind_of, [None] * (3 if at else 4))
         for at, name in enumerate(node.output)], held),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10), given


def lifted(proto):
    content = proto.SerializeToString()
    return lift.lift(apart(clean.load(content, "the file", {}), "the file"), "the file")


def unrolled(proto, given):
    """Outputs of the graph, which has no recurrent node any more."""
    graph = lifted(proto)
    assert not {node.operator for node in graph.nodes
                if isinstance(node, OperatorNode)} & set(GATES)
    found = graph.evaluate({name: x[None] for name, x in given.items()}, graph.outputs)
    return [found[name].reshape(graph.types[name].shape) for name in graph.outputs]


def in_onnxruntime(proto, given):
    session = onnxruntime.InferenceSession(proto.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    return session.run(None, given)


def check(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **NEAR)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(kind=st.sampled_from(sorted(GATES)), time=st.integers(1, 5), batch=st.integers(1, 3),
       inputs=st.integers(1, 4), hidden=st.integers(1, 4), before=st.integers(0, 1),
       direction=st.sampled_from(["forward", "reverse", "bidirectional"]), bias=st.booleans(),
       state=st.sampled_from([False, True, "constant"]), seed=st.integers(0, 9))
def test_equals_onnxruntime(kind, time, batch, inputs, hidden, before, direction, bias, state,
                            seed):
    more = {"linear_before_reset": before} if kind == "GRU" else {}
    proto, given = model(kind, time, batch, inputs, hidden, direction, bias, state, seed=seed,
                         **more)
    check(unrolled(proto, given), in_onnxruntime(proto, given))


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(("kind", "more"), [
    ("LSTM", {}), ("GRU", {"linear_before_reset": 0}), ("GRU", {"linear_before_reset": 1}),
    ("RNN", {})], ids=["LSTM", "GRU", "GRU before", "RNN"])
def test_equals_the_reference_of_onnx(kind, more, state):
    proto, given = model(kind, state=state, **more)
    check(unrolled(proto, given), ReferenceEvaluator(proto).run(None, given))


@pytest.mark.parametrize("kind", GATES)
def test_layout_of_batches_first(kind):
    """onnxruntime has none: the same node on transposed values."""
    proto, given = model(kind, batch=2, direction="bidirectional", state=True, layout=1)
    other, _ = model(kind, batch=2, direction="bidirectional", state=True)
    expected = in_onnxruntime(other, {name: x.swapaxes(0, 1) for name, x in given.items()})
    y, *last = unrolled(proto, given)
    check([y.transpose(1, 2, 0, 3), *(each.swapaxes(0, 1) for each in last)], expected)


@pytest.mark.parametrize("activations", [["Relu", "Tanh"], ["Tanh", "Relu"]])
def test_activations_of_rnn(activations):
    proto, given = model("RNN", direction="bidirectional", activations=activations)
    check(unrolled(proto, given), in_onnxruntime(proto, given))


def test_lengths_that_end_nothing():
    proto, given = model("GRU", batch=2, extra={4: np.array([4, 4], np.int32)})
    check(unrolled(proto, given), in_onnxruntime(proto, given))


@pytest.mark.parametrize(("kind", "changes", "reason"), [
    ("LSTM", {"extra": {7: np.ones((1, 6), np.float32)}}, "it has peepholes, which are no product"),
    ("LSTM", {"clip": 0.5}, "it clips its gates"),
    ("LSTM", {"input_forget": 1}, "its input and forget gates are coupled"),
    ("GRU", {"activations": ["HardSigmoid", "Tanh"]},
     "its activations are hardsigmoid, tanh: only those that it has by default are unrolled"),
    ("RNN", {"activations": ["Sigmoid"]}, "by default, and relu, are unrolled"),
    ("GRU", {"batch": 2, "extra": {4: np.array([4, 2], np.int32)}},
     "its sequence_lens end sequences early: pad them to one length, and export the model without"),
    ("RNN", {"time": 1025}, "its 1,025 steps of time in 1 .* more than the 1,024 that are"),
])
def test_what_stays_on_the_host_says_why(kind, changes, reason):
    proto, given = model(kind, **changes)
    graph = lifted(proto)
    node, = (node for node in graph.nodes if isinstance(node, OperatorNode))
    assert node.operator == kind
    assert re.search(reason, node.reason)
    found = graph.evaluate({name: x[None] for name, x in given.items()}, graph.outputs)
    check([found[name].reshape(graph.types[name].shape) for name in graph.outputs],
          in_onnxruntime(proto, given))


def test_weights_that_are_computed_stay_on_the_host():
    proto, _ = model("RNN")
    held = [each for each in proto.graph.initializer if each.name != "R"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(held)
    proto.graph.input.append(helper.make_tensor_value_info("R", TensorProto.FLOAT, (1, 2, 2)))
    node, = (node for node in lifted(proto).nodes if isinstance(node, OperatorNode))
    assert node.reason == "its weights are computed, not constants"


def test_the_steps_of_time_share_a_layer():
    """One product of the inputs of all steps, and one a step of the state but for the first, which
    is zero; each direction has its own."""
    proto, _ = model("LSTM", time=5, direction="bidirectional")
    nodes = [node for node in lifted(proto).nodes if isinstance(node, LayerNode)]
    assert [node.name for node in nodes] == [
        "net:input", *(f"net:hidden:{at}" for at in (1, 2, 3, 4)),
        "net:reverse:input", *(f"net:reverse:hidden:{at}" for at in (3, 2, 1, 0))]
    assert len({id(node.layer) for node in nodes}) == 4
    assert len({id(node.layer) for node in nodes[1:5]}) == 1


def test_a_gru_that_resets_first_has_two_products_a_step():
    proto, _ = model("GRU", time=3, linear_before_reset=0)
    nodes = [node for node in lifted(proto).nodes if isinstance(node, LayerNode)]
    assert [node.name for node in nodes] == [
        "net:input", "net:hidden:1", "net:hidden1:1", "net:hidden:2", "net:hidden1:2"]
    assert [node.layer.outputs for node in nodes] == [6, 4, 2, 4, 2]


class Classifier(nn.Module):
    def __init__(self, kind, **more):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = kind(4, 5, batch_first=True, **more)
        self.head = nn.Linear(5 * (1 + bool(more.get("bidirectional"))), 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize(("kind", "more"), [
    (nn.GRU, {}), (nn.LSTM, {"num_layers": 2, "bidirectional": True})], ids=["GRU", "LSTM"])
def test_equals_torch(kind, more):
    """A GRU of torch resets behind the product, which is not what ONNX has by default."""
    module = Classifier(kind, **more).eval()
    graph = from_torch(module, (torch.zeros(1, 3, 4),))
    assert not any(node.operator in GATES for node in graph.nodes if isinstance(node, OperatorNode))
    x = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.testing.assert_allclose(
            graph.evaluate({graph.inputs[0]: x.numpy()}, graph.outputs)[graph.outputs[0]],
            module(x).numpy(), **NEAR)


def test_compiled_and_verified(tmp_path):
    """An image for each weight, golden and RTL equal in every buffer, and the third opinion on all
    steps; the hidden products are those of a model as large as its weights are set aside."""
    proto, _ = model("LSTM", time=3, inputs=24, hidden=16)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    samples = {"x": np.random.default_rng(3).normal(size=(8, 3, 1, 24)).astype(np.float32)}
    compiled = compile_network(read(path), samples, TensorCoreConfig())
    program = compiled.program
    assert len(program.images) == 2
    integers = {"x": program.buffers["x"].to_integer(samples["x"][:2].reshape(2, -1))[0]}
    golden = GoldenBackend(program, compiled.reference)
    verdict = verify(program, integers, (golden, backends.rtl(backends.default())))
    assert verdict.difference is None
    assert len(verdict.results[0]) == 3
    opinion = FloatModel(path, program, compiled.reference).compare(
        run_program(program.traced(), golden, integers), None)
    assert opinion.disagreement is None
    assert [layer.cleaned for layer in opinion.layers] == [True] * 3
