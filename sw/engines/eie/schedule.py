"""How an EIE array computes layers: in segments, a descriptor each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.eie.config import NIBBLES, EIEConfig
from zeroskip.sw.engines.eie.directory import words_for
from zeroskip.sw.engines.eie.pack import width
from zeroskip.sw.graph.types import TensorType

MAX_STRIDE = 63
"""Most bytes of a column in a bank-balanced layer."""


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
    activation : str
        ``"none"`` or ``"relu"``.
    input, output : TensorType
        Flat int16, and zero is zero.
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
    activation: str
    input: TensorType
    output: TensorType
    nonzeros: int
    entries: int
    padding: int
    slots: int
    grouped: int
    stride: int
    balanced: int

    @property
    def inputs(self) -> int:
        """Length of the input."""
        return self.input.size

    @property
    def outputs(self) -> int:
        """Length of the output."""
        return self.output.size

    def header(self) -> dict:
        """What the program file says of the layer in JSON; the scale of its input is that of the
        outputs before."""
        own = {name: value for name, value in vars(self).items() if name not in ("input", "output")}
        return own | {"inputs": self.inputs, "outputs": self.outputs,
                      "output_scale": self.output.scale}

    def facts(self) -> dict:
        """What a table says of it: nothing is loaded again."""
        return {**self.header(), "reload": None}

    @classmethod
    def from_file(cls, header: dict, input_scale: float) -> "LayerInfo":
        """The inverse of :meth:`header`; ``KeyError``, ``TypeError`` or ``ValueError`` where
        something is missing or of another kind."""
        own = dict(header)
        return cls(input=TensorType.of(own.pop("inputs"), np.int16, input_scale),
                   output=TensorType.of(own.pop("outputs"), np.int16, own.pop("output_scale")),
                   **own)

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


def directory_places(config: EIEConfig, layers: tuple[LayerInfo, ...]) -> int:
    """Nibbles or pointers of all column directories together."""
    places, columns = 0, layers[0].inputs
    for layer in layers:
        if not layer.balanced:
            places += layer.places(config, columns) * -(-layer.words(config) // config.acc_depth)
        columns = layer.slots
    return places + (places > 0 and not config.counts)
