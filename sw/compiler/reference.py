"""The integer reference, ``model.reference.safetensors`` beside ``model.zsk``: the layers without
any packing.

Metadata key ``layers``: a JSON list with an object per layer. ``engine`` says how it computes.

``eie``: tensors ``layer{i}.weight`` (int16 [out, in], zeros included), ``layer{i}.bias`` (int64
[out], accumulator units) and ``layer{i}.shift`` (int32 scalar). With x int16, half = 2^(s-1) or
0 when s = 0, and everything widened to int64 first,
``y = act(clip((W @ x + b + half) >> s, -32768, 32767))`` is every output.

``tensorcore``: ``layer{i}.weight`` (int8 [out, K]), ``layer{i}.bias`` (int64 [out], input zero
point folded in), ``layer{i}.multiplier`` and ``layer{i}.shift`` (int32 [out]). The object of a
convolution has ``input_shape``, ``kernel``, ``stride``, ``padding`` and ``dilation`` too; K runs
over channel, kernel row, kernel column, padding reads the input zero point, and inputs and outputs
are flat, channel by channel, each row by row. With
p = int32(W @ x + b) * multiplier,
``y = clip(sign(p) * ((|p| + 2^(s-1)) >> s) + output_zero_point, low, 127)`` is every output,
low = -128, or output_zero_point with ReLU. Where ``raw`` is true, y = int32(W @ x + b).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path

import numpy as np

from zeroskip.sw.engines.eie.quantize import FixedLayer
from zeroskip.sw.engines.tensorcore.quantize import Int8Layer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import parse_json, read_safetensors, write_safetensors
from zeroskip.sw.graph.im2col import Geometry


@dataclass(frozen=True, eq=False)
class ReferenceLayer:
    """One layer of an EIE array: weight int16 [out, in], bias int64 [out], shift, activation,
    and the float value of one input and one output unit."""

    name: str
    weight: np.ndarray
    bias: np.ndarray
    shift: int
    activation: str
    input_scale: float
    output_scale: float


SUFFIX = ".reference.safetensors"

Layer = ReferenceLayer | Int8Layer
"""A layer of either engine; a tensor core's is its quantised layer itself."""

_TENSORS = {
    "eie": {"weight": np.int16, "bias": np.int64, "shift": np.int32},
    "tensorcore": {"weight": np.int8, "bias": np.int64, "multiplier": np.int32,
                   "shift": np.int32},
}


def from_layers(layers: tuple[FixedLayer | Int8Layer, ...]) -> tuple[Layer, ...]:
    """The reference of quantised layers."""
    return tuple(layer if isinstance(layer, Int8Layer) else ReferenceLayer(
        layer.name, layer.weight, layer.bias, layer.shift, layer.activation,
        layer.input_scale, layer.output_scale) for layer in layers)


def beside(program: Path) -> Path:
    """Where the reference of the program in this file lies."""
    return program.with_suffix(SUFFIX)


def digest(reference: Iterable[Layer], input_dtype: str = "float32") -> str:
    """A short name for exactly this reference and the type of the model's input; the program
    carries it."""
    hashed = hashlib.sha256()
    for layer in reference:
        tensors = _tensors(layer)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        hashed.update(json.dumps([_described(layer), shapes]).encode())
        for tensor in tensors.values():
            hashed.update(tensor.reshape(-1).view(np.uint8))
    if input_dtype != "float32":
        hashed.update(input_dtype.encode())
    return hashed.hexdigest()[:16]


def save(path: Path, reference: tuple[Layer, ...]) -> None:
    """Writes the file."""
    tensors = {f"layer{i}.{name}": tensor for i, layer in enumerate(reference)
               for name, tensor in _tensors(layer).items()}
    described = json.dumps([_described(layer) for layer in reference])
    write_safetensors(path, tensors, {"layers": described})


def load(path: Path) -> tuple[Layer, ...]:
    """Reads the file; :class:`BadInput` if it is damaged."""
    metadata, tensors = read_safetensors(path)
    try:
        described = parse_json(metadata["layers"])
        expected = {f"layer{i}.{name}": dtype for i, layer in enumerate(described)
                    for name, dtype in _TENSORS[layer["engine"]].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_reference(path, error) from None
    for name, tensor in tensors.items():
        if name not in expected:
            raise BadInput(f"{path}: tensor '{name}' belongs to no layer; compile the model again")
        if tensor.dtype != expected[name]:
            raise BadInput(f"{path}: tensor '{name}' is {tensor.dtype}, expected "
                           f"{np.dtype(expected[name])}; compile the model again")
    try:
        return tuple(_layer(layer, {name: tensors[f"layer{i}.{name}"]
                                    for name in _TENSORS[layer["engine"]]})
                     for i, layer in enumerate(described))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _not_a_reference(path, error) from None


def _not_a_reference(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path}: not an integer reference of zeroskip ({error}); "
                    "compile the model again")


def _engine(layer: Layer) -> str:
    return "tensorcore" if isinstance(layer, Int8Layer) else "eie"


def _tensors(layer: Layer) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(layer, name), dtype, order="C")
            for name, dtype in _TENSORS[_engine(layer)].items()}


def _described(layer: Layer) -> dict:
    """What the file says of a layer in JSON."""
    int8 = isinstance(layer, Int8Layer)
    described = {
        "name": layer.name, "engine": _engine(layer), "activation": layer.activation,
        "input_zero_point": layer.input_zero_point if int8 else 0,
        "output_zero_point": layer.output_zero_point if int8 else 0,
        "input_scale": layer.input_scale, "output_scale": layer.output_scale}
    if int8:
        described["raw"] = layer.raw
        described |= asdict(layer.geometry) if layer.geometry else {}
    return described


def _layer(described: dict, tensors: dict[str, np.ndarray]) -> Layer:
    """The inverse of :func:`_described` and :func:`_tensors`."""
    common = {name: described[name] for name in (
        "name", "activation", "input_scale", "output_scale")}
    if described["engine"] == "eie":
        return ReferenceLayer(**common, **tensors | {"shift": int(tensors["shift"])})
    geometry = None
    outputs, inputs = tensors["weight"].shape
    if "kernel" in described:
        geometry = Geometry(**{field.name: tuple(described[field.name])
                               for field in fields(Geometry)})
        inputs, outputs = prod(geometry.input_shape), outputs * geometry.positions
    return Int8Layer(
        **common, **tensors, geometry=geometry, inputs=inputs, outputs=outputs,
        **{name: described[name] for name in ("input_zero_point", "output_zero_point", "raw")})
