"""Small nets as people write them, each with what makes one hard to take."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Net:
    """A net and its inputs.

    Attributes
    ----------
    name : str
    make : callable
        Makes the module, with random weights.
    shapes : tuple of tuple of int
        Of the inputs, without the batch.
    classes : int
        Inputs are indices below this; 0: they are real numbers.
    """

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    classes: int = 0

    def module(self) -> nn.Module:
        """The module in evaluation mode: the same weights each time, and batch norms as after
        training."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self.make().eval()
            for part in module.modules():
                if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                    part.running_mean.normal_()
                    part.running_var.uniform_(0.5, 2)
        return module

    def inputs(self, samples: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Random samples."""
        numbers = torch.Generator().manual_seed(seed)
        if self.classes:
            return tuple(torch.randint(self.classes, (samples, *shape), generator=numbers)
                         for shape in self.shapes)
        return tuple(torch.randn(samples, *shape, generator=numbers) for shape in self.shapes)


class FunctionalMLP(nn.Module):
    """Functions in place of modules, view, and dropout."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(64, 48), nn.Linear(48, 10), nn.Dropout(0.5)

    def forward(self, x):
        x = self.drop(functional.relu(self.a(x.view(x.shape[0], -1))))
        return self.b(x)


class Normalised(nn.Module):
    """Normalises its inputs itself."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.linspace(-0.5, 0.5, 32))
        self.register_buffer("std", torch.linspace(0.5, 2, 32))
        self.body = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5))

    def forward(self, x):
        return self.body((x - self.mean) / self.std)


class Residual(nn.Module):
    """A residual block, and a mean over the image."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.na = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.nb = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        y = functional.relu(self.na(self.a(x)))
        x = functional.relu(self.nb(self.b(y)) + x)
        return self.head(x.mean((2, 3)))


class Separable(nn.Module):
    """Depthwise-separable convolutions with ReLU6."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x):
        return self.body(x)


class Branches(nn.Module):
    """Two convolutions side by side, joined."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 6, 3)

    def forward(self, x):
        x = torch.cat([functional.relu(self.a(x)), functional.relu(self.b(x))], 1)
        return functional.relu(self.head(x)).flatten(1)


class Squeeze(nn.Module):
    """Squeeze and excitation: channels times a gate."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = functional.relu(self.conv(x))
        gate = torch.sigmoid(self.up(functional.relu(self.down(x.mean((2, 3))))))
        return self.head((x * gate[:, :, None, None]).mean((2, 3)))


class UNet(nn.Module):
    """Down and up again, by a transposed convolution and by nearest neighbours."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.near = nn.Upsample(scale_factor=2, mode="nearest")
        self.c, self.d = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        x = functional.relu(self.a(x))
        y = functional.relu(self.up(functional.relu(self.b(x))))
        return self.d(self.near(functional.relu(self.c(torch.cat([x, y], 1)))))


class Permuted(nn.Module):
    """Channels last, and two kinds of padding."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 5)

    def forward(self, x):
        x = x.permute(0, 3, 1, 2)
        x = functional.pad(functional.pad(x, (1, 0, 1, 0)), (1, 1, 1, 1), mode="reflect")
        return self.head(functional.max_pool2d(functional.relu(self.conv(x)), 1, 1)[:, :, :6, :6]
                         .flatten(1))


class Recurrent(nn.Module):
    """The last output of a GRU or an LSTM."""

    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(8, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Bag(nn.Module):
    """The mean of embeddings."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.embedding(x).mean(1))


class Tokens(nn.Module):
    """Layer norm and linear layers on [batch, tokens, features]."""

    def __init__(self):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.b(functional.gelu(self.a(self.norm(x))))


class Attention(nn.Module):
    """Self-attention in plain operators."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in (q, k, v))
        y = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """torch's own transformer, two layers of it."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.body(x).mean(1))


class TwoTwo(nn.Module):
    """Two inputs and two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 8), nn.Linear(6, 8)
        self.c, self.d = nn.Linear(16, 3), nn.Linear(16, 2)

    def forward(self, x, y):
        z = functional.relu(torch.cat([self.a(x), self.b(y)], 1))
        return self.c(z), self.d(z)


class Argmax(nn.Module):
    """Gives a class, not scores."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5))

    def forward(self, x):
        return self.body(x).argmax(1)


class Shared(nn.Module):
    """One layer twice."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(functional.relu(self.a(functional.relu(self.a(x)))))


def masked() -> nn.Module:
    """Pruned by torch, with the mask left in."""
    from torch.nn.utils import prune
    net = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5))
    prune.l1_unstructured(net[0], "weight", 0.7)
    return net


def heads(activation: nn.Module) -> Callable[[], nn.Module]:
    """Linear layers with an activation between."""
    return lambda: nn.Sequential(nn.Linear(16, 24), activation, nn.Linear(24, 8), activation,
                                 nn.Linear(8, 3))


NETS = (
    Net("mlp", lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        ((1, 8, 8),)),
    Net("functional_mlp", FunctionalMLP, ((8, 8),)),
    Net("normalised", Normalised, ((32,),)),
    Net("cnn_max", lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 2 * 2, 10)), ((1, 12, 12),)),
    Net("cnn_average", lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d((5, 5)),
        nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        nn.Softmax(1)), ((3, 12, 12),)),
    Net("norms", lambda: nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 4 * 4, 5), nn.BatchNorm1d(5)),
        ((3, 8, 8),)),
    Net("residual", Residual, ((3, 8, 8),)),
    Net("separable", Separable, ((3, 12, 12),)),
    Net("branches", Branches, ((3, 6, 6),)),
    Net("squeeze", Squeeze, ((3, 8, 8),)),
    Net("silu", heads(nn.SiLU()), ((16,),)),
    Net("hardswish", heads(nn.Hardswish()), ((16,),)),
    Net("gelu", heads(nn.GELU()), ((16,),)),
    Net("leaky", heads(nn.LeakyReLU(0.1)), ((16,),)),
    Net("tanh", heads(nn.Tanh()), ((16,),)),
    Net("grouped", lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten()),
        ((4, 8, 8),)),
    Net("conv1d", lambda: nn.Sequential(
        nn.Conv1d(4, 8, 5, stride=2), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=2, dilation=2),
        nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8 * 7, 4)), ((4, 32),)),
    Net("unet", UNet, ((1, 8, 8),)),
    Net("permuted", Permuted, ((5, 5, 3),)),
    Net("gru", lambda: Recurrent(nn.GRU), ((6, 8),)),
    Net("lstm", lambda: Recurrent(nn.LSTM), ((6, 8),)),
    Net("embedding", Bag, ((7,),), 50),
    Net("layer_norm", Tokens, ((5, 16),)),
    Net("attention", Attention, ((6, 16),)),
    Net("encoder", Encoder, ((6, 16),)),
    Net("two_two", TwoTwo, ((12,), (6,))),
    Net("argmax", Argmax, ((16,),)),
    Net("masked", masked, ((32,),)),
    Net("shared", Shared, ((16,),)),
)
