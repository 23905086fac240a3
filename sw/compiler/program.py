"""The program file, ``model.zsk``: everything that one network puts into the cores, and what the
host does between them.

A safetensors file. Its tensors are those of the images, ``image{i}.`` before each name, and the
ONNX models of the host, ``step{i}.model``, uint8; its metadata holds, under ``zeroskip``, a JSON
object: the format ``version``, the ``reference``'s digest, the ``batch``, ``inputs`` and
``outputs`` (the model's own ``name`` and ``dtype``, and the ``buffer``), ``buffers`` (by name:
shape, dtype, scale, zero_point), ``images``, ``steps`` in their order, and ``crc32``, a CRC-32 of
every tensor; under ``crc32`` a CRC-32 of that JSON text. An image has its ``engine``, the target
``config`` and its ``digest``, and what its class says of itself. A step has the names of the
buffers that it ``reads`` and ``writes``. That of an engine has the number of its ``image``, in the
order in which steps first use them; it takes its buffer as rows of as many values as the image has
inputs. That of the host has a ``rule`` of :data:`zeroskip.sw.compiler.rules.RULES` and the fields
of its class there, whole numbers and lists of them: ``geometry`` (``input_shape``, ``kernel``,
``stride``, ``padding``, ``dilation``, ``groups``, which is 1), ``counted``, ``multipliers``,
``shift``, ``zero_points``, ``low`` and ``high``, ``rows``, ``shape`` and ``axes``; or ``onnx`` for
a model, whose operands and results are the buffers in order.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from zeroskip.sw.compiler import reference, rules
from zeroskip.sw.compiler.rules import Convert, Rule
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Image, ReferenceLayer
from zeroskip.sw.engines.checks import check_choice, check_range, check_scale, check_shape
from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats.tensorfile import parse_json, read_safetensors, write_safetensors
from zeroskip.sw.graph.session import Session
from zeroskip.sw.graph.types import TensorType

T = TypeVar("T")

VERSION = 6
"""Format version that this code writes and reads."""

INPUT = "input"
"""The only input of a chain."""

ONNX = "onnx"
"""The rule of a step that runs a model of operators."""

LONGEST = (1 << 31) - 1
"""Most values of a buffer."""

ENGINES = (np.int8, np.int16)
"""Types of an engine's inputs, into which the caller of a program converts float inputs."""


@dataclass(frozen=True, eq=False)
class EngineStep:
    """An engine computes ``image``, which may be that of other steps too, from the one buffer that
    it reads; it writes one for each layer that the image sends out."""

    image: Image
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class HostStep:
    """The host makes one buffer of others by an exact rule; see
    :mod:`zeroskip.sw.compiler.rules`."""

    rule: Rule
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def header(self) -> dict:
        """What the file says of it, beside the names."""
        return {"rule": self.rule.name, **self.rule.header()}


@dataclass(frozen=True, eq=False)
class OperatorStep:
    """The host runs operators that no engine has, in onnxruntime."""

    session: Session
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def header(self) -> dict:
        """What the file says of it, beside the names."""
        return {"rule": ONNX}


Step = EngineStep | HostStep | OperatorStep


@dataclass(frozen=True)
class Port:
    """An input or output of the model.

    Attributes
    ----------
    name, dtype : str
        As the model has it.
    buffer : str
    """

    name: str
    dtype: str
    buffer: str


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled network: steps that read and write named buffers.

    Attributes
    ----------
    buffers : dict of str to TensorType
        In the order in which they are written, the inputs first. Their shapes are those of a run,
        without a batch of 1.
    steps : tuple of EngineStep, HostStep or OperatorStep
        In order.
    inputs, outputs : tuple of Port
        Of the model.
    reference : str
        Digest of the integer reference that was written beside it, and of all that is said here.
        Scales, zero points, shapes and images are bound to it: :meth:`load` takes the
        reference out of them again and compares.
    batch : int
        Samples that go through together, as the model was exported.
    """

    buffers: dict[str, TensorType]
    steps: tuple[Step, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    reference: str = ""
    batch: int = 1

    @classmethod
    def chain(cls, images: Sequence[Image], layers: Iterable[ReferenceLayer],
              input_dtype: str = "float32", input_shape: tuple[int, ...] = (),
              output_shape: tuple[int, ...] = ()) -> "Program":
        """The program of images that follow one another, bound to the reference ``layers``.

        Where one image's outputs are other integers than the next one's inputs, the host converts
        them. The shapes are those of a sample; () is a flat one.
        """
        first = images[0].input
        made = Builder({INPUT: replace(first, shape=tuple(input_shape) or first.shape)})
        last = INPUT
        for image in images:
            last = made.engine(image, last, [layer.name for layer in image.layers])
        if output_shape:
            made.buffers[last] = replace(made.buffers[last], shape=tuple(output_shape))
        ends = Port(INPUT, input_dtype, INPUT), Port(last, "float32", last)
        return made.program((ends[0],), (ends[1],), layers)

    @property
    def images(self) -> tuple[Image, ...]:
        """Those of all engine steps, each once, in the order of their first use."""
        return tuple({id(step.image): step.image for step in self.steps
                      if isinstance(step, EngineStep)}.values())

    @cached_property
    def _numbers(self) -> dict[int, int]:
        """The number of each image by its id."""
        return {id(image): number for number, image in enumerate(self.images)}

    @property
    def layers(self) -> tuple:
        """The layers of all images."""
        return tuple(layer for image in self.images for layer in image.layers)

    @property
    def input(self) -> TensorType:
        """The type of the only, or first, input."""
        return self.buffers[self.inputs[0].buffer]

    @property
    def output(self) -> TensorType:
        """The type of the only, or first, output."""
        return self.buffers[self.outputs[0].buffer]

    def by_step(self, given: Iterable[T]) -> list[tuple[T, ...]]:
        """Of what is given for each layer of the images, in order: that for the layers of each
        engine step."""
        left = iter(given)
        own = [tuple(islice(left, len(image.layers))) for image in self.images]
        return [own[self._numbers[id(step.image)]] for step in self.steps
                if isinstance(step, EngineStep)]

    def rows(self, step: EngineStep) -> int:
        """Rows of the image's inputs in a run."""
        return self.buffers[step.reads[0]].size // step.image.inputs

    def with_images(self, *images: Image) -> "Program":
        """The same program with other images for the same layers, in order."""
        buffers = {port.buffer: self.buffers[port.buffer] for port in self.inputs}
        steps: list[Step] = []
        others = {id(old): new for old, new in zip(self.images, images, strict=True)}
        for step in self.steps:
            if not isinstance(step, EngineStep):
                buffers |= {name: self.buffers[name] for name in step.writes}
                steps.append(step)
                continue
            image, rows = others[id(step.image)], self.rows(step)
            own = dict(zip((i for i, sent in enumerate(step.image.sent) if sent), step.writes,
                           strict=True))
            writes = []
            for i, (layer, kind, sent) in enumerate(zip(image.layers, image.types, image.sent,
                                                        strict=True)):
                if sent:
                    writes.append(own.get(i) or _new(layer.name, self.buffers | buffers))
                    found = _times(kind, rows)
                    if i in own and self.buffers[own[i]].size == found.size:
                        found = replace(found, shape=self.buffers[own[i]].shape)
                    buffers[writes[-1]] = found
            steps.append(EngineStep(image, step.reads, tuple(writes)))
        return replace(self, buffers=buffers, steps=tuple(steps))

    def traced(self) -> "Program":
        """The same program with a buffer for the outputs of every layer."""
        return self.with_images(*(image.traced() for image in self.images))

    def digest(self, layers: Iterable[ReferenceLayer]) -> str:
        """What :attr:`reference` is where these layers are the reference; whether inner layers are
        sent out does not count."""
        inner = {name for step in self.steps if isinstance(step, EngineStep)
                 for name in step.writes[:-1]}
        return reference.digest(layers, {
            "batch": self.batch, "inputs": [asdict(port) for port in self.inputs],
            "outputs": [asdict(port) for port in self.outputs],
            "buffers": [[name, str(kind)] for name, kind in self.buffers.items()
                        if name not in inner],
            "steps": [[step.reads, [name for name in step.writes if name not in inner],
                       self._digest(step)] for step in self.steps]})

    def _digest(self, step: Step) -> str | list:
        """What a step does, apart from the numbers of an image."""
        if isinstance(step, EngineStep):
            return [self._numbers[id(step.image)], step.image.config.digest()]
        if isinstance(step, HostStep):
            return json.dumps(step.header(), sort_keys=True)
        return hashlib.sha256(step.session.model).hexdigest()

    def save(self, path: Path) -> None:
        """Writes the file."""
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in self._tensors()}
        header = json.dumps({
            "version": VERSION,
            "reference": self.reference,
            "batch": self.batch,
            "inputs": [asdict(port) for port in self.inputs],
            "outputs": [asdict(port) for port in self.outputs],
            "buffers": [{"name": name, "shape": kind.shape, "dtype": kind.dtype.name,
                         "scale": kind.scale, "zero_point": kind.zero_point}
                        for name, kind in self.buffers.items()],
            "images": [{"engine": image.engine, "config": asdict(image.config),
                        "digest": image.config.digest(), **image.header()}
                       for image in self.images],
            "steps": [{"reads": step.reads, "writes": step.writes,
                       **({"image": self._numbers[id(step.image)]}
                          if isinstance(step, EngineStep) else step.header())}
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
            images = [_image(i, described, tensors)
                      for i, described in enumerate(header["images"])]
            program = cls(
                {each["name"]: _type(each) for each in header["buffers"]},
                tuple(_step(i, described, images, tensors)
                      for i, described in enumerate(header["steps"])),
                tuple(Port(**port) for port in header["inputs"]),
                tuple(Port(**port) for port in header["outputs"]),
                header["reference"], header["batch"])
            if len(program.buffers) < len(header["buffers"]):
                raise ValueError("two buffers have one name")
            digests = [described["digest"] for described in header["images"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{path}: the program's header does not hold together ({error}); "
                           "compile the model again") from None
        for image, digest in zip(images, digests, strict=True):
            if digest != image.config.digest():
                raise BadInput(f"{path}: the configuration has digest {image.config.digest()}, but "
                               f"the program was built for {digest}; compile the model again")
        if list(map(id, images)) != list(program._numbers):
            raise BadInput(f"{path}: it has {len(images)} images, and its steps use "
                           f"{len(program.images)} of them, or not in their order; compile the "
                           "model again")
        try:
            program._check(tensors)
        except ValueError as error:
            raise BadInput(f"{path}: {error}; compile the model again") from None
        return program

    def _tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """What the file holds in tensors, by name."""
        for i, image in enumerate(self.images):
            for name, tensor in image.tensors().items():
                yield f"image{i}.{name}", tensor
        for i, step in enumerate(self.steps):
            if isinstance(step, OperatorStep):
                yield f"step{i}.model", np.frombuffer(step.session.model, np.uint8)

    def _check(self, tensors: dict[str, np.ndarray]) -> None:
        """Each step, that they follow one another and take the inputs, that no tensor is left over,
        and that all of it is what the reference says; ``ValueError`` on a misfit."""
        if not self.images:
            raise ValueError("it has 0 steps of an engine, expected 1 or more")
        for i, image in enumerate(self.images):
            try:
                image.check()
            except ValueError as error:
                raise ValueError(f"image {i} ({image.engine}): {error}") from None
        check_range("batch", self.batch, 1, LONGEST)
        self._check_ports()
        self._check_order()
        for i, step in enumerate(self.steps):
            if isinstance(step, EngineStep):
                self._check_engine(i, step)
            elif isinstance(step, HostStep):
                self._check_host(i, step)
            else:
                self._check_operators(i, step)
        self._check_buffers(self.buffers)
        for name in sorted(set(tensors) - {name for name, _ in self._tensors()}):
            raise ValueError(f"tensor '{name}' belongs to no layer")
        if self.digest(layer for image in self.images
                       for layer in image.unpacked()) != self.reference:
            raise ValueError("its scales, zero points, shapes or images are not those of the "
                             "reference that it was compiled with")

    def _check_ports(self) -> None:
        for port in (*self.inputs, *self.outputs):
            if port.buffer not in self.buffers:
                raise ValueError(f"it has no buffer '{port.buffer}' for {port.name!r}")
        if not self.inputs or not self.outputs:
            raise ValueError("it has no input, or no output")
        for port in self.inputs:
            own = self.buffers[port.buffer].dtype
            known = ["float32"] * (own in ENGINES) + ["int8", "uint8"] * (own == np.int8)
            check_choice(f"type of the input {port.name!r}", port.dtype,
                         tuple(known or [own.name]))

    def _check_order(self) -> None:
        """Each step reads what is there already, and every buffer is one of theirs."""
        names = [port.buffer for port in self.inputs]
        for i, step in enumerate(self.steps):
            for name in step.reads:
                if name not in names:
                    raise ValueError(f"step {i} reads {name!r}, which no step before it writes")
            names += step.writes
        if names != list(self.buffers):
            raise ValueError(f"its buffers are {list(self.buffers)}, but its steps read and write "
                             f"{names}")

    def _check_buffers(self, names: Iterable[str]) -> None:
        for name in names:
            kind = self.buffers[name]
            check_scale(f"scale of buffer '{name}'", kind.scale)
            check_range(f"zero point of buffer '{name}'", kind.zero_point, -LONGEST, LONGEST)
            if not all(isinstance(size, int) and 0 < size <= LONGEST for size in kind.shape) \
                    or kind.size > LONGEST:
                raise ValueError(f"buffer '{name}' has the shape {list(kind.shape)}, expected "
                                 f"whole numbers, and at most {LONGEST} values")

    def _check_engine(self, number: int, step: EngineStep) -> None:
        image = step.image
        kinds = [kind for kind, sent in zip(image.types, image.sent, strict=True) if sent]
        if len(step.writes) != len(kinds) or len(step.reads) != 1:
            raise ValueError(f"step {number} reads {len(step.reads)} and writes {len(step.writes)} "
                             f"buffers, but its image takes 1 and sends {len(kinds)}")
        before, rows = self.buffers[step.reads[0]], self.rows(step)
        if before.size != rows * image.inputs:
            raise ValueError(f"buffer '{step.reads[0]}' has {before.size} values, expected a "
                             f"multiple of the {image.inputs} that step {number} takes")
        for name, kind in zip((*step.reads, *step.writes), (image.input, *kinds), strict=True):
            check_shape(f"shape of buffer '{name}'", self.buffers[name].shape, rows * kind.size)
            if self.buffers[name].flat != _times(kind, rows):
                raise ValueError(f"buffer '{name}' is {self.buffers[name]}, but step {number} has "
                                 f"{kind}")

    def _check_host(self, number: int, step: HostStep) -> None:
        if len(step.writes) != 1:
            raise ValueError(f"step {number} writes {len(step.writes)} buffers, expected 1")
        self._check_buffers((*step.reads, *step.writes))        # a rule divides by scales
        try:
            step.rule.check([self.buffers[name] for name in step.reads],
                            self.buffers[step.writes[0]])
        except ValueError as error:
            raise ValueError(f"step {number} ({step.rule.name}): {error}") from None

    def _check_operators(self, number: int, step: OperatorStep) -> None:
        reads, writes = step.session.check(f"step {number}")
        for which, names, kinds in (("reads", step.reads, reads), ("writes", step.writes, writes)):
            found = [(self.buffers[name].size, self.buffers[name].dtype) for name in names]
            if found != kinds:
                raise ValueError(f"step {number} {which} {found} values, but its model has {kinds}")


class Builder:
    """Buffers and steps, one after another.

    Attributes
    ----------
    buffers : dict of str to TensorType
    steps : list of Step
    """

    def __init__(self, inputs: dict[str, TensorType]):
        self.buffers = dict(inputs)
        self.steps: list[Step] = []

    def convert(self, name: str, wanted: TensorType, called: str) -> str:
        """A buffer with the values of another as ``wanted`` has them; its shape does not count."""
        own = self.buffers[name]
        if replace(own, shape=()) == replace(wanted, shape=()):
            return name
        return self.rule(Convert(), [name], replace(wanted, shape=own.shape), called)

    def rule(self, rule: Rule, reads: Sequence[str], kind: TensorType, called: str) -> str:
        """A buffer of this type that a rule makes of others."""
        made = _new(called, self.buffers)
        self.steps.append(HostStep(rule, tuple(reads), (made,)))
        self.buffers[made] = kind
        return made

    def engine(self, image: Image, name: str, names: Sequence[str],
               shape: tuple[int, ...] = ()) -> str:
        """The buffer of the last layer that ``image`` makes of one, whose layers' outputs are
        called ``names`` and have ``shape`` in the end."""
        own = self.convert(name, image.input, f"{name}:{image.engine}")
        rows, writes = self.buffers[own].size // max(image.inputs, 1), []
        for called, kind, sent in zip(names, image.types, image.sent, strict=True):
            if sent:
                writes.append(_new(called, self.buffers))
                self.buffers[writes[-1]] = _times(kind, rows)
        if shape:
            self.buffers[writes[-1]] = replace(self.buffers[writes[-1]], shape=shape)
        self.steps.append(EngineStep(image, (own,), tuple(writes)))
        return writes[-1]

    def operators(self, session: Session, reads: Sequence[str],
                  writes: Mapping[str, TensorType]) -> None:
        """What a model of the host makes of buffers."""
        self.buffers.update(writes)
        self.steps.append(OperatorStep(session, tuple(reads), tuple(writes)))

    def program(self, inputs: tuple[Port, ...], outputs: tuple[Port, ...],
                layers: Iterable[ReferenceLayer], batch: int = 1) -> Program:
        """All of it, bound to the reference ``layers``."""
        made = Program(self.buffers, tuple(self.steps), inputs, outputs, "", batch)
        return replace(made, reference=made.digest(layers))


def _times(kind: TensorType, rows: int) -> TensorType:
    """The type of so many rows."""
    return replace(kind, shape=(rows * kind.size,))


def _new(name: str, taken: dict[str, TensorType]) -> str:
    """A name that is not taken: as given, or with the first free number from 2 on behind it."""
    if name not in taken:
        return name
    return next(each for each in (f"{name}#{number}" for number in count(2)) if each not in taken)


def _type(described: dict) -> TensorType:
    """A buffer's type from its JSON object; an engine step beside it knows what it has to be."""
    return TensorType(tuple(described["shape"]), np.dtype(described["dtype"]), described["scale"],
                      described["zero_point"])


def _image(number: int, described: dict, tensors: dict[str, np.ndarray]) -> Image:
    """One image from its JSON object and the file's tensors."""
    engine, prefix = described["engine"], f"image{number}."
    if engine not in registry.names():
        raise ValueError(f"image {number} is for the engine {engine!r}, expected "
                         f"{' or '.join(registry.names())}")
    return registry.engine(engine).image.from_file(described, {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items()
        if name.startswith(prefix)})


def _step(number: int, described: dict, images: Sequence[Image],
          tensors: dict[str, np.ndarray]) -> Step:
    """One step from its JSON object, the images and the file's tensors."""
    names = tuple(described["reads"]), tuple(described["writes"])
    if described.get("rule") == ONNX:
        return OperatorStep(Session(tensors[f"step{number}.model"].tobytes()), *names)
    if "rule" in described:
        return HostStep(rules.from_file(f"step {number}", described), *names)
    check_range(f"image of step {number}", described["image"], 0, len(images) - 1)
    return EngineStep(images[described["image"]], *names)


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
