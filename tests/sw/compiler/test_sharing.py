"""A layer at several nodes: one quantisation for all its uses, one image, once in the file."""

import json
import zlib
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import CONFIGS as TENSORCORE
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.api import program as api
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.compiler.program import EngineStep, Program
from zeroskip.sw.compiler.sections import Section, cut
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.engines.eie.quantize import HEADROOM
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.load import read
from zeroskip.sw.graph.graph import Graph, LayerNode
from zeroskip.sw.graph.network import Linear, Network
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.export_c import c_header
from zeroskip.sw.runtime.float_model import FloatModel
from zeroskip.sw.runtime.golden_backend import GoldenBackend
from zeroskip.sw.runtime.run import run_program
from zeroskip.sw.runtime.verify import verify

CORE = TensorCoreConfig(rows=2, columns=2, products=2, weight_words=64, activation_words=64)
ARRAY = EIEConfig(pes=2)


def linear(name, outputs=6, inputs=6, seed=0, activation="none"):
    rng = np.random.default_rng(seed)
    return Linear(name, rng.normal(size=(outputs, inputs)).astype(np.float32),
                  rng.normal(size=outputs).astype(np.float32), activation)


def x(samples=20, size=6, seed=1):
    return np.random.default_rng(seed).normal(size=(samples, size)).astype(np.float32)


def numbers(program):
    """The number of the image of each engine step."""
    images = [id(image) for image in program.images]
    return [images.index(id(step.image)) for step in program.steps
            if isinstance(step, EngineStep)]


def check_exact(compiled, inputs):
    """Golden, which knows nothing of images, and RTL agree in every buffer."""
    pair = GoldenBackend(compiled.program, compiled.reference), backends.rtl("python")
    verdict = verify(compiled.program, inputs, pair)
    assert verdict.difference is None
    return verdict


def check_saved(compiled, path):
    compiled.save(path)
    loaded = Program.load(path)
    assert numbers(loaded) == numbers(compiled.program)
    assert loaded.reference == compiled.program.reference
    return load_tensors(path.read_bytes())


@pytest.mark.parametrize("config", [CORE, ARRAY], ids=["core", "array"])
def test_a_layer_twice_in_a_chain(config, tmp_path):
    again, head = linear("again", activation="relu"), linear("head", 3, seed=2)
    network = Network((again, again, head))
    compiled = compile_network(network, x(), config)
    assert numbers(compiled.program) == [0, 0, 1]
    assert [layer.name for layer in compiled.reference] == ["again", "head"]
    assert [entry.name for entry in compiled.report] == ["again", "head"]
    assert [layer.name for layer in compiled.program.layers] == ["again", "head"]
    assert [step.writes for step in compiled.program.steps if isinstance(step, EngineStep)] == [
        ("again",), ("again#2",), ("head",)]
    integers, _ = compiled.program.input.to_integer(x(3, seed=3))
    verdict = check_exact(compiled, integers)
    assert verdict.compared == 3 * (6 + 6 + 3)
    assert len(verdict.results[0]) == 3
    names = check_saved(compiled, tmp_path / "model.zsk")
    assert {name.split(".")[0] for name in names} == {"image0", "image1"}


def test_the_scales_are_those_of_all_uses():
    """Values grow from use to use: the last use's reach further than the first's."""
    again = Linear("again", (3 * np.eye(4)).astype(np.float32), np.zeros(4, np.float32), "none")
    given = x(50, 4)
    compiled = compile_network(Network((again, again)), given, ARRAY)
    (layer,), peak = compiled.reference, np.abs(given).max()
    assert layer.output.scale == pytest.approx(HEADROOM * 9 * peak / 32767, rel=1e-4)
    assert layer.input.scale == pytest.approx(3 * peak / 32767, rel=1e-4)
    integers, _ = compiled.program.input.to_integer(given)
    assert check_exact(compiled, integers).results[0][1].saturated == 0


def test_what_is_beside_a_shared_layer_takes_its_scales():
    """Only from one use to the next the host converts."""
    first, again, head = linear("first"), linear("again", seed=3), linear("head", 3, seed=2)
    compiled = compile_network(Network((first, again, again, head)), x(), CORE)
    a, b, c = compiled.reference
    assert (a.output, c.input) == (b.input, b.output)
    assert b.input != b.output
    assert [step.rule.name for step in compiled.program.steps
            if not isinstance(step, EngineStep)] == ["convert"]


def test_a_node_of_its_own_has_scales_of_its_own():
    """Equal weights of two layers of a network that nobody said are one."""
    compiled = compile_network(Network((linear("a"), linear("b"))), x(), CORE)
    assert [layer.name for layer in compiled.reference] == ["a", "b"]
    assert len(compiled.program.images) == 1


def sections(*chains):
    """A section for each word, whose letters are layers."""
    layers = {name: linear(name) for name in "abcd"}
    return [Section(CORE, *[tuple(LayerNode(layers[name], (f"{number}{at}",),
                                             (f"{number}{at + 1}",))
                                   for at, name in enumerate(chain))] * 2)
            for number, chain in enumerate(chains)]


@pytest.mark.parametrize(("given", "expected"), [
    (["abc"], ["abc"]), (["abc", "d"], ["abc", "d"]), (["abc", "abc"], ["abc", "abc"]),
    (["abc", "ab"], ["a", "b", "c", "a", "b"]), (["abcd", "b"], ["a", "b", "cd", "b"]),
    (["aab"], ["a", "a", "b"]), (["abab"], ["a", "b", "a", "b"]),
    (["abc", "cd"], ["ab", "c", "c", "d"]), (["abcd", "abcd", "b"], [*["a", "b", "cd"] * 2, "b"])])
def test_sections_share_as_wholes_or_arecut(given, expected):
    assert ["".join(node.name for node in section.nodes)
            for section in cut(sections(*given))] == expected


def test_a_layer_on_two_engines_has_an_image_on_each():
    first, second = sections("ab", "a")
    assert len(cut([first, replace(second, config=ARRAY)])) == 2


TWO_INPUTS = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,6] x, float[N,6] z) => (float[N,2] y) {
    a = Gemm <transB=1> (x, V, v) b = Relu (a) c = Gemm <transB=1> (b, W)
    d = Gemm <transB=1> (z, V, v) e = Relu (d) f = Gemm <transB=1> (e, W)
    s = Sigmoid (c) t = Add (s, f) y = Gemm <transB=1> (t, U)
}"""


@pytest.fixture
def tower(tmp_path):
    """Both inputs go through the same two layers."""
    rng = np.random.default_rng(5)
    model = onnx.parser.parse_model(TWO_INPUTS)
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.normal(size=size).astype(np.float32), name)
        for name, size in {"V": (5, 6), "v": (5,), "W": (4, 5), "U": (2, 4)}.items())
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_sections_that_repeat_share_an_image_of_two_layers(tower, tmp_path):
    """The third opinion finds the nodes of both uses."""
    graph = read(tower)
    first, second, third, fourth, _ = graph.layers
    assert first.layer is third.layer
    assert second.layer is fourth.layer
    assert len({node.name for node in graph.layers}) == 5
    given = {"x": x(), "z": 4 * x(seed=6)}
    compiled = compile_network(graph, given, CORE)
    assert numbers(compiled.program) == [0, 0, 1]
    assert [len(image.layers) for image in compiled.program.images] == [2, 1]
    assert compiled.reference[0].input.scale == pytest.approx(
        (given["z"].max() - given["z"].min()) / 255)
    buffers = {port.name: compiled.program.buffers[port.buffer].to_integer(given[port.name])[0]
               for port in compiled.program.inputs}
    check_exact(compiled, buffers)
    check_saved(compiled, tmp_path / "model.zsk")
    golden = GoldenBackend(compiled.program, compiled.reference)
    run = run_program(compiled.program.traced(), golden, buffers)
    opinion = FloatModel(tower, compiled.program, compiled.reference).compare(run, given)
    assert opinion.disagreement is None
    assert [each.outputs for each in opinion.layers] == [100, 80, 100, 80, 40]


def test_layers_that_differ_in_a_bias_are_two(tmp_path):
    model = onnx.parser.parse_model(TWO_INPUTS.replace("(z, V, v)", "(z, V)"))
    model.graph.initializer.extend(numpy_helper.from_array(np.ones(size, np.float32), name)
                                   for name, size in {"V": (5, 6), "v": (5,), "W": (4, 5),
                                                      "U": (2, 4)}.items())
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    first, second, third, fourth, _ = read(path).layers
    assert first.layer is not third.layer
    assert second.layer is fourth.layer


def test_layers_in_a_row_keep_their_names():
    """What is pruned and written again has no two layers of one name."""
    again = linear("again")
    nodes = (LayerNode(again, ("x",), ("y",), "first"), LayerNode(again, ("y",), ("z",), "second"))
    graph = Graph.of(Network((again, again)))
    assert [layer.name for layer in replace(graph, nodes=tuple(
        replace(own, called=node.called) for own, node in zip(graph.layers, nodes, strict=True)))
        .network().layers] == ["first", "second"]


def test_which_image_a_step_computes_is_bound_to_the_reference(tmp_path):
    """Two images of one shape and one configuration: nothing else tells 0, 1, 0 from 0, 1, 1."""
    path, kind = tmp_path / "model.zsk", TensorType.of(6, np.int16, 1.0)
    layers = [replace(layer, input=kind, output=kind)
              for layer in random_layers(np.random.default_rng(1), (6, 6, 6), 0.5)]
    first, second = (compile_layers((layer,), ARRAY) for layer in layers)
    Program.chain((first, second, first), layers).save(path)
    assert numbers(Program.load(path)) == [0, 1, 0]
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8:8 + length])["__metadata__"]["zeroskip"])
    header["steps"][2]["image"] = 1
    text = json.dumps(header)
    path.write_bytes(save_tensors(load_tensors(content), {
        "zeroskip": text, "crc32": str(zlib.crc32(text.encode()))}))
    with pytest.raises(BadInput, match="not those of the reference"):
        Program.load(path)


def test_the_report_has_each_use():
    again, head = linear("again"), linear("head", 3, seed=2)
    compiled = compile_network(Network((again, again, head)), x(), TENSORCORE["tc-8"])
    rows = api.Program(compiled.program, compiled.reference, compiled.report).report()
    found = [row for row in rows if row["step"] != "host"]
    assert [row["layer"] for row in found] == ["again", "again", "head"]
    assert found[0] == found[1]
    assert all(set(row) > {"step", "target", "layer"} for row in found)


def test_an_image_that_runs_twice_is_not_written_as_c():
    again = linear("again")
    program = compile_network(Network((again, again)), x(), CORE).program
    with pytest.raises(BadInput, match="runs its image 2 times, and what the host does between"):
        c_header(program, "net")
