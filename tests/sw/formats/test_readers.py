"""Every reader of files, on damaged and on hostile ones: what it cannot use it refuses in a short
message, soon, and without filling the memory."""

import io
import json
import random
import time
import tomllib
import tracemalloc
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from safetensors.numpy import save as save_tensors

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sim.cases import random_layers
from zeroskip.sw.cli import bench_eie
from zeroskip.sw.cli.files import array
from zeroskip.sw.compiler import placement, reference
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import tensors
from zeroskip.sw.formats.convert import convert
from zeroskip.sw.frontends import load as frontend
from zeroskip.sw.frontends.pt2_archive import rebuild
from zeroskip.sw.graph.network import Conv2d, Linear, Network
from zeroskip.sw.prune.data import read_data
from zeroskip.sw.prune.recipe import read_recipe

MUTANTS = 60
"""Damaged files for each reader."""
MESSAGE = 3000
"""Characters of a message, several lines of a table included."""

READERS = {
    "npy": ("x.npy", array),
    "npz": ("x.npz", read_data),
    "packed npz": ("x.npz", read_data),
    "matrix": ("m.npz", bench_eie._read),
    "recipe": ("r.toml", read_recipe),
    "program": ("p.zsk", Program.load),
    "reference": ("r.safetensors", reference.load),
    "tensors": ("t.safetensors", lambda path: convert(*tensors.read(path), "bitmask")),
    "onnx": ("m.onnx", lambda path: placement.inspect(frontend.read(path))),
    "pt2": ("m.pt2", lambda path: rebuild(path.read_bytes(), str(path))),
}
"""By kind: a name for a file, and what reads it."""


def saved(write):
    """What ``write`` puts into a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def archive(members, method=zipfile.ZIP_STORED):
    """A zip file of members by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return file.getvalue()


def int_(value):
    return {"as_int": value}


def pt2(sizes=(3, 4), strides=(4, 1), method=zipfile.ZIP_STORED, weight=None):
    """A linear layer as ``torch.export.save`` lays it out."""
    def meta(sizes, strides):
        return {"dtype": 7, "sizes": [int_(size) for size in sizes], "requires_grad": False,
                "device": {"type": "cpu", "index": None},
                "strides": [int_(stride) for stride in strides], "storage_offset": int_(0),
                "layout": 7}

    def tensor(name):
        return {"as_tensor": {"name": name}}

    def tree(kind, context, *children):
        return {"type": kind, "context": context, "children_spec": list(children)}

    leaf = tree(None, None)
    arguments = tree("builtins.tuple", "null", tree("builtins.tuple", "null", leaf),
                     tree("builtins.dict", "[]"))
    graph = {
        "inputs": [tensor("w"), tensor("x")], "outputs": [tensor("y")],
        "tensor_values": {"x": meta((1, 4), (4, 1)), "w": meta((3, 4), (4, 1)),
                          "y": meta((1, 3), (3, 1))},
        "sym_int_values": {}, "sym_bool_values": {},
        "nodes": [{"target": "torch.ops.aten.linear.default", "metadata": {}, "inputs": [
            {"name": "input", "arg": tensor("x")}, {"name": "weight", "arg": tensor("w")}],
            "outputs": [tensor("y")]}]}
    signature = {
        "input_specs": [{"parameter": {"arg": {"name": "w"}, "parameter_name": "fc.weight"}},
                        {"user_input": {"arg": tensor("x")}}],
        "output_specs": [{"user_output": {"arg": tensor("y")}}]}
    call = {"inputs": [], "outputs": [], "in_spec": json.dumps([1, arguments]),
            "out_spec": json.dumps([1, leaf])}
    return archive({
        "m/models/model.json": json.dumps({
            "schema_version": {"major": 8, "minor": 1}, "opset_version": {"aten": 10},
            "range_constraints": {}, "graph_module": {
                "graph": graph, "signature": signature,
                "module_call_graph": [{"fqn": "", "signature": call}]}}),
        "m/byteorder": "little",
        "m/data/constants/model_constants_config.json": json.dumps({"config": {}}),
        "m/data/weights/model_weights_config.json": json.dumps({"config": {"fc.weight": {
            "use_pickle": False, "is_param": True, "path_name": "weight_0",
            "tensor_meta": meta(sizes, strides)}}}),
        "m/data/weights/weight_0": np.arange(12, dtype=np.float32).tobytes()
        if weight is None else weight}, method)


@cache
def seeds(folder: Path):
    """A good file of each kind."""
    rng = np.random.default_rng(4)
    x, y = rng.random((9, 4), np.float32), np.arange(9) % 3
    layers = random_layers(rng, (6, 5, 3), 0.5)
    integers = tuple(layers)
    Program.chain((compile_layers(layers, EIEConfig(pes=2)),), integers).save(folder / "p")
    reference.save(folder / "r", integers)
    conv = Conv2d("conv", rng.random((2, 1, 2, 2), np.float32), np.zeros(2, np.float32), "relu",
                  (1, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1))
    frontend.to_onnx(Network((conv, Linear("fc", rng.random((2, 8), np.float32),
                                           np.zeros(2, np.float32), "none"))), folder / "m.onnx")
    matrix = scipy.sparse.random_array((7, 6), density=0.4, rng=rng, format="csc")
    return {
        "npy": saved(lambda file: np.save(file, x)),
        "npz": saved(lambda file: np.savez(file, x=x, y=y)),
        "packed npz": saved(lambda file: np.savez_compressed(file, x=x, y=y)),
        "matrix": saved(lambda file: scipy.sparse.save_npz(file, matrix)),
        "recipe": b'granularity = "vector"\nsize = 4\nl1 = 1e-5\ndata = "x.npz"\nepochs = 3\n'
                  b'[density]\n"fc.1" = 0.25\nfc = 1\n',
        "program": (folder / "p").read_bytes(),
        "reference": (folder / "r").read_bytes(),
        "tensors": save_tensors({"w": np.eye(8, 16, dtype=np.float16)}, {"a": "b"}),
        "onnx": (folder / "m.onnx").read_bytes(),
        "pt2": pt2(),
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return seeds(tmp_path_factory.mktemp("seeds"))


def outcome(folder, kind, content):
    """``"read"``, or ``"refused"`` in a message of reasonable length."""
    name, read = READERS[kind]
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        read(path)
    except BadInput as error:
        message = str(error)
    else:
        return "read"
    assert 20 < len(message) < MESSAGE
    return "refused"


@pytest.mark.parametrize("kind", READERS)
def test_good_files_are_read(tmp_path, good, kind):
    assert outcome(tmp_path, kind, good[kind]) == "read"


TOKENS = (b"\0", b"\xff\xff\xff\xff", b"[" * 50, b"{", b'"', b"-1", b"9" * 30, b"\r\n", b"1e999",
          b"nan", b"PK\1\2", b"\x80")


def damaged(content, rng):
    """Some bits, bytes or pieces of a file changed."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, way = rng.randrange(max(1, len(content))), rng.randrange(5)
        if way < 2 and content:
            content[at] ^= 1 << rng.randrange(8)
        elif way == 2:
            content[at:at + rng.choice((0, 1, 4))] = rng.choice(TOKENS)
        elif way == 3:
            del content[at:at + rng.choice((1, 2, 8, 1 << 20))]
        else:
            other = rng.randrange(max(1, len(content)))
            content[at:at + 8] = content[other:other + 8]
    return bytes(content)


@pytest.mark.filterwarnings("ignore")   # numpy and onnx warn of some
@pytest.mark.parametrize("kind", READERS)
def test_damaged_files(tmp_path, good, kind):
    """Each is read or refused, and nothing else is raised."""
    rng = random.Random(kind)
    found = [outcome(tmp_path, kind, damaged(good[kind], rng)) for _ in range(MUTANTS)]
    assert found.count("refused") > 10


def npy(header, data=b""):
    """A ``.npy`` file with a header of one's own."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data


def encrypted(content):
    """An archive that says that its members are encrypted."""
    content = bytearray(content)
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + place] |= 1
    return bytes(content)


def safetensors(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


NPY = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
HOSTILE = {
    "npy of a terabyte": ("npy", lambda: npy(NPY % "(1099511627776,)", bytes(64))),
    "npy of a negative shape": ("npy", lambda: npy(NPY % "(-4,)", bytes(64))),
    "npy of objects": ("npy", lambda: npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
                                          bytes(8))),
    "npy of nothing": ("npy", lambda: npy(
        "{'descr': '|S0', 'fortran_order': False, 'shape': (1152921504606846976,)}")),
    "npy with a nested header": ("npy", lambda: npy("(" * 9000)),
    "npz bomb": ("npz", lambda: archive({"x.npy": bytes((1 << 28) + 1)}, zipfile.ZIP_DEFLATED)),
    "npz in LZMA": ("npz", lambda: archive({"x.npy": bytes(99)}, zipfile.ZIP_LZMA)),
    "npz in bzip2": ("npz", lambda: archive({"x.npy": bytes(99)}, zipfile.ZIP_BZIP2)),
    "npz encrypted": ("npz", lambda: encrypted(archive({"x.npy": bytes(99), "y.npy": b""}))),
    "npz of a long name": ("npz", lambda: archive({"x" * 60_000: b""})),
    "npz without arrays": ("npz", lambda: archive({})),
    "matrix of a long side": ("matrix", lambda: saved(lambda file: np.savez(
        file, format=b"csc", shape=(1 << 40, 1), data=np.ones(1), indices=np.zeros(1, int),
        indptr=np.array([0, 1])))),
    "matrix with an index outside": ("matrix", lambda: saved(lambda file: np.savez(
        file, format=b"csc", shape=(3, 1), data=np.ones(1), indices=np.array([1 << 30]),
        indptr=np.array([0, 1])))),
    "matrix of no format": ("matrix", lambda: saved(lambda file: np.savez(
        file, format=b"linalg", shape=(3, 1), data=np.ones(1)))),
    "recipe of one key": ("recipe", lambda: b"a." * 20_000 + b"a = 1\n"),
    "recipe of many keys": ("recipe", lambda: b"".join(
        b"k%d." % i + b"a." * 118 + b"a = 1\n" for i in range(500))),
    "recipe nested": ("recipe", lambda: b"density = " + b"[" * 900 + b"\n"),
    "recipe of brackets": ("recipe", lambda: b"density = [\n" + b"[\n" * 50_000),
    "recipe of a long number": ("recipe", lambda: b"density = 1" + b"0" * 5000),
    "recipe of a long hexadecimal number": ("recipe", lambda: b"density = 0x" + b"f" * 900),
    "recipe of a long key": ("recipe", lambda: b"k" * 900 + b" = 1"),
    "recipe without end": ("recipe", lambda: b"# \n" * 200_000),
    "program of a long header": ("program", lambda: save_tensors(
        {}, {"zeroskip": " " * (1 << 25)})),
    "program nested": ("program", lambda: safetensors(b'{"__metadata__":' + b"[" * 99_999)),
    "program of a long number": ("program", lambda: safetensors(b'{"a":1' + b"0" * 9999 + b"}")),
    "program of open quotes": ("program", lambda: safetensors(b'{"' + b'\\"' * 500_000)),
    "reference of a long name": ("reference", lambda: save_tensors(
        {"n" * 1_000_000: np.zeros(1)}, {"layers": "[]"})),
    "reference nested": ("reference", lambda: save_tensors({}, {"layers": "[" * 99_999})),
    "reference of a long number": ("reference", lambda: save_tensors(
        {}, {"layers": "1" + "0" * 9999})),
    "tensors of a long name": ("tensors", lambda: save_tensors(
        {"w": np.zeros(1)}, {"zeroskip.packed": json.dumps(
            {"form": "bitmask", "tensors": {"n" * 99_999: {"dtype": "F16", "pattern": "2:4"}}})})),
    "tensors nested": ("tensors", lambda: save_tensors(
        {"w.values": np.zeros(1)}, {"zeroskip.packed": '{"a":' * 99_999})),
    "onnx of nothing but ones": ("onnx", lambda: b"\xff" * 999),
    "pt2 bomb": ("pt2", lambda: pt2(method=zipfile.ZIP_DEFLATED, weight=bytes((1 << 28) + 1))),
    "pt2 in LZMA": ("pt2", lambda: pt2(method=zipfile.ZIP_LZMA)),
    "pt2 of one value many times": ("pt2", lambda: pt2((1 << 16, 1 << 14), (0, 0))),
    "pt2 of a size beyond 64 bits": ("pt2", lambda: pt2((1 << 70, 4))),
}
"""By name: the kind of file, and what makes it."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path, name):
    kind, make = HOSTILE[name]
    content = make()
    tracemalloc.start()
    began = time.process_time()
    try:
        assert outcome(tmp_path, kind, content) == "refused"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 10
    assert peak < 8 * len(content) + (200 << 20)


def test_the_middle_of_a_long_message_is_left_out():
    error = str(BadInput("model.zsk: " + "n" * 10**6 + " is wrong; compile it again"))
    assert len(error) == 1000
    assert error.startswith("model.zsk: nnn")
    assert error.endswith("nnn is wrong; compile it again")
    lines = str(BadInput("\n".join(map(str, range(10**5))))).split("\n")
    assert len(lines) == 200
    assert (lines[0], lines[-1]) == ("0", "99999")
    assert "..." in lines
    assert str(BadInput("short\ntable")) == "short\ntable"


def test_a_recipe_with_long_names_is_read(tmp_path):
    text = 'criterion = "l1"\n[density]\n' + "".join(
        f'"{"a.b" * 20}.{number}" = 0.5\n' for number in range(1000))
    assert tomllib.loads(text)
    (tmp_path / "r.toml").write_text(text)
    assert len(read_recipe(tmp_path / "r.toml").density) == 1000
