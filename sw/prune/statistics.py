"""What goes into layers and comes out of them while samples run through a module.

A layer, Linear, Conv1d or Conv2d, is a matrix ``[out, K]`` that is applied at positions: a Linear
layer at each vector of its input, the tokens of a sentence for example, a convolution at each patch
of the image. K runs along the flattened weight of an output, as ``torch.nn.functional.unfold`` has
it.
Padding of a batch counts like any other position; a batch of equal lengths has none.

Sources: Frantar and Alistarh, "SparseGPT", 2023, for the second moment, there the Hessian of a
row; Hu et al., "Network Trimming", 2016, for the share of zeros.
"""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zeroskip.sw.errors import BadInput

Layer = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of one layer over all samples and positions.

    Attributes
    ----------
    count : int
        Input vectors that were seen: samples times positions.
    squares : float32 tensor [K]
        Mean of the square of each input.
    moment : float32 tensor [K, K] or None
        Mean of ``x x^T``, of which ``squares`` is the diagonal; summed in float64.
    zeros : float32 tensor [out]
        Fraction of each output that is 0 or less, so that a ReLU makes or leaves it zero.
    """

    count: int
    squares: torch.Tensor
    moment: torch.Tensor | None
    zeros: torch.Tensor


def apply(module: nn.Module, batch: Any) -> Any:
    """What the module makes of its argument, or of a tuple of them."""
    return module(*batch) if isinstance(batch, tuple) else module(batch)


@torch.no_grad()
def collect(
    module: nn.Module,
    layers: dict[str, Layer],
    batches: Iterable,
    *,
    run: Callable[[nn.Module, Any], Any] = apply,
    after: dict[str, nn.Module] | None = None,
    moments: bool = True,
) -> dict[str, Statistics]:
    """The statistics of ``layers``, parts of ``module``, by their names.

    ``run(module, batch)`` sends a batch through the module, which is in eval mode meanwhile; as a
    rule a batch is the module's argument, or a tuple of them. ``after`` has by layer the module, a
    batch norm say, whose output is counted in place of the layer's own. Without ``moments`` no
    matrix is summed, which takes K times the memory and time. Raises BadInput for a convolution in
    groups, and a layer that no sample reaches.
    """
    after = after or {}
    sums = {name: _Sums(name, layer, moments) for name, layer in layers.items()}
    hooks = [(layer, sums[name].add_inputs) for name, layer in layers.items()]
    hooks += [(after.get(name, layer), sums[name].add_outputs) for name, layer in layers.items()]
    with watched(module, hooks):
        for batch in batches:
            run(module, batch)
    return {name: each.means() for name, each in sums.items()}


@contextmanager
def watched(module: nn.Module, hooks: Iterable[tuple[nn.Module, Callable]]):
    """Holds ``module`` in eval mode, and forward hooks on parts of it; both end with the block."""
    modes = [(part, part.training) for part in module.modules()]
    handles = [part.register_forward_hook(hook) for part, hook in hooks]
    module.eval()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes:
            part.training = training


def input_rows(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """The input of ``layer`` as ``[samples, positions, K]``."""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1])
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # what Conv2d itself pads with; it knows "same" too
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode)
    if isinstance(layer, nn.Conv1d):    # an image of one row
        x, kernel, dilation, stride = x[:, :, None], (1, *kernel), (1, *dilation), (1, *stride)
    return nn.functional.unfold(x, kernel, dilation, stride=stride).transpose(1, 2)


def output_rows(layer: Layer, y: torch.Tensor) -> torch.Tensor:
    """The output of ``layer``, or what has its shape, as ``[samples, positions, out]``."""
    if isinstance(layer, nn.Linear):
        return y.reshape(len(y), -1, y.shape[-1])
    return y.flatten(2).transpose(1, 2)


def refuse_groups(name: str, layer: Layer):
    """Raises BadInput for a convolution in groups, whose outputs have different inputs."""
    if not isinstance(layer, nn.Linear) and layer.groups > 1:
        raise BadInput(f"layer {name} is a convolution in {layer.groups} groups, whose outputs "
                       "have different inputs; leave it out.")


def unreached(name: str) -> BadInput:
    """The error for a layer without data."""
    return BadInput(f"no sample reaches layer {name}; give at least one, or leave the layer out.")


class _Sums:
    """What :func:`collect` adds up for a layer."""

    def __init__(self, name, layer, moments):
        refuse_groups(name, layer)
        self.name, self.layer, self.count, self.outputs = name, layer, 0, 0
        outputs, inputs = layer.weight.flatten(1).shape
        shape = (inputs, inputs) if moments else (inputs,)
        self.products = torch.zeros(shape, dtype=torch.float64)
        self.zeros = torch.zeros(outputs, dtype=torch.int64)

    def add_inputs(self, _module, inputs, _output):
        x = input_rows(self.layer, inputs[0]).flatten(0, 1).double()
        self.count += len(x)
        self.products += x.square().sum(0) if self.products.ndim == 1 else x.T @ x

    def add_outputs(self, _module, _inputs, output):
        y = output_rows(self.layer, output).flatten(0, 1)
        self.outputs += len(y)
        self.zeros += (y <= 0).sum(0)

    def means(self):
        if not self.count or not self.outputs:
            raise unreached(self.name)
        means = (self.products / self.count).float()
        squares, moment = (means, None) if means.ndim == 1 else (means.diagonal(), means)
        return Statistics(self.count, squares, moment, (self.zeros / self.outputs).float())
