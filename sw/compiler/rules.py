"""What the host does between steps by an exact rule, with integers alone, as gateware computes it:
rules by name.

An integer stands for ``(integer - zero point) * scale``. Where a rule makes integers of another
scale, a sum is multiplied by an int32 of at least 0 and shifted to the right, a tie to even, as
the tensor core's requantiser does; then the zero point is added, and what is beyond the type, or
beyond ``low`` and ``high``, becomes its end. Only what is beyond the type counts as saturated.
``convert`` is the one rule that goes through real values; it stands between engines of different
types, and where floats begin or end.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import ldexp, prod
from typing import Any, ClassVar, get_origin

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from zeroskip.sw.engines.checks import check_choice, check_range
from zeroskip.sw.graph.im2col import Geometry, columns
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.requantise import multiplier_and_shift

WINDOW = 1 << 15
"""Most values of a window: sums of so many int16 times an int32 are an int64."""
OPERANDS = 64
"""Most buffers that a rule reads."""
AXES = 8
"""Most axes of a permutation."""
INTEGERS = (np.int8, np.int16)
"""Types of what the rules read and write."""

Types = Sequence[TensorType]


@dataclass(frozen=True)
class Rule(ABC):
    """What all rules have. Their fields are what the program file says of them.

    Attributes
    ----------
    name : str
        In the program file.
    """

    name: ClassVar[str]

    def header(self) -> dict:
        """The fields as JSON has them."""
        return asdict(self)

    @classmethod
    def from_file(cls, described: Mapping[str, Any]) -> "Rule":
        """The inverse of :meth:`header`; ``KeyError``, ``TypeError`` or ``ValueError`` where
        something is missing or of another kind."""
        given = {each.name: described[each.name] for each in fields(cls)}
        for each in fields(cls):
            if each.name == "geometry":
                given["geometry"] = Geometry.from_json(described["geometry"])
                check_range("groups of its geometry", given["geometry"].groups, 1, 1)
                continue
            given[each.name] = _numbers(each.name, given[each.name])
            if get_origin(each.type) is tuple and not isinstance(given[each.name], tuple):
                raise ValueError(f"{each.name} is {given[each.name]!r}, expected a list")
        return cls(**given)

    @abstractmethod
    def apply(self, before: Types, after: TensorType, *xs: np.ndarray) -> tuple[np.ndarray, int]:
        """Values [runs, values] of type ``after`` from those of each type of ``before``, and how
        many had to be saturated."""

    def check(self, before: Types, after: TensorType) -> None:
        """That the fields fit the types; ``ValueError`` on a misfit."""
        check_range("number of buffers that it reads", len(before), 1, 1)
        for kind in (*before, after):
            if kind.dtype not in INTEGERS:
                raise ValueError(f"it takes and gives int8 and int16, not {kind.dtype}")


@dataclass(frozen=True)
class Convert(Rule):
    """Values of one type as the nearest of another, through their real values in float64, a tie
    to even."""

    name: ClassVar[str] = "convert"

    def apply(self, before, after, *xs):
        """See :class:`Rule`."""
        real = before[0].to_float(xs[0])
        if after.dtype.kind == "f":
            return real.astype(after.dtype), 0
        return after.to_integer(real)

    def check(self, before, after):
        """See :class:`Rule`."""
        check_range("number of buffers that it reads", len(before), 1, 1)
        check_range("number of values that it gives", after.size, before[0].size, before[0].size)


@dataclass(frozen=True)
class Moving(Rule):
    """Rules that give values of what they read, of the same type."""

    def check(self, before, after):
        """See :class:`Rule`."""
        for kind in before:
            if replace(kind, shape=()) != replace(after, shape=()):
                raise ValueError(f"it gives {after} of {kind}, expected the same type")


@dataclass(frozen=True)
class Maximum(Moving):
    """The greatest value of each window.

    Attributes
    ----------
    geometry : Geometry
        ``input_shape`` is all planes of a run, height and width; padding is never the greatest.
    """

    name: ClassVar[str] = "max"

    geometry: Geometry

    def apply(self, before, after, *xs):    # noqa: ARG002 - the same types
        """See :class:`Rule`."""
        windows = _windows(xs[0], self.geometry, np.iinfo(xs[0].dtype).min)
        return windows.max(axis=(-2, -1)).reshape(len(xs[0]), -1), 0

    def check(self, before, after):
        """See :class:`Rule`."""
        Rule.check(self, before, after)
        super().check(before, after)
        _check_windows(self.geometry, before[0], after)


@dataclass(frozen=True)
class Average(Rule):
    """The sum of each window, over how many values it counts: the divisor is in the multiplier.

    Attributes
    ----------
    geometry : Geometry
        As of :class:`Maximum`; padding is real 0.
    counted : tuple of int
        Rows and columns of padding that count as values: top, left, bottom, right.
    multipliers : tuple of (count, multiplier, shift)
        For windows that count so many values, each count once, in ascending order.
    zero_points : pair of int
        Of what is read and what is given.
    """

    name: ClassVar[str] = "average"

    geometry: Geometry
    counted: tuple[int, int, int, int]
    multipliers: tuple[tuple[int, int, int], ...]
    zero_points: tuple[int, int]

    @classmethod
    def of(cls, geometry: Geometry, counted: tuple[int, int, int, int], before: TensorType,
           after: TensorType) -> "Average":
        """The rule between two types; ``BadInput`` where no multiplier expresses their scales."""
        ratio = before.scale / after.scale
        return cls(geometry, counted, tuple(
            (count, *multiplier_and_shift(ratio / count))
            for count in np.unique(counts(geometry, counted)).tolist()),
            (before.zero_point, after.zero_point))

    def apply(self, before, after, *xs):    # noqa: ARG002 - its own zero points
        """See :class:`Rule`."""
        zero, _ = self.zero_points
        inside = prod(self.geometry.kernel)
        sums = _windows(xs[0], self.geometry, xs[0].dtype.type(zero)).sum(
            axis=(-2, -1), dtype=np.int64) - inside * zero
        known, multiplier, shift = np.array(self.multipliers, np.int64).T
        at = np.searchsorted(known, counts(self.geometry, self.counted))
        multiplier, shift = multiplier[at], shift[at]
        y, saturated = _within(divided(sums * multiplier, shift) + self.zero_points[1], after)
        return y.reshape(len(xs[0]), -1), saturated

    def check(self, before, after):
        """See :class:`Rule`."""
        super().check(before, after)
        _check_windows(self.geometry, before[0], after)
        check_range("number of sides that count", len(self.counted), 4, 4)
        for side, most in zip(self.counted, self.geometry.padding, strict=True):
            check_range("padding that counts", side, 0, most)
        _check_made(self, Average.of(self.geometry, self.counted, before[0], after))


@dataclass(frozen=True)
class Sum(Rule):
    """The sum of buffers of any scales, place by place; of one buffer, its values at another scale.

    Attributes
    ----------
    multipliers : tuple of int
        Of each buffer.
    shift : int
        Of the sum of all products.
    zero_points : tuple of int
        Of each buffer, then of what is given.
    low, high : int or None
        The least and the greatest value that is given; None: what the type holds.
    """

    name: ClassVar[str] = "sum"

    multipliers: tuple[int, ...]
    shift: int
    zero_points: tuple[int, ...]
    low: int | None = None
    high: int | None = None

    @classmethod
    def of(cls, before: Types, after: TensorType, low: int | None = None,
           high: int | None = None) -> "Sum":
        """The rule between these types; ``BadInput`` where no multiplier expresses their
        scales."""
        ratios = [kind.scale / after.scale for kind in before]
        shift = min(multiplier_and_shift(ratio)[1] for ratio in ratios)
        most = (1 << 31) - 1
        return cls(tuple(min(round(ldexp(ratio, shift)), most) for ratio in ratios), shift,
                   tuple(kind.zero_point for kind in (*before, after)), low, high)

    def apply(self, before, after, *xs):    # noqa: ARG002 - its own zero points
        """See :class:`Rule`."""
        total = np.zeros(xs[0].shape, np.int64)
        for x, multiplier, zero in zip(xs, self.multipliers, self.zero_points, strict=False):
            total += (x.astype(np.int64) - zero) * multiplier
        y = divided(total, np.array(self.shift)) + self.zero_points[-1]
        return _within(y, after, self.low, self.high)

    def check(self, before, after):
        """See :class:`Rule`."""
        check_range("number of buffers that it reads", len(before), 1, OPERANDS)
        for kind in before:
            super().check((kind,), after)
            check_range("number of values that it reads", kind.size, after.size, after.size)
        limits = np.iinfo(after.dtype)
        least, greatest = int(limits.min), int(limits.max)
        if self.low is not None:
            check_range("least value", self.low, least, greatest)
            least = self.low
        if self.high is not None:
            check_range("greatest value", self.high, least, greatest)
        _check_made(self, Sum.of(before, after, self.low, self.high))


@dataclass(frozen=True)
class Join(Moving):
    """Buffers behind one another along an axis: of each, in turn, one of ``rows`` equal pieces."""

    name: ClassVar[str] = "join"

    rows: int

    def apply(self, before, after, *xs):    # noqa: ARG002 - the same types
        """See :class:`Rule`."""
        runs = len(xs[0])
        return np.concatenate([x.reshape(runs, self.rows, -1) for x in xs], axis=2).reshape(
            runs, -1), 0

    def check(self, before, after):
        """See :class:`Rule`."""
        check_range("number of buffers that it reads", len(before), 1, OPERANDS)
        for kind in before:
            Rule.check(self, (kind,), after)
        super().check(before, after)
        check_range("rows", self.rows, 1, min(kind.size for kind in before))
        if any(kind.size % self.rows for kind in before):
            raise ValueError(f"rows is {self.rows}, expected a divisor of "
                             f"{[kind.size for kind in before]} values")
        total = sum(kind.size for kind in before)
        check_range("number of values that it gives", after.size, total, total)


@dataclass(frozen=True)
class Permute(Moving):
    """The axes of ``shape``, which is that of a run, in the order ``axes``."""

    name: ClassVar[str] = "permute"

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def apply(self, before, after, *xs):    # noqa: ARG002 - the same types
        """See :class:`Rule`."""
        order = (0, *(axis + 1 for axis in self.axes))
        return xs[0].reshape(-1, *self.shape).transpose(order).reshape(len(xs[0]), -1), 0

    def check(self, before, after):
        """See :class:`Rule`."""
        Rule.check(self, before, after)
        super().check(before, after)
        size = before[0].size
        check_range("number of axes", len(self.shape), 1, AXES)
        for each in self.shape:
            check_range("size of an axis", each, 1, size)
        check_range("number of values that it reads", size, *[prod(self.shape)] * 2)
        check_range("number of values that it gives", after.size, size, size)
        if len(self.axes) != len(self.shape) or set(self.axes) != set(range(len(self.shape))):
            raise ValueError(f"its axes are {list(self.axes)}, expected each of "
                             f"{len(self.shape)} once")


@dataclass(frozen=True)
class Patches(Moving):
    """Every patch of every sample that a convolution looks at, as a row: channel, kernel row,
    kernel column; padding is real 0.

    Attributes
    ----------
    geometry : Geometry
        Of the convolution.
    zero_point : int
    """

    name: ClassVar[str] = "patches"

    geometry: Geometry
    zero_point: int

    def apply(self, before, after, *xs):    # noqa: ARG002 - the same types
        """See :class:`Rule`."""
        x = xs[0].reshape(-1, prod(self.geometry.input_shape))
        return columns(x, self.geometry, x.dtype.type(self.zero_point)).reshape(len(xs[0]), -1), 0

    def check(self, before, after):
        """See :class:`Rule`."""
        Rule.check(self, before, after)
        super().check(before, after)
        check_range("zero point of the padding", self.zero_point, *[after.zero_point] * 2)
        inputs = prod(self.geometry.input_shape)
        samples, rest = divmod(before[0].size, inputs)
        if rest:
            raise ValueError(f"it reads {before[0].size} values, expected a multiple of {inputs}")
        size = samples * self.geometry.positions * self.geometry.input_shape[0] \
            * prod(self.geometry.kernel)
        check_range("number of values that it gives", after.size, size, size)


RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (
    Convert, Maximum, Average, Sum, Join, Permute, Patches)}
"""All rules."""


def from_file(where: str, described: Mapping[str, Any]) -> Rule:
    """The rule that the program file describes; ``KeyError``, ``TypeError`` or ``ValueError``,
    which names ``where`` an unknown one stands, where something is missing or of another kind."""
    check_choice(f"rule of {where}", described["rule"], tuple(RULES))
    return RULES[described["rule"]].from_file(described)


def counts(geometry: Geometry, counted: tuple[int, int, int, int]) -> np.ndarray:
    """How many values each window counts, int64 [rows, columns]: those of the image, and the
    ``counted`` rows and columns of padding around it."""
    down, along = (_counted(geometry, axis, counted[axis], counted[axis + 2]) for axis in (0, 1))
    return down[:, None] * along


def divided(values: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """``values / 2^shift``, a tie to even; int64, and a shift is at least 1."""
    below = values >> shift
    rest, half = values - (below << shift), np.left_shift(1, shift - 1)
    return below + ((rest > half) | ((rest == half) & (below % 2 == 1)))


def _counted(geometry: Geometry, axis: int, before: int, after: int) -> np.ndarray:
    """How many places of a window along an axis are counted, for each window."""
    first = geometry.stride[axis] * np.arange(geometry.output_size[axis]) - geometry.padding[axis]
    at = first[:, None] + geometry.dilation[axis] * np.arange(geometry.kernel[axis])
    return ((at >= -before) & (at < geometry.input_shape[axis + 1] + after)).sum(axis=1)


def _windows(x: np.ndarray, geometry: Geometry, fill) -> np.ndarray:
    """Windows [planes, rows, columns, kernel rows, kernel columns] of values [runs, values]."""
    _, height, width = geometry.input_shape
    top, left, bottom, right = geometry.padding
    planes = x.reshape(-1, height, width)
    padded = np.full((len(planes), top + height + bottom, left + width + right), fill, x.dtype)
    padded[:, top:top + height, left:left + width] = planes
    reach = [(k - 1) * d + 1 for k, d in zip(geometry.kernel, geometry.dilation, strict=True)]
    (down, along), (tall, wide) = geometry.stride, geometry.dilation
    return sliding_window_view(padded, reach, axis=(1, 2))[:, ::down, ::along, ::tall, ::wide]


def _within(y: np.ndarray, kind: TensorType, low: int | None = None,
            high: int | None = None) -> tuple[np.ndarray, int]:
    """Values as a type holds them, from ``low`` to ``high``, and how many the type saturates."""
    limits = np.iinfo(kind.dtype)
    beyond = ((y < limits.min) & (low is None)) | ((y > limits.max) & (high is None))
    least, greatest = limits.min if low is None else low, limits.max if high is None else high
    return np.clip(y, least, greatest).astype(kind.dtype), int(np.count_nonzero(beyond))


def _numbers(name: str, value) -> Any:
    """A whole number, None, or lists of them as tuples."""
    if isinstance(value, list | tuple):
        return tuple(_numbers(name, each) for each in value)
    if value is not None and type(value) is not int:
        raise ValueError(f"{name} is {value!r}, expected a whole number")
    return value


def _check_windows(geometry: Geometry, before: TensorType, after: TensorType) -> None:
    size = prod(geometry.input_shape)
    check_range("number of values that it reads", before.size, size, size)
    size = geometry.input_shape[0] * geometry.positions
    check_range("number of values that it gives", after.size, size, size)
    check_range("values of a window", prod(geometry.kernel), 1, WINDOW)
    if not counts(geometry, (0, 0, 0, 0)).all():
        raise ValueError("a window lies in its padding, expected a value of the image in each")


def _check_made(rule: Rule, wanted: Rule) -> None:
    """That a rule is what its buffers' scales and zero points make of it."""
    for each in fields(rule):
        found, expected = getattr(rule, each.name), getattr(wanted, each.name)
        if found != expected:
            raise ValueError(f"its {each.name} are {found}, but its buffers make {expected}")
