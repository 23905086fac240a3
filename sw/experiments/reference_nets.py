"""Networks that others measure by: those of MLPerf Tiny, ResNet-18 and MobileNetV2.

Sources: Banbury et al., "MLPerf Tiny Benchmark", NeurIPS 2021, with the structures of its reference
implementations; He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1;
Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2.
Weights are random.
"""

from torch import nn
from torch.nn import functional

from zeroskip.sw.experiments.everyday import Net

MOBILENET_V1 = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2),
                (256, 1))
"""Channels and stride of each separable convolution, a quarter as wide as the original."""

MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of the first of them."""


def normed(i: int, o: int, kernel: int | tuple[int, int], stride: int | tuple[int, int] = 1,
           padding: int | tuple[int, int] = 0, groups: int = 1,
           activation: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    """A convolution, its batch norm and its activation."""
    return nn.Sequential(
        nn.Conv2d(i, o, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(o),
        *([activation()] if activation else []))


class Residual(nn.Module):
    """Two 3 x 3 convolutions, and what they read added; by a 1 x 1 convolution where it is of
    another size."""

    def __init__(self, i: int, o: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(normed(i, o, 3, stride, 1), normed(o, o, 3, 1, 1, 1, None))
        self.skip = nn.Identity() if (i, stride) == (o, 1) else normed(
            i, o, 1, stride, activation=None)

    def forward(self, x):
        return functional.relu(self.body(x) + self.skip(x))


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, i: int, o: int, stride: int, expansion: int):
        super().__init__()
        wide, self.same = i * expansion, (i, stride) == (o, 1)
        self.body = nn.Sequential(
            *([normed(i, wide, 1, activation=nn.ReLU6)] if expansion > 1 else []),
            normed(wide, wide, 3, stride, 1, wide, nn.ReLU6), normed(wide, o, 1, activation=None))

    def forward(self, x):
        return x + self.body(x) if self.same else self.body(x)


def pooled(features: list[nn.Module], channels: int, classes: int) -> nn.Sequential:
    """A classifier behind the mean of an image."""
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(channels, classes))


def ds_cnn() -> nn.Module:
    """Keyword spotting: 49 frames of 10 coefficients, 12 words."""
    blocks = [layer for _ in range(4) for layer in (
        normed(64, 64, 3, 1, 1, 64), normed(64, 64, 1))]
    return pooled([normed(1, 64, (10, 4), 2, (5, 1)), *blocks], 64, 12)


def mobilenet_v1() -> nn.Module:
    """Visual wake words: a person in a picture, or none."""
    layers, channels = [normed(3, 8, 3, 2, 1)], 8
    for o, stride in MOBILENET_V1:
        layers += [normed(channels, channels, 3, stride, 1, channels), normed(channels, o, 1)]
        channels = o
    return pooled(layers, channels, 2)


def resnet_8() -> nn.Module:
    """Image classification: CIFAR-10."""
    return pooled([normed(3, 16, 3, 1, 1), Residual(16, 16, 1), Residual(16, 32, 2),
                   Residual(32, 64, 2)], 64, 10)


def autoencoder() -> nn.Module:
    """Anomaly detection: five frames of 128 mel bands."""
    def dense(i: int, o: int) -> list[nn.Module]:
        return [nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()]
    return nn.Sequential(*dense(640, 128), *[layer for _ in range(3) for layer in dense(128, 128)],
                         *dense(128, 8), *dense(8, 128),
                         *[layer for _ in range(3) for layer in dense(128, 128)],
                         nn.Linear(128, 640))


def resnet_18() -> nn.Module:
    """ImageNet's smallest ResNet."""
    layers, channels = [normed(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, 1)], 64
    for o, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Residual(channels, o, stride), Residual(o, o, 1)]
        channels = o
    return pooled(layers, channels, 1000)


def mobilenet_v2() -> nn.Module:
    """ImageNet's mobile network."""
    layers, channels = [normed(3, 32, 3, 2, 1, activation=nn.ReLU6)], 32
    for expansion, o, blocks, stride in MOBILENET_V2:
        for block in range(blocks):
            layers.append(Inverted(channels, o, stride if block == 0 else 1, expansion))
            channels = o
    return pooled([*layers, normed(channels, 1280, 1, activation=nn.ReLU6)], 1280, 1000)


NETS = (
    Net("ds_cnn", ds_cnn, ((1, 49, 10),)),
    Net("mobilenet_v1", mobilenet_v1, ((3, 96, 96),)),
    Net("resnet_8", resnet_8, ((3, 32, 32),)),
    Net("autoencoder", autoencoder, ((640,),)),
    Net("resnet_18", resnet_18, ((3, 64, 64),)),
    Net("mobilenet_v2", mobilenet_v2, ((3, 64, 64),)),
)
