"""Integer reference of an EIE layer.

y = act(sat16((W.x + b + half) >> s)) with half = 2^(s-1), or 0 when s = 0. Sums are exact;
``>>`` rounds towards minus infinity, so with ``half`` a tie rounds up; ``sat16`` saturates to
16 bits, before the activation. Source: Han et al., ISCA 2016, section II (the layer) and
section IV (16-bit fixed point); rounding and saturation are this project's.
"""

import numpy as np

from zeroskip.sw.errors import BadInput

INT16 = np.iinfo(np.int16)
FLOAT64_COLUMNS = 1 << 23
"""Up to here a sum of int16 products stays within 2^53, where float64 is exact."""
BLOCK = 1 << 22
"""Weights that are widened to 64 bits at a time."""


def layer(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, shift: int,
          activation: str) -> tuple[np.ndarray, int]:
    """One layer on a batch.

    Parameters
    ----------
    x : int16 array [batch, in]
    weight : int16 array [out, in]
    bias : int64 array [out]
        In accumulator units, at most 2^62 in magnitude.
    shift : int
        0 to 31.
    activation : str
        ``"none"`` or ``"relu"``.

    Returns
    -------
    y : int16 array [batch, out]
    saturated : int
        Number of outputs that had to be saturated, counted before the activation.
    """
    _check(x, weight, bias, shift, activation)
    half = 1 << shift - 1 if shift else 0
    y = _matmul(x, weight) + bias + half >> shift
    saturated = np.count_nonzero((y < INT16.min) | (y > INT16.max))
    y = np.clip(y, INT16.min, INT16.max).astype(np.int16)
    return (np.maximum(y, 0) if activation == "relu" else y), saturated


def _matmul(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Exact ``x @ weight.T`` as int64 [batch, out]."""
    exact = np.float64 if weight.shape[1] <= FLOAT64_COLUMNS else np.int64
    wide = x.astype(exact)
    product = np.empty((len(x), len(weight)), np.int64)
    step = max(1, BLOCK // weight.shape[1])
    for row in range(0, len(weight), step):
        rows = slice(row, row + step)
        product[:, rows] = wide @ weight[rows].T.astype(exact)
    return product


def _check(x, weight, bias, shift, activation) -> None:
    for name, array, dtype, ndim in (("x", x, np.int16, 2), ("weight", weight, np.int16, 2),
                                     ("bias", bias, np.int64, 1)):
        if array.dtype != dtype or array.ndim != ndim:
            raise BadInput(f"{name} must be {np.dtype(dtype)} with {ndim} dimensions, "
                           f"not {array.dtype} {list(array.shape)}")
    if x.shape[1] != weight.shape[1] or len(bias) != len(weight) or not weight.size:
        raise BadInput("x, weight and bias must be [batch, in], [out, in] and [out], not "
                       f"{list(x.shape)}, {list(weight.shape)} and {list(bias.shape)}")
    if not 0 <= shift <= 31:
        raise BadInput(f"shift must be 0 to 31, not {shift}")
    if activation not in ("none", "relu"):
        raise BadInput(f"activation must be 'none' or 'relu', not {activation!r}")
    large = np.flatnonzero((bias > 1 << 62) | (bias < -1 << 62))
    if large.size:
        raise BadInput(f"bias[{large[0]}] is {bias[large[0]]}: it must be within 2^62")
