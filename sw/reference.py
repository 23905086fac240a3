"""The integer reference, ``reference.safetensors``: the layers without any packing.

Tensors ``layer{i}.weight`` (int16 [out, in], zeros included), ``layer{i}.bias`` (int64 [out],
accumulator units) and ``layer{i}.shift`` (int32 scalar); metadata key ``layers``: a JSON list.
With x int16, half = 2^(s-1) or 0 when s = 0, and everything widened to int64 first,
``y = act(clip((W @ x + b + half) >> s, -32768, 32767))`` is every output.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save as save_tensors

from zeroskip.sw.errors import BadInput
from zeroskip.sw.program import parse_json, read_safetensors
from zeroskip.sw.quantize.fixed import FixedLayer

_TENSORS = {"weight": np.int16, "bias": np.int64, "shift": np.int32}


@dataclass(frozen=True)
class ReferenceLayer:
    """One layer: weight int16 [out, in], bias int64 [out], shift, activation, and the float
    value of one input and one output unit."""

    name: str
    weight: np.ndarray
    bias: np.ndarray
    shift: int
    activation: str
    input_scale: float
    output_scale: float


def from_layers(layers: tuple[FixedLayer, ...]) -> tuple[ReferenceLayer, ...]:
    """The reference of quantised layers."""
    return tuple(ReferenceLayer(
        layer.name, layer.weight, layer.bias, layer.shift, layer.activation,
        layer.input_scale, layer.output_scale) for layer in layers)


def digest(reference: tuple[ReferenceLayer, ...]) -> str:
    """A short name for exactly this reference; the program carries it."""
    hashed = hashlib.sha256()
    for layer in reference:
        hashed.update(json.dumps([layer.name, layer.activation, layer.shift, layer.weight.shape,
                                  layer.input_scale, layer.output_scale]).encode())
        hashed.update(np.ascontiguousarray(layer.weight).tobytes())
        hashed.update(np.ascontiguousarray(layer.bias).tobytes())
    return hashed.hexdigest()[:16]


def save(path: Path, reference: tuple[ReferenceLayer, ...]) -> None:
    """Writes the file."""
    tensors, described = {}, []
    for i, layer in enumerate(reference):
        for name, dtype in _TENSORS.items():
            tensors[f"layer{i}.{name}"] = np.array(getattr(layer, name), dtype, order="C")
        described.append({
            "name": layer.name, "engine": "eie", "activation": layer.activation,
            "input_zero_point": 0, "output_zero_point": 0,
            "input_scale": layer.input_scale, "output_scale": layer.output_scale})
    Path(path).write_bytes(save_tensors(tensors, {"layers": json.dumps(described)}))


def load(path: Path) -> tuple[ReferenceLayer, ...]:
    """Reads the file; :class:`BadInput` if it is damaged."""
    metadata, tensors = read_safetensors(path)
    for name, tensor in tensors.items():
        dtype = _TENSORS.get(name.rpartition(".")[2])
        if tensor.dtype != dtype:
            raise BadInput(f"{path}: tensor '{name}' is {tensor.dtype}, expected "
                           f"{dtype and np.dtype(dtype)}; compile the model again")
    try:
        return tuple(
            ReferenceLayer(
                layer["name"], tensors[f"layer{i}.weight"], tensors[f"layer{i}.bias"],
                int(tensors[f"layer{i}.shift"]), layer["activation"],
                layer["input_scale"], layer["output_scale"])
            for i, layer in enumerate(parse_json(metadata["layers"])))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: not an integer reference of zeroskip ({error}); "
                       "compile the model again") from None
