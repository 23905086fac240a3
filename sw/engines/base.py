"""What an engine is: it computes consecutive layers of a network, on hardware and in integers.

Everything else asks :mod:`zeroskip.sw.engines.registry` for an engine by its name, or by a
configuration, and knows no engine's classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Layer, Network
from zeroskip.sw.graph.types import TensorType
from zeroskip.sw.quantize.calibration import Range

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all: by backends that have to build something
first with what was done before, when it is there."""

Cost = Callable[[Network], float]
"""What a network costs."""


class Device(Protocol):
    """A core as a host reaches it, just after reset: in a simulator or on a board.

    Names are those of the Verilog: ``inputs__payload`` is the port ``inputs.payload``.
    """

    def poke(self, name: str, value: int) -> None:
        """Sets an input of at most 32 bits."""

    def peek(self, name: str) -> int:
        """The value of a port of at most 32 bits."""

    def tick(self, cycles: int = 1) -> None:
        """Advances the clock by at least so many cycles."""

    def wait(self, name: str, value: int) -> None:
        """Until a port has a value; ``TimeoutError`` where it takes too long."""

    def pending(self, name: str) -> bool:
        """Whether a stream has an item to give."""

    def run(self, send: dict[str, np.ndarray],
            receive: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Sends items uint32 [items, words] by stream, receives as many others as asked for;
        gives them, and the cycle since reset in which each came. ``TimeoutError`` where nothing
        moves for too long."""


class Statistics(Protocol):
    """Where the cycles of a batch went, from a core's own counters.

    Attributes
    ----------
    images : int
    cycles : int
        Cycles in computing mode, all images together.
    multipliers : int
    utilisation : float
        Useful multiply-accumulates over those that the multipliers had time for.
    saturated : int
        Outputs that had to be saturated.
    layers : tuple of dict
        By layer ``cycles``, ``useful`` multiply-accumulates and ``saturated``, where the core
        counts its layers apart; else empty.
    """

    images: int
    cycles: int
    multipliers: int
    utilisation: float
    saturated: int
    layers: tuple[dict[str, int], ...]

    def as_json(self) -> dict:
        """Plain numbers for ``--json``."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a batch gave in one image.

    Attributes
    ----------
    outputs : tuple of integer arrays [batch, outputs]
        One array per layer that the image sends out.
    times : tuple of int64 [batch, outputs]
        The clock cycle since reset in which each output left the core; zero for backends without
        a clock.
    statistics : Statistics or None
        None for backends without a clock, and for configurations without counters.
    saturated : int or None
        Outputs that had to be saturated, those of inner layers too; None where nothing counts them.
    inputs_saturated : int
        Values that the host had to saturate when it converted the outputs of the image before.
    """

    outputs: tuple[np.ndarray, ...]
    times: tuple[np.ndarray, ...]
    statistics: Statistics | None = None
    saturated: int | None = 0
    inputs_saturated: int = 0


DENSE = 0.75
"""Share of weights that are not zero above which a layer counts as dense."""


@dataclass(frozen=True)
class Offer:
    """What an engine makes of a layer that it takes.

    Attributes
    ----------
    pattern : str
        What the engine sees in the zeros of the weights: ``"dense"``, ``"2:4"``, ``"1:4"`` or
        ``"unstructured"``.
    reason : str
        A sentence: how the layer runs, and why so.
    """

    pattern: str
    reason: str


@dataclass(frozen=True)
class Estimate:
    """What a layer costs on a configuration, without its samples.

    Attributes
    ----------
    cycles : float
        For a sample, from weights and sizes alone.
    bytes : int
        That are stored of it.
    basis : str
        What the cycles rest on, in a few words.
    """

    cycles: float
    bytes: int
    basis: str


class ReferenceLayer(Protocol):
    """A layer in integers, without any packing: what a stranger needs to compute it.

    Attributes
    ----------
    engine : str
        Name of the engine that says how it computes.
    TENSORS : dict
        The arrays that the reference file holds of it, and the type of each.
    name, activation : str
    weight : integer array [out, K]
    input, output : TensorType
        Of a sample, flat.
    """

    engine: ClassVar[str]
    TENSORS: ClassVar[dict[str, type]]
    name: str
    activation: str
    weight: np.ndarray
    input: TensorType
    output: TensorType

    def header(self) -> dict:
        """What the reference file says of the layer in JSON, beside its name, engine, activation
        and types."""

    @classmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "ReferenceLayer":
        """The layer that a file describes, all of ``header``, with these tensors; ``KeyError``,
        ``TypeError``, ``ValueError`` or ``IndexError`` where something is missing or of another
        kind."""


class Image(ABC):
    """Everything that consecutive layers put into one core.

    Attributes
    ----------
    engine : str
        Name of the engine.
    unit : str
        What computes an output, as messages call it.
    config : CoreConfig
        Of the core.
    layers : tuple
        What there is to tell of each layer: name, activation, the types ``input`` and ``output``
        of a sample, flat, and more.
    """

    engine: ClassVar[str]
    unit: ClassVar[str]
    config: CoreConfig
    layers: tuple

    @property
    def inputs(self) -> int:
        """Length of the flat input."""
        return self.input.size

    @property
    def outputs(self) -> int:
        """Length of the flat output."""
        return self.output.size

    @property
    def input(self) -> TensorType:
        """The type of the input, flat."""
        return self.layers[0].input

    @property
    def types(self) -> tuple[TensorType, ...]:
        """Of each layer's outputs, flat."""
        return tuple(layer.output for layer in self.layers)

    @property
    def output(self) -> TensorType:
        """The type of the last layer's outputs."""
        return self.types[-1]

    @property
    def sent(self) -> tuple[bool, ...]:
        """Of each layer, whether its outputs are sent out."""
        return (True,) * len(self.layers)

    @property
    def work(self) -> int:
        """About as much as a sample takes, beside other images; for progress."""
        return 1

    @property
    def counted(self) -> bool:
        """Whether the core counts its cycles."""
        return True

    @abstractmethod
    def traced(self) -> "Image":
        """The same image with the outputs of every layer sent out, not only the last."""

    @abstractmethod
    def owner(self, layer, output: int) -> int:
        """Which :attr:`unit` computes an output of a layer."""

    @abstractmethod
    def unpacked(self) -> Iterator[ReferenceLayer]:
        """The layers without any packing; ``ValueError`` where what is packed cannot be."""

    @abstractmethod
    def storage(self) -> dict[str, int]:
        """Bytes that the image occupies, by kind, and under ``float32`` of its original."""

    def stored(self, layer) -> tuple[str | None, int | None]:
        """The pattern in which the weights of a layer are stored, and the bytes that they and
        their places take; None where that is not known."""
        return None, None

    @abstractmethod
    def header(self) -> dict:
        """What the program file says of the image in JSON, beside its configuration."""

    @abstractmethod
    def tensors(self) -> dict[str, np.ndarray]:
        """What the program file holds of the image in tensors."""

    @classmethod
    @abstractmethod
    def from_file(cls, header: dict, tensors: dict[str, np.ndarray]) -> "Image":
        """The inverse of :meth:`header`, which has its ``config`` too, and :meth:`tensors`;
        ``KeyError``, ``TypeError`` or ``ValueError`` where something is missing or of another
        kind."""

    @abstractmethod
    def check(self) -> None:
        """Everything against everything else and the configuration; ``ValueError`` on a misfit."""

    @abstractmethod
    def check_size(self) -> None:
        """``BadInput`` where a core of this configuration is too large for any simulation."""


class Engine(ABC):
    """One engine; the registry holds an instance of each.

    Attributes
    ----------
    name : str
        The ``kind`` of its configurations.
    configs : dict
        The configurations that have a name.
    image : type
        Class of its images.
    layer : type
        Class of its reference layers.
    shown : dict
        Which facts of :meth:`describe` a table shows, and under which head.
    costs : dict
        By name, a function from a configuration and float samples [batch, ...] to a :data:`Cost`.
    patches : bool
        Whether it takes of a convolution the patches, as rows of a fully-connected layer.
    sums : bool
        Whether it can give sums; the report of such a layer has ``units`` then, see
        :meth:`quantise`.
    """

    name: ClassVar[str]
    configs: ClassVar[dict[str, CoreConfig]]
    image: ClassVar[type[Image]]
    layer: ClassVar[type[ReferenceLayer]]
    shown: ClassVar[dict[str, str]]
    costs: ClassVar[dict[str, Callable[[CoreConfig, np.ndarray], Cost]]] = {}
    patches: ClassVar[bool] = False
    sums: ClassVar[bool] = False

    @abstractmethod
    def accepts(self, layer: Layer) -> Offer:
        """What the engine makes of a layer; ``BadInput`` with the reason where it cannot take
        it."""

    def estimate(self, layer: Layer, config: CoreConfig, batch: int | None = None) -> Estimate:
        """What a layer that the engine takes costs on a configuration, of a ``batch`` where samples
        go through together."""
        positions = layer.geometry.positions if layer.geometry else 1
        return Estimate(positions * layer.weight.size, layer.weight.nbytes,
                        "one multiplier that is never idle")

    def holds(self, layers: Sequence[Layer], config: CoreConfig) -> bool:
        """Whether a core holds all of these layers as they are, by an estimate; what it does not
        hold may run all the same, in pieces."""
        return bool(layers) and config.kind == self.name

    @abstractmethod
    def grid(self, low: float, high: float) -> TensorType:
        """The integers that stand for activations from ``low``, at most 0, to ``high``, at least
        0; one of the two is not 0. The type of one value."""

    @abstractmethod
    def quantise(self, section: Network, x: np.ndarray | None, ranges: Sequence[Range] | None,
                 config: CoreConfig, before: TensorType | None = None,
                 raw: bool = False) -> tuple[tuple[ReferenceLayer, ...], tuple]:
        """Consecutive layers in integers, and a report of each.

        ``x`` float32 [batch, inputs] reaches them, and ``ranges`` are those of their input and of
        every output; None where every layer is quantised already. ``before`` is the type of the
        integers that reach them, where there are some already: the engine takes them as they are
        if it can. With ``raw``, which only an engine that has :attr:`sums` is asked for, the last
        layer is to give its sums, without its activation, and ``units`` of its report, float64
        [out], are what they count in. ``BadInput`` where no scale suits a layer.
        """

    @abstractmethod
    def lower(self, layers: Sequence[ReferenceLayer], config: CoreConfig,
              batch: int | None = None) -> Image:
        """The image of quantised layers, for a batch size where the engine's images have one;
        ``BadInput`` where they do not fit the core."""

    def c_source(self, image: Image, name: str, addresses: dict[str, int]) -> str:
        """An image as C definitions of ``name``, for a core whose ports are at ``addresses``, in
        bytes from its page; ``BadInput`` where the engine has none."""
        raise BadInput(f"images of the engine {self.name} are not written as C; compile the model "
                       "for another engine")

    @abstractmethod
    def golden(self, layer: ReferenceLayer, x: np.ndarray) -> tuple[np.ndarray, int]:
        """Outputs of a layer on integers [batch, inputs], and how many had to be saturated; from
        the layer alone."""

    @abstractmethod
    def run(self, device: Device, image: Image, x: np.ndarray,
            progress: Progress | None = None) -> Result:
        """Runs integers [batch, inputs] on a core. ``EngineError`` where what comes cannot be the
        image's outputs."""

    @abstractmethod
    def describe(self, layer, report) -> dict:
        """Facts of one layer of an image and its report, for tables."""

    def deviation(self, layer: ReferenceLayer, own: Layer,
                  units: np.ndarray | None = None) -> Callable[[slice], "Deviation"]:
        """By rows: what a layer computes in real numbers, and how far quantisation may have moved
        it from the float layer ``own``. ``units``, float64 [out], are what its sums count in,
        where they are its outputs."""
        raise BadInput(f"layer {layer.name}: no bound is known between the engine {self.name} and "
                       "a float model; verify the program without one")


@dataclass(frozen=True, eq=False)
class Deviation:
    """Rows of a layer as real numbers, float64.

    Attributes
    ----------
    unit : [rows]
        Real value of one in an accumulator.
    weight, most : [rows, K]
        The weights, and how far each may be from that of the float layer.
    bias : [rows]
        Without what an input's zero point adds.
    """

    unit: np.ndarray
    weight: np.ndarray
    most: np.ndarray
    bias: np.ndarray
