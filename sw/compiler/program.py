"""The program file, ``model.zsk``: everything that one network puts into the cores.

A safetensors file. Its tensors are the memory images, ``part{i}.`` before each name; its
metadata holds, under ``zeroskip``, a JSON object with the format version, for every part its
engine, the target configuration and its digest, and what the part's class says of itself
(input and output, layers and so on), the type of the model's input, the reference's digest, and
a CRC-32 of every tensor; under ``crc32`` a CRC-32 of that JSON text.
"""

import json
import zlib
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from zeroskip.sw.compiler import reference
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image
from zeroskip.sw.engines.checks import check_choice, check_shape
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import parse_json, read_safetensors, write_safetensors
from zeroskip.sw.graph.types import Quantity

VERSION = 3
"""Format version that this code writes and reads."""


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled network.

    Attributes
    ----------
    parts : tuple of Image
        In order; between two of them the host converts integers.
    reference : str
        Digest of the integer reference that was written beside it, and of ``input_dtype``. Scales,
        zero points and images are bound to it: :meth:`load` takes the reference out of them again
        and compares.
    input_dtype : str
        Type of the model's input: ``"float32"``, or ``"int8"`` or ``"uint8"`` where the model
        takes integers; an engine takes those of uint8 less 128.
    input_shape, output_shape : tuple of int
        Of one sample, as the model has it; () is a flat vector.
    """

    parts: tuple[Image, ...]
    reference: str
    input_dtype: str = "float32"
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    @property
    def layers(self) -> tuple:
        """The layers of all parts."""
        return tuple(layer for part in self.parts for layer in part.layers)

    @property
    def inputs(self) -> int:
        """Length of the input vector."""
        return self.parts[0].inputs

    @property
    def outputs(self) -> int:
        """Length of the output vector."""
        return self.parts[-1].outputs

    @property
    def input(self) -> Quantity:
        """What one input stands for."""
        return self.parts[0].input

    @property
    def output(self) -> Quantity:
        """What one output stands for."""
        return self.parts[-1].output

    def traced(self) -> "Program":
        """The same program with the outputs of every layer sent out, not only the last."""
        return replace(self, parts=tuple(part.traced() for part in self.parts))

    def save(self, path: Path) -> None:
        """Writes the file."""
        tensors = {f"part{i}.{name}": np.ascontiguousarray(tensor)
                   for i, part in enumerate(self.parts) for name, tensor in part.tensors().items()}
        header = json.dumps({
            "version": VERSION,
            "reference": self.reference,
            "input_dtype": self.input_dtype,
            "input_shape": self.input_shape,
            "output_shape": self.output_shape,
            "parts": [{"engine": part.engine, "config": asdict(part.config),
                       "digest": part.config.digest(), **part.header()} for part in self.parts],
            "crc32": {name: zlib.crc32(tensor.tobytes()) for name, tensor in tensors.items()},
        }, sort_keys=True)
        metadata = {"zeroskip": header, "crc32": str(zlib.crc32(header.encode()))}
        write_safetensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> "Program":
        """Reads and checks a file; any damage or misfit raises :class:`BadInput`."""
        metadata, tensors = read_safetensors(path)
        header = _header(path, metadata)
        crcs = header.get("crc32")
        for name, tensor in tensors.items():
            if not isinstance(crcs, dict) or zlib.crc32(tensor.tobytes()) != crcs.get(name):
                raise BadInput(f"{path}: tensor '{name}' is damaged (its CRC-32 does not match); "
                               "copy the file again or compile the model again")
        try:
            program = cls(tuple(_part(i, described, tensors)
                                for i, described in enumerate(header["parts"])),
                          header["reference"], header["input_dtype"],
                          tuple(header["input_shape"]), tuple(header["output_shape"]))
            digests = [described["digest"] for described in header["parts"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{path}: the program's header does not hold together ({error}); "
                           "compile the model again") from None
        for part, digest in zip(program.parts, digests, strict=True):
            if digest != part.config.digest():
                raise BadInput(f"{path}: the configuration has digest {part.config.digest()}, but "
                               f"the program was built for {digest}; compile the model again")
        try:
            program._check(tensors)
        except ValueError as error:
            raise BadInput(f"{path}: {error}; compile the model again") from None
        return program

    def _check(self, tensors: dict[str, np.ndarray]) -> None:
        """Each part, that they follow one another and take the input, that no tensor is left over,
        and that all of it is what the reference says; ``ValueError`` on a misfit."""
        if not self.parts:
            raise ValueError("it has 0 parts, expected 1 or more")
        used = set()
        for i, part in enumerate(self.parts):
            used |= {f"part{i}.{name}" for name in part.tensors()}
            try:
                part.check()
            except ValueError as error:
                raise ValueError(f"part {i} ({part.engine}): {error}") from None
        for i, (before, after) in enumerate(pairwise(self.parts)):
            if after.inputs != before.outputs:
                raise ValueError(f"part {i + 1} takes {after.inputs} inputs, but part {i} gives "
                                 f"{before.outputs} outputs")
        check_choice("the input's type", self.input_dtype, ("float32", "int8", "uint8"))
        if self.input_dtype != "float32" and self.input.dtype != np.int8:
            raise ValueError(f"the input's type is {self.input_dtype}, but part 0 takes "
                             f"{self.input.dtype}")
        check_shape("input_shape", self.input_shape, self.inputs)
        check_shape("output_shape", self.output_shape, self.outputs)
        for name in sorted(set(tensors) - used):
            raise ValueError(f"tensor '{name}' belongs to no layer")
        layers = (layer for part in self.parts for layer in part.unpacked())
        if reference.digest(layers, self.input_dtype) != self.reference:
            raise ValueError("its scales, zero points or images are not those of the reference "
                             "that it was compiled with")


def _part(number: int, described: dict, tensors: dict[str, np.ndarray]) -> Image:
    """One part from its JSON object and the file's tensors."""
    engine, prefix = described["engine"], f"part{number}."
    if engine not in registry.names():
        raise ValueError(f"part {number} is for the engine {engine!r}, expected "
                         f"{' or '.join(registry.names())}")
    return registry.engine(engine).image.from_file(described, {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items()
        if name.startswith(prefix)})


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
