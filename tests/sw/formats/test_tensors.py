import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensors import DTYPES, Tensor, read, write


def everything():
    """An array of every type that has one."""
    rng = np.random.default_rng(0)
    return {name.lower(): rng.integers(0, 100, (3, 5)).astype(dtype)
            for name, dtype in DTYPES.items()}


def test_what_safetensors_writes_is_read(tmp_path):
    arrays = everything()
    save_file(arrays, tmp_path / "a.safetensors", {"format": "np"})
    metadata, tensors = read(tmp_path / "a.safetensors")
    assert metadata == {"format": "np"}
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        found = tensors[name].array()
        assert (found.dtype, found.tobytes()) == (array.dtype, array.tobytes())
        assert found.shape == (3, 5)


def test_what_is_written_safetensors_reads(tmp_path):
    arrays = {name: array for name, array in everything().items() if name != "bf16"}
    arrays["empty"] = np.zeros((0, 4), np.float32)
    arrays["scalar"] = np.array(7, np.int64)
    path = tmp_path / "a.safetensors"
    write(path, {"b": "1", "a": "2"}, {name: Tensor.of(own) for name, own in arrays.items()})
    found = load_file(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert safe_open(path, "np").metadata() == {"b": "1", "a": "2"}


def test_tensors_are_aligned(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, {}, {"a": Tensor.of(np.zeros(3, np.int8)), "b": Tensor.of(np.zeros(3)
                     .astype(np.float32)), "c": Tensor.of(np.zeros(1, np.int64))})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8:8 + length])
    assert length % 8 == 0
    assert [header[name]["data_offsets"] for name in "cba"] == [[0, 8], [8, 20], [20, 23]]


def test_equal_contents_are_equal_files(tmp_path):
    tensors = {name: Tensor.of(own) for name, own in everything().items()}
    write(tmp_path / "a", {"x": "1", "y": "2"}, tensors)
    write(tmp_path / "b", {"y": "2", "x": "1"}, dict(reversed(tensors.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_pytorch_agrees_about_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file
    save_file({"w": torch.tensor([1.5, -0.0], dtype=torch.bfloat16)}, tmp_path / "a")
    _, tensors = read(tmp_path / "a")
    assert tensors["w"].array().dtype == ml_dtypes.bfloat16
    write(tmp_path / "b", {}, tensors)
    found = load_file(tmp_path / "b")["w"]
    assert found.dtype == torch.bfloat16
    assert found.view(torch.int16).tolist() == [0x3FC0, -0x8000]


def test_a_type_without_an_array_stays_bytes(tmp_path):
    tensor = Tensor("F8_E4M3", (2, 3), bytes(range(6)))
    write(tmp_path / "a", {}, {"w": tensor})
    _, found = read(tmp_path / "a")
    assert found == {"w": tensor}
    with pytest.raises(BadInput, match="its type is F8_E4M3, expected one of F16, BF16"):
        found["w"].array()


def damage(tmp_path, name, change):
    """The path of a file ``name`` whose content is changed."""
    save_file({"w": np.ones((4, 4), np.float32)}, tmp_path / "whole")
    (tmp_path / name).write_bytes(change((tmp_path / "whole").read_bytes()))
    return tmp_path / name


@pytest.mark.parametrize("change", [
    lambda content: b"", lambda content: content[:7], lambda content: content[:40],
    lambda content: content[:-1], lambda content: content + b"0",
    lambda content: b"\xff" * 8 + content[8:], lambda content: content.replace(b"F32", b"F99"),
    lambda content: content.replace(b"[4,4]", b"[4,5]"), lambda content: b"PK" + content,
])
def test_damaged_files_are_refused(tmp_path, change):
    path = damage(tmp_path, "bad.safetensors", change)
    with pytest.raises(BadInput, match=r"bad.safetensors: not a readable safetensors file"):
        read(path)


def with_header(path, header):
    """A file with this header and eight bytes of tensors."""
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(range(8)))
    return path


TENSOR = '"w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}'


@pytest.mark.parametrize("header", [
    f"{{{TENSOR}, {TENSOR}}}",
    f"{{{TENSOR.replace('U8', 'I8')}, {TENSOR}}}",
    f'{{"__metadata__": {{"a": "1", "a": "2"}}, {TENSOR}}}',
])
def test_a_name_that_stands_twice_is_refused(tmp_path, header):
    path = with_header(tmp_path / "twice.safetensors", header)
    with pytest.raises(BadInput, match=r"twice.safetensors: not a .* \(a key stands twice\)"):
        read(path)


def test_metadata_of_null_are_none(tmp_path):
    path = with_header(tmp_path / "null.safetensors", f'{{"__metadata__": null, {TENSOR}}}')
    assert read(path) == ({}, {"w": Tensor("U8", (8,), bytes(range(8)))})


@pytest.mark.parametrize("name", ["model.pt", "model.pth"])
def test_a_pickled_state_dict_is_refused(tmp_path, name):
    path = damage(tmp_path, name, lambda content: content)
    with pytest.raises(BadInput, match="a pickled state_dict is not read.*safetensors.torch"):
        read(path)


def test_no_file(tmp_path):
    with pytest.raises(BadInput, match="there is no such file"):
        read(tmp_path / "model.pt")
    with pytest.raises(BadInput, match="this is a folder"):
        read(tmp_path)
