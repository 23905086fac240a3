"""``zeroskip convert``: every form, back again, and what it refuses."""

import json

import ml_dtypes
import numpy as np
import pytest

from zeroskip.sw.formats import metadata as meta
from zeroskip.sw.formats.bitmask import to_bitmask
from zeroskip.sw.formats.nm import compress, mask
from zeroskip.sw.formats.tensors import Tensor, read, write
from zeroskip.sw.formats.torch24 import to_torch
from zeroskip.sw.frontends.load import to_onnx
from zeroskip.sw.graph.network import Conv2d, Linear, Network

FORMS = ["torch", "ptx", "bitmask"]
KEY = "zeroskip.packed"


def pruned(dtype, pattern, seed, rows=32, columns=64):
    """Random weights, some groups with less than they may keep; -128 among the int8."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, (rows, columns))
    keep = mask(weight.astype(np.float32), pattern) & (rng.random(weight.shape) < 0.9)
    return np.where(keep, weight, 0).astype(dtype)


def model():
    """The arrays of a dense model."""
    return {
        "a.weight": pruned(np.float16, "2:4", 1),
        "b.weight": pruned(ml_dtypes.bfloat16, "2:4", 2),
        "c": pruned(np.int8, "2:4", 3),
        "d.weight": pruned(np.float32, "1:2", 4),
        "a.bias": np.arange(7, dtype=np.float32),
        "steps": np.array([[1, 2, 3, 4]], np.int64),
    }


def save(path, arrays, metadata=None):
    write(path, metadata or {}, {name: Tensor.of(array) for name, array in arrays.items()})
    return path


def load(path):
    metadata, tensors = read(path)
    return metadata, {name: tensor.array() for name, tensor in tensors.items()}


@pytest.fixture
def dense(tmp_path):
    return save(tmp_path / "in.safetensors", model(), {"format": "pt"})


@pytest.fixture
def packed(dense, cli, request):
    """The model in the form that the test's parameter names."""
    path = dense.with_name("packed.safetensors")
    done = cli("convert", dense, "-o", path, "--to", request.param, "-q")
    assert done == (0, "", "")
    return path


@pytest.fixture
def refused(cli):
    """``refused(source, to="dense")`` gives the one sentence; nothing is written."""
    def check(source, to="dense"):
        out = source.with_name("out.safetensors")
        code, stdout, stderr = cli("convert", source, "-o", out, "--to", to)
        assert (code, stdout) == (2, "")
        assert stderr.startswith("zeroskip: ")
        assert stderr.count("\n") == 1
        assert not out.exists()
        return stderr
    return check


# --- what it writes ---

@pytest.mark.parametrize("packed", FORMS, indirect=True)
@pytest.mark.parametrize("to", [*FORMS, "dense"])
def test_every_form_becomes_every_form(cli, dense, packed, to):
    out = dense.with_name("again.safetensors")
    assert cli("convert", packed, "-o", out, "--to", to, "-q").code == 0
    if to != "dense":
        assert cli("convert", out, "-o", out, "--to", "dense", "-q").code == 0
    metadata, found = load(out)
    assert metadata == {"format": "pt"}
    expected = model()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_bytes_of_torch(cli, dense):
    out = dense.with_name("out.safetensors")
    cli("convert", dense, "-o", out, "--to", "torch", "-q")
    metadata, found = load(out)
    for name, pattern in (("a.weight", "2:4"), ("b.weight", "2:4"), ("c", "2:4"),
                          ("d.weight", "1:2")):
        values, words = to_torch(compress(model()[name], pattern))
        assert found[f"{name}.values"].tobytes() == values.tobytes()
        assert found[f"{name}.metadata"].dtype == words.dtype
        assert np.array_equal(found[f"{name}.metadata"], words)
    assert json.loads(metadata[KEY]) == {"form": "torch", "tensors": {
        "a.weight": {"dtype": "F16", "pattern": "2:4"},
        "b.weight": {"dtype": "BF16", "pattern": "2:4"},
        "c": {"dtype": "I8", "pattern": "2:4"},
        "d.weight": {"dtype": "F32", "pattern": "1:2"}}}


def test_bytes_of_ptx(cli, dense):
    out = dense.with_name("out.safetensors")
    cli("convert", dense, "-o", out, "--to", "ptx", "-q")
    _, found = load(out)
    for name, dtype in (("a.weight", np.uint16), ("c", np.uint32)):
        codes = meta.nibbles(compress(model()[name], "2:4"))
        assert np.array_equal(found[f"{name}.metadata"], meta.to_words(codes, np.dtype(dtype)))


def test_bitmask_has_the_names_of_compressed_tensors(cli, dense):
    out = dense.with_name("out.safetensors")
    cli("convert", dense, "-o", out, "--to", "bitmask", "-q")
    _, found = load(out)
    assert {"a.compressed", "a.bitmask", "a.shape", "c.compressed"} <= found.keys()
    assert found["a.shape"].tolist() == [[32], [64]]
    values, bitmask = to_bitmask(compress(model()["a.weight"], "2:4"))
    assert np.array_equal(found["a.compressed"], values)
    assert np.array_equal(found["a.bitmask"], bitmask)


@pytest.mark.parametrize("shape", [[4, 8], [[4], [8]]])
def test_a_file_of_compressed_tensors_is_read(cli, tmp_path, shape):
    weight = pruned(np.float16, "2:4", 0, 4, 8)
    values, bitmask = to_bitmask(compress(weight, "2:4"))
    source = save(tmp_path / "in.safetensors", {
        "fc.compressed": values, "fc.bitmask": bitmask, "fc.shape": np.array(shape)})
    assert cli("convert", source, "-o", tmp_path / "out.safetensors", "--to", "dense").code == 0
    assert np.array_equal(load(tmp_path / "out.safetensors")[1]["fc.weight"], weight)


def test_other_encoders_fillers_are_read(cli, tmp_path):
    values = np.zeros((16, 64), np.int8)
    values[3, 2] = 9
    words = np.full((16, 4), 0, np.uint32)
    words[3, 0] = 0b1100 << 4      # group 1: places 0 and 3
    described = {"fc": {"dtype": "I8", "pattern": "2:4"}}
    source = save(tmp_path / "in.safetensors", {"fc.values": values, "fc.metadata": words},
                  {KEY: json.dumps({"form": "ptx", "tensors": described})})
    assert cli("convert", source, "-o", tmp_path / "out.safetensors", "--to", "dense").code == 0
    weight = load(tmp_path / "out.safetensors")[1]["fc"]
    assert np.argwhere(weight).tolist() == [[3, 4]]


def test_json_lists_every_tensor(cli, dense):
    done = cli("convert", dense, "-o", dense, "--to", "torch", "--json")
    assert done.json["form"] == "torch"
    rows = {row["name"]: row for row in done.json["tensors"]}
    assert rows.keys() == model().keys()
    assert rows["a.weight"] == {
        "name": "a.weight", "dtype": "F16", "shape": [32, 64], "form": "dense",
        "converted": True, "pattern": "2:4", "reason": None, "bytes_in": 4096,
        "bytes_out": 2048 + 256}
    assert rows["a.bias"] == {
        "name": "a.bias", "dtype": "F32", "shape": [7], "form": "dense",
        "converted": False, "pattern": None,
        "reason": "it is [7], and only matrices [rows, columns] have packed forms",
        "bytes_in": 28, "bytes_out": 28}


def test_the_table_says_what_is_unchanged(cli, dense):
    done = cli("convert", dense, "-o", dense.with_name("out.safetensors"), "--to", "ptx")
    first, second = done.stdout.split("not ptx")
    lines = {line.split()[1]: line for line in first.splitlines() if line.startswith("│")}
    assert "a.bias" in second
    assert "a.weight" not in second
    assert "dense -> ptx" in lines["a.weight"]
    assert "unchanged" in lines["a.bias"]
    assert "unchanged" in lines["steps"]


def test_in_and_out_may_be_one_file(cli, dense):
    assert cli("convert", dense, "-o", dense, "--to", "ptx", "-q").code == 0
    assert "a.weight.values" in load(dense)[1]


def test_an_empty_matrix_is_left(cli, tmp_path):
    source = save(tmp_path / "in.safetensors", model() | {"w": np.zeros((0, 8), np.float16)})
    assert cli("convert", source, "-o", tmp_path / "out.safetensors", "--to", "torch").code == 0
    assert load(tmp_path / "out.safetensors")[1]["w"].shape == (0, 8)


def test_metadata_of_null_are_none(cli, dense):
    content = dense.read_bytes()
    dense.write_bytes(content.replace(b'{"format": "pt"}', b'null' + b" " * 12))
    assert cli("convert", dense, "-o", dense, "--to", "torch").code == 0
    assert load(dense)[0].keys() == {KEY}


# --- what it leaves as it is ---

@pytest.mark.parametrize(("name", "array", "to", "reason"), [
    ("a.weight", np.ones((32, 64), np.float16), "ptx",
     "row 0, group 0 (columns 0 to 3) holds 4 non-zeros, but 2:4 keeps 2"),
    ("d.weight", pruned(np.float32, "2:4", 0), "torch", "but 1:2 keeps 1"),
    ("c", np.zeros((8, 64), np.int8), "torch", "PyTorch takes int8 with rows in multiples of 16"),
    ("c", np.zeros((8, 16), np.int8), "ptx", "a row has 4 groups, but a uint32 word"),
    ("c", np.zeros((8, 10), np.int8), "bitmask", "10 columns are no whole groups"),
    ("c", np.zeros((0, 8), np.float16), "bitmask", "it is empty"),
    ("c", np.zeros((2, 4, 3, 3), np.float32), "torch",
     "it is [2, 4, 3, 3], and only matrices [rows, columns] have packed forms"),
    ("c", np.zeros((2, 4), np.int16), "torch",
     "its type is I16, and only F16, BF16, F32, I8 have packed forms"),
])
def test_a_tensor_that_has_no_such_form_is_left(cli, tmp_path, name, array, to, reason):
    source = save(tmp_path / "in.safetensors", model() | {name: array})
    out = tmp_path / "out.safetensors"
    done = cli("convert", source, "-o", out, "--to", to, "--json")
    assert (done.code, done.stderr) == (0, "")
    rows = {row["name"]: row for row in done.json["tensors"]}
    assert reason in rows[name]["reason"]
    assert (rows[name]["converted"], rows[name]["pattern"]) == (False, None)
    assert rows["b.weight"]["converted"]
    found = load(out)[1]
    assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
    assert found[name].tobytes() == array.tobytes()
    table = cli("convert", source, "-o", out, "--to", to).stdout
    assert reason in " ".join(table.replace("│", " ").split())


@pytest.mark.parametrize("packed", ["bitmask"], indirect=True)
def test_a_packed_matrix_without_the_new_form_becomes_dense(cli, packed):
    """float32 at 2:4 has a bitmask, and in torch's form only 1:2 exists."""
    arrays = {"e": pruned(np.float32, "2:4", 5), "c": pruned(np.int8, "2:4", 3)}
    save(packed, arrays)
    assert cli("convert", packed, "-o", packed, "--to", "bitmask", "-q").code == 0
    assert "e.compressed" in load(packed)[1]
    done = cli("convert", packed, "-o", packed, "--to", "torch", "--json")
    row = done.json["tensors"][1]
    assert (row["name"], row["form"], row["converted"], row["pattern"]) == (
        "e", "bitmask", True, None)
    assert "but 1:2 keeps 1" in row["reason"]
    found = load(packed)[1]
    assert found.keys() == {"e", "c.values", "c.metadata"}
    assert np.array_equal(found["e"], arrays["e"])


@pytest.mark.parametrize(("arrays", "to"), [
    ({}, "torch"), (model(), "dense"),
    ({"conv.weight": np.zeros((2, 4, 3, 3), np.float32), "n": np.zeros((1, 4), np.int64)}, "ptx"),
])
def test_where_nothing_is_converted_it_says_so(cli, tmp_path, arrays, to):
    source, out = save(tmp_path / "in.safetensors", arrays), tmp_path / "out.safetensors"
    done = cli("convert", source, "-o", out, "--to", to)
    assert (done.code, done.stderr) == (
        0, f"zeroskip: nothing was converted; {out} holds what {source} holds\n")
    found = load(out)[1]
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in arrays.items()}


PRUNED = {"bitmask": ["fc1.weight", "fc2.weight"]}
REFERENCE = {"torch": ["layer1.weight"], "ptx": ["layer1.weight", "layer2.weight"],
             "bitmask": ["layer1.weight", "layer2.weight"]}
"""What is converted of the network below, by form; the integers of an EIE array are int16."""


@pytest.mark.parametrize("to", [*FORMS, "dense"])
@pytest.mark.parametrize("engine", ["eie", "tensorcore"])
def test_files_of_the_toolchain(cli, tmp_path, to, engine):
    """What prune and compile write: a network of 2:4 weights, a convolution among them."""
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    layers = (Linear("fc1", rng.normal(size=(32, 64)).astype(np.float32),
                     np.zeros(32, np.float32), "relu"),
              Linear("fc2", rng.normal(size=(5, 32)).astype(np.float32),
                     np.zeros(5, np.float32), "none"))
    if engine == "tensorcore":
        layers = (Conv2d("conv", rng.normal(size=(4, 1, 3, 3)).astype(np.float32),
                         np.zeros(4, np.float32), "relu", (1, 4, 4), (1, 1), (1, 1, 1, 1),
                         (1, 1)), *layers)
    to_onnx(Network(layers), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", rng.normal(size=(4, layers[0].inputs)))
    (tmp_path / "recipe.toml").write_text('granularity = "2:4"\n')
    assert cli("prune", tmp_path / "model.onnx", "--recipe", tmp_path / "recipe.toml",
               "-o", tmp_path / "pruned.onnx", "-q") == (0, "", "")
    assert cli("compile", tmp_path / "pruned.onnx", "--calibration", tmp_path / "x.npy",
               "-o", tmp_path / "model.zsk", "--engine", engine, "-q") == (0, "", "")
    out = tmp_path / "out.safetensors"
    for name, wanted in (("pruned.safetensors", PRUNED), ("model.reference.safetensors",
                                                          REFERENCE if engine != "eie" else {})):
        done = cli("convert", tmp_path / name, "-o", out, "--to", to, "--json")
        assert (done.code, done.stderr) == (0, "")
        converted = [row["name"] for row in done.json["tensors"] if row["converted"]]
        assert converted == wanted.get(to, [])
        assert cli("convert", out, "-o", out, "--to", "dense", "-q").code == 0
        before, after = load(tmp_path / name)[1], load(out)[1]
        assert before.keys() == after.keys()
        assert all(before[key].tobytes() == after[key].tobytes() for key in before)
    done = cli("convert", tmp_path / "model.zsk", "-o", tmp_path / "new.safetensors", "--to", to)
    assert (done.code, done.stdout) == (2, "")
    assert "a compiled program" in done.stderr
    assert "give its reference, model.reference.safetensors" in done.stderr
    assert not (tmp_path / "new.safetensors").exists()


# --- what it refuses ---

@pytest.mark.parametrize("shape", [[0, 0], [3, 0], [0, 8]])
def test_an_empty_bitmask_matrix_is_refused(refused, tmp_path, shape):
    rows, columns = shape
    source = save(tmp_path / "in.safetensors", {
        "fc.compressed": np.zeros((rows, columns // 2), np.float16),
        "fc.bitmask": np.zeros((rows, columns // 8), np.uint8), "fc.shape": np.array(shape)})
    assert "tensor 'fc.weight': values are [" in refused(source)

@pytest.mark.parametrize(("change", "to", "message"), [
    (("a.weight.values", np.zeros(3, np.int8)), "torch",
     "two tensors would be called 'a.weight.values'; rename"),
    (("c.weight", np.zeros((8, 16), np.int8)), "bitmask",
     "two tensors would be called 'c.bitmask'; rename 'c.weight'"),
])
def test_two_tensors_of_one_name_are_refused(refused, tmp_path, change, to, message):
    name, array = change
    source = save(tmp_path / "in.safetensors", model() | {name: array})
    stderr = refused(source, to)
    assert message in stderr
    assert str(source) in stderr


@pytest.mark.parametrize("packed", ["torch", "ptx"], indirect=True)
@pytest.mark.parametrize(("name", "array", "message"), [
    ("a.weight.values", None, "tensor 'a.weight.values' is missing, which 'a.weight' needs"),
    ("a.weight.metadata", None, "tensor 'a.weight.metadata' is missing"),
    ("a.weight.values", np.zeros((32, 32), np.int8),
     "tensor 'a.weight': its dtype is I8, but the file's metadata say F16"),
    ("a.weight.values", np.zeros((32, 16), np.float16), "tensor 'a.weight': metadata is"),
    ("a.weight.values", np.zeros(32, np.float16), "must be a matrix"),
    ("a.weight.values", np.zeros((0, 32), np.float16), "must be a matrix, not empty"),
    ("a.weight.metadata", np.zeros((32, 4), np.float32), "tensor 'a.weight': metadata is float32"),
    ("a.weight", np.zeros((32, 64), np.float16), "tensor 'a.weight' is there both dense and in"),
    ("e.metadata", np.zeros(3, np.int8), None),
])
def test_damaged_pairs_are_refused(refused, cli, packed, name, array, message):
    metadata, arrays = load(packed)
    arrays.pop(name, None)
    if array is not None:
        arrays[name] = array
    save(packed, arrays, metadata)
    if message is None:             # a lone name says nothing
        assert cli("convert", packed, "-o", packed, "--to", "dense").code == 0
    else:
        assert message in refused(packed)


@pytest.mark.parametrize("packed", ["torch", "ptx"], indirect=True)
def test_a_duplicate_place_is_refused_with_its_row_and_group(refused, packed):
    metadata, arrays = load(packed)
    arrays["c.values"] = np.ones_like(arrays["c.values"])
    arrays["c.metadata"] = np.full_like(arrays["c.metadata"], 0x44444444)
    arrays["c.metadata"][0, 0] = 0x44444544
    save(packed, arrays, metadata)
    assert "tensor 'c': row 0, group 2: the nibble 0101 names place 1 twice" in refused(packed)


@pytest.mark.parametrize("packed", ["torch", "ptx"], indirect=True)
def test_an_illegal_nibble_of_1_2_is_refused(refused, packed):
    metadata, arrays = load(packed)
    arrays["d.weight.metadata"] = arrays["d.weight.metadata"].copy()
    arrays["d.weight.metadata"][0, 0] = 0x4449
    save(packed, arrays, metadata)
    assert "tensor 'd.weight': row 0, group 0: the nibble 1001 is illegal" in refused(packed)


@pytest.mark.parametrize("packed", ["bitmask"], indirect=True)
@pytest.mark.parametrize(("name", "array", "message"), [
    ("a.compressed", None, "tensor 'a.compressed' is missing, which 'a.weight' needs"),
    ("a.shape", None, "tensor 'a.shape' is missing"),
    ("a.shape", np.array([[32], [60]]), "tensor 'a.weight': values are [32, 32], but 2:4 of 60"),
    ("a.shape", np.array([[31], [64]]), "its shape is int64 [31, 64], expected int64 [32, "),
    ("a.shape", np.array([32, 64], np.int32), "its shape is int32 [32, 64]"),
    ("a.shape", np.array([32]), "its shape is int64 [32]"),
    ("a.compressed", np.array(1, np.float16), "its shape is int64 [32, 64]"),
    ("a.bitmask", np.full((32, 8), 0x37, np.uint8), "row 0, group 0: the bitmask has 3 bits"),
])
def test_damaged_bitmasks_are_refused(refused, packed, name, array, message):
    metadata, arrays = load(packed)
    del arrays[name]
    if array is not None:
        arrays[name] = array
    assert message in refused(save(packed, arrays, metadata))


@pytest.mark.parametrize("packed", ["torch"], indirect=True)
@pytest.mark.parametrize(("entry", "message"), [
    ("{", "the metadata under zeroskip.packed are not readable"),
    ("[]", "are not readable"),
    ('{"form": "torch"}', "are not readable ('tensors')"),
    ('{"form": "zip", "tensors": {}}', "are not readable (there is no form 'zip')"),
    ('{"form": "torch", "tensors": []}', "are not readable"),
    ('{"form": "torch", "tensors": {"c": 1}}', "are not readable"),
    ('{"form": "torch", "tensors": {"c": {"dtype": "I8"}}}', "are not readable ('pattern')"),
    ("[" * 100_000, "are not readable"),
    ('{"form": "torch", "tensors": {"c": {"dtype": "I8", "pattern": "1:2"}}}',
     "tensors 'a.weight.values' and 'a.weight.metadata' are packed, but the file's metadata"),
    (None, "tensors 'a.weight.values' and 'a.weight.metadata' are packed, but the file's metadata"),
])
def test_wrong_metadata_are_refused(refused, packed, entry, message):
    _, arrays = load(packed)
    assert message in refused(save(packed, arrays, {KEY: entry} if entry else {}))


@pytest.mark.parametrize("packed", ["torch"], indirect=True)
def test_a_wrong_pattern_or_form_is_refused(refused, packed):
    metadata, arrays = load(packed)
    for old, new, message in (
            ('"1:2"', '"2:4"', "tensor 'd.weight': its pattern is 1:2, but the file's metadata"),
            ('"torch"', '"ptx"', "tensor 'a.weight': metadata is int16 [32, 4], but values")):
        entry = metadata[KEY].replace(old, new)
        assert message in refused(save(packed, arrays, {KEY: entry}))


def test_files_and_options_are_refused(cli, refused, dense):
    assert "there is no form 'zip'; choose one of torch, ptx, bitmask, dense" in refused(
        dense, "zip")
    assert "there is no such file" in refused(dense.with_name("none.safetensors"))
    dense.with_name("bad.safetensors").write_bytes(dense.read_bytes()[:-1])
    assert "truncated, damaged or of another kind" in refused(dense.with_name("bad.safetensors"))
    dense.with_name("model.pt").write_bytes(b"PK")
    assert "safetensors.torch.save_file" in refused(dense.with_name("model.pt"))
    code, _, stderr = cli("convert", dense, "-o", dense.with_name("out.bin"), "--to", "ptx")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "give a name that ends in .safetensors" in stderr
    code, _, stderr = cli("convert", dense, "-o", dense.parent / "none/a.safetensors",
                          "--to", "ptx")
    assert code == 2
    assert "does not exist" in stderr
