"""What a tensor core runs: the image of consecutive layers, for one batch size."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.engines.base import Image
from zeroskip.sw.engines.checks import check_chain, check_most, check_range
from zeroskip.sw.engines.tensorcore.packed import LONGEST, TENSORS, TensorCoreLayer
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer

BATCH, COLUMNS = 8, 4096
"""Samples of an image that is given no batch size, and columns of B that they may be at most."""

WORDS, MULTIPLIERS = 1 << 18, 4096
"""Most words of a core's buffers, and most multipliers. A simulation is built in 70 us and 2 KB
for each word, in 30 ms and a MB for each multiplier."""


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
    def work(self) -> int:
        """Multiplications."""
        return sum(layer.kept * layer.positions for layer in self.layers)

    def traced(self) -> "TensorCoreImage":
        """The same image: every layer's outputs go through the host anyway."""
        return self

    def owner(self, layer: TensorCoreLayer, output: int) -> int:
        """The row of the tile that computes an output of a layer."""
        return output // layer.positions % self.config.rows

    def unpacked(self) -> Iterator[Int8Layer]:
        """The layers without any packing, one after another."""
        return (layer.unpacked(self.config, self.batch) for layer in self.layers)

    def stored(self, layer: TensorCoreLayer) -> tuple[str, int]:
        """A byte a weight, and in a pattern two bits for its place."""
        places = 0 if layer.pattern == "dense" else -(-layer.kept // 4)
        return layer.pattern, layer.kept + places

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
            "float32": sum(4 * layer.rows * (layer.weights_of_row + 1) for layer in self.layers),
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
                layer, {name: tensors[f"layer{j}.{name}"] for name in TENSORS})
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
        check_range("batch", self.batch, 1, LONGEST)
        for layer in self.layers:
            layer.check(self.config, self.batch)
        for layer in self.layers[:-1]:
            if layer.raw:
                raise ValueError(f"layer {layer.name}: raw is True, but it is not the last layer")
        check_chain(self.layers)
