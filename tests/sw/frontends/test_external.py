"""ONNX with its data in other files: what torch writes is read, nothing outside the folder is."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends import external
from zeroskip.sw.frontends.load import read

W = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
B = np.arange(3, dtype=np.float32)
SIZE = W.nbytes + B.nbytes


@pytest.fixture
def path(tmp_path):
    """A layer whose weight and bias lie in ``data`` of the same folder, one behind the other."""
    value = helper.make_tensor_value_info
    model = helper.make_model(helper.make_graph(
        [helper.make_node("Gemm", ["x", "W", "B"], ["y"], transB=1)], "external",
        [value("x", TensorProto.FLOAT, ["n", 8])], [value("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(W, "W"), numpy_helper.from_array(B, "B")]),
        ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    folder = tmp_path / "folder"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, size_threshold=0,
              location="data")
    (tmp_path / "outside").write_bytes((folder / "data").read_bytes())
    assert len((folder / "data").read_bytes()) == SIZE
    return folder / "model.onnx"


def change(path, number=0, **entries):
    """Writes other entries into a tensor; None takes one out."""
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[number]
    found = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, text in found.items():
        if text is not None:
            tensor.external_data.add(key=key, value=str(text))
    path.write_bytes(model.SerializeToString())


def check(path):
    (layer,) = read(path).network().layers
    np.testing.assert_array_equal(layer.weight, W)
    np.testing.assert_array_equal(layer.bias, B)


def test_data_beside_the_model(path):
    check(path)


def test_nothing_is_left_to_read(path):
    model = onnx.load(path, load_external_data=False)
    external.load_external(model, path)
    assert model == onnx.load(path)


def test_data_from_another_working_folder(path, monkeypatch):
    check(path)
    monkeypatch.chdir(path.parent)
    check(path.relative_to(path.parent))


def test_data_in_a_folder_below(path):
    (path.parent / "below").mkdir()
    (path.parent / "data").rename(path.parent / "below" / "data")
    for number in (0, 1):
        change(path, number, location="below/data")
    check(path)


def test_a_link_within_the_folder(path):
    (path.parent / "data").rename(path.parent / "real")
    (path.parent / "data").symlink_to("real")
    check(path)


def test_without_offset_and_length_it_is_the_whole_file(path):
    (path.parent / "bias").write_bytes(B.tobytes())
    change(path, 1, location="bias", offset=None, length=None)
    check(path)


@pytest.mark.parametrize("location", [
    "../outside", "below/../../outside", "below/../data", "/etc/passwd", "C:\\data", "C:data",
    "..\\outside", "\\\\host\\share\\data", "a\0b"])
def test_a_path_that_is_not_inside(path, location):
    (path.parent / "below").mkdir()
    change(path, location=location)
    with pytest.raises(BadInput, match=r"keeps tensor 'W' in .*no path inside the model's folder"):
        read(path)


def test_the_folder_by_its_whole_path(path):
    change(path, location=path.parent / "data")
    with pytest.raises(BadInput, match="no path inside the model's folder"):
        read(path)


@pytest.mark.parametrize("whole", [False, True])
def test_a_link_that_leaves_the_folder(path, tmp_path, whole):
    (path.parent / "data").unlink()
    target = tmp_path / "outside" if whole else "../outside"
    (path.parent / "data").symlink_to(target)
    with pytest.raises(BadInput, match="a link that leaves the model's folder"):
        read(path)


def test_a_folder_link_that_leaves_the_folder(path, tmp_path):
    (path.parent / "below").symlink_to(tmp_path)
    change(path, location="below/outside")
    with pytest.raises(BadInput, match="a link that leaves the model's folder"):
        read(path)


@pytest.mark.parametrize("location", ["missing", "", ".", "below", "pipe", "circle", 300 * "long"])
def test_no_file(path, location):
    (path.parent / "below").mkdir()
    os.mkfifo(path.parent / "pipe")
    (path.parent / "circle").symlink_to("circle")
    change(path, location=location)
    with pytest.raises(BadInput, match="no file that can be read; put that file beside"):
        read(path)


@pytest.mark.parametrize(("entries", "message"), [
    ({"length": W.nbytes + 1_000_000_000_000}, f"data has {SIZE} bytes, but tensor 'W'"),
    ({"offset": SIZE}, f"data has {SIZE} bytes, but tensor 'W'"),
    ({"offset": 1 << 50}, f"data has {SIZE} bytes, but tensor 'W'"),
    ({"offset": None, "length": None}, "tensor 'B' and those before it take more of it"),
    ({"length": -1}, "the length of tensor 'W' is '-1', not a number of bytes"),
    ({"length": "9" * 5000}, "not a number of bytes"),
    ({"offset": "x"}, "the offset of tensor 'W' is 'x', not a number of bytes"),
    ({"offset": "\u0663"}, "not a number of bytes"),
    ({"length": W.nbytes - 4}, "tensor 'W'"),
])
def test_sizes_that_do_not_fit(path, entries, message):
    change(path, **entries)
    with pytest.raises(BadInput) as caught:
        read(path)
    assert message.replace("tensor 'W'", "W") in str(caught.value).replace("tensor 'W'", "W")
    assert str(path) in str(caught.value)


def test_a_truncated_file(path):
    (path.parent / "data").write_bytes((path.parent / "data").read_bytes()[:-1])
    with pytest.raises(BadInput, match=f"data has {SIZE - 1} bytes, but tensor 'B'"):
        read(path)


def test_tensors_that_share_their_bytes_are_bounded_by_the_file(path):
    """Many tensors of one large file would take more memory than there is on disk."""
    change(path, 1, offset=0)
    check_bias = np.frombuffer(W.tobytes()[:B.nbytes], np.float32)
    (layer,) = read(path).network().layers
    np.testing.assert_array_equal(layer.bias, check_bias)
    change(path, 1, length=SIZE)
    with pytest.raises(BadInput, match="those before it take more of it"):
        read(path)


def test_a_model_beyond_two_gigabytes(path, monkeypatch):
    monkeypatch.setattr(external, "MOST", 300)
    with pytest.raises(BadInput, match="has more than 300 bytes with its tensors"):
        read(path)


def test_a_location_that_is_no_utf8(path):
    content = path.read_bytes()
    assert content.count(b"data") == 2
    path.write_bytes(content.replace(b"data", b"d\xff\xfea"))
    with pytest.raises(BadInput, match="model.onnx"):
        read(path)


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
def test_what_torch_exports_by_default(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from torch import nn

    torch.manual_seed(0)
    models = {
        "mlp": nn.Sequential(nn.Flatten(), nn.Linear(60, 16), nn.ReLU(), nn.Linear(16, 4)),
        "cnn": nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(),
                             nn.Conv2d(6, 4, 3, stride=2), nn.ReLU(), nn.Flatten(),
                             nn.Linear(8, 5))}
    x = torch.randn(7, 3, 4, 5)
    for name, module in models.items():
        path = tmp_path / f"{name}.onnx"
        torch.onnx.export(module.eval(), (x[:1],), path, verbose=False)
        assert path.with_name(f"{name}.onnx.data").stat().st_size
        network, expected = read(path).network(), module(x).detach().numpy()
        assert network.input_shape == (3, 4, 5)
        assert network.output_shape == expected.shape[1:]
        np.testing.assert_allclose(network.forward(x.numpy())[-1], expected.reshape(7, -1),
                                   rtol=1e-4, atol=1e-5)
