"""What an EIE array runs: the image of consecutive layers.

Rows of a layer lie at *physical* positions: position j belongs to PE j mod N, or in a grouped
layer to cluster j mod K, word j // N or j // K. What a position holds, the image's ``order`` says;
the next layer's columns are these positions. How the array numbers the columns of a grouped layer
is in ``hw/eie/layouts.py``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np

from zeroskip.hw.eie.config import NIBBLES, EIEConfig
from zeroskip.sw.engines.base import Image
from zeroskip.sw.engines.checks import WEIGHTS, check_most, check_range
from zeroskip.sw.engines.eie.check import TENSORS, check_image
from zeroskip.sw.engines.eie.directory import WORDS, unpack_counts, unpack_pointers
from zeroskip.sw.engines.eie.layer import EIELayer, look_up
from zeroskip.sw.engines.eie.pack import Packed, unpack
from zeroskip.sw.engines.eie.quantize import HIGHEST, LOWEST, prove
from zeroskip.sw.engines.eie.schedule import LayerInfo, Segment

MEMORY = 1 << 29
"""Most bits of an array's memories: more than any FPGA has."""


def check_memory(config: EIEConfig) -> None:
    """``BadInput`` where an array has more memory than a simulation of it would find."""
    check_most("the array's memories take", sum(config.memory_bits.values()), MEMORY, "bits")


def proved(layers: Iterable[EIELayer], acc_width: int) -> Iterator[EIELayer]:
    """Consecutive layers; ``BadInput`` at one in which an accumulator could overflow."""
    low = LOWEST
    for layer in layers:
        prove(layer.name, layer.weight, layer.bias, layer.shift, low, HIGHEST, acc_width)
        yield layer
        low = 0 if layer.activation == "relu" else LOWEST


@dataclass(frozen=True, eq=False)
class EIEImage(Image):
    """Everything that consecutive layers put into one EIE array.

    Attributes
    ----------
    config : EIEConfig
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
    layers: tuple[LayerInfo, ...]
    segments: tuple[Segment, ...]
    entries: np.ndarray
    pointers: np.ndarray
    biases: np.ndarray
    codebooks: np.ndarray
    order: np.ndarray

    @property
    def sent(self) -> tuple[bool, ...]:
        """Of each layer, whether its outputs are sent out."""
        return tuple(segment.outputs > 0 for segment in self.segments if segment.swap)

    @property
    def work(self) -> int:
        """What is stored, each of which may be multiplied once."""
        return sum(layer.entries for layer in self.layers)

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
        return proved(self.held(), self.config.acc_width)

    def held(self) -> Iterator[EIELayer]:
        """As :meth:`unpacked`, but overflow is not looked at."""
        columns, start = np.arange(self.inputs), 0
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
            yield EIELayer(
                name=layer.name, activation=layer.activation, weight=look_up(codebook, found),
                bias=biases[rows], shift=end.shift, input=layer.input, output=layer.output)
            columns, start = rows, start + words

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

    def stored(self, layer: LayerInfo) -> tuple[str, int]:
        """Each byte is a weight, or bridges a gap, and says how far it is from the one before."""
        return "unstructured", layer.entries

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
        return {"input_scale": self.input.scale,
                "layers": [layer.header() for layer in self.layers],
                "segments": [asdict(segment) for segment in self.segments]}

    def tensors(self) -> dict[str, np.ndarray]:
        """What the program file holds of the image in tensors."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> Image:
        """The inverse of :meth:`header` and :meth:`tensors`, of an image in several loads too;
        ``KeyError``, ``TypeError`` or ``ValueError`` where something is missing or of another
        kind."""
        if "loads" in header:
            from zeroskip.sw.engines.eie.loads import EIELoads
            return EIELoads.from_file(header, tensors)
        return cls.block_from_file(header, tensors)

    @classmethod
    def block_from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "EIEImage":
        """As :meth:`from_file`, of an image in one load."""
        layers = header["layers"]
        scales = [header["input_scale"], *(layer["output_scale"] for layer in layers[:-1])]
        return cls(
            config=EIEConfig(**header["config"]),
            layers=tuple(map(LayerInfo.from_file, layers, scales)),
            segments=tuple(Segment(**segment) for segment in header["segments"]),
            **{name: tensors[name] for name in TENSORS})

    def check(self) -> None:
        """Everything against everything else and the configuration; ``ValueError`` on a misfit."""
        check_image(self)

    def check_size(self) -> None:
        """``BadInput`` where the array has more memory than a simulation of it would find."""
        check_memory(self.config)

    def check_weights(self) -> None:
        """``BadInput`` where a layer would fill the memory once it is unpacked."""
        for number, layer in enumerate(self.layers):
            check_most(f"layer {layer.name}: unpacked, it has",
                       layer.slots * self.columns(number), WEIGHTS, "weights")
