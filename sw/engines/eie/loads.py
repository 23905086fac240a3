"""What an EIE array runs in several loads: layers that its memories do not hold.

Each layer is a grid of blocks, and each block an image of its own. The array adds up the blocks of
one block of rows: behind all of them but the last it keeps its sums, of several samples side by
side, and gives them out at the end.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import descriptor_words, load_word_layout
from zeroskip.sw.engines.base import Image
from zeroskip.sw.engines.checks import WEIGHTS, check_chain, check_most, check_range
from zeroskip.sw.engines.eie.check import TENSORS
from zeroskip.sw.engines.eie.image import EIEImage, check_memory, proved
from zeroskip.sw.engines.eie.layer import EIELayer
from zeroskip.sw.engines.eie.schedule import LayerInfo, Segment
from zeroskip.sw.graph.types import TensorType


@dataclass(frozen=True, eq=False)
class Grid:
    """A layer in blocks.

    Attributes
    ----------
    rows : tuple of tuple of EIEImage
        Of each block of rows its blocks of columns; each of them has that block's rows at the same
        positions, and the last one the layer's biases, shift and activation.
    samples : int
        Whose sums an array keeps at a time, at most.
    """

    rows: tuple[tuple[EIEImage, ...], ...]
    samples: int

    @property
    def blocks(self) -> Iterator[EIEImage]:
        """All of them."""
        return (block for row in self.rows for block in row)

    @property
    def _last(self) -> LayerInfo:
        return self.rows[0][-1].layers[0]

    @property
    def name(self) -> str:
        """The layer's."""
        return self._last.name

    @property
    def activation(self) -> str:
        """``"none"`` or ``"relu"``."""
        return self._last.activation

    @property
    def inputs(self) -> int:
        """Length of the input."""
        return sum(block.inputs for block in self.rows[0])

    @property
    def outputs(self) -> int:
        """Length of the output."""
        return sum(row[0].outputs for row in self.rows)

    @property
    def input(self) -> TensorType:
        """Flat int16, and zero is zero."""
        return replace(self._last.input, shape=(self.inputs,))

    @property
    def output(self) -> TensorType:
        """Flat int16, and zero is zero."""
        return replace(self._last.output, shape=(self.outputs,))

    @cached_property
    def order(self) -> np.ndarray:
        """Of each output the block of rows and its position there, int64 [outputs, 2]."""
        return np.concatenate([np.stack([np.full(row[0].outputs, number), row[0].positions(0)], 1)
                               for number, row in enumerate(self.rows)])

    def words(self, row: int) -> int:
        """Words in a PE that the sums of a block of rows take for a sample."""
        block = self.rows[row][0]
        return block.layers[0].words(block.config)

    def stride(self, row: int) -> int:
        """Positions from the sums of one sample to those of the next."""
        block = self.rows[row][0]
        return self.words(row) * block.layers[0].owners(block.config)

    def segments(self, row: int, column: int, sample: int, *, send: bool) -> tuple[Segment, ...]:
        """What the array does for one sample with a block: the sums of samples lie behind one
        another. They are kept, or those of all samples up to this one are sent."""
        block, first = self.rows[row][column], sample * self.words(row)
        moved = (replace(each, destination=each.destination + first) for each in block.segments)
        if not send:
            return tuple(replace(each, swap=0, shift=0, relu=0, bias=0, outputs=0)
                         for each in moved)
        before = sample * self.stride(row)
        return tuple(replace(each, outputs=each.outputs and before + each.outputs)
                     for each in moved)

    def facts(self) -> dict:
        """What a table says of it."""
        own = {name: sum(getattr(block.layers[0], name) for block in self.blocks)
               for name in ("nonzeros", "entries", "padding")}
        words = self.load_words()
        return {"name": self.name, "activation": self.activation, **own, "inputs": self.inputs,
                "outputs": self.outputs, "output_scale": self.output.scale,
                "reload": {"samples": self.samples, "loads": len(list(self.blocks)),
                           "words": words, "bytes": 4 * words}}

    def load_words(self) -> int:
        """Words of 32 bits that go over the load bus for :attr:`samples` samples."""
        items, last = 0, [row[-1] for row in self.rows]
        for block in self.blocks:
            items += block.entries.size // 4 + block.pointers.size
            items += self.samples * len(block.segments) * descriptor_words(block.config)
        for block in last:
            items += block.config.pes * block.codebooks.size + self.samples * block.biases.size
        return items * -(-load_word_layout(last[0].config).size // 32)

    def held(self) -> EIELayer:
        """The layer without any packing; ``ValueError`` where the blocks hold anything else."""
        weight = np.empty((self.outputs, self.inputs), np.int16)
        biases, top = [], 0
        for row in self.rows:
            left, bottom = 0, top + row[0].outputs
            for block in row:
                own, = block.held()
                weight[top:bottom, left:left + block.inputs] = own.weight
                left += block.inputs
            biases.append(own.bias)
            top = bottom
        return EIELayer(name=self.name, activation=self.activation, weight=weight,
                        bias=np.concatenate(biases), shift=own.shift, input=self.input,
                        output=self.output)

    def check(self) -> None:
        """Each block, and that they belong together; ``ValueError`` on a misfit."""
        where, first = f"layer {self.name}", self.rows[0][0]
        for block in self.blocks:
            block.check()
            if len(block.layers) != 1 or block.sent != (True,):
                raise ValueError(f"{where}: a block is not one layer that is sent")
            if not np.array_equal(block.codebooks, first.codebooks):
                raise ValueError(f"{where}: two blocks have different codebooks")
        check_most(f"{where}: unpacked, it has", self.inputs * self.outputs, WEIGHTS, "weights")
        for number, row in enumerate(self.rows):
            self._check_row(number, row)
            config, biases = first.config, row[-1].biases.shape[1]
            most = min(config.act_depth // self.words(number), config.bias_depth // biases)
            check_range(f"{where}: samples", self.samples, 1, most)

    def _check_row(self, number: int, row: tuple[EIEImage, ...]) -> None:
        where = f"layer {self.name}, block {number} of rows"
        if sum(block.inputs for block in row) != self.inputs:
            raise ValueError(f"{where}: its columns are not {self.inputs}")
        ends = {(block.layers[0].name, block.input.scale, block.output.scale,
                 block.layers[0].grouped) for block in row}
        ends |= {(self.name, self.input.scale, self.output.scale, row[0].layers[0].grouped)}
        if len(ends) > 1 or any(not np.array_equal(block.order, row[0].order) for block in row):
            raise ValueError(f"{where}: two blocks of columns do not add up to one layer")
        last, end = row[-1].layers[0], row[-1].segments[-1]
        if (last.activation, end.shift) != (self.activation, self.rows[0][-1].segments[-1].shift):
            raise ValueError(f"{where}: it ends as another layer")
        if any(block.biases.any() or block.segments[-1].shift for block in row[:-1]):
            raise ValueError(f"{where}: a block before the last has biases or a shift")


@dataclass(frozen=True, eq=False)
class EIELoads(Image):
    """Consecutive layers that one EIE array runs one after another, each in loads of its own.

    Attributes
    ----------
    config : EIEConfig
    layers : tuple of Grid
    """

    engine: ClassVar[str] = "eie"
    unit: ClassVar[str] = "PE"

    config: EIEConfig
    layers: tuple[Grid, ...]

    @property
    def counted(self) -> bool:
        """Whether the array counts its cycles."""
        return self.config.counters

    def traced(self) -> "EIELoads":
        """The same image: every layer's outputs go through the host anyway."""
        return self

    def owner(self, layer: Grid, output: int) -> int:
        """The PE that computes an output of a layer; the first one of its cluster, where the
        layer is grouped."""
        row, position = layer.order[output]
        return int(position) % layer.rows[row][0].layers[0].owners(self.config)

    def unpacked(self) -> Iterator[EIELayer]:
        """The layers without any packing, taken out of the blocks as the array reads them;
        ``ValueError`` where they hold anything else, or an accumulator could overflow."""
        return proved((layer.held() for layer in self.layers), self.config.acc_width)

    @property
    def work(self) -> int:
        """What is stored, each of which may be multiplied once."""
        return sum(self.stored(layer)[1] for layer in self.layers)

    def stored(self, layer: Grid) -> tuple[str, int]:
        """See :meth:`EIEImage.stored`."""
        return "unstructured", sum(own.entries for block in layer.blocks for own in block.layers)

    def storage(self) -> dict[str, int]:
        """Bytes that the image occupies, by kind, and of its float32 original; see
        :meth:`EIEImage.storage`. The codebook and the biases of a layer count once."""
        sizes: Counter[str] = Counter()
        for layer in self.layers:
            blocks = list(layer.blocks)
            for block in blocks:
                own = block.storage()
                sizes.update({kind: own[kind] for kind in ("weights", "indices", "pointers")})
            sizes.update({"codebooks": blocks[0].storage()["codebooks"],
                          "biases": -(-layer.outputs * self.config.acc_width // 8),
                          "float32": 4 * layer.outputs * (layer.inputs + 1)})
        return dict(sizes)

    def header(self) -> dict:
        """What the program file says of the image in JSON, beside its configuration."""
        return {"loads": [
            {"samples": layer.samples,
             "rows": [[block.header() for block in row] for row in layer.rows]}
            for layer in self.layers]}

    def tensors(self) -> dict[str, np.ndarray]:
        """What the program file holds of the image in tensors."""
        return {f"layer{i}.{r}.{c}.{name}": tensor for i, layer in enumerate(self.layers)
                for r, row in enumerate(layer.rows) for c, block in enumerate(row)
                for name, tensor in block.tensors().items()}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "EIELoads":
        """The inverse of :meth:`header` and :meth:`tensors`; ``KeyError``, ``TypeError`` or
        ``ValueError`` where something is missing or of another kind."""
        config = header["config"]
        layers = tuple(
            Grid(tuple(tuple(
                EIEImage.block_from_file(
                    {**block, "config": config},
                    {name: tensors[f"layer{i}.{r}.{c}.{name}"] for name in TENSORS})
                for c, block in enumerate(row)) for r, row in enumerate(layer["rows"])),
                layer["samples"])
            for i, layer in enumerate(header["loads"]))
        if not layers or not all(layer.rows and all(layer.rows) for layer in layers):
            raise ValueError("it has no layers, or a layer without blocks")
        return cls(EIEConfig(**config), layers)

    def check(self) -> None:
        """Everything against everything else and the configuration; ``ValueError`` on a misfit."""
        for layer in self.layers:
            layer.check()
        check_chain(self.layers)

    def check_size(self) -> None:
        """``BadInput`` where the array has more memory than a simulation of it would find."""
        check_memory(self.config)
