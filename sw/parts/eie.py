"""A part of a program that runs on an EIE array."""

from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.sw.parts.checks import check_range, check_scale
from zeroskip.sw.parts.quantity import Quantity


@dataclass(frozen=True)
class Segment:
    """One descriptor of the array: a block of inputs against one pass of output rows.

    The fields are those of :func:`zeroskip.hw.eie.layouts.descriptor`; all are integers.
    """

    first: int
    limit: int
    source: int
    destination: int = 0
    rows: int = 0
    bias: int = 0
    codebook: int = 0
    shift: int = 0
    relu: int = 0
    swap: int = 0
    outputs: int = 0
    last: int = 0


@dataclass(frozen=True)
class LayerInfo:
    """What a reader of the program wants to know of a layer.

    ``entries`` counts stored entries, ``padding`` those among them that only bridge a gap,
    ``nonzeros`` the weights; ``output_scale`` is the float value of one output unit.
    """

    name: str
    inputs: int
    outputs: int
    activation: str
    output_scale: float
    nonzeros: int
    entries: int
    padding: int


@dataclass(frozen=True, eq=False)
class EIEPart:
    """Everything that consecutive layers put into one EIE array.

    Attributes
    ----------
    config : EIEConfig
    input_scale : float
        Float value of one input unit.
    layers : tuple of LayerInfo
    segments : tuple of Segment
    entries : uint8 [pes, bytes]
        Weight memory of each PE, low nibble v, high nibble z; zeros after its last entry.
    pointers : uint32 [pes, columns + 1]
    biases : int32 [pes, rows]
        Bias plus rounding constant, in accumulator units.
    codebooks : int16 [layers, 16]
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

    @property
    def inputs(self) -> int:
        """Length of the input vector."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Length of the output vector."""
        return self.layers[-1].outputs

    @property
    def input(self) -> Quantity:
        """What one input stands for."""
        return Quantity(np.dtype(np.int16), self.input_scale)

    @property
    def output(self) -> Quantity:
        """What one output stands for."""
        return Quantity(np.dtype(np.int16), self.layers[-1].output_scale)

    def traced(self) -> "EIEPart":
        """The same part with the outputs of every layer sent out, not only the last."""
        ends = iter(self.layers)
        return replace(self, segments=tuple(
            replace(s, outputs=next(ends).outputs) if s.swap else s for s in self.segments))

    def owner(self, _layer: LayerInfo, output: int) -> int:
        """The PE that computes an output of a layer."""
        return output % self.config.pes

    def storage(self) -> dict[str, int]:
        """Bytes that the part occupies, by kind, and of its float32 original.

        Stored entries are counted, padding among them, without the tail of the last memory
        row. A column pointer counts its ``pointer_width`` bits.
        """
        entries = sum(layer.entries for layer in self.layers)
        bits = {
            "weights": 4 * entries,
            "indices": 4 * entries,
            "pointers": self.pointers.size * self.config.pointer_width,
            "codebooks": self.codebooks.size * 16,
            "biases": sum(layer.outputs for layer in self.layers) * self.config.acc_width,
            "float32": sum(32 * layer.outputs * (layer.inputs + 1) for layer in self.layers),
        }
        return {kind: -(-count // 8) for kind, count in bits.items()}

    def header(self) -> dict:
        """What the program file says of the part in JSON, beside its configuration."""
        return {"input_scale": self.input_scale,
                "layers": [asdict(layer) for layer in self.layers],
                "segments": [asdict(segment) for segment in self.segments]}

    def tensors(self) -> dict[str, np.ndarray]:
        """What the program file holds of the part in tensors."""
        return {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "EIEPart":
        """The inverse of :meth:`header` and :meth:`tensors`; ``KeyError``, ``TypeError`` or
        ``ValueError`` where something is missing or of another kind."""
        return cls(
            config=EIEConfig(**header["config"]),
            input_scale=header["input_scale"],
            layers=tuple(LayerInfo(**layer) for layer in header["layers"]),
            segments=tuple(Segment(**segment) for segment in header["segments"]),
            **{name: tensors[name] for name in _TENSORS})

    def check(self) -> None:
        """Shapes, dtypes and ranges, against the configuration; ``ValueError`` on a misfit."""
        self._check_tensors()
        self._check_layers()
        self._check_segments()

    def _check_tensors(self) -> None:
        config, pes, layers = self.config, self.config.pes, len(self.layers)
        sizes = {"entries": (pes, 0, config.entries), "pointers": (pes, 2, config.pointers),
                 "biases": (pes, 1, config.bias_depth), "codebooks": (layers, 16, 16)}
        for name, dtype in _TENSORS.items():
            tensor, (rows, least, most) = getattr(self, name), sizes[name]
            if tensor.dtype != dtype or tensor.ndim != 2 or len(tensor) != rows \
                    or not least <= tensor.shape[1] <= most:
                raise ValueError(
                    f"tensor '{name}' is {tensor.dtype} {list(tensor.shape)}, expected "
                    f"{np.dtype(dtype)} [{rows}, {least} to {most}]")
        if self.entries.shape[1] % ENTRIES_PER_ROW:
            raise ValueError("tensor 'entries' does not end with a whole row")
        if np.any(self.pointers[:, 1:] < self.pointers[:, :-1]) \
                or np.any(self.pointers[:, -1] > self.entries.shape[1]):
            raise ValueError("the column pointers leave the weight memory")

    def _check_layers(self) -> None:
        config, widest = self.config, self.config.act_depth * self.config.pes
        if not 1 <= len(self.layers) <= config.codebooks:
            raise ValueError(f"it has {len(self.layers)} layers, expected 1 to {config.codebooks}")
        check_scale("input_scale", self.input_scale)
        for layer in self.layers:
            check_scale(f"layer {layer.name}: output_scale", layer.output_scale)
            for field in ("inputs", "outputs"):
                check_range(f"layer {layer.name}: {field}", getattr(layer, field), 1, widest)
            for field in ("nonzeros", "entries", "padding"):
                check_range(f"layer {layer.name}: {field}", getattr(layer, field), 0,
                            self.entries.size)
        for before, after in pairwise(self.layers):
            check_range(f"layer {after.name}: inputs", after.inputs, *[before.outputs] * 2)

    def _check_segments(self) -> None:
        config, columns = self.config, self.pointers.shape[1] - 1
        limits = {"first": columns - 1, "limit": columns, "rows": config.acc_depth,
                  "source": config.act_depth - 1, "destination": config.act_depth - 1,
                  "bias": config.bias_depth - 1, "codebook": len(self.layers) - 1, "shift": 31,
                  "relu": 1, "swap": 1, "last": 1, "outputs": config.act_depth * config.pes}
        for at, segment in enumerate(self.segments):
            for field in fields(Segment):
                check_range(f"segment {at}: {field.name}", getattr(segment, field.name), 0,
                            limits[field.name])
            check_range(f"segment {at}: limit", segment.limit, segment.first + 1, columns)
            words = -(-(segment.limit - segment.first) // config.pes)
            for what, end, most in (
                    ("source words", segment.source + words, config.act_depth),
                    ("destination words", segment.destination + segment.rows, config.act_depth),
                    ("biases", segment.bias + segment.rows, self.biases.shape[1])):
                check_range(f"segment {at}: end of its {what}", end, 0, most)
        count = len(self.segments)
        check_range("number of segments", count, 1, config.descriptors)
        lasts, swaps = [s.last for s in self.segments], sum(s.swap for s in self.segments)
        if lasts != [0] * (count - 1) + [1] or not self.segments[-1].swap \
                or swaps != len(self.layers):
            raise ValueError(f"the list of {count} segments does not fit the "
                             f"{len(self.layers)} layers")
        ends = iter(self.layers)
        for at, segment in enumerate(self.segments):
            outputs = next(ends).outputs if segment.swap else 0
            if segment.outputs != outputs and (segment.outputs or segment.last):
                raise ValueError(f"segment {at}: outputs is {segment.outputs}, expected {outputs}")


_TENSORS = {"entries": np.uint8, "pointers": np.uint32, "biases": np.int32,
            "codebooks": np.int16}
