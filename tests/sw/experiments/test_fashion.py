"""Fashion-MNIST and its network: files as they are published, and what is refused."""

import gzip

import numpy as np
import pytest

from zeroskip.sw.errors import ToolMissing
from zeroskip.sw.experiments import fashion


@pytest.fixture
def folder(tmp_path):
    """Four images to train on and three to test, whose pixels are 5 times their kind."""
    for name, count in (("train", 4), ("t10k", 3)):
        kinds = np.arange(count, dtype=np.uint8)
        pixels = np.repeat(5 * kinds, 784)
        for what, head, values in (("images-idx3", 16, pixels), ("labels-idx1", 8, kinds)):
            with gzip.open(tmp_path / f"{name}-{what}-ubyte.gz", "wb") as file:
                file.write(b"\xff" * head + values.tobytes())
    return tmp_path


def test_load(folder):
    train, test = fashion.load(folder)
    assert (train.x.dtype, train.x.shape, test.x.shape) == (np.float32, (4, 784), (3, 784))
    np.testing.assert_array_equal(train.y, np.arange(4))
    np.testing.assert_array_equal(train.x[3], np.float32(15 / 255))


def test_without_the_data(tmp_path):
    with pytest.raises(ToolMissing, match="Fashion-MNIST is not in .*; get it with: make data"):
        fashion.load(tmp_path)


def test_stages(folder, monkeypatch):
    monkeypatch.setitem(fashion.TRAINING, "epochs", 1)
    train, test = fashion.load(folder)
    network = fashion.train(train, 3)
    pruned, stages = fashion.prune(network, {"0": 0.1, "2": 0.2}, train, test, 3)
    assert [stage.name for stage in stages] == ["dense", "pruned", "shared"]
    assert [tuple(network[at].weight.shape) for at in (0, 2, 4)] == [
        (300, 784), (100, 300), (10, 100)]
    assert int(pruned[0].weight.count_nonzero()) == 23520
    assert stages[-1].density == (23520 + 6000 + 1000) / 266200
