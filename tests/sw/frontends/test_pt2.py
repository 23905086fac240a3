"""Files of ``torch.export.save``: what torch would run of them never reaches it."""

import io
import json
import os
import pickle
import random
import re
import sys
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import pt2_child, pt2_frontend
from zeroskip.sw.frontends.load import read
from zeroskip.sw.frontends.pt2_archive import expression, rebuild

torch.set_num_threads(1)


class Model(nn.Module):
    """All that a file holds: parameters, a buffer, a constant, an argument by name, a dict."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 2), nn.Linear(8, 3)
        self.norm = nn.BatchNorm2d(2)
        self.shift = torch.tensor([1.0, -2.0, 3.0])

    def forward(self, x, *, y):
        z = self.norm(self.conv(x)).view(x.shape[0], -1)
        return {"a": self.fc(z) + self.shift, "b": [torch.relu(y), y.flatten(1)]}


def saved():
    """A file with an open batch."""
    torch.manual_seed(0)
    x, y = torch.zeros(2, 1, 3, 3), torch.zeros(2, 4, 5)
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Model().eval(), (x,), {"y": y},
                                  dynamic_shapes={"x": batch, "y": batch})
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


CONTENT = saved()
JSON = ("models/model.json", "model_weights_config.json", "model_constants_config.json")


def members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def packed(parts):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def edited(name, edit):
    """The file with ``edit`` applied to one of its JSON members."""
    parts = members(CONTENT)
    path = next(each for each in parts if each.endswith(name))
    values = json.loads(parts[path])
    edit(values)
    return packed(parts | {path: json.dumps(values)})


def test_a_file_is_read_as_the_module_computes(tmp_path):
    """Through the process of its own, and nothing is printed."""
    torch.manual_seed(0)
    module = Model().eval()
    (tmp_path / "m.pt2").write_bytes(CONTENT)
    graph = read(tmp_path / "m.pt2")
    assert [node.name for node in graph.layers] == ["conv", "fc"]
    x, y = torch.randn(4, 1, 3, 3), torch.randn(4, 4, 5)
    with torch.no_grad():
        a, (b, c) = module(x, y=y).values()
    found = graph.evaluate({"x": x.numpy(), "y": y.numpy()}, graph.outputs)
    for name, expected in zip(graph.outputs, (a, b, c), strict=True):
        np.testing.assert_allclose(found[name], expected.numpy().reshape(4, -1), rtol=1e-4,
                                   atol=1e-5)


def test_only_what_is_known_is_in_the_new_file():
    parts = members(rebuild(CONTENT, "m.pt2"))
    assert parts["data/sample_inputs/model.pt"] == b""
    program = json.loads(parts["models/model.json"])
    assert program["guards_code"] == []
    assert not any(node["metadata"] for node in program["graph_module"]["graph"]["nodes"])
    weights = {name: data for name, data in members(CONTENT).items() if "/weight_" in name}
    assert weights.items() <= parts.items()


class Attack:
    """What runs when it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def pickled(config, name):
    """A weight or a constant that is a pickle, declared as one."""
    def attack(proof):
        def edit(values):
            values["config"][name]["use_pickle"] = True
            paths.append(values["config"][name]["path_name"])
        paths = []
        parts = members(edited(config, edit))
        path, = (each for each in parts if each.endswith(f"/{paths[0]}"))
        return packed(parts | {path: pickle.dumps(Attack(proof))})
    return attack


def custom(kind):
    """An object beside the constants."""
    def attack(proof):
        def edit(values):
            values["config"]["object"] = {
                "path_name": f"{kind}_0", "is_param": False, "use_pickle": True,
                "tensor_meta": None}
        parts = members(edited("constants_config.json", edit))
        return packed(parts | {f"data/constants/{kind}_0": pickle.dumps(Attack(proof))})
    return attack


def in_program(edit):
    return lambda proof: edited("models/model.json", lambda program: edit(program, proof))


def code(proof):
    return f"__import__('os').mkdir({str(proof)!r})"


def sizes(program, proof):
    program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] \
        = code(proof)


def tree(program, _proof):
    entry = program["graph_module"]["module_call_graph"][0]["signature"]
    entry["out_spec"] = json.dumps([1, {"type": "antigravity.Geohash", "context": "null",
                                        "children_spec": []}])


def name(program, proof):
    """torch writes the names of arguments into a function that it compiles."""
    text = json.dumps(program).replace('"y"', json.dumps(f"y={code(proof)}"))
    program.update(json.loads(text))


def parameter(program, proof):
    spec = program["graph_module"]["signature"]["input_specs"][0]["parameter"]
    spec["parameter_name"] = f'a"), {code(proof)}, ("'


def target(program, _proof):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def control(program, _proof):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.higher_order.cond"


def file_operator(program, _proof):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


def library(_proof):
    return packed(members(CONTENT) | {"data/aotinductor/model/a.so": b"\x7fELF"})


ATTACKS = {
    "weights": (pickled("weights_config.json", "fc.weight"), "'fc.weight' as a pickle, which"),
    "constants": (pickled("constants_config.json", "shift"), "'shift' as a pickle, which"),
    "custom object": (custom("custom_obj"), "'object' as a pickle, which could run code"),
    "opaque object": (custom("opaque_obj"), "'object' as a pickle, which could run code"),
    "expression": (in_program(sizes), "which is more than arithmetic; export the model with"),
    "tree spec": (in_program(tree), "takes or returns a 'antigravity.Geohash'; let the model"),
    "name": (in_program(name), "not laid out as torch.export.save"),
    "parameter": (in_program(parameter), "not laid out as torch.export.save"),
    "target": (in_program(target), "calls 'torch.os.system', which is no operator of torch's own"),
    "control flow": (in_program(control), "cond', which is control flow or a change of"),
    "operator on files": (in_program(file_operator), "calls 'torch.ops.aten.from_file.default'"),
    "library": (library, "holds a compiled library (archive/data/aotinductor/model/a.so)"),
}


@pytest.mark.parametrize("place", ATTACKS)
def test_attack(tmp_path, place):
    attack, message = ATTACKS[place]
    proof = tmp_path / "proof"
    path = tmp_path / "m.pt2"
    path.write_bytes(attack(proof))
    with pytest.raises(BadInput) as refused:
        read(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
    assert not proof.exists()
    assert "antigravity" not in sys.modules


def test_sample_inputs_and_guards_are_left_out(tmp_path):
    """They are in every file; an attack in them is gone in the new one, which is read."""
    proof = tmp_path / "proof"
    parts = members(edited("models/model.json", lambda program: program["guards_code"].append(
        code(proof)))) | {"data/sample_inputs/model.pt": pickle.dumps(Attack(proof))}
    new = rebuild(packed(parts), "m.pt2")
    assert not any(b"mkdir" in part for part in members(new).values())
    (tmp_path / "new.pt2").write_bytes(new)
    assert pt2_child.load(tmp_path / "new.pt2").graph_signature
    assert not proof.exists()
    assert run_by_torch(packed(parts), proof, tmp_path / "old.pt2")


def run_by_torch(content, proof, path):
    """Whether the attack in a file is one."""
    path.write_bytes(content)
    with suppress(Exception):
        torch.export.load(path)
    return proof.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["weights", "constants", "opaque object", "expression"])
def test_torch_runs_what_the_attacks_say(tmp_path, place):
    proof = tmp_path / "proof"
    assert run_by_torch(ATTACKS[place][0](proof), proof, tmp_path / "m.pt2")


SYMBOL = "Symbol('s0', positive=True, integer=True)"


@pytest.mark.parametrize("text", [
    "7", SYMBOL, f"Mul(Integer(2), {SYMBOL})", f"Add(FloorDiv({SYMBOL}, Integer(2)), Integer(-1))",
    f"Pow({SYMBOL}, Integer(2))", f"Max(Integer(1), {SYMBOL})", "s0 + 2*s1 - s0//3", "-(u0)"])
def test_size(text):
    assert expression(text) == text


@pytest.mark.parametrize("text", [
    "__import__('os')", "s0.free_symbols", "Symbol('s0', integer=s0)", "Symbol('s0', real=True)",
    "Symbol('x')", "Integer('7')", "Pow(Integer(9), Integer(9))", f"Pow({SYMBOL}, Integer(99))",
    f"Pow(Pow({SYMBOL}, Integer(8)), Integer(8))", "9**9", "s0 if s0 else 1", "lambda: 1",
    "[1]", "'s0'", "True", "1.5", "(s0", "", "9" * 30, "-" * 5000 + "1", "(" * 900, "1+" * 9000,
    "Add(*s0)", "Add(s0, evaluate=False)", "Eq(s0, 1)", "f's0'", "s0 := 1", "print(1)"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="is more than arithmetic"):
        expression(text)


def meta(**fields):
    def edit(values):
        values["config"]["fc.weight"]["tensor_meta"].update(fields)
    return edited("weights_config.json", edit)


def ints(*values):
    return [{"as_int": value} for value in values]


OUTSIDE = {
    "size": meta(sizes=ints(1000, 8)),
    "stride": meta(strides=ints(1 << 40, 1)),
    "negative stride": meta(strides=ints(-8, 1)),
    "offset": meta(storage_offset={"as_int": 1}),
    "one value many times": meta(sizes=ints(1 << 16, 1 << 14), strides=ints(0, 0)),
    "beyond 64 bits": meta(sizes=ints(1 << 70, 8)),
    "a longer type": meta(dtype=8),
    "no type of ONNX": meta(dtype=9),
    "sparse": meta(layout=1),
    "an open size": meta(sizes=[{"as_expr": {"expr_str": "s0", "hint": None}}, {"as_int": 8}]),
}


@pytest.mark.parametrize("content", OUTSIDE.values(), ids=OUTSIDE)
def test_tensor_outside_its_bytes(content):
    with pytest.raises(BadInput, match=r"^m\.pt2 is not laid out as torch\.export\.save"):
        rebuild(content, "m.pt2")


def test_value_that_is_too_large():
    def edit(program):
        program["graph_module"]["graph"]["tensor_values"]["y"]["sizes"][1] = {"as_int": 1 << 50}

    with pytest.raises(BadInput, match="not laid out"):
        rebuild(edited("models/model.json", edit), "m.pt2")


def test_unknown_version():
    def edit(program):
        program["schema_version"]["major"] = 99

    with pytest.raises(BadInput, match=r"version 99 of torch's schema, and only 8"):
        rebuild(edited("models/model.json", edit), "m.pt2")


def test_big_endian():
    with pytest.raises(BadInput, match="big-endian weights"):
        rebuild(packed(members(CONTENT) | {"byteorder": b"big"}), "m.pt2")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"hello", "not a complete .pt2 file"),
    (CONTENT[:5000], "not a complete .pt2 file")])
def test_file_that_is_no_program(tmp_path, content, message):
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read(tmp_path / "model.pt2")


def test_a_model_from_another_computer_is_read_on_this_one():
    def edit(program):
        for value in program["graph_module"]["graph"]["tensor_values"].values():
            value["device"] = {"type": "cuda", "index": 0}

    program = json.loads(members(rebuild(edited("models/model.json", edit), "m.pt2"))[JSON[0]])
    assert {value["device"]["type"] for value in
            program["graph_module"]["graph"]["tensor_values"].values()} == {"cpu"}


def test_what_torch_cannot_read_is_one_sentence(tmp_path, monkeypatch, capsys):
    """Well-formed, but no program: the process of its own ends with what torch says."""
    def edit(program):
        program["graph_module"]["graph"]["nodes"][-1]["target"] = "torch.ops.aten.nothing.default"

    monkeypatch.setattr(pt2_child, "_bound", lambda more: None)
    (tmp_path / "model.pt2").write_bytes(rebuild(edited("models/model.json", edit), "m.pt2"))
    assert pt2_child.main(tmp_path) == 1
    assert re.fullmatch(r"torch cannot read it \(.*nothing.*\); write it again with "
                        r"torch\.export\.save, or export to ONNX\.\n", capsys.readouterr().out)
    assert in_child(monkeypatch, "print('torch says so.'); exit(1)") == "m.pt2: torch says so."


def test_target_that_is_no_operator(tmp_path):
    """A function of torch's that has the name of an operator."""
    def edit(program):
        program["graph_module"]["graph"]["nodes"][-1]["target"] = "torch.ops.aten.relu.overloads"

    (tmp_path / "m.pt2").write_bytes(rebuild(edited("models/model.json", edit), "m.pt2"))
    with pytest.raises(Exception, match="calls what is no operator|is not an allowed operator"):
        pt2_child.load(tmp_path / "m.pt2")


def in_child(monkeypatch, text):
    """What the frontend says when its process does something else."""
    monkeypatch.setattr(pt2_frontend, "command", lambda folder: [sys.executable, "-c", text])
    with pytest.raises(BadInput) as refused:
        pt2_frontend.to_onnx(CONTENT, "m.pt2")
    return str(refused.value)


def test_process_that_breaks_off_or_takes_too_long(monkeypatch):
    assert in_child(monkeypatch, "import os; os.abort()") == (
        "m.pt2: torch broke off while it read it; export the model to ONNX.")
    monkeypatch.setattr(pt2_frontend, "SECONDS", 0.5)
    assert in_child(monkeypatch, "import time; time.sleep(99)") == (
        "m.pt2: torch did not read it in 0.5 s; export the model to ONNX.")


def test_memory_is_bounded(monkeypatch):
    text = ("from zeroskip.sw.frontends import pt2_child as c\n"
            "c.ROOM, c.load = 1 << 28, lambda path: bytearray(1 << 29)\n"
            "import sys, pathlib; pathlib.Path('model.pt2').touch()\n"
            "sys.exit(c.main(pathlib.Path('.')))")
    assert in_child(monkeypatch, text) == (
        "m.pt2: torch cannot read it (it takes too much memory); export the model to ONNX.")


def test_damaged_files_are_refused_or_harmless():
    """Bits in the JSON, and cuts; what is left of each is read again as it is."""
    rng = random.Random(0)
    parts = members(CONTENT)
    names = [path for path in parts if path.endswith(JSON)]
    assert len(names) == 3
    damaged = [CONTENT[:size] for size in range(1, len(CONTENT), 1999)]
    for _ in range(300):    # without the check sums, so that the damage is seen
        path = rng.choice(names)
        content = bytearray(parts[path])
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        damaged.append(packed(parts | {path: bytes(content)}))
    refused = 0
    for content in damaged:
        try:
            new = rebuild(content, "m.pt2")
        except BadInput:
            refused += 1
        else:
            assert members(rebuild(new, "m.pt2")) == members(new)
    assert refused > 30
