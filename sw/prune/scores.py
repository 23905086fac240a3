"""Scores of weights by a criterion, and the evidence that it needs."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from zeroskip.sw.errors import BadInput
from zeroskip.sw.prune.criteria import CRITERIA
from zeroskip.sw.prune.statistics import (
    Layer,
    apply,
    collect,
    input_rows,
    output_rows,
    refuse_groups,
    unreached,
    watched,
)


@torch.no_grad()
def scores(
    criterion: str,
    module: nn.Module,
    layers: dict[str, Layer],
    batches: Iterable | None = None,
    *,
    run: Callable[[nn.Module, Any], Any] = apply,
    after: dict[str, nn.Module] | None = None,
    loss: str = "cross_entropy",
) -> dict[str, torch.Tensor]:
    """The scores of ``layers``, parts of ``module``: by name, float32 like the weight.

    Parameters
    ----------
    criterion : str
        One of ``CRITERIA``.
    batches : iterable or None
        Samples without their labels, for the criteria that need some.
    run : function
        ``run(module, batch)`` sends a batch through; as a rule it is the module's argument.
    after : dict of module
        By layer the batch norm behind it: its scales, and for ``apoz`` its outputs.
    loss : str
        Of ``obd``: ``"cross_entropy"`` or ``"mse"``, see :func:`curvature`.

    Raises
    ------
    BadInput
        Where the criterion is unknown or lacks what it needs, and a score is not finite.
    """
    rule = _known("criterion", criterion, CRITERIA)
    evidence = _evidence(rule.needs, criterion, module, layers, batches, run, after or {}, loss)
    result = {name: rule.score(layer.weight.detach(), evidence[name]).float()
              for name, layer in layers.items()}
    for name, score in result.items():
        if not score.isfinite().all():
            raise BadInput(f"the scores of layer {name} by {criterion} are not all finite; look "
                           "for NaN and infinity in its weights and in the samples.")
    return result


def curvature(
    module: nn.Module,
    layers: dict[str, Layer],
    batches: Iterable,
    *,
    run: Callable[[nn.Module, Any], torch.Tensor] = apply,
    loss: str = "cross_entropy",
) -> dict[str, torch.Tensor]:
    """Diagonal of the Gauss-Newton matrix of the mean loss, by layer: float32 like the weight.

    The loss is ``"cross_entropy"`` of logits, or ``"mse"``, the mean over the outputs as
    in ``torch.nn.functional.mse_loss``; the labels do not matter. ``run`` returns the outputs
    ``[samples, outputs]`` of a batch, and each output takes a backward pass. No sample may depend
    on the others of its batch. Raises BadInput for outputs of another shape, a loss that is not
    known, a convolution in groups, and a layer that no sample reaches.
    """
    factors = _known("loss", loss, FACTORS)
    for name, layer in layers.items():
        refuse_groups(name, layer)
    sums = {name: torch.zeros_like(layer.weight, dtype=torch.float64)
            for name, layer in layers.items()}
    calls, samples = [], 0

    def hook(name):
        def probe(layer, inputs, output):
            # the gradient by a zero that is added is that by the output, come what may after it
            zero = torch.zeros_like(output, requires_grad=True)
            calls.append((name, input_rows(layer, inputs[0].detach()), zero))
            return output + zero
        return probe

    with watched(module, [(layer, hook(name)) for name, layer in layers.items()]):
        for batch in batches:
            calls.clear()
            with torch.enable_grad():
                outputs = run(module, batch)
            if loss == "mse" and outputs.ndim > 2:
                outputs = outputs.flatten(1)
            if outputs.ndim != 2:
                raise BadInput(f"the outputs of a batch are {list(outputs.shape)}, not [samples, "
                               "outputs]; let run return a matrix.")
            samples += len(outputs)
            _refuse_unreached(layers, [name for name, _, _ in calls])
            for factor in factors(outputs.detach()):
                deltas = torch.autograd.grad(outputs, [zero for _, _, zero in calls], factor,
                                             retain_graph=True, materialize_grads=True)
                for (name, x, _), delta in zip(calls, deltas, strict=True):
                    delta = output_rows(layers[name], delta)
                    sums[name] += _squared_gradient(delta, x).view_as(sums[name])
    if not samples:
        _refuse_unreached(layers, [])
    return {name: (each / samples).float() for name, each in sums.items()}


def _refuse_unreached(layers, reached):
    for name in layers:
        if name not in reached:
            raise unreached(name)


def _squared_gradient(delta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Each sample's gradient [out, K], summed over positions, then squared; summed over samples."""
    if x.shape[1] == 1:
        return delta[:, 0].square().T @ x[:, 0].square()
    return (delta.transpose(1, 2) @ x).square_().sum(0)


def _cross_entropy(logits: torch.Tensor) -> Iterator[torch.Tensor]:
    """The Hessian ``diag(p) - p p^T`` by the logits as a sum of squares, one a class."""
    p = logits.softmax(1)
    for own, unit in zip(p.T, torch.eye(p.shape[1]), strict=True):
        yield own.sqrt()[:, None] * (unit - p)


def _squared_error(outputs: torch.Tensor) -> Iterator[torch.Tensor]:
    """The Hessian ``2 / outputs`` times the identity as a sum of squares, one an output."""
    for unit in torch.eye(outputs.shape[1]):
        yield ((2 / len(unit))**0.5 * unit).expand_as(outputs)


FACTORS = {"cross_entropy": _cross_entropy, "mse": _squared_error}
"""By loss, of a batch's outputs [samples, outputs]: vectors like them, whose squares sum to the
Hessian of each sample's loss."""


def _evidence(needs, criterion, module, layers, batches, run, after, loss):
    """By layer what the criterion ``needs``, or BadInput where that cannot be had."""
    if needs == "nothing":
        return dict.fromkeys(layers)
    if needs == "norm":
        for name in layers:
            if getattr(after.get(name), "weight", None) is None:
                raise BadInput(f"criterion {criterion} needs the batch norm behind layer {name}, "
                               "with its scales; name it in after, or leave the layer out.")
        return after
    if batches is None:
        raise BadInput(f"criterion {criterion} needs samples; give data, or choose another.")
    if needs == "statistics":
        return collect(module, layers, batches, run=run, after=after, moments=False)
    return curvature(module, layers, batches, run=run, loss=loss)


def _known(kind, name, registry):
    if name not in registry:
        raise BadInput(f"unknown {kind} {name!r}; choose one of {', '.join(registry)}.")
    return registry[name]
