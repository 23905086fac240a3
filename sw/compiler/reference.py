"""The integer reference, ``model.reference.safetensors`` beside ``model.zsk``: the layers without
any packing.

Metadata key ``layers``: a JSON list with an object per layer. ``engine`` says how it computes; the
built-in engines are:

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
``y = clip(((p + 2^(s-1) - 1 + (p >> s & 1)) >> s) + output_zero_point, low, 127)`` is every output,
low = -128, or output_zero_point with ReLU; a tie rounds to even, as ``ties`` says. Where ``raw`` is
true, y = int32(W @ x + b).
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import parse_json, read_safetensors, write_safetensors

SUFFIX = ".reference.safetensors"


def beside(program: Path) -> Path:
    """Where the reference of the program in this file lies."""
    return program.with_suffix(SUFFIX)


def digest(reference: Iterable[ReferenceLayer], interface: dict | None = None) -> str:
    """A short name for exactly this reference, and what is to be bound to it of the model's input
    and output; the program carries it."""
    hashed = hashlib.sha256()
    for layer in reference:
        tensors = _tensors(layer)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        hashed.update(json.dumps([_described(layer), shapes]).encode())
        for tensor in tensors.values():
            hashed.update(tensor.reshape(-1).view(np.uint8).data)
    hashed.update(json.dumps(interface, sort_keys=True).encode())
    return hashed.hexdigest()[:16]


def save(path: Path, reference: tuple[ReferenceLayer, ...]) -> None:
    """Writes the file."""
    tensors = {f"layer{i}.{name}": tensor for i, layer in enumerate(reference)
               for name, tensor in _tensors(layer).items()}
    described = json.dumps([_described(layer) for layer in reference])
    write_safetensors(path, tensors, {"layers": described})


def load(path: Path) -> tuple[ReferenceLayer, ...]:
    """Reads the file; :class:`BadInput` if it is damaged."""
    metadata, tensors = read_safetensors(path)
    try:
        described = parse_json(metadata["layers"])
        kinds = [registry.engine(layer["engine"]).layer for layer in described]
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_reference(path, error) from None
    expected = {f"layer{i}.{name}": dtype for i, kind in enumerate(kinds)
                for name, dtype in kind.TENSORS.items()}
    for name, tensor in tensors.items():
        if name not in expected:
            raise BadInput(f"{path}: tensor '{name}' belongs to no layer; compile the model again")
        if tensor.dtype != expected[name]:
            raise BadInput(f"{path}: tensor '{name}' is {tensor.dtype}, expected "
                           f"{np.dtype(expected[name])}; compile the model again")
    try:
        return tuple(kind.from_file(layer, {name: tensors[f"layer{i}.{name}"]
                                            for name in kind.TENSORS})
                     for i, (kind, layer) in enumerate(zip(kinds, described, strict=True)))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _not_a_reference(path, error) from None


def _not_a_reference(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path}: not an integer reference of zeroskip ({error}); "
                    "compile the model again")


def _tensors(layer: ReferenceLayer) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(layer, name), dtype, order="C")
            for name, dtype in layer.TENSORS.items()}


def _described(layer: ReferenceLayer) -> dict:
    """What the file says of a layer in JSON."""
    return {
        "name": layer.name, "engine": layer.engine, "activation": layer.activation,
        "input_zero_point": layer.input.zero_point, "output_zero_point": layer.output.zero_point,
        "input_scale": layer.input.scale, "output_scale": layer.output.scale, **layer.header()}
