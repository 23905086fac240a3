"""The program file, ``model.zsk``: everything that one network puts into the cores.

A safetensors file. Its tensors are those of the images, ``step{i}.`` before each name; its
metadata holds, under ``zeroskip``, a JSON object: the format ``version``, the ``reference``'s
digest, ``input_dtype``, ``buffers`` (by name: shape, dtype, scale, zero_point), ``steps`` in their
order, and ``crc32``, a CRC-32 of every tensor; under ``crc32`` a CRC-32 of that JSON text. A step
has the names of the buffers that it ``reads`` and ``writes``. That of an engine has its ``engine``,
the target ``config`` and its ``digest``, and what the image's class says of itself; that of the
host has a ``rule`` of :data:`zeroskip.sw.compiler.rules.RULES`.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from zeroskip.sw.compiler import reference
from zeroskip.sw.compiler.rules import RULES
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image, ReferenceLayer
from zeroskip.sw.engines.checks import check_choice, check_range, check_shape
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import parse_json, read_safetensors, write_safetensors
from zeroskip.sw.graph.types import TensorType

VERSION = 4
"""Format version that this code writes and reads."""

INPUT = "input"
"""The buffer that the first step reads."""


@dataclass(frozen=True, eq=False)
class EngineStep:
    """An engine computes ``image`` from the one buffer that it reads; it writes one for each layer
    that the image sends out."""

    image: Image
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def header(self) -> dict:
        """What the file says of it, beside the names."""
        config = self.image.config
        return {"engine": self.image.engine, "config": asdict(config), "digest": config.digest(),
                **self.image.header()}


@dataclass(frozen=True)
class HostStep:
    """The host makes one buffer of another by an exact rule; see
    :mod:`zeroskip.sw.compiler.rules`."""

    rule: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def header(self) -> dict:
        """What the file says of it, beside the names."""
        return {"rule": self.rule}


Step = EngineStep | HostStep


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled network: a chain of steps that read and write named buffers.

    Attributes
    ----------
    buffers : dict of str to TensorType
        In the order in which they are written; the first is :data:`INPUT`. Those of the model's
        input and output have the model's shape, the others are flat.
    steps : tuple of EngineStep or HostStep
        In order; the first and the last are an engine's.
    reference : str
        Digest of the integer reference that was written beside it, with the types of input and
        output. Scales, zero points, shapes and images are bound to it: :meth:`load` takes the
        reference out of them again and compares.
    input_dtype : str
        Type of the model's input: ``"float32"``, or ``"int8"`` or ``"uint8"`` where the model
        takes integers; an engine takes those of uint8 less 128.
    """

    buffers: dict[str, TensorType]
    steps: tuple[Step, ...]
    reference: str
    input_dtype: str = "float32"

    @classmethod
    def chain(cls, images: Sequence[Image], layers: Iterable[ReferenceLayer],
              input_dtype: str = "float32", input_shape: tuple[int, ...] = (),
              output_shape: tuple[int, ...] = ()) -> "Program":
        """The program of images that follow one another, bound to the reference ``layers``.

        Where one image's outputs are other integers than the next one's inputs, the host converts
        them. The shapes are those of a sample; () is a flat one.
        """
        program = cls(*_linked(images, input_shape, output_shape), "", input_dtype)
        return replace(program, reference=program.digest(layers))

    @property
    def images(self) -> tuple[Image, ...]:
        """Those of all engine steps."""
        return tuple(step.image for step in self.steps if isinstance(step, EngineStep))

    @property
    def layers(self) -> tuple:
        """The layers of all images."""
        return tuple(layer for image in self.images for layer in image.layers)

    @property
    def input(self) -> TensorType:
        """The type of the input."""
        return self.buffers[INPUT]

    @property
    def output(self) -> TensorType:
        """The type of the output."""
        return self.buffers[self.steps[-1].writes[-1]]

    def with_images(self, *images: Image) -> "Program":
        """The same program with other images for the same layers, in order."""
        buffers, steps = _linked(images, self.input.shape, self.output.shape)
        return replace(self, buffers=buffers, steps=steps)

    def traced(self) -> "Program":
        """The same program with a buffer for the outputs of every layer."""
        return self.with_images(*(image.traced() for image in self.images))

    def digest(self, layers: Iterable[ReferenceLayer]) -> str:
        """What :attr:`reference` is where these layers are the reference."""
        return reference.digest(layers, {
            "input_dtype": self.input_dtype, "input_shape": self.input.shape,
            "output_shape": self.output.shape})

    def save(self, path: Path) -> None:
        """Writes the file."""
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in self._tensors()}
        header = json.dumps({
            "version": VERSION,
            "reference": self.reference,
            "input_dtype": self.input_dtype,
            "buffers": [{"name": name, "shape": kind.shape, "dtype": kind.dtype.name,
                         "scale": kind.scale, "zero_point": kind.zero_point}
                        for name, kind in self.buffers.items()],
            "steps": [{"reads": step.reads, "writes": step.writes, **step.header()}
                      for step in self.steps],
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
            program = cls(
                {each["name"]: _type(each) for each in header["buffers"]},
                tuple(_step(i, described, tensors) for i, described in enumerate(header["steps"])),
                header["reference"], header["input_dtype"])
            if len(program.buffers) < len(header["buffers"]):
                raise ValueError("two buffers have one name")
            digests = [described.get("digest") for described in header["steps"]
                       if "rule" not in described]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{path}: the program's header does not hold together ({error}); "
                           "compile the model again") from None
        for image, digest in zip(program.images, digests, strict=True):
            if digest != image.config.digest():
                raise BadInput(f"{path}: the configuration has digest {image.config.digest()}, but "
                               f"the program was built for {digest}; compile the model again")
        try:
            program._check(tensors)
        except ValueError as error:
            raise BadInput(f"{path}: {error}; compile the model again") from None
        return program

    def _tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """What the file holds in tensors, by name."""
        for i, step in enumerate(self.steps):
            if isinstance(step, EngineStep):
                for name, tensor in step.image.tensors().items():
                    yield f"step{i}.{name}", tensor

    def _check(self, tensors: dict[str, np.ndarray]) -> None:
        """Each step, that they follow one another and take the input, that no tensor is left over,
        and that all of it is what the reference says; ``ValueError`` on a misfit."""
        if not self.steps:
            raise ValueError("it has 0 steps, expected 1 or more")
        for i, step in enumerate(self.steps):
            if isinstance(step, EngineStep):
                try:
                    step.image.check()
                except ValueError as error:
                    raise ValueError(f"step {i} ({step.image.engine}): {error}") from None
        self._check_chain()
        for i, step in enumerate(self.steps):
            if isinstance(step, EngineStep):
                self._check_engine(i, step)
            else:
                self._check_host(i, step)
        check_choice("the input's type", self.input_dtype, ("float32", "int8", "uint8"))
        if self.input_dtype != "float32" and self.input.dtype != np.int8:
            raise ValueError(f"the input's type is {self.input_dtype}, but step 0 takes "
                             f"{self.input.dtype}")
        for name in sorted(set(tensors) - {name for name, _ in self._tensors()}):
            raise ValueError(f"tensor '{name}' belongs to no layer")
        if self.digest(layer for image in self.images
                       for layer in image.unpacked()) != self.reference:
            raise ValueError("its scales, zero points, shapes or images are not those of the "
                             "reference that it was compiled with")

    def _check_chain(self) -> None:
        """Each step reads what the one before it has written last, and every buffer is one of
        theirs."""
        names = [INPUT]
        for i, step in enumerate(self.steps):
            if step.reads != (names[-1],):
                raise ValueError(f"step {i} reads {list(step.reads)}, expected [{names[-1]!r}]")
            names += step.writes
        if names != list(self.buffers):
            raise ValueError(f"its buffers are {list(self.buffers)}, but its steps read and write "
                             f"{names}")

    def _check_engine(self, number: int, step: EngineStep) -> None:
        image = step.image
        kinds = [kind for kind, sent in zip(image.types, image.sent, strict=True) if sent]
        if len(step.writes) != len(kinds):
            raise ValueError(f"step {number} writes {len(step.writes)} buffers, but its image "
                             f"sends {len(kinds)}")
        for name, kind in zip((*step.reads, *step.writes), (image.input, *kinds), strict=True):
            found = self.buffers[name]
            ends = name in (INPUT, self.steps[-1].writes[-1])
            check_shape(f"shape of buffer '{name}'", found.shape, kind.size, ends)
            if found.flat != kind:
                raise ValueError(f"buffer '{name}' is {found}, but step {number} has {kind}")

    def _check_host(self, number: int, step: HostStep) -> None:
        check_choice(f"rule of step {number}", step.rule, tuple(RULES))
        if number in (0, len(self.steps) - 1):
            raise ValueError(f"step {number} is the host's, expected an engine's")
        if len(step.writes) != 1:
            raise ValueError(f"step {number} writes {len(step.writes)} buffers, expected 1")
        before, after = self.buffers[step.reads[0]], self.buffers[step.writes[0]]
        check_range(f"values that step {number} gives", after.size, before.size, before.size)


def _linked(images: Sequence[Image], input_shape: tuple[int, ...],
            output_shape: tuple[int, ...]) -> tuple[dict[str, TensorType], tuple[Step, ...]]:
    """Buffers and steps of images that follow one another."""
    buffers, last = {INPUT: images[0].input}, INPUT
    steps: list[Step] = []
    for image in images:
        if buffers[last] != image.input:
            name = _new(f"{last}:{image.engine}", buffers)
            steps.append(HostStep("convert", (last,), (name,)))
            buffers[name], last = image.input, name
        writes = []
        for layer, kind, sent in zip(image.layers, image.types, image.sent, strict=True):
            if sent:
                writes.append(_new(layer.name, buffers))
                buffers[writes[-1]] = kind
        steps.append(EngineStep(image, (last,), tuple(writes)))
        last = writes[-1]
    for name, shape in ((INPUT, input_shape), (last, output_shape)):
        if shape:
            buffers[name] = replace(buffers[name], shape=tuple(shape))
    return buffers, tuple(steps)


def _new(name: str, taken: dict[str, TensorType]) -> str:
    """A name that is not taken: as given, or with strokes behind it."""
    while name in taken:
        name += "'"
    return name


def _type(described: dict) -> TensorType:
    """A buffer's type from its JSON object; an engine step beside it knows what it has to be."""
    return TensorType(tuple(described["shape"]), np.dtype(described["dtype"]), described["scale"],
                      described["zero_point"])


def _step(number: int, described: dict, tensors: dict[str, np.ndarray]) -> Step:
    """One step from its JSON object and the file's tensors."""
    names = tuple(described["reads"]), tuple(described["writes"])
    if "rule" in described:
        return HostStep(described["rule"], *names)
    engine, prefix = described["engine"], f"step{number}."
    if engine not in registry.names():
        raise ValueError(f"step {number} is for the engine {engine!r}, expected "
                         f"{' or '.join(registry.names())}")
    return EngineStep(registry.engine(engine).image.from_file(described, {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items()
        if name.startswith(prefix)}), *names)


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
