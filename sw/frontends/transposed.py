"""ConvTranspose as the convolution that it is equal to, which multiplies no zeros between inputs.

Along an axis of stride s an output n + before, before being what is cut off in front, sums
``x[i] * w[k]`` over all i * s + k that are n + before. With n + before = q * s + r, r being the
phase, the weights k = r, r + s, ... meet the inputs q, q - 1, ...: each phase is a convolution of
stride 1 whose weights are every s-th of w, the last first. So one convolution computes all phases
as so many channels, which are then put side by side, and what is too much is cut off.

Operator semantics: the ONNX operator reference, ConvTranspose-22.
"""

from math import prod

import numpy as np

from zeroskip.sw.frontends.constants import Reject
from zeroskip.sw.frontends.rewriting import Rewriter

LARGEST = 1 << 27
"""Most weights of the convolution."""


def convolve(own: Rewriter) -> None:
    """Puts a convolution in place of a ConvTranspose."""
    weight, groups = own.weight(1, "weights"), own.given.get("group", 1)
    shape, result = own.shape(own.node.input[0]), own.shape(own.node.output[0])
    axes = weight.ndim - 2
    if axes not in (1, 2) or len(shape) != weight.ndim or 0 in weight.shape:
        raise Reject(f"its weight has shape {list(weight.shape)}: transposed convolutions over "
                     "one or two dimensions can run")
    if groups < 1 or shape[1] != len(weight) or len(weight) % groups:
        raise Reject(f"its weight takes {len(weight)} channels in {groups} groups, but {shape[1]} "
                     "reach it")
    strides = own.given.get("strides", [1] * axes)
    dilations = own.given.get("dilations", [1] * axes)
    kernel = [(size - 1) * dilation + 1
              for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    taps = [-(-size // stride) for size, stride in zip(kernel, strides, strict=True)]
    channels = weight.shape[1] * groups
    if channels * prod(strides) * prod(taps) * len(weight) > LARGEST:
        raise Reject(f"as a convolution it would take more than {LARGEST:,} weights")
    cut = _cut(own, shape[2:], result[2:], kernel, strides)
    front = [max(tap - 1 - before // stride, 0)
             for tap, before, stride in zip(taps, cut, strides, strict=True)]
    behind = [max((before + size - 1) // stride - given + 1, 0) for before, size, given, stride in
              zip(cut, result[2:], shape[2:], strides, strict=True)]
    positions = [a + given + b - tap + 1
                 for a, given, b, tap in zip(front, shape[2:], behind, taps, strict=True)]
    inputs = [own.node.input[0], own.constant(_phases(weight, groups, dilations, strides, taps))]
    if own.operand(2) is not None:
        inputs.append(own.constant(np.repeat(own.weight(2, "biases"), prod(strides))))
    phases = (shape[0], channels * prod(strides), *positions)
    value = own.add("Conv", inputs, phases, f"{own.name}:convolution", group=groups,
                    kernel_shape=taps, pads=[*front, *behind])
    if own.takes("Relu"):
        value = own.add("Relu", [value], phases)
    value = _side_by_side(own, value, channels, strides, phases)
    start = [before - (tap - 1 - a) * stride
             for before, tap, a, stride in zip(cut, taps, front, strides, strict=True)]
    own.gives(_part(own, value, start, result, [
        size * stride for size, stride in zip(positions, strides, strict=True)]), 0)


RULES = {"ConvTranspose": convolve}


def _cut(own: Rewriter, given: tuple[int, ...], result: tuple[int, ...], kernel: list[int],
         strides: list[int]) -> list[int]:
    """Values that are cut off in front of each axis."""
    automatic = own.given.get("auto_pad", b"NOTSET").decode(errors="replace")
    if automatic == "VALID" or (automatic == "NOTSET" and "output_shape" not in own.given):
        pads = own.given.get("pads", [0] * (2 * len(given))) if automatic == "NOTSET" else []
        return [int(each) for each in pads[:len(given)]] or [0] * len(given)
    extra = own.given.get("output_padding", [0] * len(given))
    total = [stride * (size - 1) + more + width - after for stride, size, more, width, after in
             zip(strides, given, extra, kernel, result, strict=True)]
    if min(total) < 0:
        raise Reject(f"its output of {list(result)} is larger than its weights reach")
    return [each // 2 if automatic == "SAME_UPPER" else each - each // 2 for each in total]


def _phases(weight: np.ndarray, groups: int, dilations: list[int], strides: list[int],
            taps: list[int]) -> np.ndarray:
    """The weights [in, out / groups, ...] as those of the phases [out * phases, in / groups, taps],
    phase by phase of an output; zeros where an axis has too few, or a dilation leaves gaps."""
    axes = len(taps)
    whole = np.zeros((*weight.shape[:2], *(tap * stride for tap, stride in
                                           zip(taps, strides, strict=True))), weight.dtype)
    whole[(..., *(slice(0, (size - 1) * dilation + 1, dilation) for size, dilation in
                  zip(weight.shape[2:], dilations, strict=True)))] = weight
    into, out = len(weight) // groups, weight.shape[1]
    apart = whole.reshape(groups, into, out, *(each for tap, stride in
                                               zip(taps, strides, strict=True)
                                               for each in (tap, stride)))
    order = [0, 2, *(4 + 2 * axis for axis in range(axes)), 1, *(3 + 2 * axis for axis
                                                                   in range(axes))]
    last_first = (..., *[slice(None, None, -1)] * axes)
    return np.ascontiguousarray(apart.transpose(order)[last_first]).reshape(
        groups * out * prod(strides), into, *taps)


def _side_by_side(own: Rewriter, value: str, channels: int, strides: list[int],
                  shape: tuple[int, ...]) -> str:
    """The phases of each channel, one behind the other along each axis."""
    if prod(strides) == 1:
        return value
    batch, positions, axes = shape[0], shape[2:], len(strides)
    order = [0, 1, *(each for axis in range(axes) for each in (2 + axes + axis, 2 + axis))]
    apart = (batch, channels, *strides, *positions)
    value = own.add("Transpose", [own.reshaped(value, apart)], [apart[at] for at in order],
                    perm=order)
    return own.reshaped(value, (batch, channels, *(
        size * stride for size, stride in zip(positions, strides, strict=True))))


def _part(own: Rewriter, value: str, start: list[int], result: tuple[int, ...],
          sizes: list[int]) -> str:
    """The values of the result, which begin at ``start`` of each axis of so many."""
    if tuple(sizes) == result[2:]:
        return value
    ends = [at + size for at, size in zip(start, result[2:], strict=True)]
    bounds = [own.constant(np.array(each, np.int64))
              for each in (start, ends, range(2, len(result)))]
    return own.add("Slice", [value, *bounds], result)
