"""The demo's models: small, sparse, and as accurate as the dense ones."""

import numpy as np
import pytest

from zeroskip.sw.compiler.placement import inspect
from zeroskip.sw.experiments import digits
from zeroskip.sw.graph.network import Conv2d, Linear


@pytest.fixture(scope="module")
def linear():
    return digits.run_linear()


@pytest.fixture
def stages(linear):
    return linear[1]


@pytest.fixture(scope="module")
def convolutional():
    return digits.run_convolutional()


def test_data():
    train, test = digits.load()
    assert (train.x.shape, test.x.shape) == ((1437, 64), (360, 64))
    assert train.x.dtype == np.float32
    assert (train.x.min(), train.x.max()) == (0, 1)
    assert set(np.bincount(test.y)) <= {34, 35, 36, 37}


def test_accuracy_survives(stages):
    assert [stage.name for stage in stages] == ["dense", "pruned", "shared"]
    dense, pruned, shared = (stage.accuracy for stage in stages)
    assert dense > 0.96
    assert pruned > dense - 0.01
    assert shared > dense - 0.01


def test_density(stages):
    assert stages[0].density == 1
    assert stages[2].density <= stages[1].density <= 0.12


def test_shared_values(linear):
    module, stages = linear
    for at in (0, 2, 4):
        weight = module[at].weight.detach().numpy()
        assert len(np.unique(weight[weight != 0])) <= 15
    assert stages[2].layers == stages[1].layers


def test_accuracy_of_the_convolutional_network_survives(convolutional):
    _, stages = convolutional
    assert [stage.name for stage in stages] == ["dense", "pruned"]
    dense, pruned = (stage.accuracy for stage in stages)
    assert dense > 0.96
    assert pruned > dense - 0.01


def test_layers_of_the_convolutional_network(convolutional):
    module, _ = convolutional
    *convolutions, last = [node.layer for node in digits.graph(module).layers]
    assert [type(layer) for layer in (*convolutions, last)] == [Conv2d] * 3 + [Linear]
    assert [layer.output_shape for layer in convolutions] == [(16, 8, 8), (32, 4, 4), (32, 2, 2)]
    assert (last.inputs, last.outputs, last.activation) == (128, 10, "none")


def test_every_layer_of_the_convolutional_network_is_2_of_4(convolutional):
    module, stages = convolutional
    graph = digits.graph(module)
    assert set(stages[0].layers.values()) == {1.0}
    assert {row["pattern"] for row in inspect(graph)} == {"2:4"}
    # Nine columns of the first layer: two groups that keep two, and one of one column.
    first, *others = [node.layer.weight for node in graph.layers]
    assert np.count_nonzero(first) == 16 * 5
    assert all(np.count_nonzero(weight) == weight.size // 2 for weight in others)


@pytest.mark.parametrize(("run", "training"), [
    (digits.run_linear, digits.LINEAR), (digits.run_convolutional, digits.CONVOLUTIONAL)])
def test_same_seed_same_bytes(run, training, monkeypatch):
    monkeypatch.setitem(training, "epochs", 1)
    first, second, other = run(0), run(0), run(1)
    assert weights(first) == weights(second) != weights(other)
    monkeypatch.setitem(training, "epochs", 2)
    assert weights(first) != weights(run(0))


def weights(result):
    module, _ = result
    return [each.numpy().tobytes() for each in module.state_dict().values()]
