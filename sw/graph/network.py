"""A trained network as every front end delivers it and the compiler takes it.

Between layers every sample is a flat vector; an image lies in it channel by channel, each
channel row by row.
"""

from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.im2col import Geometry, columns, fold
from zeroskip.sw.graph.types import TensorType

SMOOTHED = ":smooth"
"""Ends the name of a layer whose weights hold factors that the source model's do not have."""

BLOCK = 1 << 24
"""Values of patches that a convolution spreads out at a time."""


@dataclass(frozen=True, eq=False)
class Quantised:
    """What an already quantised model says of a layer, in int8.

    A value is its integer less the zero point, times the scale. uint8 of a model has become int8
    by subtracting 128 from values and zero points.

    Attributes
    ----------
    weight : int8 array [out, K]
        Zero point removed.
    weight_scale : float64 array [out]
    bias : int64 array [out]
        In units of the input's scale * weight_scale; the input's zero point is not folded in.
    input, output : TensorType
        int8; or int32 of scale 1 and zero point 0, where the output is the sum itself.
    """

    weight: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray
    input: TensorType
    output: TensorType

    @property
    def raw(self) -> bool:
        """Whether the output is the int32 sum itself."""
        return self.output.dtype == np.int32


class Layer(Protocol):
    """What every layer of a network has; :class:`Linear` and :class:`Conv2d` are the built-in
    ones.

    Attributes
    ----------
    name : str
        Name in the source model; error messages use it.
    weight, bias : float32 arrays
    activation : str
        ``"none"`` or ``"relu"``.
    quantised : Quantised or None
        The integers, where the model is quantised.
    matrix : float32 array [out, K]
        The weights that one output position takes.
    geometry : Geometry or None
        Of what slides over the input.
    inputs, outputs : int
        Lengths of flat samples.
    """

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> np.ndarray: ...

    @property
    def bias(self) -> np.ndarray: ...

    @property
    def activation(self) -> str: ...

    @property
    def quantised(self) -> Quantised | None: ...

    @property
    def matrix(self) -> np.ndarray: ...

    @property
    def geometry(self) -> Geometry | None: ...

    @property
    def inputs(self) -> int: ...

    @property
    def outputs(self) -> int: ...

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Float outputs [batch, outputs] of float32 ``x`` [batch, inputs]."""


@dataclass(frozen=True)
class Linear:
    """One fully-connected layer, ``y = act(weight @ x + bias)``.

    Attributes
    ----------
    name : str
        Name in the source model; error messages use it.
    weight : float32 array [out, in]
    bias : float32 array [out]
    activation : str
        ``"none"`` or ``"relu"``.
    quantised : Quantised or None
        The integers, where the model is quantised; ``weight`` and ``bias`` are their values.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray
    activation: str
    quantised: Quantised | None = None

    @property
    def matrix(self) -> np.ndarray:
        """The weights as float32 [out, K]."""
        return self.weight

    @property
    def geometry(self) -> None:
        """None: nothing slides over the input."""
        return

    @property
    def inputs(self) -> int:
        """Length of a flat input sample."""
        return self.weight.shape[1]

    @property
    def outputs(self) -> int:
        """Length of a flat output sample."""
        return self.weight.shape[0]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Float outputs [batch, outputs] of float32 ``x`` [batch, inputs]."""
        return _activate(x @ self.weight.T + self.bias, self.activation)


@dataclass(frozen=True)
class Conv2d:
    """One 2-d convolution with zero padding; as PyTorch and ONNX define it (no kernel flip).

    Attributes
    ----------
    name : str
        Name in the source model; error messages use it.
    weight : float32 array [out, in, kernel rows, kernel columns]
        ``in`` of the channels of a group.
    bias : float32 array [out]
    activation : str
        ``"none"`` or ``"relu"``.
    input_shape : tuple of int
        Channels, height, width.
    stride, dilation : tuple of int
        Along height and width.
    padding : tuple of int
        Rows and columns added at the top, left, bottom, right.
    groups : int
    quantised : Quantised or None
        The integers, where the model is quantised; ``weight`` and ``bias`` are their values.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray
    activation: str
    input_shape: tuple[int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    quantised: Quantised | None = None
    groups: int = 1

    def __post_init__(self):
        if self.weight.ndim != 4 or self.weight.shape[1] * self.groups != self.input_shape[0]:
            raise BadInput(f"layer {self.name}: the weight must be [out, "
                           f"{self.input_shape[0] // self.groups}, kernel rows, kernel columns], "
                           f"not {list(self.weight.shape)}")
        if len(self.weight) % self.groups:
            raise BadInput(f"layer {self.name}: its {len(self.weight)} outputs are no multiple of "
                           f"its {self.groups} groups")
        _ = self.geometry   # checks the rest

    @property
    def kernel(self) -> tuple[int, int]:
        """Rows and columns of the kernel."""
        return self.weight.shape[2:]

    @property
    def matrix(self) -> np.ndarray:
        """The weights as float32 [out, K]: K runs over channel of the group, kernel row, kernel
        column."""
        return self.weight.reshape(len(self.weight), -1)

    @property
    def geometry(self) -> Geometry:
        """Where the kernel looks."""
        return Geometry(self.input_shape, self.kernel, self.stride, self.padding, self.dilation,
                        self.groups)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (len(self.weight), *self.geometry.output_size)

    @property
    def inputs(self) -> int:
        """Length of a flat input sample."""
        return prod(self.input_shape)

    @property
    def outputs(self) -> int:
        """Length of a flat output sample."""
        return prod(self.output_shape)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Float outputs [batch, outputs] of float32 ``x`` [batch, inputs]."""
        geometry, own = self.geometry, (self.groups, len(self.weight) // self.groups, -1)
        matrix = self.matrix.reshape(own).swapaxes(1, 2)
        y = np.empty((len(x), self.outputs), np.float32)
        step = max(1, BLOCK // (geometry.positions * geometry.patch * self.groups))
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            patches = columns(x[rows], geometry, 0)
            patches = patches.reshape(len(patches), self.groups, -1).swapaxes(0, 1)
            sums = (patches @ matrix).swapaxes(0, 1).reshape(patches.shape[1], -1) + self.bias
            y[rows] = fold(_activate(sums, self.activation), geometry)
        return y


@dataclass(frozen=True)
class Network:
    """A chain of layers; the input is flattened before the first.

    Attributes
    ----------
    layers : tuple of Layer
    input_dtype : str
        Type of the model's input: ``"float32"``, or ``"int8"`` or ``"uint8"`` where it takes the
        integers of its first layer, which is quantised then. :meth:`forward` takes real values
        all the same.
    input_shape, output_shape : tuple of int
        Of one sample, as the model has it; where it is not given, or the input is flat, as the
        first and the last layer have it: (channels, height, width), or (values,).
    """

    layers: tuple[Layer, ...]
    input_dtype: str = "float32"
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    def __post_init__(self):
        first, last = self.layers[0], self.layers[-1]
        if len(self.input_shape) < 2:
            shape = getattr(first, "input_shape", (first.inputs,))
            object.__setattr__(self, "input_shape", shape)
        if not self.output_shape:
            shape = getattr(last, "output_shape", (last.outputs,))
            object.__setattr__(self, "output_shape", shape)

    @property
    def inputs(self) -> int:
        """Length of the flattened input vector."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Length of the flattened output vector."""
        return self.layers[-1].outputs

    def forward(self, x: np.ndarray) -> list[np.ndarray]:
        """Float outputs of every layer.

        ``x`` is a float array, batch first, any shape that flattens to ``[batch, inputs]``;
        the result holds one float32 ``[batch, outputs of the layer]`` array per layer.
        """
        y, outputs = np.asarray(x, np.float32).reshape(len(x), -1), []
        for layer in self.layers:
            y = layer.forward(y)
            outputs.append(y)
        return outputs


def as_samples(what: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The samples in ``values``, batch first, as flat rows [batch, values].

    ``BadInput``, which begins with ``what``, where they are neither flat nor of the model's
    ``shape``: the same values in another order would be other inputs.
    """
    size, given = prod(shape), values.shape[1:]
    fits = values.size > 0 and prod(given) == size
    if not fits or (len(given) > 1 and given != shape):
        wanted = ", ".join(map(str, ("batch", *shape)))
        flat = f", or flat [batch, {size}]" if len(shape) > 1 else ""
        remedy = ("give samples of this size" if not fits else
                  "bring its axes into this order" if flat else "flatten its samples")
        raise BadInput(f"{what} is {list(values.shape)}, but the model takes {size} values per "
                       f"sample, batch first: [{wanted}]{flat}; {remedy}")
    return values.reshape(-1, size)


def as_int8(what: str, values: np.ndarray, input_dtype: str) -> np.ndarray:
    """The int8 of an engine from inputs of a model that takes ``"int8"`` or ``"uint8"``.

    ``BadInput``, which begins with ``what``, where they have another type.
    """
    if values.dtype != input_dtype:
        raise BadInput(f"{what} is {values.dtype}, but the model takes {input_dtype}; give the "
                       f"integers that the model itself takes, as {input_dtype}")
    if input_dtype == "uint8":
        return (values.astype(np.int16) - 128).astype(np.int8)
    return values


def _activate(y, activation):
    return np.maximum(y, 0) if activation == "relu" else y
