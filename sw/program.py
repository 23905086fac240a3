"""The program file, ``model.zsk``: everything that one network puts into one machine.

A safetensors file. Its tensors are the memory images; its metadata holds, under ``zeroskip``,
a JSON object with the format version, the target configuration and its digest, input and
output, layers and segments in order, and a CRC-32 of every tensor; under ``crc32`` a CRC-32
of that JSON text.
"""

import json
import zlib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from zeroskip.hw.eie.config import EIEConfig
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
        Path(path).write_bytes(save_tensors(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> "Program":
        """Reads and checks a file; any damage or misfit raises :class:`BadInput`."""
        metadata, tensors = read_safetensors(path)
        header = _header(path, metadata)
        try:
            config = EIEConfig(**header["config"])
            layers = tuple(LayerInfo(**layer) for layer in header["layers"])
            segments = tuple(Segment(**segment) for segment in header["segments"])
            digest, crcs = header["digest"], header["crc32"]
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
        program._check(path)
        return program

    def _check(self, path: Path) -> None:
        """Shapes, dtypes and ranges, against the configuration."""
        config = self.config
        limits = {"entries": config.entries, "pointers": config.pointers,
                  "biases": config.bias_depth}
        for name, dtype in _TENSORS.items():
            tensor = getattr(self, name)
            rows = len(self.layers) if name == "codebooks" else config.pes
            most = limits.get(name, 16)
            if tensor.dtype != dtype or tensor.ndim != 2 or len(tensor) != rows \
                    or tensor.shape[1] > most:
                raise BadInput(
                    f"{path}: tensor '{name}' is {tensor.dtype} {list(tensor.shape)}, expected "
                    f"{np.dtype(dtype)} [{rows}, at most {most}]; compile the model again")
        if np.any(self.pointers[:, 1:] < self.pointers[:, :-1]) \
                or np.any(self.pointers[:, -1] > self.entries.shape[1]):
            raise BadInput(f"{path}: the column pointers leave the weight memory; "
                           "compile the model again")
        limits = {"first": config.pointers, "limit": config.pointers, "rows": config.acc_depth,
                  "source": config.act_depth, "destination": config.act_depth, "shift": 31,
                  "bias": config.bias_depth, "codebook": config.codebooks - 1, "relu": 1,
                  "swap": 1, "last": 1, "outputs": config.act_depth * config.pes}
        for at, segment in enumerate(self.segments):
            for field in fields(Segment):
                value = getattr(segment, field.name)
                if not isinstance(value, int) or not 0 <= value <= limits[field.name]:
                    raise BadInput(f"{path}: segment {at} has {field.name} = {value!r}, expected "
                                   f"0 to {limits[field.name]}; compile the model again")
        if len(self.segments) > config.descriptors or not self.segments \
                or [s.last for s in self.segments] != [0] * (len(self.segments) - 1) + [1] \
                or sum(s.swap for s in self.segments) != len(self.layers):
            raise BadInput(f"{path}: the list of {len(self.segments)} segments does not fit the "
                           f"{len(self.layers)} layers or the {config.descriptors} descriptors; "
                           "compile the model again")


_TENSORS = {"entries": np.uint8, "pointers": np.uint32, "biases": np.int32,
            "codebooks": np.int16}


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file; :class:`BadInput` if it is none."""
    path = Path(path)
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
    return json.loads(text, object_pairs_hook=unique)


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
