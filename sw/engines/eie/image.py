"""What an EIE array runs: the image of consecutive layers.

Rows of a layer lie at *physical* positions: position j belongs to PE j mod N, or in a grouped
layer to cluster j mod K, word j // N or j // K. What a position holds, the image's ``order`` says;
the next layer's columns are these positions. How the array numbers the columns of a grouped layer
is in ``hw/eie/layouts.py``.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from typing import ClassVar

import numpy as np

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, NIBBLES, EIEConfig
from zeroskip.sw.engines.base import Image
from zeroskip.sw.engines.checks import (
    WEIGHTS,
    check_choice,
    check_most,
    check_range,
    check_scale,
    check_tensor,
)
from zeroskip.sw.engines.eie.directory import MOST, WORDS, unpack_counts, unpack_pointers, words_for
from zeroskip.sw.engines.eie.layer import EIELayer
from zeroskip.sw.engines.eie.pack import Packed, unpack, width
from zeroskip.sw.engines.eie.quantize import HIGHEST, LOWEST, prove
from zeroskip.sw.graph.types import TensorType

MAX_STRIDE = 63
"""Most bytes of a column in a bank-balanced layer."""

MEMORY = 1 << 29
"""Most bits of an array's memories: more than any FPGA has."""


@dataclass(frozen=True)
class Segment:
    """One descriptor of the array: a block of inputs against one pass of output rows.

    The fields are those of :func:`zeroskip.hw.eie.layouts.descriptor_layout`; all are integers.
    """

    first: int
    stride: int
    balanced: int
    grouped: int
    begin: int
    limit: int
    clear: int
    destination: int
    codebook: int
    bias: int = 0
    shift: int = 0
    relu: int = 0
    swap: int = 0
    outputs: int = 0
    last: int = 0


@dataclass(frozen=True)
class LayerInfo:
    """What a reader of the program wants to know of a layer.

    Attributes
    ----------
    name : str
    inputs, outputs : int
    activation : str
        ``"none"`` or ``"relu"``.
    output_scale : float
        Float value of one output unit.
    nonzeros : int
        Weights.
    entries, padding : int
        Bytes that are stored, and those among them that hold no weight.
    slots : int
        Physical outputs: the outputs, and positions that hold none.
    grouped, balanced : int
        1 if each PE of a cluster takes its share of the columns; if every column takes the same
        number of bytes, so that the layer has no column directory.
    stride : int
        Places from one column to the next: those bytes, the nibbles of a count, or one pointer.
    """

    name: str
    inputs: int
    outputs: int
    activation: str
    output_scale: float
    nonzeros: int
    entries: int
    padding: int
    slots: int
    grouped: int
    stride: int
    balanced: int

    def owners(self, config: EIEConfig) -> int:
        """Among how many the rows are dealt out: the PEs, or the clusters."""
        return config.clusters if self.grouped else config.pes

    def words(self, config: EIEConfig) -> int:
        """Words that the outputs take in a PE."""
        return -(-self.slots // self.owners(config))

    def width(self, config: EIEConfig, columns: int) -> int:
        """Columns in the PEs that have most of the layer's physical ``columns``."""
        return width(columns, config.pes, config.groups if self.grouped else 1)

    def places(self, config: EIEConfig, columns: int) -> int:
        """Places that one pass takes: bytes of weights, or nibbles or pointers."""
        held = self.width(config, columns)
        if config.counts and not self.balanced:
            return NIBBLES * words_for(held, self.stride)
        return held * self.stride


def schedule(config: EIEConfig, layers: tuple[LayerInfo, ...]) -> Iterator[Segment]:
    """All segments of these layers, but for shifts, in order.

    A layer of more rows than ``acc_depth`` per PE takes several passes over its inputs, each with
    a directory of its own; a pass over more inputs than ``block`` per PE takes several segments.
    ``first`` of bank-balanced layers counts from the byte where the first of them begins.
    """
    columns, places, bias = layers[0].inputs, [0, 0], 0
    for number, layer in enumerate(layers):
        words = layer.words(config)
        for destination in range(0, words, config.acc_depth):
            ends_rows = destination + config.acc_depth >= words
            for at in range(0, columns, config.block * config.pes):
                limit = min(at + config.block * config.pes, columns)
                ends = limit == columns and ends_rows
                last = ends and number == len(layers) - 1
                yield Segment(
                    first=places[layer.balanced], stride=layer.stride, balanced=layer.balanced,
                    grouped=layer.grouped, begin=int(at == 0), limit=limit, clear=int(ends_rows),
                    destination=destination, codebook=number, bias=bias if ends else 0,
                    relu=int(ends and layer.activation == "relu"), swap=int(ends),
                    outputs=layer.slots if last else 0, last=int(last))
            places[layer.balanced] += layer.places(config, columns)
        bias += -(-layer.slots // config.clusters)
        columns = layer.slots


@dataclass(frozen=True, eq=False)
class EIEImage(Image):
    """Everything that consecutive layers put into one EIE array.

    Attributes
    ----------
    config : EIEConfig
    input_scale : float
        Float value of one input unit.
    layers : tuple of LayerInfo
    segments : tuple of Segment
    entries : uint8 [pes, bytes]
        Weight memory of each PE, whole 64-bit rows: the layers with a directory one after
        another, then from one common byte on the bank-balanced ones.
    pointers : uint32 [pes, n]
        Column directory: pointers, the last one of a layer being the first of the next; or words
        of counts, each as three numbers.
    biases : int32 [clusters, slots]
        Bias plus rounding constant, in accumulator units, of all layers.
    codebooks : int16 [layers, 16]
    order : int32 [slots of all layers]
        Which output is at each physical position of a layer; -1 for none.
    """

    engine: ClassVar[str] = "eie"
    unit: ClassVar[str] = "PE"

    config: EIEConfig
    input_scale: float
    layers: tuple[LayerInfo, ...]
    segments: tuple[Segment, ...]
    entries: np.ndarray
    pointers: np.ndarray
    biases: np.ndarray
    codebooks: np.ndarray
    order: np.ndarray

    @property
    def input(self) -> TensorType:
        """The type of the input."""
        return TensorType((self.inputs,), np.dtype(np.int16), self.input_scale)

    @property
    def types(self) -> tuple[TensorType, ...]:
        """Of each layer's outputs."""
        return tuple(TensorType((layer.outputs,), np.dtype(np.int16), layer.output_scale)
                     for layer in self.layers)

    @property
    def sent(self) -> tuple[bool, ...]:
        """Of each layer, whether its outputs are sent out."""
        return tuple(segment.outputs > 0 for segment in self.segments if segment.swap)

    @property
    def counted(self) -> bool:
        """Whether the array counts its cycles."""
        return self.config.counters

    def traced(self) -> "EIEImage":
        """The same image with the outputs of every layer sent out, not only the last."""
        return replace(self, segments=tuple(
            replace(s, outputs=self.layers[s.codebook].slots) if s.swap else s
            for s in self.segments))

    def columns(self, number: int) -> int:
        """Physical inputs of layer ``number``."""
        return self.layers[number - 1].slots if number else self.inputs

    def positions(self, number: int) -> np.ndarray:
        """Physical position of every output of layer ``number``, int64 [outputs]."""
        start = sum(layer.slots for layer in self.layers[:number])
        order = self.order[start:start + self.layers[number].slots]
        return np.argsort(order, kind="stable")[np.count_nonzero(order < 0):]

    def logical(self, number: int, physical: np.ndarray) -> np.ndarray:
        """Outputs of layer ``number``, [batch, outputs], from those that the array gives, [batch,
        slots]."""
        return physical[:, self.positions(number)]

    def owner(self, layer: LayerInfo, output: int) -> int:
        """The PE that computes an output of a layer; the first one of its cluster, where the
        layer is grouped."""
        position = self.positions(self.layers.index(layer))[output]
        return int(position) % layer.owners(self.config)

    def spans(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """First byte of every column and the byte behind its last, int64 [pes, columns] each.

        The columns are those of the segment's pass, numbered as its PEs number them; where some
        PEs have fewer than others, theirs end with empty ones.
        """
        layer, first = self.layers[segment.codebook], segment.first
        held = layer.width(self.config, self.columns(segment.codebook))
        if segment.balanced:
            starts = np.tile(first + segment.stride * np.arange(held), (self.config.pes, 1))
            return starts, starts + segment.stride
        if self.config.counts:
            return unpack_counts(self.pointers[:, first // NIBBLES * WORDS:], segment.stride, held)
        return unpack_pointers(self.pointers[:, first:first + held + 1])

    def unpacked(self) -> Iterator[EIELayer]:
        """The layers without any packing, taken out of the images as the array reads them.

        ``ValueError`` where the images hold anything else, the counts of a layer are wrong, or an
        accumulator could overflow.
        """
        columns, start, scale, low = np.arange(self.inputs), 0, self.input_scale, LOWEST
        ends = (segment for segment in self.segments if segment.swap)
        for number, (layer, end) in enumerate(zip(self.layers, ends, strict=True)):
            where, rows = f"layer {layer.name}", self.positions(number)
            words = -(-layer.slots // self.config.clusters)
            biases = self.biases[:, start:start + words].T.reshape(-1).astype(np.int64)
            biases -= 1 << end.shift >> 1
            indices = self._indices(number)
            found, codebook = indices[np.ix_(rows, columns)], self.codebooks[number]
            nonzeros = np.count_nonzero(found)
            check_range(f"{where}: nonzeros", layer.nonzeros, nonzeros, nonzeros)
            if np.count_nonzero(indices) != nonzeros or np.any(np.delete(biases, rows)):
                raise ValueError(f"{where}: weights or biases stand where no output is")
            if codebook[0]:
                raise ValueError(f"{where}: index 0 stands for {codebook[0]}, expected 0")
            unpacked = EIELayer(layer.name, codebook[found], biases[rows], end.shift,
                                      layer.activation, scale, layer.output_scale)
            prove(layer.name, unpacked.weight, unpacked.bias, end.shift, low, HIGHEST,
                  self.config.acc_width)
            yield unpacked
            columns, start, scale = rows, start + words, layer.output_scale
            low = 0 if layer.activation == "relu" else LOWEST

    def _indices(self, number: int) -> np.ndarray:
        """Codebook indices of layer ``number`` at their physical places, uint8 [slots, columns];
        ``ValueError`` where the bytes are none, or other than the layer says."""
        layer, passes = self.layers[number], []
        step = self.config.acc_depth * layer.owners(self.config)
        for segment in self.segments:
            if segment.codebook != number or not segment.begin:
                continue
            starts, stops = self.spans(segment)
            if np.any(starts[:, 1:] != stops[:, :-1]):
                raise ValueError(f"layer {layer.name}: bytes between its columns belong to none")
            firsts = starts[:, :1]
            passes.append(Packed(
                tuple(own[first:stop] for own, first, stop in
                      zip(self.entries, firsts[:, 0], stops[:, -1], strict=True)),
                np.concatenate([firsts, stops], axis=1) - firsts,
                rows=min(step, layer.slots - step * len(passes)),
                columns=self.columns(number), groups=self.config.groups if layer.grouped else 1,
                escapes=self.config.escapes))
        for field, count in (("entries", sum(own.size for own in passes)),
                             ("padding", sum(int(own.padding.sum()) for own in passes))):
            check_range(f"layer {layer.name}: {field}", getattr(layer, field), count, count)
        return np.concatenate([unpack(own) for own in passes])

    def storage(self) -> dict[str, int]:
        """Bytes that the image occupies, by kind, and of its float32 original.

        Stored entries are counted, with escapes and padding, without the tail of a layer's or the
        memory's last row. The column directory counts the bits that the layers use of it.
        """
        config, entries = self.config, sum(layer.entries for layer in self.layers)
        pointers = self.pointers.size * config.pointer_width
        if config.counts:
            pointers = self.pointers.size // WORDS * (4 * NIBBLES + config.pointer_width)
        bits = {
            "weights": 4 * entries,
            "indices": 4 * entries,
            "pointers": pointers,
            "codebooks": self.codebooks.size * 16,
            "biases": sum(layer.outputs for layer in self.layers) * config.acc_width,
            "float32": sum(32 * layer.outputs * (layer.inputs + 1) for layer in self.layers),
        }
        return {kind: -(-count // 8) for kind, count in bits.items()}

    def header(self) -> dict:
        """What the program file says of the image in JSON, beside its configuration."""
        return {"input_scale": self.input_scale,
                "layers": [asdict(layer) for layer in self.layers],
                "segments": [asdict(segment) for segment in self.segments]}

    def tensors(self) -> dict[str, np.ndarray]:
        """What the program file holds of the image in tensors."""
        return {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "EIEImage":
        """The inverse of :meth:`header` and :meth:`tensors`; ``KeyError``, ``TypeError`` or
        ``ValueError`` where something is missing or of another kind."""
        return cls(
            config=EIEConfig(**header["config"]),
            input_scale=header["input_scale"],
            layers=tuple(LayerInfo(**layer) for layer in header["layers"]),
            segments=tuple(Segment(**segment) for segment in header["segments"]),
            **{name: tensors[name] for name in _TENSORS})

    def check(self) -> None:
        """Everything against everything else and the configuration; ``ValueError`` on a misfit."""
        self._check_layers()
        self._check_tensors()
        self._check_order()
        self._check_segments()
        self._check_directory()

    def check_size(self) -> None:
        """``BadInput`` where the array has more memory than a simulation of it would find."""
        check_most("the array's memories take", sum(self.config.memory_bits.values()), MEMORY,
                   "bits")

    def _check_layers(self) -> None:
        config = self.config
        self.check_size()
        check_range("number of layers", len(self.layers), 1, config.codebooks)
        check_scale("input_scale", self.input_scale)
        for layer in self.layers:
            where = f"layer {layer.name}"
            check_choice(f"{where}: activation", layer.activation, ("none", "relu"))
            check_scale(f"{where}: output_scale", layer.output_scale)
            check_range(f"{where}: grouped", layer.grouped, 0, int(config.groups > 1))
            check_range(f"{where}: balanced", layer.balanced, 0,
                        int(config.escapes and not layer.grouped))
            check_range(f"{where}: stride", layer.stride, 1, MAX_STRIDE)
            if not layer.balanced:
                choices = tuple(MOST) if config.counts else (1,)
                check_choice(f"{where}: stride", layer.stride, choices)
            owners = layer.owners(config)
            check_range(f"{where}: inputs", layer.inputs, 1, config.act_depth * config.pes)
            check_range(f"{where}: outputs", layer.outputs, 1, config.act_depth * owners)
            check_range(f"{where}: slots", layer.slots, layer.outputs,
                        -(-layer.outputs // owners) * owners)
            for field in ("nonzeros", "entries", "padding"):
                check_range(f"{where}: {field}", getattr(layer, field), 0, self.entries.size)
        for before, after in pairwise(self.layers):
            check_range(f"layer {after.name}: inputs", after.inputs, *[before.outputs] * 2)
        self.check_weights()
        for number, layer in enumerate(self.layers):
            if layer.balanced:
                check_range(f"layer {layer.name}: bytes of a pass",
                            layer.places(config, self.columns(number)), 0,
                            self.entries[:1].size)

    def check_weights(self) -> None:
        """``BadInput`` where a layer would fill the memory once it is unpacked."""
        for number, layer in enumerate(self.layers):
            check_most(f"layer {layer.name}: unpacked, it has",
                       layer.slots * self.columns(number), WEIGHTS, "weights")

    def _check_tensors(self) -> None:
        config, entries = self.config, self.entries
        if entries.dtype != np.uint8 or entries.ndim != 2 or len(entries) != config.pes \
                or entries.shape[1] % ENTRIES_PER_ROW or entries.shape[1] > config.entries:
            raise ValueError(
                f"tensor 'entries' is {entries.dtype} {list(entries.shape)}, expected uint8 "
                f"[{config.pes}, 0 to {config.entries}] in whole rows of {ENTRIES_PER_ROW}")
        slots = [layer.slots for layer in self.layers]
        biases = sum(-(-each // config.clusters) for each in slots)
        places = directory_places(config, self.layers)
        numbers = places // NIBBLES * WORDS if config.counts else places
        for name, shape in (("pointers", (config.pes, numbers)),
                            ("biases", (config.clusters, biases)),
                            ("codebooks", (len(slots), 16)), ("order", (sum(slots),))):
            check_tensor(f"tensor '{name}'", getattr(self, name), _TENSORS[name], shape)
        check_range("size of the column directory", places, 0, config.pointers)
        check_range("number of biases in a cluster", biases, 1, config.bias_depth)

    def _check_order(self) -> None:
        start = 0
        for layer in self.layers:
            order = self.order[start:start + layer.slots]
            start += layer.slots
            if np.any(order < -1) or not np.array_equal(np.sort(order[order >= 0]),
                                                        np.arange(layer.outputs)):
                raise ValueError(f"layer {layer.name}: its order does not hold each of "
                                 f"{layer.outputs} outputs once")

    def _check_segments(self) -> None:
        check_range("number of segments", len(self.segments), 1, self.config.descriptors)
        expected = list(islice(schedule(self.config, self.layers), len(self.segments) + 1))
        if len(self.segments) != len(expected):
            raise ValueError(f"the list of {len(self.segments)} segments does not fit the "
                             f"{len(self.layers)} layers")
        banks = next((s.first for s in self.segments if s.balanced), 0)
        check_range("first byte of the bank-balanced layers", banks, 0, self.entries.shape[1])
        for at, (found, segment) in enumerate(zip(self.segments, expected, strict=True)):
            limits = {name: (value, value) for name, value in vars(segment).items()}
            limits["shift"] = 0, 31 * segment.swap
            if segment.balanced:
                limits["first"] = [segment.first + banks] * 2
            if found.outputs:
                limits["outputs"] = [self.layers[segment.codebook].slots * segment.swap] * 2
            for name, (least, most) in limits.items():
                check_range(f"segment {at}: {name}", getattr(found, name), least, most)

    def _check_directory(self) -> None:
        for at, segment in enumerate(self.segments):
            if not segment.begin:
                continue
            starts, stops = self.spans(segment)
            if np.any(starts > stops) or np.any(starts[:, 1:] < stops[:, :-1]):
                raise ValueError(f"segment {at}: its columns overlap in the weight memory")
            if stops.max() > self.entries.shape[1]:
                raise ValueError(f"segment {at}: its columns leave the weight memory")


def directory_places(config: EIEConfig, layers: tuple[LayerInfo, ...]) -> int:
    """Nibbles or pointers of all column directories together."""
    places, columns = 0, layers[0].inputs
    for layer in layers:
        if not layer.balanced:
            places += layer.places(config, columns) * -(-layer.words(config) // config.acc_depth)
        columns = layer.slots
    return places + (places > 0 and not config.counts)


_TENSORS = {"entries": np.uint8, "pointers": np.uint32, "biases": np.int32,
            "codebooks": np.int16, "order": np.int32}
