"""The walk that every front end shares: a chain of nodes becomes a list of layers.

A front end knows its file format only. It hands each node to :meth:`Chain.node` in order; the
chain checks that the node continues the path from the input, and collects either a layer of
:mod:`zeroskip.sw.graph.network` or an :class:`Unsupported` row, so that one reading finds every
node that stands in the way.

The chain also knows in which integers the tensor at hand is quantised. A layer whose input and
weights are quantised stays open until its output is; then it gets its
:class:`~zeroskip.sw.graph.network.Quantised`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Conv2d, Linear, Network, Quantised
from zeroskip.sw.graph.types import TensorType

HINTS = {
    "softmax": "leave it out: it does not change which output is the largest",
    "norm": "only batch norm can be folded into the layer before it: train with batch norm",
    "convtranspose": "a transposed convolution cannot run: train with a plain one in its place",
    "conv_transpose": "a transposed convolution cannot run: train with a plain one in its place",
    "conv": "only 2-d convolutions can run: write it as one, with a size of 1 where it has none",
    "pool": "give the convolution before it a stride in its place",
    "quant": "quantise statically and export to ONNX, with QuantizeLinear and DequantizeLinear",
    "shape": "it computes a shape: export with nn.Flatten in place of view or reshape",
    "sigmoid": "ReLU is the only activation: train with ReLU in its place",
    "tanh": "ReLU is the only activation: train with ReLU in its place",
    "elu": "ReLU is the only activation: train with ReLU in its place",
}
"""What to do about an operator, by a part of its lower-case name; the first match counts."""
UNKNOWN = "unknown"
"""Kind of the tensor behind a node that cannot run."""
LARGEST_BIAS = 1 << 53
NAME = 100
"""Characters of a name in the table of what cannot run."""


class Reject(Exception):
    """This node cannot be translated; the text is the reason in its table row."""


@dataclass(frozen=True)
class Unsupported:
    """A node of the model that the engine cannot run."""

    name: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Grid:
    """How a tensor is quantised: ``scale * (integer - zero_point)``, as the model says it."""

    scale: float
    zero_point: int
    dtype: str          # "int8" or "uint8"

    @property
    def zero_point_int8(self) -> int:
        """The zero point where uint8 becomes int8 by subtracting 128."""
        return self.zero_point - 128 if self.dtype == "uint8" else self.zero_point

    def __str__(self):
        return f"{self.dtype} of scale {self.scale:.9g} and zero point {self.zero_point}"


@dataclass(frozen=True, eq=False)
class Integers:
    """The int8 weights of a layer, zero point removed, and their float64 scales ``[out]``."""

    weight: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class _Open:
    """What is known of the last layer until its output is quantised."""

    operator: str
    integers: Integers
    input: Grid
    bias: np.ndarray        # float64 [out]


class Chain:
    """Layers collected along the one path from a model's input to its output.

    Parameters
    ----------
    source : str
        Name of the model, for messages.
    current : str
        Name of the model's input tensor.
    shapes : mapping of str to (tuple of (int or None), or None)
        Shapes of tensors by name, batch first, None where unknown; may lack any.
    integer : str or None
        ``"int8"`` or ``"uint8"`` where the input is no float tensor.

    Attributes
    ----------
    rows : list of Linear, Conv2d or Unsupported
        What has been found so far, in the order of the model.
    shape : tuple of (int or None), or None
        Shape of the tensor at hand.
    integer : str or None
        Its type where it is no float tensor.
    input_dtype : str
        Type of the model's input, as :class:`~zeroskip.sw.graph.network.Network` has it.
    grid : Grid or None
        In which integers it is quantised, if it is.
    """

    def __init__(self, source: str, current: str,
                 shapes: Mapping[str, tuple[int | None, ...] | None],
                 integer: str | None = None):
        self.source, self.current, self.shapes = source, current, shapes
        self.shape, self.integer = shapes.get(current), integer
        self.input_shape = _sample(self.shape)
        self.input_dtype = integer or "float32"
        self.grid: Grid | None = None
        self.rows: list[Linear | Conv2d | Unsupported] = []
        self._open: _Open | None = None
        self._operator = ""

    @property
    def unit(self) -> np.ndarray | None:
        """What one unit of the last layer's sums stands for, float64 [out]; None where that layer
        is not quantised, or its output is already."""
        return self._open and self._open.input.scale * self._open.integers.scale

    def node(
        self,
        name: str,
        operator: str,
        inputs: Sequence[str],
        output: str,
        translate: Callable[[], None],
    ):
        """Takes one node: ``inputs`` are its tensors that are no constants, ``output`` its first.

        ``translate`` calls :meth:`linear`, :meth:`relu`, ... and may raise :class:`Reject`.
        """
        self._operator = operator
        try:
            self._check_chain(inputs)
            with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused at the end
                translate()
        except Reject as reason:
            self._open = None
            self.rows.append(Unsupported(name, operator, str(reason)))
            self.shape, self.integer, self.grid = self.shapes.get(output), UNKNOWN, None
        if self.current in inputs:
            self.current = output

    def _check_chain(self, inputs):
        if not inputs:
            raise Reject("it works on constants only: export with constant folding")
        if len(inputs) > 1:
            raise Reject(f"it joins computed tensors ({', '.join(inputs)}): only a chain can run")
        if inputs[0] != self.current:
            raise Reject(f"it takes {inputs[0]!r}, a branch: only a chain can run")

    def linear(self, name: str, weight: np.ndarray, bias: np.ndarray | None,
               integers: Integers | None = None):
        """Appends a fully-connected layer.

        ``weight`` is a float array ``[out, in]``, ``bias`` broadcasts as in :meth:`add`;
        ``integers`` are what the weights were dequantised from.
        """
        if weight.ndim != 2 or 0 in weight.shape:
            raise Reject(f"its weight has shape {list(weight.shape)}, not [out, in]")
        rows, columns = weight.shape
        if self.shape is not None and len(self.shape) != 2:
            raise Reject(f"its input has {len(self.shape)} dimensions, not [batch, {columns}]: "
                         "flatten it first")
        if self.shape is not None and self.shape[1] not in (None, columns):
            raise Reject(f"it takes {columns} inputs, but {self.shape[1]} reach it")
        layer = Linear(name, _float32(weight), np.zeros(rows, np.float32), "none")
        self._append(layer, bias, integers, (rows,))

    def conv(self, name: str, weight: np.ndarray, bias: np.ndarray | None, *,
             stride: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int],
             groups: int, integers: Integers | None = None):
        """Appends a convolution.

        ``weight`` is a float array ``[out, in, kernel rows, kernel columns]``, ``padding`` top,
        left, bottom, right, or how ONNX names it: ``"VALID"``, ``"SAME_UPPER"``, ``"SAME_LOWER"``.
        """
        if weight.ndim != 4 or 0 in weight.shape:
            raise Reject(f"its weight has shape {list(weight.shape)}: only 2-d convolutions can "
                         "run, with a weight [out, in, kernel rows, kernel columns]")
        if groups != 1:
            raise Reject(f"it has {groups} groups: write the grouped convolution as one of a "
                         "single group, with zeros between the groups")
        if bias is not None:
            if bias.shape != weight.shape[:1]:
                raise Reject(f"its bias has shape {list(bias.shape)}, not [{len(weight)}]")
            bias = bias.reshape(-1, 1, 1)
        image = self._image(weight.shape[1])
        if isinstance(padding, str):
            padding = _padding(padding, image[1:], weight.shape[2:], stride, dilation)
        try:
            layer = Conv2d(name, _float32(weight), np.zeros(len(weight), np.float32), "none", image,
                           tuple(stride), tuple(padding), tuple(dilation))
        except BadInput as error:
            raise Reject(str(error)) from None
        self._append(layer, bias, integers, layer.output_shape)

    def _image(self, channels):
        """Shape of the input of a convolution that takes so many channels."""
        shape = self.shape
        if shape is None or (len(shape) == 4 and None in shape[2:]):
            raise Reject("the height and width of its input are not known: export the model with "
                         "an input of fixed size")
        if len(shape) != 4:
            raise Reject(f"its input has {len(shape)} dimensions, not [batch, channels, height, "
                         "width]")
        if shape[1] not in (None, channels):
            raise Reject(f"it takes {channels} channels, but {shape[1]} reach it")
        return (channels, *shape[2:])

    def _append(self, layer, bias, integers, sample):
        self._require_float()
        self._settle()
        if self.grid is not None and integers is None and not self._grid_is_kept():
            raise Reject("its input is quantised, but its weights are not: quantise both or "
                         "neither")
        self.shape = (self.shape[0] if self.shape else None, *sample)
        bias = np.zeros(sample[0]) if bias is None else self._as_bias(bias, sample[0])
        self.rows.append(replace(layer, bias=bias.astype(np.float32)))
        if self.grid is not None and integers is not None:
            self._open = _Open(self._operator, integers, self.grid, bias.astype(np.float64))
        self.grid = None

    def add(self, bias: np.ndarray):
        """Adds a constant to the last product; one value per output channel, or one for all.

        Its shape broadcasts to ``[batch, out]`` or ``[batch, out, height, width]``.
        """
        layer = self._last_product("it adds a constant")
        bias = self._as_bias(bias, len(layer.bias))
        self.rows[-1] = replace(layer, bias=layer.bias + bias.astype(np.float32))
        if self._open:
            self._open = replace(self._open, bias=self._open.bias + bias)

    def batch_norm(self, scale: np.ndarray, offset: np.ndarray, mean: np.ndarray,
                   variance: np.ndarray, epsilon: float):
        """Folds ``(y - mean) / sqrt(variance + epsilon) * scale + offset`` into the last product.

        The arrays are ``[out]``; float64 inside, rounded to float32 once.
        """
        layer = self._last_product("it normalises")
        if self._open:
            raise Reject("the layer before it is quantised: fold it into that layer before "
                         "quantising")
        channels = len(layer.bias)
        scale, offset, mean, variance = (
            np.asarray(values, np.float64) for values in (scale, offset, mean, variance))
        if {v.shape for v in (scale, offset, mean, variance)} != {(channels,)} \
                or self.shape[1] != channels:
            raise Reject(f"its parameters are not one per output of the {channels} before it")
        with np.errstate(divide="ignore"):      # becomes infinite, and is refused at the end
            factor = scale / np.sqrt(variance + epsilon)
        wide = factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
        self.rows[-1] = replace(layer, weight=_float32(layer.weight * wide),
                                bias=_float32((layer.bias - mean) * factor + offset))

    def _last_product(self, what):
        """The layer that this node follows directly."""
        self._require_float()
        if not self.rows or getattr(self.rows[-1], "activation", None) != "none" or self.grid:
            raise Reject(f"{what}, but not directly after a matrix product or convolution")
        return self.rows[-1]

    def relu(self):
        """Makes ReLU the activation of the last layer; a second ReLU changes nothing."""
        self._require_float()
        if not self.rows:
            raise Reject("a ReLU before the first layer: apply it to the input data instead")
        if not isinstance(self.rows[-1], Unsupported):
            self.rows[-1] = replace(self.rows[-1], activation="relu")

    def quantise(self, grid: Grid):
        """Rounds the tensor at hand to ``grid``: QuantizeLinear."""
        self._require_float()
        if self._open:
            self._close(np.int8, grid.scale, grid.zero_point_int8)
        elif self.grid not in (None, grid):
            raise Reject(f"it rounds {self.grid} to {grid}: give both the same scale")
        self.grid, self.integer = grid, grid.dtype

    def dequantise(self, grid: Grid):
        """Takes integers as the real values that they are on ``grid``: DequantizeLinear."""
        if self.integer is None:
            raise Reject("it takes integers, but a float tensor reaches it")
        self._refuse_int32()
        if self.integer not in (UNKNOWN, grid.dtype):
            raise Reject(f"it takes {grid.dtype}, but {self.integer} reaches it")
        if self.grid not in (None, grid):
            raise Reject(f"it takes {grid}, but {self.grid} reaches it: give both the same scale")
        self.grid, self.integer = grid, None

    def raw(self):
        """Makes the int32 sums of the last layer the output."""
        self._close(np.int32, 1.0, 0)
        self.integer = "int32"

    def _close(self, dtype, scale, zero_point):
        opened, self._open = self._open, None
        layer, grid = self.rows[-1], opened.input
        units = opened.bias / (grid.scale * opened.integers.scale)
        if not (np.abs(units) < LARGEST_BIAS).all():
            raise Reject("its bias is too large for its scales: quantise the model again")
        self.rows[-1] = replace(layer, quantised=Quantised(
            weight=opened.integers.weight.reshape(len(units), -1),
            weight_scale=opened.integers.scale, bias=np.rint(units).astype(np.int64),
            input=TensorType((layer.inputs,), np.dtype(np.int8), grid.scale, grid.zero_point_int8),
            output=TensorType((layer.outputs,), np.dtype(dtype), scale, zero_point)))

    def _settle(self):
        """Gives up on a layer whose output was not quantised in time."""
        if self._open:
            self.rows[-1] = Unsupported(
                self.rows[-1].name, self._open.operator, "its input and weights are quantised, but "
                "its output is not: add QuantizeLinear and DequantizeLinear behind it")
            self._open = None

    def _grid_is_kept(self):
        """Whether the last row says how the tensor at hand is quantised."""
        last = self.rows[-1] if self.rows else None
        return isinstance(last, Unsupported) or (last is not None and last.quantised is not None)

    def _require_float(self):
        self._refuse_int32()
        if self.integer not in (None, UNKNOWN):
            raise Reject(f"its input is {self.integer}: put DequantizeLinear before it")

    def _refuse_int32(self):
        if self.integer == "int32":
            raise Reject("the int32 sums before it can only be the model's output")

    def flatten(self, first: int, last: int = -1):
        """Merges dimensions ``first .. last``; only all of those behind the batch."""
        rank = None if self.shape is None else len(self.shape)
        reaches_end = last == -1 or (rank is not None and last == rank - 1)
        if not reaches_end or (first != 1 and (rank is None or first != 1 - rank)):
            raise Reject("it must flatten everything behind the batch dimension (from 1 to -1)")
        if self.shape:
            self.shape = (self.shape[0], self._features())

    def reshape(self, target: Sequence[int]):
        """Reshapes to ``target``, where 0 keeps a dimension; the batch must stay the first."""
        batch, features = self._size(0), self._features()
        sizes = [self._size(i) if size == 0 else size for i, size in enumerate(target)][1:]
        if sizes == [-1]:
            sizes = [features]
        elif -1 in sizes and features is not None and None not in sizes:
            sizes[sizes.index(-1)] = features // max(-prod(sizes), 1)
        complete = None not in sizes and prod(sizes) == features
        kept = features is None and target[0] in (0, batch)
        if not (complete or kept) or not sizes or any(size is not None and size < 1
                                                      for size in sizes):
            raise Reject(f"it reshapes to {list(target)}, not provably [batch, ...]: use Flatten")
        self.shape = (batch, *sizes)

    def _size(self, dimension):
        known = self.shape is not None and dimension < len(self.shape)
        return self.shape[dimension] if known else None

    def _features(self):
        sample = self.shape[1:] if self.shape else (None,)
        return None if None in sample else prod(sample)

    def _as_bias(self, values, rows):
        """A constant that broadcasts to the tensor at hand, as a vector ``[rows]``."""
        try:
            full = np.broadcast_to(values, (1, *self.shape[1:])).reshape(rows, -1)
        except ValueError:
            full = None
        if full is None or (full[:, 1:] != full[:, :1]).any():
            raise Reject(f"its bias has shape {list(values.shape)}, which is not [{rows}], one "
                         "value per output")
        return full[:, 0].copy()

    def end(self, output: str):
        """Checks that the model's output is where the chain ends."""
        self._settle()
        if any(isinstance(row, Unsupported) for row in self.rows):
            return
        if self.current != output:
            raise BadInput(f"{self.source} ends in {self.current!r}, but its output is "
                           f"{output!r}; remove the nodes behind the output.")
        if self.rows and self.grid is not None and not self._grid_is_kept():
            raise BadInput(f"{self.source} quantises the output of layer {self.rows[-1].name!r}, "
                           "but not its weights; quantise both or neither.")

    def network(self) -> Network:
        """The layers as a network; raises BadInput with every row that is not supported."""
        unsupported = [row for row in self.rows if isinstance(row, Unsupported)]
        if unsupported:
            count = "1 node" if len(unsupported) == 1 else f"{len(unsupported)} nodes"
            raise BadInput(f"{self.source} has {count} that the engine cannot run; change the "
                           f"model as the table says and export it again.\n{table(unsupported)}")
        if not self.rows:
            raise BadInput(f"{self.source} holds no linear layer and no convolution; give a model "
                           "with at least one.")
        for layer in self.rows:
            _check_finite(self.source, layer)
        return Network(tuple(self.rows), self.input_dtype, self.input_shape, _sample(self.shape))


def _sample(shape):
    """The shape of one sample; () where a dimension of it is not known."""
    return () if shape is None or None in shape[1:] else tuple(shape[1:])


def only(names: Sequence[str], kind: str, source: str) -> str:
    """The one name in ``names``; BadInput where a model has no or several of that kind."""
    if len(names) != 1:
        raise BadInput(f"{source} has {len(names)} {kind}s ({', '.join(names) or 'none'}); "
                       f"export a model with exactly one {kind}.")
    return names[0]


def unknown(operator: str) -> Reject:
    """The verdict on an operator that no front end translates."""
    for part, hint in HINTS.items():
        if part in operator.lower():
            return Reject(hint)
    return Reject("only linear layers, 2-d convolutions, ReLU and flattening can run: take it "
                  "out of the model")


def table(rows: Sequence[Unsupported]) -> str:
    """Plain text, one line a node: its name, operator and the reason."""
    cells = [("node", "operator", "reason")] + [
        (r.name[:NAME], r.operator[:NAME], r.reason) for r in rows]
    name, operator = (max(len(cell[i]) for cell in cells) for i in (0, 1))
    return "\n".join(f"  {a:<{name}}  {b:<{operator}}  {c}" for a, b, c in cells)


def float32(values: np.ndarray, name: str) -> np.ndarray:
    """``values`` as float32, exactly.

    Rejects what is no IEEE float; raises BadInput at the first double that would be rounded.
    """
    if values.dtype not in (np.float16, np.float32, np.float64):
        raise Reject(f"{name!r} is {values.dtype}: export the model with float32 weights")
    single = values.astype(np.float32)
    rounded = np.argwhere((single != values) & ~np.isnan(values))
    if len(rounded):
        raise BadInput(f"{name!r} holds a double at {rounded[0].tolist()} that float32 cannot "
                       "represent; convert the model to float32 before exporting it.")
    return single


def _float32(values):
    return np.ascontiguousarray(values, np.float32)


def _padding(name, image, kernel, stride, dilation):
    """Top, left, bottom, right of ONNX's ``auto_pad``, which has ceil(size / stride) outputs."""
    if name == "VALID":
        return (0, 0, 0, 0)
    if name not in ("SAME_UPPER", "SAME_LOWER"):
        raise Reject(f"its padding is {name!r}, not VALID, SAME_UPPER or SAME_LOWER")
    if not len(stride) == len(dilation) == 2 or min(stride) < 1:
        raise Reject(f"its stride is {list(stride)} and its dilation {list(dilation)}")
    total = [max((-(-size // step) - 1) * step + (k - 1) * d + 1 - size, 0)
             for size, k, step, d in zip(image, kernel, stride, dilation, strict=True)]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (*less, *more) if name == "SAME_UPPER" else (*more, *less)


def _check_finite(source, layer):
    for tensor, values in (("weight", layer.weight), ("bias", layer.bias)):
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            raise BadInput(f"{source}: the {tensor} of layer {layer.name!r} is "
                           f"{values[tuple(wrong[0])]} at {wrong[0].tolist()}; "
                           "train the model again or repair the file.")
