"""What people give and get, and what a program's buffers hold of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zeroskip.sw.compiler.program import Port, Program
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import as_int8, as_samples
from zeroskip.sw.graph.samples import Samples, as_type, batched, by_name
from zeroskip.sw.graph.types import TensorType


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples as a program takes them.

    Attributes
    ----------
    buffers : dict of str to array [runs, values]
        By the names of the inputs.
    real : dict of str to array [samples, values]
        As they were given.
    samples : int
    saturated, outside : int
        Values that were saturated, and those that lie outside the range that the program takes by
        more than half of its width.
    range : tuple of float, or None
        The range of the first input that has one.
    """

    buffers: dict[str, np.ndarray]
    real: dict[str, np.ndarray]
    samples: int
    saturated: int
    outside: int
    range: tuple[float, float] | None

    @property
    def size(self) -> int:
        """Values of all samples."""
        return sum(values.size for values in self.real.values())

    @property
    def warning(self) -> str | None:
        """What is to be said of values that lie far outside; None where none do."""
        if not self.outside or self.range is None:
            return None
        low, high = self.range
        return (f"{self.outside} of {self.size} inputs lie far outside {low:.4g} to {high:.4g}, "
                "the range that the program takes, and are cut to it; scale them as the model "
                "expects, or calibrate it with inputs like these")


def inputs(program: Program, what: str, given: Samples, raw: bool = False) -> Inputs:
    """Samples, flat or in the model's shape, as ``program`` takes them: with ``raw`` the integers
    of its buffers themselves.

    ``BadInput``, which begins with ``what``, where they do not fit.
    """
    arrays = by_name([port.name for port in program.inputs], what, given)
    buffers, real, saturated, outside, span = {}, {}, 0, 0, None
    for port in program.inputs:
        called = what if len(program.inputs) == 1 else f"{what} {port.name!r}"
        kind = program.buffers[port.buffer]
        flat = as_samples(called, arrays[port.name], sample_shape(program, kind))
        values, lost = _converted(called, flat, port, kind, raw)
        far, own = _far_outside(flat, port, kind, raw)
        buffers[port.name], real[port.name] = batched(values, program.batch), flat
        saturated, outside, span = saturated + lost, outside + far, span or own
    counts = {len(values) for values in real.values()}
    if len(counts) != 1:
        raise BadInput(f"{what} has arrays of different numbers of samples; give as many of each")
    return Inputs(buffers, real, counts.pop(), int(saturated), outside, span)


def outputs(program: Program, buffers: Mapping[str, np.ndarray], samples: int,
            raw: bool = False) -> dict[str, np.ndarray]:
    """The outputs of so many samples by name, [samples, ...] in the model's shape: real values,
    float32, where the buffer's integers stand for some; else, and with ``raw``, as the buffer has
    them.

    Sums of 32 bits are what the model itself gives, and float32 would round them.
    """
    found = {}
    for port in program.outputs:
        kind, y = program.buffers[port.buffer], buffers[port.buffer]
        shape = sample_shape(program, kind)
        y = y.reshape(-1, *shape)[:samples]
        scaled = kind.dtype in (np.int8, np.int16, np.uint8)
        found[port.name] = kind.to_float(y).astype(np.float32) if scaled and not raw else y
    return found


def sample_shape(program: Program, kind: TensorType) -> tuple[int, ...]:
    """The shape of one sample in an input's or output's buffer."""
    if program.batch > 1 and kind.shape[:1] == (program.batch,):
        return kind.shape[1:] or (1,)
    return kind.shape


def _converted(what: str, flat: np.ndarray, port: Port, kind: TensorType,
               raw: bool) -> tuple[np.ndarray, int]:
    """Samples as a buffer has them, and how many values saturated."""
    if raw:
        return _raw(what, flat, kind), 0
    if port.dtype == "float32" and kind.dtype.kind != "f":
        return kind.to_integer(flat)
    if port.dtype in ("int8", "uint8") and kind.dtype == np.int8:
        return as_int8(what, flat, port.dtype), 0
    return as_type(what, flat, kind.dtype, "input"), 0


def _raw(what: str, flat: np.ndarray, kind: TensorType) -> np.ndarray:
    if kind.dtype.kind == "f":
        return flat.astype(kind.dtype)
    low, high = np.iinfo(kind.dtype).min, np.iinfo(kind.dtype).max
    if flat.dtype.kind == "f" or flat.min() < low or flat.max() > high:
        raise BadInput(f"{what}: --raw takes integers from {low} to {high}; leave --raw out for "
                       "float inputs")
    return flat.astype(kind.dtype)


def _far_outside(flat: np.ndarray, port: Port, kind: TensorType,
                 raw: bool) -> tuple[int, tuple[float, float] | None]:
    """How many float values lie far outside the range of a buffer's integers, and that range."""
    if kind.dtype.kind == "f" or kind.dtype.itemsize > 2:
        return 0, None
    limits = np.iinfo(kind.dtype)
    low, high = (float(end) for end in kind.to_float(np.array([limits.min, limits.max])))
    if raw or port.dtype != "float32":
        return 0, (low, high)
    margin = (high - low) / 2
    return int(np.count_nonzero((flat < low - margin) | (flat > high + margin))), (low, high)
