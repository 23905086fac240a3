"""From quantised layers to the memory images of one EIE array."""

from dataclasses import replace

import numpy as np

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.sw.errors import BadInput
from zeroskip.sw.pack.eie import pack
from zeroskip.sw.parts.eie import EIEPart, LayerInfo, Segment
from zeroskip.sw.quantize.fixed import FixedLayer, prove


def compile_layers(layers: tuple[FixedLayer, ...], config: EIEConfig) -> EIEPart:
    """Packs the layers for an array of this configuration.

    A layer of more rows than ``acc_depth`` per PE runs in several passes over its inputs; a
    pass over more inputs than ``block`` per PE runs in several segments. Columns lie one
    after another in the pointer memory, so that one pointer ends a column and starts the
    next.

    Raises
    ------
    BadInput
        If an accumulator could overflow, or a memory is too small; all that are, with numbers.
    """
    for i, layer in enumerate(layers):
        low = -(1 << 15) if i == 0 or layers[i - 1].activation != "relu" else 0
        prove(layer.name, layer.weight, layer.bias, layer.shift, low, (1 << 15) - 1,
              config.acc_width)

    image = _Image(config)
    for i, layer in enumerate(layers):
        image.add(layer, last=i == len(layers) - 1)
    image.check_fit(layers)
    return EIEPart(
        config=config,
        input_scale=layers[0].input_scale,
        layers=tuple(image.layers),
        segments=tuple(image.segments),
        entries=image.entry_memory(),
        pointers=np.concatenate([*image.pointers, image.stored[:, None]], 1).astype(np.uint32),
        biases=np.concatenate(image.biases, axis=1).astype(np.int32),
        codebooks=np.stack([layer.codebook for layer in layers]),
    )


_MEMORIES = ("weight_rows", "pointers", "act_depth", "bias_depth", "descriptors")


def deepened(config: EIEConfig) -> EIEConfig:
    """The machine with memories for any network; too large to build, see :func:`cut`."""
    return replace(config, **dict.fromkeys(_MEMORIES, 1 << 24))


def cut(part: EIEPart) -> EIEPart:
    """The part on memories just deep enough for it. A machine's cycles do not depend on
    their depth."""
    config = part.config
    widest = max(max(layer.inputs, layer.outputs) for layer in part.layers)
    needs = (part.entries.shape[1] // ENTRIES_PER_ROW, part.pointers.shape[1],
             -(-widest // config.pes), part.biases.shape[1], len(part.segments))
    return replace(part, config=replace(config, **{
        memory: max(2, need) for memory, need in zip(_MEMORIES, needs, strict=True)}))


class _Image:
    """The memories as they fill, pass by pass."""

    def __init__(self, config: EIEConfig):
        self.config = config
        self.layers: list[LayerInfo] = []
        self.segments: list[Segment] = []
        self.entries: list[list[np.ndarray]] = [[] for _ in range(config.pes)]
        self.stored = np.zeros(config.pes, np.int64)
        self.pointers: list[np.ndarray] = []
        self.biases: list[np.ndarray] = []
        self.columns = self.rows = 0

    def add(self, layer: FixedLayer, last: bool) -> None:
        """Appends a layer, all its passes."""
        outputs, inputs = layer.indices.shape
        per_pass = self.config.acc_depth * self.config.pes
        before, padding = self.stored.sum(), 0
        for start in range(0, outputs, per_pass):
            padding += self._add_pass(layer, start, min(start + per_pass, outputs))
        end = self.segments.pop()
        self.segments.append(Segment(**{
            **vars(end), "swap": 1, "last": int(last), "outputs": outputs if last else 0}))
        self.layers.append(LayerInfo(
            layer.name, inputs, outputs, layer.activation, layer.output_scale,
            int(np.count_nonzero(layer.indices)), int(self.stored.sum() - before), padding))

    def _add_pass(self, layer: FixedLayer, start: int, stop: int) -> int:
        pes, inputs = self.config.pes, layer.indices.shape[1]
        packed = pack(layer.indices[start:stop], pes)
        self.pointers.append(packed.pointers[:, :-1] + self.stored[:, None])
        for mine, new in zip(self.entries, packed.entries, strict=True):
            mine.append(new)
        self.stored += packed.pointers[:, -1]

        rows = -(-(stop - start) // pes)
        biases = np.zeros(rows * pes, np.int64)
        biases[:stop - start] = layer.bias[start:stop]
        biases[:stop - start] += (1 << layer.shift) >> 1
        self.biases.append(biases.reshape(rows, pes).T)

        block = self.config.block * pes
        for at in range(0, inputs, block):
            end = min(at + block, inputs)
            drain = {"rows": rows, "destination": start // pes, "bias": self.rows,
                     "shift": layer.shift, "relu": int(layer.activation == "relu")}
            self.segments.append(Segment(
                first=self.columns + at, limit=self.columns + end, source=at // pes,
                codebook=len(self.layers), **(drain if end == inputs else {})))
        self.columns += inputs
        self.rows += rows
        return int(packed.padding.sum())

    def check_fit(self, layers: tuple[FixedLayer, ...]) -> None:
        """Every memory's need against what the configuration has."""
        config = self.config
        widest = max(max(layer.indices.shape) for layer in layers)
        needs = [
            ("64-bit weight rows per PE", -(-int(self.stored.max()) // ENTRIES_PER_ROW),
             config.weight_rows),
            ("column pointers per PE", self.columns + 1, config.pointers),
            ("activations per PE and role", -(-widest // config.pes), config.act_depth),
            ("biases per PE", self.rows, config.bias_depth),
            ("codebooks", len(layers), config.codebooks),
            ("descriptors", len(self.segments), config.descriptors),
        ]
        short = [f"{need} {what} (it has {has})" for what, need, has in needs if need > has]
        if short:
            raise BadInput(f"the network does not fit the configuration with {config.pes} PEs: it "
                           f"needs {', '.join(short)}; choose a larger target or prune more")

    def entry_memory(self) -> np.ndarray:
        """The weight memories, whole rows: uint8 [pes, bytes]."""
        rows = -(-int(self.stored.max()) // ENTRIES_PER_ROW)
        memory = np.zeros((self.config.pes, rows * ENTRIES_PER_ROW), np.uint8)
        for mine, entries in zip(memory, self.entries, strict=True):
            packed = np.concatenate(entries)
            mine[:len(packed)] = packed
        return memory
