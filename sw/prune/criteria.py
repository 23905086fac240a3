"""Criteria: what the loss is thought to gain by each weight, the score by which pruning chooses.

=========  ==========================================================================  =========
name       score of the weight ``w`` from input j to output i                          needs
=========  ==========================================================================  =========
``l1``     ``|w|``                                                                     nothing
``l2``     ``w^2``                                                                     nothing
``scale``  the row's part of ``|gamma|`` of the batch norm behind (Liu et al.,         the norms
           "Network Slimming", 2017)
``apoz``   the row's part of 1 - the share of zeros among the outputs i (Hu et al.,    samples
           "Network Trimming", 2016)
``wanda``  ``|w| sqrt(mean x_j^2)`` (Sun et al., "A Simple and Effective Pruning       samples
           Approach for Large Language Models", 2023)
``obd``    ``h w^2 / 2`` (LeCun et al., "Optimal Brain Damage", 1990), with the exact  samples
           diagonal ``h`` of the Gauss-Newton matrix of the mean loss
=========  ==========================================================================  =========

Parts of a row are equal and sum to the row's score. Wanda compares the weights of an output with
each other only, so that one choice over a whole layer is not the paper's; of groups along the
inputs, N:M for example, it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:       # names and needs are read where there is no torch
    from torch import Tensor


@dataclass(frozen=True)
class Criterion:
    """``score(weight, evidence)`` is like the weight, and not negative.

    The evidence about a layer is what ``needs`` says: nothing, its batch norm, its Statistics, or
    its curvature; :mod:`zeroskip.sw.prune.scores` finds it.
    """

    score: Callable[[Tensor, Any], Tensor]
    needs: Literal["nothing", "norm", "statistics", "curvature"] = "nothing"

    @property
    def needs_data(self) -> bool:
        """Whether the evidence takes samples."""
        return self.needs in ("statistics", "curvature")


def _rows(values: Tensor, weight: Tensor) -> Tensor:
    """``values`` [out], each in equal parts over the weights of its output."""
    row = weight[0]
    return (values / row.numel()).reshape(-1, *[1] * row.ndim).expand_as(weight)


CRITERIA = {
    "l1": Criterion(lambda weight, _: weight.abs()),
    "l2": Criterion(lambda weight, _: weight.square()),
    "scale": Criterion(lambda weight, norm: _rows(norm.weight.abs(), weight), "norm"),
    "apoz": Criterion(lambda weight, seen: _rows(1 - seen.zeros, weight), "statistics"),
    "wanda": Criterion(lambda weight, seen: weight.abs() * seen.squares.sqrt().view_as(weight[0]),
                       "statistics"),
    "obd": Criterion(lambda weight, diagonal: diagonal * weight.square() / 2, "curvature"),
}
