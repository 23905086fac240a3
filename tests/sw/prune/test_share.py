"""Weight sharing: few values, summed gradients, zeros that stay zero."""

import numpy as np
import torch
from torch import nn

from zeroskip.sw.prune.cut import prune
from zeroskip.sw.prune.data import Data
from zeroskip.sw.prune.granularity import granularity
from zeroskip.sw.prune.model import of_module
from zeroskip.sw.prune.share import share
from zeroskip.sw.quantize import kmeans

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((128, 16)).astype(np.float32)
DATA = Data(X, (X[:, 0] > X[:, 1]).astype(np.int64))


def pruned():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
    prune(of_module(module), granularity("element"), dict.fromkeys("02", 0.5))
    return module


def weights(module):
    return [module[i].weight.detach().numpy().copy() for i in (0, 2)]


def values(weight):
    return np.unique(weight[weight != 0])


def test_without_data_the_values_are_the_centroids():
    module = pruned()
    expected = [kmeans.share(w, 15) for w in weights(module)]
    share(of_module(module))
    for weight, shared in zip(weights(module), expected, strict=True):
        np.testing.assert_array_equal(weight, shared.codebook[shared.indices])


def test_fine_tuning_keeps_few_values_and_every_zero():
    module, calls = pruned(), []
    before = weights(module)
    share(of_module(module), data=DATA, epochs=5, progress=lambda *call: calls.append(call))
    for weight, old in zip(weights(module), before, strict=True):
        assert len(values(weight)) <= 15
        np.testing.assert_array_equal(weight == 0, old == 0)
        # what shared a value still does
        indices = kmeans.share(old, 15).indices
        assert all(len(np.unique(weight[indices == i])) <= 1 for i in range(16))
    assert calls == [(epoch, 5, "share") for epoch in range(1, 6)]


def test_the_codebook_is_found_again_exactly():
    module = pruned()
    share(of_module(module), data=DATA, epochs=2)
    for weight in weights(module):
        shared = kmeans.share(weight, 15)
        assert shared.rms == 0
        np.testing.assert_array_equal(shared.codebook[shared.indices], weight)


def test_gradient_of_a_centroid_is_the_sum_over_its_weights(monkeypatch):
    """One step of gradient descent moves a centroid by the sum of its weights' gradients."""
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    data = Data(DATA.x[:32], DATA.y[:32])
    module = pruned()
    share(of_module(module))
    loss = nn.functional.cross_entropy(module(torch.from_numpy(data.x)),
                                       torch.from_numpy(data.y))
    loss.backward()
    old, gradient = module[0].weight.detach().clone(), module[0].weight.grad
    share(of_module(module), data=data, epochs=1, learning_rate=0.1)
    for value in values(old.numpy()):
        where = old == value
        step = 0.1 * gradient[where].sum()
        torch.testing.assert_close(module[0].weight[where], old[where] - step)


def test_few_values_stay_exactly():
    module = pruned()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([0, -0.5, 0.1, 0.75] * 4).repeat(12, 1))
    before = weights(module)[0]
    share(of_module(module))
    np.testing.assert_array_equal(weights(module)[0], before)


def test_module_that_is_one_layer():
    torch.manual_seed(0)
    module = nn.Linear(16, 12)
    share(of_module(module), data=DATA, epochs=1)
    assert len(values(module.weight.detach().numpy())) <= 15
