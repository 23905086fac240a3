"""A layer as a tensor core takes it.

Everything that does not depend on the inputs is made when a program is compiled: commands, packed
weights, channels, and for every byte of an activation word where its value lies. A host copies
bytes and words.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from math import prod

import numpy as np

from zeroskip.hw.tensorcore import layouts
from zeroskip.hw.tensorcore.config import GROUP, SPEEDUP, TensorCoreConfig
from zeroskip.sw.engines.checks import (
    WEIGHTS,
    check_choice,
    check_most,
    check_range,
    check_scale,
    check_tensor,
)
from zeroskip.sw.engines.payload import unpack_fields
from zeroskip.sw.engines.tensorcore.layer import LayerKind, types
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer, prove
from zeroskip.sw.engines.tensorcore.sample import FILL, Sample
from zeroskip.sw.engines.tensorcore.schedule import RAW, Schedule
from zeroskip.sw.engines.wire import PIECE, Record
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.nm import compress
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.network import Layer

HOST = 1 << 32
"""Most bytes that the host takes to stream one batch through a layer."""

PRODUCTS = 1 << 36
"""Most multiplications of a layer for one batch: all of VGG-16 takes 2^34 for a sample."""

STREAMED, SENT = 20, 40
"""Bytes that the host takes for each operand that it streams, and for each output."""

LONGEST = (1 << 31) - 1
"""Most values of a sample, and most samples of a batch."""

TENSORS = {"command": "its sizes", "weights": "its weights", "channels": "its weights",
            "places": "its geometry"}
"""Each tensor, and what it follows from."""

_FIELDS = ("name", "pattern", "activation", "ties", "side")
"""What a file says of a layer as it is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorCoreLayer(LayerKind):
    """One layer: what is sent for it, and what becomes of its outputs.

    A convolution in groups is one product too. As many groups as fill the rows of the tile run side
    by side, and each panel of rows takes the activations of its own groups. Along K the groups of a
    panel take turns, so that of a depthwise convolution one weight of four is not zero.

    Attributes
    ----------
    pattern : str
        ``"dense"``, ``"2:4"`` or ``"1:4"``: along K, of each group of four weights, which are
        kept.
    side : int
        Groups side by side: all of them where they do not fill panels evenly.
    command : uint32 [1, words]
    weights : uint32 [n, words]
        One load, see :meth:`Schedule.weights`.
    channels : uint32 [out, words]
        See :meth:`Schedule.channels`.
    places : int32 [words, operands]
        For each byte of the words of a column, where its value lies in a padded sample, counted
        from the first value of the column's patch; or :data:`FILL`.
    """

    pattern: str
    side: int = 1
    command: np.ndarray
    weights: np.ndarray
    channels: np.ndarray
    places: np.ndarray

    @property
    def rows(self) -> int:
        """Output channels: rows of A."""
        return self.outputs // self.positions

    @property
    def weights_of_row(self) -> int:
        """Weights of an output channel."""
        return self.inputs if self.geometry is None else self.geometry.patch

    @property
    def columns(self) -> int:
        """K: columns of A."""
        return self.side * self.weights_of_row

    @property
    def apart(self) -> bool:
        """Whether each panel of rows takes activations of its own."""
        return self.geometry is not None and self.side < self.geometry.groups

    @property
    def kept(self) -> int:
        """Weights that the pattern keeps; K counts as filled up to whole groups."""
        return self.rows * kept_columns(self.columns, self.pattern)

    @property
    def useful(self) -> int:
        """Of those, what is not zero because it stands beside a group."""
        return min(self.kept, self.rows * self.weights_of_row)

    @classmethod
    def packed(cls, layer: Int8Layer, pattern: str, config: TensorCoreConfig,
               batch: int) -> "TensorCoreLayer":
        """A layer for one core and batch size; ``BadInput`` where its weights are not of this
        pattern, and as of :meth:`check_size`."""
        described = {field.name: getattr(layer, field.name) for field in fields(LayerKind)}
        empty = dict.fromkeys(TENSORS, np.zeros((0, 0), np.uint32))
        own = cls(pattern=pattern, side=side_by_side(layer, config), **described, **empty)
        own.check_size(config, batch)
        schedule = own.schedule(config, batch)
        values, indices = spread(layer, own.side), np.zeros((own.rows, 0), np.uint8)
        if pattern != "dense":
            kept = compress(whole_groups(values), pattern)
            values, indices = kept.values, kept.indices
        scale = (np.full(own.rows, value) for value in RAW) if layer.raw else (
            layer.multiplier, layer.shift)
        return replace(
            own, command=own.command_for(schedule), places=own._places(schedule),
            weights=schedule.weights(values, indices),
            channels=schedule.channels(layer.bias, *scale))

    def schedule(self, config: TensorCoreConfig, batch: int) -> Schedule:
        """How the product is cut on a core; ``BadInput`` where it is more than one command."""
        try:
            return Schedule.of(config, self.pattern, self.rows, self.columns,
                               batch * self.positions, self.apart)
        except BadInput as error:
            raise BadInput(f"layer {self.name}: {error}") from None

    def command_for(self, schedule: Schedule) -> np.ndarray:
        """The command of a schedule, uint32 [1, words]."""
        return schedule.command(zero_point=0 if self.raw else self.output.zero_point,
                                relu=self.activation == "relu", raw=self.raw)

    def records(self, config: TensorCoreConfig, x: np.ndarray) -> Iterator[Record]:
        """What the host exchanges with the core for a batch, int8 [batch, inputs]."""
        schedule, sample = self.schedule(config, len(x)), Sample.of(self.geometry, self.inputs)
        values = sample.padded(x, self.input.zero_point)

        def strips(columns: slice, rows: slice) -> np.ndarray:
            first = sample.starts(np.arange(columns.start, columns.stop))[:, None, None]
            first = first + rows.start // self.rows_apart * self.values_apart
            return schedule.strips(values[np.where(self.places == FILL, FILL,
                                                   first + self.places)])
        return schedule.records(self.command, self.weights, self.channels, strips)

    @property
    def rows_apart(self) -> int:
        """Rows that take the same activations, or a divisor of them: a group's, or all."""
        return self.rows // self.geometry.groups if self.apart else self.rows

    @property
    def values_apart(self) -> int:
        """Values of a padded sample from one group's to the next one's."""
        if not self.apart:
            return 0
        return Sample.of(self.geometry, self.inputs).size // self.geometry.groups

    def header(self) -> dict:
        """All fields but the arrays, for JSON."""
        return {name: getattr(self, name) for name in (*_FIELDS, "inputs", "outputs", "raw")} | {
            "input_scale": self.input.scale, "input_zero_point": self.input.zero_point,
            "output_scale": self.output.scale, "output_zero_point": self.output.zero_point,
            "geometry": self.geometry and asdict(self.geometry)}

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "TensorCoreLayer":
        """The inverse of :meth:`header` and :meth:`tensors`; ``KeyError``, ``TypeError`` or
        ``ValueError`` where something is missing or of another kind."""
        return cls(
            geometry=_geometry(f"layer {header['name']}", header["geometry"]),
            **types(header, header["inputs"], header["outputs"]),
            **{name: header[name] for name in _FIELDS}, **{name: tensors[name] for name in TENSORS})

    def unpacked(self, config: TensorCoreConfig, batch: int) -> Int8Layer:
        """The layer without any packing, taken out of the words as the core reads them;
        ``ValueError`` where a sum could overflow."""
        whole = self.schedule(config, batch).matrix(self.weights)[:, :self.columns]
        weight = whole.reshape(self.rows, -1, self.side)[
            np.arange(self.rows), :, beside(self.rows, self.geometry) % self.side]
        channel = unpack_fields(layouts.CHANNEL, self.channels)
        scale = [channel["multiplier"], channel["shift"] + np.uint64(layouts.LEAST_SHIFT)]
        if self.raw:    # quantisation leaves nothing to requantise with
            scale = [np.zeros(self.rows), np.full(self.rows, layouts.LEAST_SHIFT)]
        multiplier, shift = (each.astype(np.int32) for each in scale)
        layer = Int8Layer(
            **{field.name: getattr(self, field.name) for field in fields(LayerKind)},
            weight=np.ascontiguousarray(weight),
            bias=channel["bias"].astype(np.uint32).view(np.int32).astype(np.int64),
            multiplier=multiplier, shift=shift)
        prove(layer)
        return layer

    def check(self, config: TensorCoreConfig, batch: int) -> None:
        """That every array is what compiling makes of the layer that is in it; ``ValueError`` on
        a misfit."""
        where = f"layer {self.name}"
        check_choice(f"{where}: pattern", self.pattern, config.patterns)
        check_choice(f"{where}: activation", self.activation, ("none", "relu"))
        check_choice(f"{where}: ties", self.ties, ("even",))
        if self.raw and self.activation != "none":
            raise ValueError(f"{where}: raw is True, expected false with an activation")
        for name, kind in (("input", self.input), ("output", self.output)):
            check_range(f"{where}: {name}s", *kind.shape, 1, LONGEST)
            check_scale(f"{where}: {name}_scale", kind.scale)
            check_range(f"{where}: {name}_zero_point", kind.zero_point, -128, 127)
        self._check_geometry(where)
        side = side_by_side(self, config)
        check_range(f"{where}: side", self.side, side, side)
        self.check_size(config, batch)
        self._check_arrays(where, self.schedule(config, batch))
        again = self.packed(self.unpacked(config, batch), self.pattern, config, batch)
        for name, what in TENSORS.items():
            wrong = np.argwhere(getattr(self, name) != getattr(again, name))
            if wrong.size:
                raise ValueError(f"{where}: item {wrong[0, 0]} of its {name}, word {wrong[0, 1]}, "
                                 f"is not that of {what}")

    def check_size(self, config: TensorCoreConfig, batch: int) -> None:
        """``BadInput`` where a batch is more than one command of the core, or would take more
        memory or time than there is."""
        where, schedule = f"layer {self.name}", self.schedule(config, batch)
        check_most(f"{where}: it has", self.rows * self.columns, WEIGHTS, "weights")
        check_most(f"{where}: a batch of {batch} takes", schedule.n * self.rows * self.columns,
                   PRODUCTS, "multiplications")
        check_most(f"{where}: a batch of {batch} takes", self._host_bytes(schedule), HOST,
                   "bytes of memory")

    def _host_bytes(self, schedule: Schedule) -> int:
        """Bytes that the host takes to stream one batch: its samples with their padding, weights
        for each load of them, patches, again for each panel of rows where K has several chunks, all
        of them a piece at a time, and outputs."""
        config, pieces = schedule.config, schedule.chunks
        panels = -(-self.rows // config.rows)
        weights = (schedule.loads * panels * config.rows
                   * pieces * schedule.steps * config.products)
        patches = (-(-schedule.n // config.columns) * config.columns * pieces * schedule.words
                   * config.operands * (panels if pieces > 1 else 1))
        padded = Sample.of(self.geometry, self.inputs).size * schedule.n // self.positions
        panel = weights // (schedule.loads * panels) + patches // (panels if pieces > 1 else 1)
        streamed = min(weights + patches, 4 * PIECE + panel)
        return STREAMED * streamed + SENT * schedule.n * self.rows + 2 * padded

    def _places(self, schedule: Schedule) -> np.ndarray:
        """:attr:`places`, by the geometry."""
        values = np.arange(self.columns)
        if self.geometry is not None:
            sample = Sample.of(self.geometry, self.inputs)
            channels = self.geometry.input_shape[0] // self.geometry.groups
            channel, row, column, group = np.indices((
                channels, *self.geometry.kernel, self.side)).reshape(4, -1)
            channel += group * channels
            down, along = self.geometry.dilation
            values = (channel * sample.padded_height + row * down) * sample.padded_width \
                + column * along
        padded = np.full(schedule.order.size, FILL, np.int32)
        padded[:self.columns] = values
        return padded[schedule.order]

    def _check_geometry(self, where: str) -> None:
        geometry = self.geometry
        if geometry is None:
            return
        check_range(f"{where}: inputs", self.inputs, *[prod(geometry.input_shape)] * 2)
        if self.outputs % geometry.positions:
            raise ValueError(f"{where}: outputs is {self.outputs}, expected a multiple of its "
                             f"{geometry.positions} positions")
        if self.rows % geometry.groups:
            raise ValueError(f"{where}: groups is {geometry.groups}, expected a divisor of its "
                             f"{self.rows} output channels")

    def _check_arrays(self, where: str, schedule: Schedule) -> None:
        def words(layout):
            return -(-layout.size // 32)
        config = schedule.config
        for name, dtype, shape in (
                ("command", np.uint32, (1, words(layouts.gemm_layout(config)))),
                ("weights", np.uint32, (schedule.turns * schedule.steps,
                                        words(layouts.panel_layout(config)))),
                ("channels", np.uint32, (self.rows, words(layouts.CHANNEL))),
                ("places", np.int32, (schedule.chunks * schedule.words, config.operands))):
            check_tensor(f"{where}: {name}", getattr(self, name), dtype, shape)


def _geometry(where: str, described: dict[str, list[int]] | None) -> Geometry | None:
    if described is None:
        return None
    try:
        return Geometry.from_json(described)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def side_by_side(layer: LayerKind | Layer, config: TensorCoreConfig) -> int:
    """Groups that run side by side: those of as many rows as the tile has, where they fill every
    panel of rows; one where a group fills panels alone; or else all."""
    if layer.geometry is None:
        return 1
    groups = layer.geometry.groups
    rows = layer.outputs // layer.geometry.positions // groups
    if config.rows % rows == 0 and groups % (config.rows // rows) == 0:
        return config.rows // rows
    return 1 if rows % config.rows == 0 else groups


def beside(rows: int, geometry: Geometry | None) -> np.ndarray:
    """The group of each row, int64 [rows]."""
    return np.arange(rows) // (rows // (geometry.groups if geometry else 1))


def spread(layer: Int8Layer, side: int) -> np.ndarray:
    """The weights of a layer with zeros for the groups beside each: int8 [out, K]."""
    weight = np.zeros((*layer.weight.shape, side), np.int8)
    rows = np.arange(len(weight))
    weight[rows, :, beside(len(rows), layer.geometry) % side] = layer.weight
    return weight.reshape(len(weight), -1)


def kept_columns(columns: int, pattern: str) -> int:
    """Weights that a row of ``columns`` keeps."""
    if pattern == "dense":
        return columns
    return -(-columns // GROUP) * GROUP // SPEEDUP[pattern]


def whole_groups(weight: np.ndarray) -> np.ndarray:
    """``weight`` [out, K] with columns of zeros up to whole groups."""
    return np.pad(weight, ((0, 0), (0, -weight.shape[1] % GROUP)))
