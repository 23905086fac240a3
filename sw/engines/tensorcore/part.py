"""A part of a program that runs on a tensor core."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from math import prod
from typing import ClassVar

import numpy as np

from zeroskip.hw.tensorcore.config import GROUP, SPEEDUP, TensorCoreConfig
from zeroskip.sw.engines.base import Image
from zeroskip.sw.engines.checks import (
    WEIGHTS,
    check_choice,
    check_most,
    check_range,
    check_scale,
    check_tensor,
)
from zeroskip.sw.engines.tensorcore.golden import SHIFTS
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer, prove
from zeroskip.sw.engines.tensorcore.schedule import Schedule
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.nm import Compressed, decompress
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.types import TensorType

INDEX_BITS = 2
"""Bits of a kept value's position in its group."""

PER_WORD = 32 // INDEX_BITS
"""Positions in one word of metadata."""

WORDS, MULTIPLIERS = 1 << 18, 4096
"""Most words of a core's buffers, and most multipliers. A simulation is built in 70 us and 2 KB
for each word, in 30 ms and a MB for each multiplier."""

SAMPLE = 1 << 32
"""Most bytes that the host takes to stream one sample through a layer."""

PRODUCTS = 1 << 36
"""Most multiplications of a layer for one sample: all of VGG-16 takes 2^34."""

STREAMED, SENT = 20, 40
"""Bytes that the host takes for each operand that it streams, and for each output."""

_LONGEST = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class TensorCoreLayer:
    """One layer: an A matrix of some pattern, and what becomes of its sums.

    Attributes
    ----------
    name : str
    pattern : str
        ``"dense"``, ``"2:4"`` or ``"1:4"``: along K, of each group of four weights, which are
        kept.
    activation : str
        ``"none"`` or ``"relu"``.
    geometry : Geometry or None
        Of a convolution.
    inputs, outputs : int
        Values of one sample, flattened.
    input_scale, input_zero_point, output_scale, output_zero_point
        What an input and an output stand for.
    raw : bool
        The sums are the outputs, int32.
    values : int8 [out, kept]
        The kept weights, group by group; K is filled up with zeros to whole groups.
    indices : uint8 [out, kept]
        Position 0 to 3 of each value in its group; [out, 0] where the pattern is dense.
    bias : int32 [out]
        In accumulator units, input zero point folded in.
    multiplier : int32 [out]
        At least 0.
    shift : int32 [out]
        24 to 55.
    ties : str
        Where a half of the output's unit rounds: ``"away"`` from zero.
    """

    name: str
    pattern: str
    activation: str
    geometry: Geometry | None
    inputs: int
    outputs: int
    input_scale: float
    input_zero_point: int
    output_scale: float
    output_zero_point: int
    raw: bool
    values: np.ndarray
    indices: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    ties: str = "away"

    @property
    def rows(self) -> int:
        """Output channels: rows of A."""
        return self.outputs // self.positions

    @property
    def columns(self) -> int:
        """K: columns of A."""
        if self.geometry is None:
            return self.inputs
        return self.geometry.input_shape[0] * prod(self.geometry.kernel)

    @property
    def positions(self) -> int:
        """Columns of B per sample."""
        return 1 if self.geometry is None else self.geometry.positions

    @property
    def input(self) -> TensorType:
        """What one input stands for."""
        return TensorType((self.inputs,), np.dtype(np.int8), self.input_scale,
                          self.input_zero_point)

    @property
    def output(self) -> TensorType:
        """What one output stands for."""
        return TensorType((self.outputs,), np.dtype(np.int32 if self.raw else np.int8),
                          self.output_scale, self.output_zero_point)

    def header(self) -> dict:
        """All fields but the arrays, for JSON."""
        described = {name: getattr(self, name) for name in _FIELDS}
        return described | {"geometry": self.geometry and asdict(self.geometry)}

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays as a file holds them: indices in words, ``metadata``."""
        return {"metadata": pack_indices(self.indices)} \
            | {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "TensorCoreLayer":
        """The inverse of :meth:`header` and :meth:`tensors`; ``KeyError``, ``TypeError`` or
        ``ValueError`` where something is missing or of another kind."""
        described = {name: header[name] for name in _FIELDS}
        where, values = f"layer {described['name']}", tensors["values"]
        described["geometry"] = _geometry(where, described["geometry"])
        check_choice(f"{where}: pattern", described["pattern"], tuple(SPEEDUP))
        if values.ndim != 2:
            raise ValueError(f"{where}: values have {values.ndim} dimensions, expected 2")
        rows, kept = values.shape
        if described["pattern"] == "dense":
            kept = 0
        check_tensor(f"{where}: metadata", tensors["metadata"], np.uint32,
                     (rows, -(-kept // PER_WORD)))
        return cls(**described, indices=_unpack_indices(where, tensors["metadata"], kept),
                   **{name: tensors[name] for name in _TENSORS})

    def unpacked(self) -> Int8Layer:
        """The layer without any packing; ``ValueError`` where a sum could overflow."""
        weight = self.values
        if self.pattern != "dense":
            dense = decompress(Compressed(self.values, self.indices, self.pattern))
            weight = np.ascontiguousarray(dense[:, :self.columns])
        layer = Int8Layer(
            self.name, weight, self.bias.astype(np.int64), self.multiplier, self.shift,
            self.activation, self.geometry, self.inputs, self.outputs, self.input_scale,
            self.input_zero_point, self.output_scale, self.output_zero_point, self.raw, self.ties)
        prove(layer)
        return layer

    def check(self, config: TensorCoreConfig) -> None:
        """Everything against everything else; ``ValueError`` on a misfit."""
        where = f"layer {self.name}"
        check_choice(f"{where}: pattern", self.pattern, config.patterns)
        check_choice(f"{where}: activation", self.activation, ("none", "relu"))
        check_choice(f"{where}: ties", self.ties, ("away",))
        if not isinstance(self.raw, bool) or (self.raw and self.activation != "none"):
            raise ValueError(f"{where}: raw is {self.raw!r}, expected true or false, and false "
                             "with an activation")
        for name in ("inputs", "outputs"):
            check_range(f"{where}: {name}", getattr(self, name), 1, _LONGEST)
        for name in ("input", "output"):
            check_scale(f"{where}: {name}_scale", getattr(self, f"{name}_scale"))
            check_range(f"{where}: {name}_zero_point", getattr(self, f"{name}_zero_point"),
                        -128, 127)
        self._check_geometry(where)
        self._check_arrays(where)
        self.check_size(config)

    def check_size(self, config: TensorCoreConfig) -> None:
        """``BadInput`` where one sample is more than one command of the machine, or would take
        more memory or time than there is."""
        where = f"layer {self.name}"
        try:
            schedule = Schedule.of(config, self.pattern, self.rows, self.columns, self.positions)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
        check_most(f"{where}: it has", self.rows * self.columns, WEIGHTS, "weights")
        check_most(f"{where}: a sample takes", self.rows * self.columns * self.positions,
                   PRODUCTS, "multiplications")
        check_most(f"{where}: a sample takes", self._sample_bytes(schedule), SAMPLE,
                   "bytes of memory")

    def _sample_bytes(self, schedule: Schedule) -> int:
        """Bytes that the host takes to stream one sample: weights for each block of columns,
        patches, again for each panel of rows where K has several chunks, and outputs."""
        config, pieces = schedule.config, schedule.chunks
        panels = -(-self.rows // config.rows)
        weights = (-(-self.positions // schedule.block) * panels * config.rows
                   * pieces * schedule.steps * config.products)
        patches = (-(-self.positions // config.columns) * config.columns * pieces * schedule.words
                   * config.operands * (panels if pieces > 1 else 1))
        return STREAMED * (weights + patches) + SENT * self.outputs

    def _check_geometry(self, where: str) -> None:
        geometry = self.geometry
        if geometry is None:
            return
        check_range(f"{where}: inputs", self.inputs, *[prod(geometry.input_shape)] * 2)
        if self.outputs % geometry.positions:
            raise ValueError(f"{where}: outputs is {self.outputs}, expected a multiple of its "
                             f"{geometry.positions} positions")

    def _check_arrays(self, where: str) -> None:
        kept = kept_columns(self.columns, self.pattern)
        sparse = self.pattern != "dense"
        for name, dtype, shape in (
                ("values", np.int8, (self.rows, kept)),
                ("indices", np.uint8, (self.rows, kept * sparse)),
                ("bias", np.int32, (self.rows,)), ("multiplier", np.int32, (self.rows,)),
                ("shift", np.int32, (self.rows,))):
            check_tensor(f"{where}: {name}", getattr(self, name), dtype, shape)
        for name, least, most in (("multiplier", 0, _LONGEST), ("shift", *SHIFTS)):
            array = getattr(self, name)
            wrong = np.flatnonzero((array < least) | (array > most))
            if wrong.size:
                raise ValueError(f"{where}, row {wrong[0]}: {name} is {array[wrong[0]]}, expected "
                                 f"{least} to {most}")
        if sparse:
            self._check_indices(where)

    def _check_indices(self, where: str) -> None:
        each = GROUP // SPEEDUP[self.pattern]
        indices = self.indices.reshape(self.rows, -1, each)
        groups = np.arange(indices.shape[1])[:, None]
        if np.any(indices >= GROUP):
            row, group, _ = np.argwhere(indices >= GROUP)[0]
            raise ValueError(f"{where}, row {row}, group {group}: a position is "
                             f"{indices[row, group].max()}, expected 0 to {GROUP - 1}")
        falling = np.argwhere(indices[..., 1:] <= indices[..., :-1])
        if falling.size:
            row, group, _ = falling[0]
            raise ValueError(f"{where}, row {row}, group {group}: positions "
                             f"{indices[row, group].tolist()} do not ascend")
        beyond = np.argwhere((groups * GROUP + indices >= self.columns)
                             & (self.values.reshape(indices.shape) != 0))
        if beyond.size:
            row, group, _ = beyond[0]
            raise ValueError(f"{where}, row {row}, group {group}: a weight stands behind the last "
                             f"of {self.columns} columns")


@dataclass(frozen=True, eq=False)
class TensorCorePart(Image):
    """Everything that consecutive layers run on one tensor core."""

    engine: ClassVar[str] = "tensorcore"
    unit: ClassVar[str] = "tile row"

    config: TensorCoreConfig
    layers: tuple[TensorCoreLayer, ...]

    @property
    def input(self) -> TensorType:
        """What one input stands for."""
        return self.layers[0].input

    @property
    def types(self) -> tuple[TensorType, ...]:
        """Of each layer's outputs."""
        return tuple(layer.output for layer in self.layers)

    def traced(self) -> "TensorCorePart":
        """The same part: every layer's outputs go through the host anyway."""
        return self

    def owner(self, layer: TensorCoreLayer, output: int) -> int:
        """The row of the tile that computes an output of a layer."""
        return output // layer.positions % self.config.rows

    def unpacked(self) -> Iterator[Int8Layer]:
        """The layers without any packing, one after another."""
        return (layer.unpacked() for layer in self.layers)

    def storage(self) -> dict[str, int]:
        """Bytes that the part occupies, by kind, and of its float32 original."""
        return {
            "weights": sum(layer.values.size for layer in self.layers),
            "indices": sum(-(-layer.indices.size * INDEX_BITS // 8) for layer in self.layers),
            "biases": sum(4 * layer.rows for layer in self.layers),
            "multipliers": sum(4 * layer.rows for layer in self.layers),
            "shifts": sum(layer.rows for layer in self.layers),
            "float32": sum(4 * layer.rows * (layer.columns + 1) for layer in self.layers),
        }

    def header(self) -> dict:
        """What the program file says of the part in JSON, beside its configuration."""
        return {"layers": [layer.header() for layer in self.layers]}

    def tensors(self) -> dict[str, np.ndarray]:
        """What the program file holds of the part in tensors."""
        return {f"layer{j}.{name}": tensor for j, layer in enumerate(self.layers)
                for name, tensor in layer.tensors().items()}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "TensorCorePart":
        """The inverse of :meth:`header` and :meth:`tensors`; ``KeyError``, ``TypeError`` or
        ``ValueError`` where something is missing or of another kind."""
        return cls(TensorCoreConfig(**header["config"]), tuple(
            TensorCoreLayer.from_file(
                layer, {name: tensors[f"layer{j}.{name}"] for name in ("metadata", *_TENSORS)})
            for j, layer in enumerate(header["layers"])))

    def check_size(self) -> None:
        """``BadInput`` where the core would take longer to build than anyone waits."""
        config = self.config
        check_most("the core's buffers have", 2 * (config.rows * config.weight_words
                   + config.columns * config.activation_words), WORDS, "words")
        check_most("the core has", config.multipliers, MULTIPLIERS, "multipliers")

    def check(self) -> None:
        """Every layer, and that they follow one another; ``ValueError`` on a misfit."""
        if not self.layers:
            raise ValueError("it has 0 layers, expected 1 or more")
        self.check_size()
        for layer in self.layers:
            layer.check(self.config)
        for before, after in pairwise(self.layers):
            check_range(f"layer {after.name}: inputs", after.inputs, *[before.outputs] * 2)
            if before.raw:
                raise ValueError(f"layer {before.name}: raw is True, but it is not the last layer")
            if before.output != after.input:
                raise ValueError(
                    f"layer {after.name}: takes zero point {after.input_zero_point} and scale "
                    f"{after.input_scale!r}, but layer {before.name} gives "
                    f"{before.output_zero_point} and {before.output_scale!r}")


def _geometry(where: str, described: dict[str, list[int]] | None) -> Geometry | None:
    if described is None:
        return None
    try:
        return Geometry(**{name: tuple(sizes) for name, sizes in described.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def kept_columns(columns: int, pattern: str) -> int:
    """Weights that a row of ``columns`` keeps."""
    if pattern == "dense":
        return columns
    return -(-columns // GROUP) * GROUP // SPEEDUP[pattern]


def pack_indices(indices: np.ndarray) -> np.ndarray:
    """Positions uint8 [out, kept] as words uint32 [out, words], the first in the lowest bits."""
    rows, kept = indices.shape
    words = -(-kept // PER_WORD)
    padded = np.zeros((rows, words, PER_WORD), np.uint32)
    padded.reshape(rows, -1)[:, :kept] = indices
    return np.bitwise_or.reduce(padded << _PLACES, axis=2)


def _unpack_indices(where: str, metadata: np.ndarray, kept: int) -> np.ndarray:
    """The inverse; ``ValueError`` where the rest of a row's last word is not zero."""
    indices = (metadata[:, :, None] >> _PLACES & 3).astype(np.uint8).reshape(len(metadata), -1)
    if np.any(indices[:, kept:]):
        row = np.flatnonzero(indices[:, kept:].any(axis=1))[0]
        raise ValueError(f"{where}, row {row}: the metadata goes on behind its {kept} positions")
    return indices[:, :kept]


_PLACES = np.arange(PER_WORD, dtype=np.uint32) * np.uint32(INDEX_BITS)
_TENSORS = ("values", "bias", "multiplier", "shift")
_FIELDS = [field.name for field in fields(TensorCoreLayer)
           if field.name not in (*_TENSORS, "indices")]
