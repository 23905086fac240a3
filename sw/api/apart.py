"""Whether the samples of a batch are computed apart, as a program takes them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zeroskip.sw.errors import BadInput

NEAR = 1e-3
"""Share of its largest output by which a sample alone may differ from the same among others."""

SOME = 8
"""Samples that are looked at."""


def check_apart(compute: Callable[..., Any], inputs: Sequence[Tensor], what: str) -> None:
    """That the first and the last of some samples alone give what they give among others;
    ``BadInput``, which ends with ``what`` is to be done, where they do not."""
    some = [each[:SOME] for each in inputs]
    count = len(some[0]) if some and some[0].ndim else 0
    if count < 2 or any(each.shape[:1] != (count,) for each in some):
        return
    with torch.no_grad():
        together = tree_leaves(compute(*some))
        for at in (0, count - 1):
            alone = tree_leaves(compute(*(each[at:at + 1] for each in some)))
            for y, own in zip(together, alone, strict=True):
                if isinstance(y, Tensor) and not _near(
                        y[at:at + 1] if y.shape[:1] == (count,) else y, own, y):
                    raise BadInput("its samples depend on one another, and a program takes them "
                                   f"one by one; {what}")


def _near(wanted: Tensor, own: Tensor, whole: Tensor) -> bool:
    if wanted.shape != own.shape or not whole.numel():
        return wanted.shape == own.shape
    return torch.allclose(wanted.double(), own.double(), rtol=0, equal_nan=True,
                          atol=NEAR * float(whole.double().abs().max()))
