"""The program file, ``model.zsk``: everything that one network puts into one machine.

A safetensors file. Its tensors are the memory images; its metadata holds, under ``zeroskip``,
a JSON object with the format version, the target configuration and its digest, input and
output, layers and segments in order, and a CRC-32 of every tensor; under ``crc32`` a CRC-32
of that JSON text.
"""

import json
import zlib
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from zeroskip.hw.eie.config import ENTRIES_PER_ROW, EIEConfig
from zeroskip.sw.errors import BadInput

VERSION = 1
"""Format version that this code writes and reads."""


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


@dataclass(frozen=True)
class Program:
    """A compiled network.

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
    reference : str
        Digest of the integer reference that was written beside it.
    """

    config: EIEConfig
    input_scale: float
    layers: tuple[LayerInfo, ...]
    segments: tuple[Segment, ...]
    entries: np.ndarray
    pointers: np.ndarray
    biases: np.ndarray
    codebooks: np.ndarray
    reference: str

    @property
    def inputs(self) -> int:
        """Length of the input vector."""
        return self.layers[0].inputs

    def traced(self) -> "Program":
        """The same program with the outputs of every layer sent out, not only the last."""
        ends = iter(self.layers)
        return replace(self, segments=tuple(
            replace(s, outputs=next(ends).outputs) if s.swap else s for s in self.segments))

    def save(self, path: Path) -> None:
        """Writes the file."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        header = json.dumps({
            "version": VERSION,
            "config": asdict(self.config),
            "digest": self.config.digest(),
            "input_scale": self.input_scale,
            "reference": self.reference,
            "layers": [asdict(layer) for layer in self.layers],
            "segments": [asdict(segment) for segment in self.segments],
            "crc32": {name: zlib.crc32(tensor.tobytes()) for name, tensor in tensors.items()},
        }, sort_keys=True)
        metadata = {"zeroskip": header, "crc32": str(zlib.crc32(header.encode()))}
        content = save_tensors(tensors, metadata)
        # safetensors writes the metadata in any order; sorted, equal programs are equal files.
        start = 8 + int.from_bytes(content[:8], "little")
        text = json.dumps(json.loads(content[8:start]), sort_keys=True).encode()
        text += b" " * (-len(text) % 8)
        Path(path).write_bytes(len(text).to_bytes(8, "little") + text + content[start:])

    @classmethod
    def load(cls, path: Path) -> "Program":
        """Reads and checks a file; any damage or misfit raises :class:`BadInput`."""
        metadata, tensors = read_safetensors(path)
        header = _header(path, metadata)
        try:
            config = EIEConfig(**header["config"])
            layers = tuple(LayerInfo(**layer) for layer in header["layers"])
            segments = tuple(Segment(**segment) for segment in header["segments"])
            digest, crcs = header["digest"], dict(header["crc32"])
            program = cls(config, header["input_scale"], layers, segments,
                          reference=header["reference"],
                          **{name: tensors[name] for name in _TENSORS})
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: the program's header does not hold together ({error}); "
                           "compile the model again") from None
        if digest != config.digest():
            raise BadInput(f"{path}: the configuration has digest {config.digest()}, but the "
                           f"program was built for {digest}; compile the model again")
        for name in _TENSORS:
            if zlib.crc32(tensors[name].tobytes()) != crcs.get(name):
                raise BadInput(f"{path}: tensor '{name}' is damaged (its CRC-32 does not match); "
                               "copy the file again or compile the model again")
        try:
            program._check()
        except ValueError as error:
            raise BadInput(f"{path}: {error}; compile the model again") from None
        return program

    def _check(self) -> None:
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
        _check_scale("input_scale", self.input_scale)
        for layer in self.layers:
            _check_scale(f"layer {layer.name}: output_scale", layer.output_scale)
            for field in ("inputs", "outputs"):
                _check_range(f"layer {layer.name}: {field}", getattr(layer, field), 1, widest)
            for field in ("nonzeros", "entries", "padding"):
                _check_range(f"layer {layer.name}: {field}", getattr(layer, field), 0,
                             self.entries.size)
        for before, after in pairwise(self.layers):
            _check_range(f"layer {after.name}: inputs", after.inputs, *[before.outputs] * 2)

    def _check_segments(self) -> None:
        config, columns = self.config, self.pointers.shape[1] - 1
        limits = {"first": columns - 1, "limit": columns, "rows": config.acc_depth,
                  "source": config.act_depth - 1, "destination": config.act_depth - 1,
                  "bias": config.bias_depth - 1, "codebook": len(self.layers) - 1, "shift": 31,
                  "relu": 1, "swap": 1, "last": 1, "outputs": config.act_depth * config.pes}
        for at, segment in enumerate(self.segments):
            for field in fields(Segment):
                _check_range(f"segment {at}: {field.name}", getattr(segment, field.name), 0,
                             limits[field.name])
            _check_range(f"segment {at}: limit", segment.limit, segment.first + 1, columns)
            words = -(-(segment.limit - segment.first) // config.pes)
            for what, end, most in (
                    ("source words", segment.source + words, config.act_depth),
                    ("destination words", segment.destination + segment.rows, config.act_depth),
                    ("biases", segment.bias + segment.rows, self.biases.shape[1])):
                _check_range(f"segment {at}: end of its {what}", end, 0, most)
        count = len(self.segments)
        _check_range("number of segments", count, 1, config.descriptors)
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


def _check_range(name: str, value, least: int, most: int) -> None:
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, expected {least} to {most}")


def _check_scale(name: str, value) -> None:
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}, expected a number above 0")


_TENSORS = {"entries": np.uint8, "pointers": np.uint32, "biases": np.int32,
            "codebooks": np.int16}


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file; :class:`BadInput` if it is none."""
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: this is a folder; give the path of a file")
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file; give the path of an existing one")
    content = path.read_bytes()
    try:
        length = int.from_bytes(content[:8], "little")
        header = parse_json(content[8:8 + length].decode())
        metadata = header.get("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not an object")
        return metadata, load_tensors(content)
    except (SafetensorError, ValueError, AttributeError, KeyError) as error:
        raise BadInput(f"{path}: not a readable safetensors file ({error}); it is truncated, "
                       "damaged or of another kind") from None


def parse_json(text: str):
    """JSON in which a key may stand only once per object; ``ValueError`` otherwise."""
    def unique(pairs):
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key stands twice")
        return result
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _header(path: Path, metadata: dict[str, str]) -> dict:
    text = metadata.get("zeroskip")
    if text is None:
        raise BadInput(f"{path}: a safetensors file, but not a zeroskip program; "
                       "make one with 'zeroskip compile'")
    if metadata.get("crc32") != str(zlib.crc32(text.encode())):
        raise BadInput(f"{path}: the header is damaged (its CRC-32 does not match); "
                       "copy the file again or compile the model again")
    try:
        header = parse_json(text)
        version = header["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: the header is not readable ({error}); "
                       "compile the model again") from None
    if version != VERSION:
        raise BadInput(f"{path}: format version {version}, but this zeroskip reads version "
                       f"{VERSION}; compile the model again")
    return header
