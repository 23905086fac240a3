"""Operators that become rules: each gives what ONNX's reference gives in float, to half a step; and
which do not."""

from dataclasses import fields, replace

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler import integer
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.compiler.placement import inspect
from zeroskip.sw.compiler.program import EngineStep, HostStep, OperatorStep, Program
from zeroskip.sw.compiler.rules import Convert, Maximum
from zeroskip.sw.engines.eie.layer import EIELayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import read
from zeroskip.sw.graph.graph import Graph, LayerNode, OperatorNode, RuleNode, ValueType
from zeroskip.sw.graph.network import Linear
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import arrays, backends
from zeroskip.sw.runtime.float_model import FloatModel
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

CORE = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=64, activation_words=64)
ARRAY = EIEConfig(pes=2)
FEW = settings(deadline=None, max_examples=50, derandomize=True)
FLOAT = np.dtype(np.float32)


# --- one operator between layers ---

def evaluated(node, xs, constants):
    """What ONNX's reference makes of float64 values, by ONNX's own text."""
    names = [name for name in dict.fromkeys(node.input) if name and name not in constants]
    model = helper.make_model(helper.make_graph(
        [node], "operator",
        [helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in names],
        [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(value.astype(np.float64) if value.dtype == FLOAT else value, name)
         for name, value in constants.items()]), opset_imports=[helper.make_opsetid("", 21)])
    try:
        y, = ReferenceEvaluator(model).run(["y"], dict(zip(names, xs, strict=True)))
    except ValueError:      # its pooling fails where an axis of one value is padded on one side
        reject()
    return y


def around(node, *shapes, behind=LayerNode, **constants):
    """A graph of a layer for each operand, the operator ``node``, and what reads its ``y``."""
    names = [name for name in dict.fromkeys(node.input) if name and name not in constants]
    y = evaluated(node, [np.zeros(shape) for shape in shapes], constants)
    layer = Linear("layer", np.ones((1, 1), np.float32), np.zeros(1, np.float32), "none")
    last = LayerNode(layer, ("y",), ("z",)) if behind is LayerNode else OperatorNode(
        "last", helper.make_node("Tanh", ["y"], ["z"]), ("y",), ("z",))
    types = {"x": ValueType((1,), FLOAT), "y": ValueType(y.shape, FLOAT),
             "z": ValueType(y.shape, FLOAT), **{
                 name: ValueType(tuple(shape), FLOAT)
                 for name, shape in zip(names, shapes, strict=True)}}
    return Graph("the test", (
        *(LayerNode(layer, ("x",), (name,)) for name in names),
        OperatorNode("operator", node, tuple(names), ("y",)), last), types, ("x",), ("z",),
        constants={name: numpy_helper.from_array(value, name)
                   for name, value in constants.items()})


def rule_of(graph):
    """The rule in place of the operator, if it becomes one."""
    return next((node for node in integer.take(graph).nodes if isinstance(node, RuleNode)), None)


def check(node, before, seed=0, exact=False, **constants):
    """The rule between random integers of these types gives what the operator gives, to half a
    step; ``before`` have the shapes too. The taken node."""
    taken = rule_of(around(node, *(kind.shape for kind in before), **constants))
    assert taken is not None
    rng = np.random.default_rng(seed)
    xs = [rng.integers(-128, 128, kind.size).astype(kind.dtype) for kind in before]
    wanted = evaluated(node, [kind.to_float(x).reshape(kind.shape)
                              for kind, x in zip(before, xs, strict=True)], constants)
    if not wanted.size:
        return taken
    kinds = [dict(zip(dict.fromkeys(taken.reads), before, strict=True))[name]
             for name in taken.reads]
    operands = [dict(zip(dict.fromkeys(taken.reads), xs, strict=True))[name]
                for name in taken.reads]
    span = min(wanted.min(), 0.0), max(wanted.max(), 0.0)
    after = replace(taken.form.type(kinds, span), shape=wanted.shape)
    rule = taken.form.rule(kinds, after)
    rule.check(kinds, after)
    y, saturated = rule.apply(kinds, after, *(x[None] for x in operands))
    error = np.abs(after.to_float(y).reshape(wanted.shape) - wanted).max()
    # the zero point is rounded: an end of the range may be half a step beyond the type
    assert error <= (1e-9 if exact else after.scale * 1.001)
    if not exact:
        middle = np.abs(wanted - (span[0] + span[1]) / 2) < (span[1] - span[0]) / 2 - after.scale
        found = np.abs(after.to_float(y).reshape(wanted.shape) - wanted)[middle]
        assert found.size == 0 or found.max() <= after.scale * (0.5 + 2**-10)
    assert saturated <= wanted.size // 2 + 1
    return taken


def kind(*shape, scale=0.25, zero_point=3, dtype=np.int8):
    return TensorType(shape, np.dtype(dtype), scale, zero_point)


SCALES = st.floats(-6, 2).map(lambda e: 2.0**e)
ZEROS = st.integers(-128, 127)


@st.composite
def pools(draw):
    """A pooling operator of ONNX and the shape of its operand."""
    axes = draw(st.sampled_from([1, 2]))
    operator = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel, strides, dilations = ([draw(st.integers(1, most)) for _ in range(axes)]
                                  for most in (3, 3, 2))
    sizes = [draw(st.integers((k - 1) * d + 1, 8)) for k, d in zip(kernel, dilations, strict=True)]
    given = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    if draw(st.booleans()):
        # ONNX wants less padding than the kernel has; its reference, on one axis, the same twice
        given["pads"] = [draw(st.integers(0, k - 1)) for k in kernel] * 2
        if axes == 2:
            given["pads"][2:] = [draw(st.integers(0, k - 1)) for k in kernel]
        given["ceil_mode"] = draw(st.integers(0, 1))
    elif max(dilations) == 1 and axes == 2:     # ONNX's reference knows it of two axes
        given["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    if operator == "AveragePool":
        given["count_include_pad"] = draw(st.integers(0, 1))
    return operator, given, (1, draw(st.integers(1, 3)), *sizes)


@given(pool=pools(), scale=SCALES, zero=ZEROS, seed=st.integers(0, 99))
@settings(FEW, max_examples=80)
def test_pooling(pool, scale, zero, seed):
    operator, given, shape = pool
    node = helper.make_node(operator, ["a"], ["y"], **given)
    before = kind(*shape, scale=scale, zero_point=zero)
    if rule_of(around(node, shape)) is None:
        assume(False)   # a window in the padding alone
    check(node, [before], seed, exact=operator == "MaxPool")


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("given", [
    {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"},
    {"strides": [2, 2], "ceil_mode": 1}, {"strides": [2, 3], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    {"strides": [2, 2]}], ids=str)
def test_pooling_by_name(operator, given):
    """Each becomes a rule."""
    check(helper.make_node(operator, ["a"], ["y"], kernel_shape=[2, 2], **given),
          [kind(1, 2, 5, 5)], exact=operator == "MaxPool")


@pytest.mark.parametrize("include", [0, 1])
def test_an_average_in_a_corner(include):
    """By hand: 3 x 3 of ones with padding of 1, windows of 2 x 2."""
    node = helper.make_node("AveragePool", ["a"], ["y"], kernel_shape=[2, 2], pads=[1, 1, 0, 0],
                            count_include_pad=include)
    form = rule_of(around(node, (1, 1, 3, 3))).form
    before = kind(1, 1, 3, 3, scale=1.0, zero_point=0)
    after = form.type([before], (0.0, 255.0))
    y, _ = form.rule([before], after).apply([before], after, np.full((1, 9), 100, np.int8))
    corner, edge = (25, 50) if include else (100, 100)
    assert after.to_float(y).reshape(3, 3).tolist() == [
        [corner, edge, edge], [edge, 100, 100], [edge, 100, 100]]


@pytest.mark.parametrize(("operator", "shape", "axes", "given"), [
    ("GlobalAveragePool", (1, 3, 4, 5), None, {}), ("GlobalAveragePool", (2, 3, 4), None, {}),
    ("ReduceMean", (1, 3, 4, 5), [2, 3], {"keepdims": 0}), ("ReduceMean", (1, 3, 4), [-1], {}),
    ("ReduceMean", (2, 3, 4), [1], {}), ("ReduceMean", (1, 3, 2, 2), [3, 2], {})])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_means(operator, shape, axes, given, dtype):
    operands = ["a", "axes"] if axes else ["a"]
    check(helper.make_node(operator, operands, ["y"], **given), [kind(*shape, dtype=dtype)],
          **({"axes": np.array(axes)} if axes else {}))


@given(scales=st.tuples(SCALES, SCALES), zeros=st.tuples(ZEROS, ZEROS), seed=st.integers(0, 99),
       dtypes=st.tuples(*[st.sampled_from([np.int8, np.int16])] * 2))
@FEW
def test_additions(scales, zeros, seed, dtypes):
    check(helper.make_node("Add", ["a", "b"], ["y"]), [
        kind(1, 30, scale=scale, zero_point=zero, dtype=dtype)
        for scale, zero, dtype in zip(scales, zeros, dtypes, strict=True)], seed)


def test_a_value_added_to_itself():
    assert check(helper.make_node("Add", ["a", "a"], ["y"]), [kind(1, 30)]).reads == ("a", "a")


@given(scale=SCALES, zero=ZEROS, ends=st.tuples(
    st.none() | st.floats(-20, 20, width=32), st.none() | st.floats(-20, 20, width=32)))
@FEW
def test_clamps(scale, zero, ends):
    assume(None in ends or ends[0] <= ends[1])
    constants = {name: np.array(end, np.float32) for name, end in zip("lh", ends, strict=True)
                 if end is not None}
    node = helper.make_node("Clip", ["a", *(name if name in constants else "" for name in "lh")],
                            ["y"])
    check(node, [kind(1, 40, scale=scale, zero_point=zero)], **constants)


def test_relu():
    check(helper.make_node("Relu", ["a"], ["y"]), [kind(1, 40)])


@pytest.mark.parametrize(("shapes", "axis"), [
    ([(1, 2, 3), (1, 4, 3)], 1), ([(1, 2, 3), (1, 2, 1)], -1), ([(2, 3)] * 3, 0)])
def test_concatenations(shapes, axis):
    names = list("abc")[:len(shapes)]
    check(helper.make_node("Concat", names, ["y"], axis=axis), [kind(*shape) for shape in shapes],
          exact=True)


@pytest.mark.parametrize(("shape", "axes"), [((1, 2, 3, 4), [0, 2, 3, 1]), ((2, 3), None)])
def test_transpositions(shape, axes):
    given = {} if axes is None else {"perm": axes}
    check(helper.make_node("Transpose", ["a"], ["y"], **given), [kind(*shape)], exact=True)


def test_what_is_joined_of_two_types_spans_both():
    form = rule_of(around(helper.make_node("Concat", ["a", "b"], ["y"], axis=1), (1, 2),
                          (1, 2))).form
    assert form.type([kind(2), kind(2)], (-9.0, 9.0)) == kind(2)
    found = form.type([kind(2), kind(2, scale=0.5)], (-1.0, 254.0))
    assert (found.scale, found.zero_point) == (1.0, -127)


def test_a_dead_value_has_a_scale():
    form = rule_of(around(helper.make_node("Relu", ["a"], ["y"]), (1, 2))).form
    for dtype in (np.int8, np.int16):
        found = form.type([kind(2, dtype=dtype)], (0.0, 0.0))
        assert (found.dtype, found.scale) == (dtype, 0.25 / 64)


IMAGE = (1, 2, 4, 4)
NO_RULE = {
    "an addition that repeats an operand": ("Add", (IMAGE, (1, 2, 1, 1)), {}, {}),
    "an addition of a constant": ("Add", (IMAGE,), {}, {"b": np.ones(IMAGE, np.float32)}),
    "a constant joined": ("Concat", (IMAGE,), {"axis": 1}, {"b": np.ones(IMAGE, np.float32)}),
    "three axes": ("MaxPool", ((1, 2, 4, 4, 4),), {"kernel_shape": [2, 2, 2]}, {}),
    "a mean over axes apart": ("ReduceMean", (IMAGE,), {}, {"b": np.array([1, 3])}),
    "a mean over nothing": ("ReduceMean", (IMAGE,), {"noop_with_empty_axes": 1},
                            {"b": np.array([], np.int64)}),
    "another operator": ("Tanh", (IMAGE,), {}, {}),
}


@pytest.mark.parametrize("case", NO_RULE)
def test_what_has_no_integer_form(case):
    operator, shapes, given, constants = NO_RULE[case]
    names = ["a", "b"][:len(shapes)] + list(constants)
    node = helper.make_node(operator, names, ["y"], **given)
    assert rule_of(around(node, *shapes, **constants)) is None


def test_a_window_beyond_64_thousand_values_stays_float():
    node = helper.make_node("GlobalAveragePool", ["a"], ["y"])
    assert rule_of(around(node, (1, 1, 128, 256))) is not None
    assert rule_of(around(node, (1, 1, 128, 257))) is None


@pytest.mark.parametrize("alone", [True, False])
def test_a_sum_is_clamped_in_the_same_rule_where_nothing_else_reads_it(alone):
    graph = around(helper.make_node("Add", ["a", "b"], ["y"]), (1, 4), (1, 4))
    *others, last = graph.nodes
    relu = OperatorNode("relu", helper.make_node("Relu", ["y"], ["r"]), ("y",), ("r",))
    nodes = (*others, relu, replace(last, reads=("r",)), *[last] * (not alone))
    types = {**graph.types, "r": graph.types["y"]}
    found = [node for node in integer.take(replace(graph, nodes=nodes, types=types)).nodes
             if isinstance(node, RuleNode)]
    assert [[each.operator for each in node.operators] for node in found] == (
        [["Add", "Relu"]] if alone else [["Add"], ["Relu"]])
    assert [node.reads for node in found] == ([("a", "b")] if alone else [("a", "b"), ("y",)])


def test_what_only_floats_read_stays_float():
    node = helper.make_node("Relu", ["a"], ["y"])
    assert rule_of(around(node, (1, 4), behind=OperatorNode)) is None
    assert rule_of(replace(around(node, (1, 4), behind=OperatorNode), outputs=("z", "y")))


def test_indices_of_the_greatest_stay_float():
    graph = around(helper.make_node("MaxPool", ["a"], ["y"], kernel_shape=[2, 2]), IMAGE)
    *layers, pool, last = graph.nodes
    both = replace(pool, writes=("y", "i"))
    assert rule_of(replace(graph, nodes=(*layers, both, last))) is None


def test_a_quantised_model_keeps_its_operators():
    graph = around(helper.make_node("Relu", ["a"], ["y"]), (1, 4))
    assert rule_of(replace(graph, quantised={"a": kind(4)})) is None


# --- whole models ---

def model(path, text, **more):
    """An ONNX file of ``text``, whose input is ``x``, and whose constants have sizes by name."""
    rng = np.random.default_rng(3)
    sizes = {"A": (4, 3, 3, 3), "B": (4, 4, 3, 3), "C": (3, 4, 1, 1), "Z": (5, 7)}
    built = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,3,6,6] x) => (float[N,5] y)'
        f' {{ {text} }}')
    used = {name for node in built.graph.node for name in node.input}
    values = {name: (rng.normal(size=size) / np.sqrt(np.prod(size[1:]))).astype(np.float32)
              for name, size in sizes.items()} | more
    built.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name)
                                   for name, value in values.items() if name in used)
    path.write_bytes(built.SerializeToString())
    return path


BRANCHES = """h = Conv <pads=[1, 1, 1, 1]> (x, A) a = Relu (h)
    p = MaxPool <kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]> (a)
    b = Conv <pads=[1, 1, 1, 1]> (p, B) s = Add (b, p) r = Relu (s)
    c = Conv (r, C) six = Clip (c, low, high)
    k = Concat <axis=1> (r, six) g = GlobalAveragePool (k) f = Flatten (g)
    y = Gemm <transB=1> (f, Z)"""
"""A residual block, two branches, and a mean."""


def compiled(path, *configs, samples=24):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(samples, 3, 6, 6)).astype(np.float32)
    return compile_network(read(path), x, *configs, batch=2), x[:2]


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    path = tmp_path_factory.mktemp("branches") / "model.onnx"
    return model(path, BRANCHES, low=np.float32(0), high=np.float32(0.5))


def run_golden(made, x):
    """The run, and what was given."""
    given = arrays.inputs(made.program, "x", x)
    golden = GoldenBackend(made.program, made.reference)
    return run_program(made.program.traced(), golden, given.buffers), given


def run_both(made, x):
    """Golden and RTL agree in every buffer; the run of golden."""
    run, given = run_golden(made, x)
    both = GoldenBackend(made.program, made.reference), backends.rtl("python")
    assert verify(made.program, given.buffers, both).difference is None
    return run, given


def opinion(path, made, run, given):
    found = FloatModel(path, made.program, made.reference).compare(run, given.real)
    assert found.disagreement is None
    assert len(found.layers) == len(made.reference)
    return found


def test_no_float_step_between_layers(branches):
    made, x = compiled(branches, CORE)
    steps = made.program.steps
    rules = [step.rule.name for step in steps if isinstance(step, HostStep)]
    assert rules == ["max", "sum", "sum", "sum", "join", "average"]
    assert not any(isinstance(step, OperatorStep) for step in steps)
    assert all(kind.dtype == np.int8 for kind in made.program.buffers.values())
    run, given = run_both(made, x)
    opinion(branches, made, run, given)
    wanted = read(branches).evaluate({"x": x}, ["y"])["y"]
    found = arrays.outputs(made.program, run.buffers, len(x))["y"]
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_a_layer_takes_the_integers_that_are_there(branches):
    """Those of the greatest are the convolution's own, and the next convolution takes them."""
    made, _ = compiled(branches, CORE)
    first = next(step for step in made.program.steps if isinstance(step, HostStep))
    assert isinstance(first.rule, Maximum)
    before, after = (made.program.buffers[name] for name in (*first.reads, *first.writes))
    assert replace(before, shape=()) == replace(after, shape=())
    second = next(step for step in made.program.steps
                  if isinstance(step, EngineStep) and step.reads == first.writes)
    assert second.image.input.scale == after.scale


def test_rules_on_sixteen_bits(branches):
    made, x = compiled(branches, ARRAY)
    assert {kind.dtype for kind in made.program.buffers.values()} == {np.dtype(np.int16)}
    run, given = run_golden(made, x)
    opinion(branches, made, run, given)
    wanted = read(branches).evaluate({"x": x}, ["y"])["y"]
    found = arrays.outputs(made.program, run.buffers, len(x))["y"]
    assert np.abs(found - wanted).max() < 0.2 * np.abs(wanted).max()    # of 15 weights a layer


def test_the_opinion_sees_a_convolution_by_patches(branches):
    """Weights along the kernel's rows in place of its columns."""
    made, x = compiled(branches, ARRAY)
    first, *others = made.reference
    turned = first.weight.reshape(4, 3, 3, 3).swapaxes(2, 3).reshape(first.weight.shape)
    layers = (EIELayer(**{field.name: getattr(first, field.name) for field in fields(EIELayer)}
                       | {"weight": turned}), *others)
    program = replace(made.program, reference=made.program.digest(layers))
    run, given = run_golden(replace(made, program=program, reference=layers), x)
    found = FloatModel(branches, program, layers).compare(run, given.real)
    assert (found.disagreement.layer, found.disagreement.tensor) == (first.name, "output")


def test_a_value_that_is_not_finite(tmp_path):
    path = model(tmp_path / "m.onnx", "a = Conv (x, A) s = Add (a, a) f = Flatten (s)"
                 " y = Gemm <transB=1> (f, Z)", Z=np.ones((5, 16), np.float32),
                 A=np.eye(1, 27, dtype=np.float32).reshape(1, 3, 3, 3))
    with pytest.raises(BadInput, match=r"value s of the calibration \[0, 0\] is inf"):
        compile_network(read(path), np.full((2, 3, 6, 6), 2e38, np.float32), CORE)


def test_inspect_says_which_stay_integers(branches):
    rows = {row["name"]: row["reason"] for row in inspect(read(branches))
            if row["engine"] == "host"}
    assert len(rows) == 6
    assert set(rows.values()) == {"It runs on the host, in integers."}


def test_the_file(branches, tmp_path):
    made, _ = compiled(branches, CORE)
    made.save(tmp_path / "m.zsk")
    loaded = Program.load(tmp_path / "m.zsk")
    assert [step.rule for step in loaded.steps if isinstance(step, HostStep)] == [
        step.rule for step in made.program.steps if isinstance(step, HostStep)]


@pytest.mark.parametrize(("number", "change", "said"), [
    (0, lambda rule: replace(rule, geometry=replace(rule.geometry, stride=(1, 1))), "expected 144"),
    (1, lambda rule: replace(rule, low=rule.low + 1), "not those of the reference"),
    (1, lambda rule: replace(rule, multipliers=(1, 2)), "its multipliers are"),
    (3, lambda rule: Convert(), "not those of the reference"),
    (4, lambda rule: replace(rule, rows=9), "not those of the reference"),
])
def test_a_rule_that_somebody_changed(branches, tmp_path, number, change, said):
    made, _ = compiled(branches, CORE)
    at = [i for i, step in enumerate(made.program.steps) if isinstance(step, HostStep)][number]
    steps = list(made.program.steps)
    steps[at] = replace(steps[at], rule=change(steps[at].rule))
    replace(made.program, steps=tuple(steps)).save(tmp_path / "m.zsk")
    with pytest.raises(BadInput, match=said):
        Program.load(tmp_path / "m.zsk")


# --- sums ahead of float operators ---

FLOATS = """h = Conv <pads=[1, 1, 1, 1]> (x, A, b) a = Relu (h) e = Sigmoid (a)
    c = Conv (e, C) t = Tanh (c) m = MaxPool <kernel_shape=[6, 6]> (c)
    k = Concat <axis=1> (t, c) g = GlobalAveragePool (k) f = Flatten (g)
    y = Gemm <transB=1> (f, Z)"""
"""A layer with a ReLU and a bias that Sigmoid alone reads, and one that three read."""


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    path = tmp_path_factory.mktemp("floats") / "model.onnx"
    return model(path, FLOATS, b=np.float32([1, -1, 0.5, 0]), Z=np.ones((5, 6), np.float32))


def test_sums_reach_float_operators(floats):
    made, x = compiled(floats, CORE)
    raw = [step for step in made.program.steps
           if isinstance(step, EngineStep) and step.image.output.dtype == np.int32]
    assert len(raw) == 2
    assert [made.program.buffers[step.writes[0]].dtype for step in raw] == [np.int32] * 2
    run, given = run_both(made, x)
    found = opinion(floats, made, run, given)
    assert 0 < max(layer.share for layer in found.layers) <= 1
    values = read(floats).evaluate({"x": x}, ["e", "y"])
    held = next(run.buffers[name] for step in made.program.steps
                if isinstance(step, OperatorStep) for name in step.writes)
    assert np.abs(held - values["e"]).max() < 0.01      # no step of an output
    y = arrays.outputs(made.program, run.buffers, len(x))["y"]
    assert np.abs(y - values["y"]).max() < 0.05 * np.abs(values["y"]).max()


@pytest.mark.parametrize("fault", ["units", "relu"])
def test_the_opinion_sees_what_the_host_makes_of_sums(floats, monkeypatch, fault):
    from zeroskip.sw.compiler import compile as compiler

    def wrong(units, axis, relu, right=compiler.Sums):
        return right(units * np.float32(1 + 0.02 * (fault == "units")), axis,
                     relu and fault != "relu")
    monkeypatch.setattr(compiler, "Sums", wrong)
    made, x = compiled(floats, CORE)
    run, given = run_golden(made, x)
    found = FloatModel(floats, made.program, made.reference).compare(run, given.real)
    assert found.disagreement.layer == made.reference[0].name


def test_an_output_of_the_model_is_no_sum(tmp_path):
    path = model(tmp_path / "m.onnx", "f = Flatten (x) h = Gemm <transB=1> (f, F) e = Sigmoid (h)"
                 " y = Gemm <transB=1> (e, G)", F=np.eye(7, 108, dtype=np.float32),
                 G=np.ones((5, 7), np.float32))
    made, _ = compiled(path, CORE)
    assert [image.output.dtype for image in made.program.images] == [np.int32, np.int8]
    made, _ = compiled(path, ARRAY)     # the array keeps its sums
    assert [image.output.dtype for image in made.program.images] == [np.int16, np.int16]
