"""Structured pruning: the shrunk network is the masked one, smaller; or the reason why not."""

import re
import sys
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler.compile import compile_network
from zeroskip.sw.errors import BadInput, ToolMissing
from zeroskip.sw.frontends.load import from_torch
from zeroskip.sw.graph.network import Conv2d
from zeroskip.sw.prune.scores import scores
from zeroskip.sw.prune.structure import Change, equivalent, masked, plan, remove
from zeroskip.sw.prune.train import layers

torch.set_num_threads(1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(build):
    """The module that ``build`` makes, its batch norms as after training, in eval mode."""
    def make(*args):
        torch.manual_seed(0)
        module = build(*args)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                for values in (part.weight, part.bias, part.running_mean):
                    nn.init.normal_(values)
                nn.init.uniform_(part.running_var, 0.1, 2)
        return module.eval()
    return make


@seeded
def chain():
    """Two convolutions, 6 x 6 to 3 x 3, and two linear layers, of flat samples."""
    return nn.Sequential(
        nn.Unflatten(1, (2, 6, 6)), nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4),
        nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 3))


class Block(nn.Module):
    """A residual block; ``wide`` doubles the channels, and its shortcut is a convolution."""

    def __init__(self, channels, wide=False):
        super().__init__()
        out = channels * (1 + wide)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.short = nn.Conv2d(channels, out, 1) if wide else nn.Identity()

    def forward(self, x):
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.short(x)).relu()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.blocks = nn.Sequential(Block(4), Block(4), Block(4, wide=True), Block(8))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x).relu()).mean((2, 3)))


residual = seeded(Residual)
IMAGES = random(3, 2, 5, 5)


class Attention(nn.Module):
    """Three heads of four values; ``kind`` is how the projections lie and the product is made."""

    def __init__(self, kind, heads=3):
        super().__init__()
        self.kind, self.num_heads, self.size = kind, heads, 12 // heads
        if kind in ("unbind", "chunk", "mixed"):
            self.qkv = nn.Linear(12, 36)
        else:
            self.q, self.k, self.v = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.out = nn.Linear(12, 12)

    def forward(self, x):
        shape = (len(x), x.shape[1], self.num_heads, self.size)
        if self.kind == "unbind":
            whole = self.qkv(x).reshape(*shape[:2], 3, *shape[2:])
            q, k, v = whole.permute(2, 0, 3, 1, 4).unbind(0)
        elif self.kind == "mixed":      # the three of a head beside each other
            whole = self.qkv(x).reshape(*shape[:3], 3, self.size)
            q, k, v = whole.permute(3, 0, 2, 1, 4).unbind(0)
        else:
            parts = (self.qkv(x).chunk(3, -1) if self.kind == "chunk"
                     else (self.q(x), self.k(x), self.v(x)))
            q, k, v = (part.view(shape).transpose(1, 2) for part in parts)
        if self.kind == "sdpa":
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(2, 3) / self.size**0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(*shape[:2], -1))


class Transformer(nn.Module):
    """One layer of a transformer, and a classifier."""

    def __init__(self, attention):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(12), attention
        self.norm2, self.inner, self.outer = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        x = x + self.outer(nn.functional.gelu(self.inner(self.norm2(x))))
        return self.fc(x.mean(1))


@seeded
def transformer(kind="apart"):
    return Transformer(Attention(kind))


TOKENS = random(2, 5, 12)


def by_size(module):
    return scores("l1", module, layers(module))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def macs(network):
    return sum(prod(layer.weight.shape) * (layer.geometry.positions
               if isinstance(layer, Conv2d) else 1) for layer in network.layers)


def check(module, result, example):
    """Other samples than those that it was compared on."""
    x = random(7, *example.shape[1:], seed=1)
    return equivalent(masked(module, result.kept), result.module, [x[:3], x[3:]])


def test_channels_and_neurons_of_a_chain_by_hand():
    module, x = chain(), random(5, 72)
    keep = {"1": 0.5, "4": torch.tensor([True, False, True, False])}
    first = remove(module, x, "channel", keep, by_size(module))
    second = remove(first.module, x, "neuron", {"8": 0.25}, by_size(first.module))
    assert check(module, first, x) < 1e-4
    check(first.module, second, x)
    sums = module[1].weight.abs().sum((1, 2, 3))
    assert first.kept["1"].tolist() == (sums > sums.median()).tolist()
    assert first.kept["4"].tolist() == first.kept["5"].tolist() == [True, False, True, False]
    assert list(first.kept) == ["1", "2", "4", "5"]
    # weights, biases, scales and shifts, layer by layer
    assert parameters(module) == (108 + 6 + 12) + (216 + 8) + (288 + 8 + 16) + (24 + 3)
    assert parameters(second.module) == (54 + 3 + 6) + (54 + 4) + (36 + 2 + 4) + (6 + 3)
    before, after = (from_torch(each, (x[:1],)).network() for each in (module, second.module))
    assert macs(before) == 36 * 108 + 9 * 216 + 288 + 24
    assert macs(after) == 36 * 54 + 9 * 54 + 36 + 6
    y = second.module(x).detach().numpy()
    np.testing.assert_allclose(after.forward(x.numpy())[-1], y, rtol=1e-4, atol=1e-5)
    program = compile_network(after, x.numpy(), TensorCoreConfig()).program
    assert len(program.images[0].layers) == 4


@settings(deadline=None, max_examples=15)
@given(st.data(), st.integers(0, 99))
def test_any_units_of_a_chain(data, seed):
    module, x = chain(), random(4, 72, seed=seed)
    masks = {}
    for granularity, sizes in (("channel", {"1": 6, "4": 4}), ("neuron", {"8": 8})):
        keep = {name: torch.tensor(data.draw(
            st.lists(st.booleans(), min_size=size, max_size=size).filter(any)))
            for name, size in sizes.items()}
        result = remove(module, x, granularity, keep)
        check(module, result, x)
        assert all(torch.equal(result.kept[name], mask) for name, mask in keep.items())
        module, masks = result.module, masks | keep
    assert [len(layer.weight) for layer in layers(module).values()][:3] == [
        int(mask.sum()) for mask in masks.values()]


def test_residual_layers_shrink_together():
    """The stem and the ends of the first two blocks are added, so a channel goes from all."""
    module = residual()
    own = by_size(module)
    result = remove(module, IMAGES, "channel", {"stem": 0.5, "blocks.0.conv1": 0.25}, own)
    check(module, result, IMAGES)
    together = ("stem", "blocks.0.conv2", "blocks.1.conv2")
    total = sum(own[name].sum((1, 2, 3)) for name in together)
    for name in together:
        assert torch.equal(result.kept[name], total > total.sort().values[1])
    assert result.kept["blocks.0.bn1"].sum() == 1
    # 2 of 4 channels of the stem, the blocks' ends and what reads them, 1 of 4 inside
    assert parameters(Block(4)) == 144 + 8 + 144 + 8
    assert parameters(result.module.blocks[0]) == 18 + 2 + 18 + 4
    assert parameters(result.module.blocks[1]) == 72 + 8 + 72 + 4
    assert parameters(result.module.stem) == 36 + 2
    assert result.module.blocks[2].short.weight.shape == (8, 2, 1, 1)


def test_plan_of_a_residual_network_changes_nothing():
    module = residual()
    before = {name: values.clone() for name, values in module.state_dict().items()}
    keep = {"stem": 0.5, "blocks.1.conv2": 0.5, "blocks.2.conv1": 0.75, "blocks.3.conv1": 1.0}
    assert plan(module, IMAGES, "channel", keep) == [
        Change(("stem", "blocks.0.conv2", "blocks.1.conv2"), 4, 2, None),
        Change(("blocks.2.conv1",), 4, 3, None), Change(("blocks.3.conv1",), 8, 8, None)]
    remove(module, IMAGES, "channel", keep, by_size(module))
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], values) for name, values in before.items())


@pytest.mark.parametrize("kind", ["apart", "sdpa", "unbind", "chunk"])
def test_heads(kind):
    module = transformer(kind)
    own = by_size(module)
    result = remove(module, TOKENS, "head", {"attention": 2 / 3}, own)
    check(module, result, TOKENS)
    attention = result.module.attention
    assert attention.num_heads == 2
    assert attention.out.weight.shape == (12, 8)
    assert parameters(module.attention) - parameters(attention) == 4 * (3 * 13 + 12)
    names = ["q", "k", "v"] if kind in ("apart", "sdpa") else ["qkv"]
    rows = torch.cat([own[f"attention.{name}"].sum(1) for name in names])
    heads = rows.view(3, 3, 4).sum((0, 2))
    stays = torch.cat([result.kept[f"attention.{name}"] for name in names])
    assert torch.equal(stays.view(3, 3, 4), (heads > heads.min())[None, :, None].expand(3, 3, 4))


@settings(deadline=None, max_examples=10)
@given(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
def test_any_heads(stays):
    module = transformer("unbind")
    result = remove(module, TOKENS, "head", {"attention": torch.tensor(stays)})
    check(module, result, TOKENS)
    assert result.module.attention.num_heads == sum(stays)


def test_heads_of_a_bert():
    """Its projection back is in another module, and its sizes have other names."""
    class SelfAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_attention_heads, self.all_head_size = 3, 12
            self.query, self.key, self.value = (nn.Linear(12, 12) for _ in range(3))

        def forward(self, x):
            q, k, v = (part(x).view(*x.shape[:2], self.num_attention_heads, 4).transpose(1, 2)
                       for part in (self.query, self.key, self.value))
            y = (q @ k.transpose(2, 3)).softmax(-1) @ v
            return y.transpose(1, 2).reshape(*x.shape[:2], self.all_head_size)
    module = nn.Sequential(SelfAttention(), nn.Linear(12, 12), nn.Flatten(), nn.Linear(60, 2))
    result = remove(module, TOKENS, "head", {"0": torch.tensor([False, True, True])})
    check(module, result, TOKENS)
    assert result.module[1].weight.shape == (12, 8)
    assert plan(module, TOKENS, "head", {"0": 1 / 3}) == [Change(("0",), 3, 1, None)]


def test_neurons_of_a_transformer():
    module = transformer()
    result = remove(module, TOKENS, "neuron", {"inner": 0.5}, by_size(module))
    check(module, result, TOKENS)
    assert result.module.outer.weight.shape == (12, 10)
    rows = plan(module, TOKENS, "neuron", dict.fromkeys(layers(module), 0.5))
    product = "the outputs meet those of others in a product; choose granularity head"
    assert rows == [
        Change(("attention.q", "attention.k", "attention.v"), 12, 6, product),
        Change(("attention.out", "outer"), 12, 6, "LayerNorm 'norm2' would see fewer values"),
        Change(("inner",), 20, 10, None),
        Change(("fc",), 3, 2, "the outputs are those of the network")]


def test_depth_of_a_residual_network():
    """The wide block stays; of the others those go that have the least weights."""
    module = residual()
    own = by_size(module)
    with torch.no_grad():
        own["blocks.1.conv1"] *= 0.1
    result = remove(module, IMAGES, "depth", {"blocks": 0.75}, own)
    assert [bool(stays) for stays in result.kept.values()] == [True, False, True, True]
    assert isinstance(result.module.blocks[1], nn.Identity)
    assert parameters(module) - parameters(result.module) == parameters(Block(4))
    check(module, result, IMAGES)   # zero weights leave the shortcut
    half = remove(module, IMAGES, "depth", {"blocks": 0.25}, own)
    assert list(half.kept.values()) == [False, False, True, False]
    check(module, half, IMAGES)


def test_depth_of_a_chain():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8),
                           nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        module[2].weight *= 0.1
    x = random(4, 5)
    result = remove(module, x, "depth", {"": 0.75}, by_size(module))
    assert [bool(stays) for stays in result.kept.values()] == [True, False, True, True]
    expected = nn.Sequential(module[0], nn.ReLU(), *module[4:])
    assert equivalent(expected, result.module, [x]) == 0
    before, after = (from_torch(each, (x[:1],)).network() for each in (module, result.module))
    assert macs(before) - macs(after) == 64
    assert plan(module, x, "depth", {"": 0.25}) == [Change(
        ("",), 4, 1, "'6' maps [4, 8] to [4, 3]")]
    with pytest.raises(BadInput, match=re.escape("'0' maps [4, 5] to [4, 8] and '6' maps")):
        remove(module, x, "depth", {"": torch.tensor([False, True, True, False])})


def test_depth_needs_blocks_of_one_tensor():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.never = nn.Bilinear(3, 3, 3), nn.Linear(3, 3)
            self.block = Inner()

        def forward(self, x):
            return self.block(x, x)

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x, y):
            return self.fc(x) + y
    gone = torch.tensor([False, True]), torch.tensor([True, False])
    assert [plan(Two(), random(2, 3), "depth", {"": mask})[0].reason for mask in gone] == [
        "'never' is not called", "'block' does not take one tensor and return one"]


def test_modes_and_frozen_parameters_stay():
    module = chain().train()
    module[2].eval()
    module[1].requires_grad_(False)
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    result = remove(module, random(4, 72), "channel", {"1": 0.5, "4": 0.5}, by_size(module)).module
    assert [name for name, p in result.named_parameters() if not p.requires_grad] == frozen
    assert [part.training for part in result.modules()] == [p.training for p in module.modules()]
    with torch.no_grad():
        remove(module, random(4, 72), "channel", {"1": 0.5}, by_size(module))


def test_the_same_bytes_again():
    first, again = (remove(residual(), IMAGES, "channel", {"stem": 0.5, "blocks.2.conv2": 0.5},
                           by_size(residual())) for _ in range(2))
    assert list(first.kept) == list(again.kept)
    for a, b in zip(first.module.state_dict().values(), again.module.state_dict().values(),
                    strict=True):
        assert torch.equal(a, b)


def test_equal_scores_keep_the_first_and_at_least_one():
    module = chain()
    flat = {name: torch.ones_like(score) for name, score in by_size(module).items()}
    result = remove(module, random(2, 72), "channel", {"1": 0.5, "4": 0.01}, flat)
    assert result.kept["1"].tolist() == [True] * 3 + [False] * 3
    assert result.kept["4"].tolist() == [True] + [False] * 3


class Functional(nn.Module):
    """Two convolutions, and between them what ``between`` makes of their outputs."""

    def __init__(self, between, channels=4):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        self.last, self.between = nn.Conv2d(channels, 2, 1), between

    def forward(self, x):
        return self.last(self.between(self.a(x), self.b(x))).mean((2, 3))


def test_concatenated_layers_shrink_apart():
    torch.manual_seed(0)
    module = Functional(lambda a, b: torch.cat([a, b], 1).relu(), 8)
    keep = {"a": torch.tensor([True, False, True, True]),
            "b": torch.tensor([False, False, True, True])}
    result = remove(module, IMAGES, "channel", keep)
    check(module, result, IMAGES)
    stays = torch.cat([keep["a"], keep["b"]])
    assert torch.equal(result.module.last.weight, module.last.weight[:, stays])


def test_refuses_what_fails_only_together():
    def between(a, b):
        if a.shape[1] + b.shape[1] < 7:
            raise ValueError("too few\nin all")
        return torch.cat([a, b], 1)
    module, mask = Functional(between, 8), torch.tensor([True, True, True, False])
    with pytest.raises(BadInput, match=r"does not run \(too few\), though each layer alone"):
        remove(module, IMAGES, "channel", {"a": mask, "b": mask})


def test_gate_of_a_channel():
    """A sigmoid of nothing is not zero, but it scales a channel that is."""
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate, self.last = nn.Conv2d(2, 4, 1), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.conv(x)
            gate = self.gate(y.mean((2, 3))).sigmoid()
            return self.last((y * gate[..., None, None]).mean((2, 3)))
    torch.manual_seed(0)
    module = Gated()
    result = remove(module, IMAGES, "channel", {"conv": torch.tensor([True, False, True, False])})
    check(module, result, IMAGES)
    assert result.module.gate.weight.shape == (2, 2)


@pytest.mark.parametrize(("between", "node"), [
    (lambda a, b: (a + b).sigmoid(), "SigmoidBackward0 behind 'a'"),
    (lambda a, b: (a + b).view(-1, 4, 5, 5), "ViewBackward0 behind 'a'"),
    (lambda a, b: (a + b).flip(1), "FlipBackward0 behind 'a'"),
    (lambda a, b: (a + b).softmax(1), "SoftmaxBackward0 behind 'a'")])
def test_names_the_node_that_cannot_be_followed(between, node):
    torch.manual_seed(0)
    module = Functional(between)
    mask = torch.tensor([True, False, True, True])
    (row,) = plan(module, IMAGES, "channel", {"a": mask})
    assert (row.layers, row.before, row.after) == (("a", "b"), 4, 3)
    assert f"torch-pruning cannot follow its units through {node}: the shrunk" in row.reason
    with pytest.raises(BadInput, match=f"'a' and 'b' cannot be pruned as asked: .*{node}: .*take "
                                       "it out of keep"):
        remove(module, IMAGES, "channel", {"a": mask})


def test_refuses_layers_that_cannot_shrink():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x):
            return x * self.scale
    def reason(*between, channels=4):
        module = nn.Sequential(nn.Conv2d(2, 4, 1), *between, nn.Conv2d(channels, 2, 1))
        return plan(module.eval(), IMAGES, "channel", {"0": 0.5})[0].reason
    assert reason(Own()) == (
        "parameter '1.scale' belongs to no layer that torch-pruning knows")
    assert reason(nn.Conv2d(4, 4, 1, groups=2)) == "'1' is a convolution in 2 groups"
    assert reason(nn.GroupNorm(2, 4)) == "GroupNorm '1' would see fewer values"
    assert reason(nn.ConvTranspose2d(4, 4, 1)) == "ConvTranspose2d '1' would see fewer values"
    assert reason(nn.Conv2d(4, 4, 3, groups=4)) is None
    module = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 1, 2))
    (row,) = plan(module, random(2, 3), "neuron", {"0": 0.5})
    assert "ViewBackward0 behind '0'" in row.reason


def test_refuses_attention_that_it_does_not_know():
    def reason(attention):
        return plan(Transformer(attention).eval(), TOKENS, "head", {"attention": 2 / 3})[0].reason

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.inner = 3, nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x):
            return self.inner(x, x, x)[0]
    nothing = "it has no Linear layers, or several, whose outputs meet in one product"
    assert reason(Whole()) == nothing
    twice = nn.Sequential(Attention("apart"), Attention("apart"))
    twice.num_heads = 3
    assert reason(twice) == nothing

    class Fixed(Attention):
        """Knows how many heads it has, whatever is written on it."""

        def forward(self, x):
            q, k, v = (part(x).view(*x.shape[:2], 3, 4).transpose(1, 2)
                       for part in (self.q, self.k, self.v))
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v)
                            .transpose(1, 2).reshape(x.shape))
    fixed = Fixed("sdpa")
    assert "ViewBackward0 behind 'attention.q'" in reason(fixed)
    for heads in (5, 13):
        fixed.num_heads = heads
        assert reason(fixed) == (f"its projections attention.q, attention.k, attention.v are neit"
                                 f"her three with {heads} heads nor one of all three")
    torch.manual_seed(0)
    assert "ViewBackward0 behind 'attention.qkv'" in reason(Attention("mixed"))


def test_refuses_names_and_numbers():
    module, x = chain(), random(2, 72)
    own = by_size(module)
    for granularity, name, known in [("channel", "8", "'1', '4'"), ("neuron", "1", "'8', '11'"),
                                     ("head", "1", ""), ("depth", "1", "''")]:
        with pytest.raises(BadInput, match=f"keep names '{name}', which has no units for granulari"
                                           f"ty '{granularity}'; those that have are {known}"):
            plan(module, x, granularity, {name: 0.5})
    with pytest.raises(BadInput, match="no granularity 'row' that changes shapes; choose one"):
        remove(module, x, "row", {"1": 0.5}, own)
    for wrong in (0, 1.5, -1, float("nan"), "half", None, [True] * 6):
        with pytest.raises(BadInput, match="keep of '1' must be a density above 0 and at most 1"):
            remove(module, x, "channel", {"1": wrong}, own)
    for wrong in (torch.ones(6), torch.ones(5) > 0, torch.zeros(6) > 0):
        with pytest.raises(BadInput, match=r"mask of '1' is torch.*; it must be bool \[6\]"):
            remove(module, x, "channel", {"1": wrong}, own)
    with pytest.raises(BadInput, match="'1' has a density but no scores; give those of '1'"):
        remove(module, x, "channel", {"1": 0.5}, {"4": own["4"]})
    with pytest.raises(BadInput, match="block '1' has no scores; give those of its layers"):
        remove(module, x, "depth", {"": 0.5}, {"4": own["4"]})
    with pytest.raises(BadInput, match="'11' cannot be pruned as asked: the outputs are those of"):
        remove(module, x, "neuron", {"8": 0.5, "11": 0.5}, own)
    for granularity, name in (("channel", "1"), ("depth", "")):
        with pytest.raises(BadInput, match="cannot be traced on the example .*; give a batch that"):
            remove(module, random(2, 71), granularity, {name: 0.5}, own)


def test_refuses_two_wishes_for_layers_that_shrink_together():
    module = residual()
    with pytest.raises(BadInput, match="'stem' and 'blocks.1.conv2' shrink together, and keep as"):
        plan(module, IMAGES, "channel", {"stem": 0.5, "blocks.1.conv2": 0.75})


def test_depth_refuses_a_network_that_looks_into_the_block():
    class Nosy(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * self[1].weight.norm()
    module = Nosy(nn.Linear(3, 3), nn.Linear(3, 3))
    (row,) = plan(module, random(2, 3), "depth", {"": torch.tensor([True, False])})
    assert row.reason == ("the shrunk network does not run ('Identity' object has no attribute "
                          "'weight')")


def test_layer_that_is_used_twice():
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(),
                           nn.Linear(6, 2))
    x = random(3, 4)
    result = remove(module, x, "neuron", {"0": torch.tensor([True, False] * 3)})
    check(module, result, x)
    assert result.module[2].weight.shape == (3, 3)


def test_refuses_a_layer_that_is_not_used():
    module = residual()
    module.spare = nn.Conv2d(2, 4, 1)
    (row,) = plan(module, IMAGES, "channel", {"spare": 0.5})
    assert row.reason == "the example does not reach it, or no gradient comes back"


def test_equivalent_raises_where_networks_differ():
    module, x = chain(), random(3, 72)
    other = chain()
    with torch.no_grad():
        other[11].bias[0] += 1e-2
    with pytest.raises(BadInput, match="differs from the masked one by 0.01, more than the"):
        equivalent(module, other, [x, x])
    with torch.no_grad():
        other[11].bias[0] = float("nan")
    with pytest.raises(BadInput, match="differs from the masked one by nan"):
        equivalent(module, other, [x])
    with pytest.raises(BadInput, match=r"returns \[3, 8\], the masked one \[3, 3\]"):
        equivalent(module, module[:11], [x])
    assert equivalent(module, module, []) == 0


def test_needs_torch_pruning(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ToolMissing, match="needs torch-pruning; install it with pip install 'zero"):
        remove(chain(), random(2, 72), "channel", {"1": 0.5}, by_size(chain()))
