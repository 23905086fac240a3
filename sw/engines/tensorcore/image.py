"""What a tensor core runs: the image of consecutive layers, for one batch size.

Everything that does not depend on the inputs is made when a program is compiled: commands, packed
weights, channels, and for every byte of an activation word where its value lies. A host copies
bytes and words.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from math import prod
from typing import ClassVar

import numpy as np

from zeroskip.hw.tensorcore import layouts
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
from zeroskip.sw.engines.payload import unpack_fields
from zeroskip.sw.engines.tensorcore.layer import LayerKind
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer, prove
from zeroskip.sw.engines.tensorcore.schedule import RAW, Schedule
from zeroskip.sw.engines.wire import Record
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.nm import compress
from zeroskip.sw.graph.im2col import Geometry
from zeroskip.sw.graph.types import TensorType

BATCH, COLUMNS = 8, 4096
"""Samples of an image that is given no batch size, and columns of B that they may be at most."""

WORDS, MULTIPLIERS = 1 << 18, 4096
"""Most words of a core's buffers, and most multipliers. A simulation is built in 70 us and 2 KB
for each word, in 30 ms and a MB for each multiplier."""

HOST = 1 << 32
"""Most bytes that the host takes to stream one batch through a layer."""

PRODUCTS = 1 << 36
"""Most multiplications of a layer for one batch: all of VGG-16 takes 2^34 for a sample."""

STREAMED, SENT = 20, 40
"""Bytes that the host takes for each operand that it streams, and for each output."""

FILL = -1
"""Among places of values: a byte that is zero."""

_LONGEST = (1 << 31) - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorCoreLayer(LayerKind):
    """One layer: what is sent for it, and what becomes of its outputs.

    Attributes
    ----------
    pattern : str
        ``"dense"``, ``"2:4"`` or ``"1:4"``: along K, of each group of four weights, which are
        kept.
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
    command: np.ndarray
    weights: np.ndarray
    channels: np.ndarray
    places: np.ndarray

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
    def kept(self) -> int:
        """Weights that the pattern keeps; K counts as filled up to whole groups."""
        return self.rows * kept_columns(self.columns, self.pattern)

    @classmethod
    def packed(cls, layer: Int8Layer, pattern: str, config: TensorCoreConfig,
               batch: int) -> "TensorCoreLayer":
        """A layer for one core and batch size; ``BadInput`` where its weights are not of this
        pattern, and as of :meth:`check_size`."""
        described = {field.name: getattr(layer, field.name) for field in fields(LayerKind)}
        empty = dict.fromkeys(_TENSORS, np.zeros((0, 0), np.uint32))
        own = cls(pattern=pattern, **described, **empty)
        own.check_size(config, batch)
        schedule = own.schedule(config, batch)
        values, indices = layer.weight, np.zeros((own.rows, 0), np.uint8)
        if pattern != "dense":
            kept = compress(whole_groups(layer.weight), pattern)
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
                               batch * self.positions)
        except BadInput as error:
            raise BadInput(f"layer {self.name}: {error}") from None

    def command_for(self, schedule: Schedule) -> np.ndarray:
        """The command of a schedule, uint32 [1, words]."""
        return schedule.command(zero_point=0 if self.raw else self.output_zero_point,
                                relu=self.activation == "relu", raw=self.raw)

    def records(self, config: TensorCoreConfig, x: np.ndarray) -> Iterator[Record]:
        """What the host exchanges with the core for a batch, int8 [batch, inputs]."""
        schedule, sample = self.schedule(config, len(x)), Sample.of(self.geometry, self.inputs)
        values = sample.padded(x, self.input_zero_point)

        def strips(columns: slice) -> np.ndarray:
            first = sample.starts(np.arange(columns.start, columns.stop))[:, None, None]
            return schedule.strips(values[np.where(self.places == FILL, FILL,
                                                   first + self.places)])
        return schedule.records(self.command, self.weights, self.channels, strips)

    def header(self) -> dict:
        """All fields but the arrays, for JSON."""
        described = {name: getattr(self, name) for name in _FIELDS}
        return described | {"geometry": self.geometry and asdict(self.geometry)}

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays."""
        return {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "TensorCoreLayer":
        """The inverse of :meth:`header` and :meth:`tensors`; ``KeyError``, ``TypeError`` or
        ``ValueError`` where something is missing or of another kind."""
        described = {name: header[name] for name in _FIELDS}
        described["geometry"] = _geometry(f"layer {described['name']}", described["geometry"])
        return cls(**described, **{name: tensors[name] for name in _TENSORS})

    def unpacked(self, config: TensorCoreConfig, batch: int) -> Int8Layer:
        """The layer without any packing, taken out of the words as the core reads them;
        ``ValueError`` where a sum could overflow."""
        weight = self.schedule(config, batch).matrix(self.weights)[:, :self.columns]
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
        self.check_size(config, batch)
        self._check_arrays(where, self.schedule(config, batch))
        again = self.packed(self.unpacked(config, batch), self.pattern, config, batch)
        for name, what in _TENSORS.items():
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
        for each load of them, patches, again for each panel of rows where K has several chunks, and
        outputs."""
        config, pieces = schedule.config, schedule.chunks
        panels = -(-self.rows // config.rows)
        weights = (schedule.loads * panels * config.rows
                   * pieces * schedule.steps * config.products)
        patches = (-(-schedule.n // config.columns) * config.columns * pieces * schedule.words
                   * config.operands * (panels if pieces > 1 else 1))
        padded = Sample.of(self.geometry, self.inputs).size * schedule.n // self.positions
        return STREAMED * (weights + patches) + SENT * schedule.n * self.rows + 2 * padded

    def _places(self, schedule: Schedule) -> np.ndarray:
        """:attr:`places`, by the geometry."""
        values = np.arange(self.columns)
        if self.geometry is not None:
            sample = Sample.of(self.geometry, self.inputs)
            channel, row, column = np.indices((
                self.geometry.input_shape[0], *self.geometry.kernel)).reshape(3, -1)
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


@dataclass(frozen=True)
class Sample:
    """A sample of a layer with its padding around it, channel by channel, row by row.

    Attributes
    ----------
    channels, height, width : int
        Without padding; a flat vector is channels of one value.
    top, left : int
        Rows and columns of padding.
    padded_height, padded_width : int
    out_height, out_width : int
        Positions of a patch; 1 and 1 for a flat vector.
    down, along : int
        Values from a patch to the one below, and to the one beside it.
    """

    channels: int
    height: int = 1
    width: int = 1
    top: int = 0
    left: int = 0
    padded_height: int = 1
    padded_width: int = 1
    out_height: int = 1
    out_width: int = 1
    down: int = 0
    along: int = 0

    @classmethod
    def of(cls, geometry: Geometry | None, inputs: int) -> "Sample":
        """The sample of a convolution, or of so many inputs."""
        if geometry is None:
            return cls(inputs)
        (channels, height, width), (top, left, bottom, right) = \
            geometry.input_shape, geometry.padding
        padded_width = left + width + right
        return cls(channels, height, width, top, left, top + height + bottom, padded_width,
                   *geometry.output_size, geometry.stride[0] * padded_width, geometry.stride[1])

    @property
    def size(self) -> int:
        """Values, those of the padding too."""
        return self.channels * self.padded_height * self.padded_width

    def padded(self, x: np.ndarray, zero_point: int) -> np.ndarray:
        """Samples int8 [batch, inputs] behind one another with their padding, and a zero at the
        end, where :data:`FILL` points: int8 [batch * size + 1]."""
        values = np.full((len(x), self.channels, self.padded_height, self.padded_width),
                         zero_point, np.int8)
        values[:, :, self.top:self.top + self.height, self.left:self.left + self.width] = \
            x.reshape(-1, self.channels, self.height, self.width)
        return np.append(values, np.int8(0))

    def starts(self, columns: np.ndarray) -> np.ndarray:
        """Where the patches of columns of B begin, int64 alike."""
        samples, position = np.divmod(columns, self.out_height * self.out_width)
        row, column = np.divmod(position, self.out_width)
        return samples * self.size + row * self.down + column * self.along


@dataclass(frozen=True, eq=False)
class TensorCoreImage(Image):
    """Everything that consecutive layers run on one tensor core, for one batch size.

    ``batch`` samples go through the core together, a layer after another; of more or fewer the
    host fills the last batch. Large batches are cheaper for a sample: weights are sent once a
    batch, a pipeline fills once a layer and batch, and a fully-connected layer with fewer samples
    than the tile has columns leaves multipliers idle. :data:`BATCH` fills the columns of every
    named configuration, and takes 2 % more cycles a sample than all 360 test images of the demo
    at once, where a single one takes 19 % more; 1 is right where single samples must be answered
    soon. Only the commands depend on it (:meth:`for_batch`).
    """

    engine: ClassVar[str] = "tensorcore"
    unit: ClassVar[str] = "tile row"

    config: TensorCoreConfig
    layers: tuple[TensorCoreLayer, ...]
    batch: int

    @classmethod
    def packed(cls, config: TensorCoreConfig, *layers: tuple[Int8Layer, str],
               batch: int | None = None) -> "TensorCoreImage":
        """The image of layers, each with its pattern, for ``batch`` samples; by default
        :data:`BATCH`, or fewer, so that no layer has more than :data:`COLUMNS` columns of B if
        one sample has not. ``BadInput`` as of :meth:`TensorCoreLayer.packed`."""
        if batch is None:
            most = max(1 if layer.geometry is None else layer.geometry.positions
                       for layer, _ in layers)
            batch = max(1, min(BATCH, COLUMNS // most))
        return cls(config, tuple(TensorCoreLayer.packed(*layer, config, batch)
                                 for layer in layers), batch)

    def for_batch(self, batch: int) -> "TensorCoreImage":
        """The same image for another batch size; ``BadInput`` as of
        :meth:`TensorCoreLayer.check_size`."""
        for layer in self.layers:
            layer.check_size(self.config, batch)
        return replace(self, batch=batch, layers=tuple(
            replace(layer, command=layer.command_for(layer.schedule(self.config, batch)))
            for layer in self.layers))

    @property
    def input(self) -> TensorType:
        """What one input stands for."""
        return self.layers[0].input

    @property
    def types(self) -> tuple[TensorType, ...]:
        """Of each layer's outputs."""
        return tuple(layer.output for layer in self.layers)

    def traced(self) -> "TensorCoreImage":
        """The same image: every layer's outputs go through the host anyway."""
        return self

    def owner(self, layer: TensorCoreLayer, output: int) -> int:
        """The row of the tile that computes an output of a layer."""
        return output // layer.positions % self.config.rows

    def unpacked(self) -> Iterator[Int8Layer]:
        """The layers without any packing, one after another."""
        return (layer.unpacked(self.config, self.batch) for layer in self.layers)

    def storage(self) -> dict[str, int]:
        """Bytes that the network occupies, by kind, without what fills words up and without
        commands and places, and of its float32 original."""
        return {
            "weights": sum(layer.kept for layer in self.layers),
            "indices": sum(-(-layer.kept // 4) for layer in self.layers
                           if layer.pattern != "dense"),
            "biases": sum(4 * layer.rows for layer in self.layers),
            "multipliers": sum(4 * layer.rows for layer in self.layers),
            "shifts": sum(layer.rows for layer in self.layers),
            "float32": sum(4 * layer.rows * (layer.columns + 1) for layer in self.layers),
        }

    def header(self) -> dict:
        """What the program file says of the image in JSON, beside its configuration."""
        return {"batch": self.batch, "layers": [layer.header() for layer in self.layers]}

    def tensors(self) -> dict[str, np.ndarray]:
        """What the program file holds of the image in tensors."""
        return {f"layer{j}.{name}": tensor for j, layer in enumerate(self.layers)
                for name, tensor in layer.tensors().items()}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "TensorCoreImage":
        """The inverse of :meth:`header` and :meth:`tensors`; ``KeyError``, ``TypeError`` or
        ``ValueError`` where something is missing or of another kind."""
        return cls(TensorCoreConfig(**header["config"]), tuple(
            TensorCoreLayer.from_file(
                layer, {name: tensors[f"layer{j}.{name}"] for name in _TENSORS})
            for j, layer in enumerate(header["layers"])), header["batch"])

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
        check_range("batch", self.batch, 1, _LONGEST)
        for layer in self.layers:
            layer.check(self.config, self.batch)
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


def whole_groups(weight: np.ndarray) -> np.ndarray:
    """``weight`` [out, K] with columns of zeros up to whole groups."""
    return np.pad(weight, ((0, 0), (0, -weight.shape[1] % GROUP)))


_TENSORS = {"command": "its sizes", "weights": "its weights", "channels": "its weights",
            "places": "its geometry"}
"""Each tensor, and what it follows from."""
_FIELDS = [field.name for field in fields(TensorCoreLayer) if field.name not in _TENSORS]
