"""The walk that every front end shares: a chain of nodes becomes a list of layers.

A front end knows its file format only. It hands each node to :meth:`Chain.node` in order; the
chain checks that the node continues the path from the input, and collects either a
:class:`~zeroskip.sw.network.Linear` or an :class:`Unsupported` row, so that one reading finds
every node that stands in the way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.network import Linear, Network

HINTS = {
    "softmax": "leave it out: it does not change which output is the largest",
    "norm": "fold it into the linear layer before it, then export again",
    "conv": "this engine runs fully-connected layers only",
    "shape": "it computes a shape: export with nn.Flatten in place of view or reshape",
    "sigmoid": "ReLU is the only activation: train with ReLU in its place",
    "tanh": "ReLU is the only activation: train with ReLU in its place",
    "elu": "ReLU is the only activation: train with ReLU in its place",
}
"""What to do about an operator, by a part of its lower-case name; the first match counts."""


class Reject(Exception):
    """This node cannot be translated; the text is the reason in its table row."""


@dataclass(frozen=True)
class Unsupported:
    """A node of the model that the engine cannot run."""

    name: str
    operator: str
    reason: str


class Chain:
    """Layers collected along the one path from a model's input to its output.

    Parameters
    ----------
    source : str
        Name of the model, for messages.
    current : str
        Name of the model's input tensor.
    shape : tuple of (int or None), or None
        Shape of that tensor, batch first; None where unknown.

    Attributes
    ----------
    rows : list of Linear or Unsupported
        What has been found so far, in the order of the model.
    """

    def __init__(self, source: str, current: str, shape: tuple[int | None, ...] | None):
        self.source, self.current, self.shape = source, current, shape
        self.rows: list[Linear | Unsupported] = []

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
        try:
            self._check_chain(inputs)
            with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused at the end
                translate()
        except Reject as reason:
            self.rows.append(Unsupported(name, operator, str(reason)))
            self.shape = None
        if self.current in inputs:
            self.current = output

    def _check_chain(self, inputs):
        if not inputs:
            raise Reject("it works on constants only: export with constant folding")
        if len(inputs) > 1:
            raise Reject(f"it joins computed tensors ({', '.join(inputs)}): only a chain can run")
        if inputs[0] != self.current:
            raise Reject(f"it takes {inputs[0]!r}, a branch: only a chain can run")

    def linear(self, name: str, weight: np.ndarray, bias: np.ndarray | None):
        """Appends a layer; ``weight`` float32 ``[out, in]``, ``bias`` broadcasts as in `add`."""
        if weight.ndim != 2 or 0 in weight.shape:
            raise Reject(f"its weight has shape {list(weight.shape)}, not [out, in]")
        rows, columns = weight.shape
        if self.shape is not None and len(self.shape) != 2:
            raise Reject(f"its input has {len(self.shape)} dimensions, not [batch, {columns}]: "
                         "flatten it first")
        if self.shape is not None and self.shape[1] not in (None, columns):
            raise Reject(f"it takes {columns} inputs, but {self.shape[1]} reach it")
        bias = np.zeros(rows, np.float32) if bias is None else _as_bias(bias, rows)
        self.rows.append(Linear(name, np.ascontiguousarray(weight), bias, "none"))
        self.shape = (self.shape[0] if self.shape else None, rows)

    def add(self, bias: np.ndarray):
        """Adds a constant, of a shape that broadcasts to ``[batch, out]``, to the last product."""
        if not self.rows or getattr(self.rows[-1], "activation", None) != "none":
            raise Reject("it adds a constant, but not directly after a matrix product")
        layer = self.rows[-1]
        self.rows[-1] = replace(layer, bias=layer.bias + _as_bias(bias, len(layer.bias)))

    def relu(self):
        """Makes ReLU the activation of the last layer; a second ReLU changes nothing."""
        if not self.rows:
            raise Reject("a ReLU before the first linear layer: apply it to the input data instead")
        if isinstance(self.rows[-1], Linear):
            self.rows[-1] = replace(self.rows[-1], activation="relu")

    def flatten(self, first: int, last: int = -1):
        """Merges dimensions ``first .. last``; only all of those behind the batch."""
        rank = None if self.shape is None else len(self.shape)
        reaches_end = last == -1 or (rank is not None and last == rank - 1)
        if not reaches_end or (first != 1 and (rank is None or first != 1 - rank)):
            raise Reject("it must flatten everything behind the batch dimension (from 1 to -1)")
        if self.shape:
            self.shape = (self.shape[0], self._features())

    def reshape(self, target: Sequence[int]):
        """Reshapes to ``target``, where 0 keeps a dimension; only to ``[batch, features]``."""
        batch = self.shape[0] if self.shape else None
        features = self._features()
        if len(target) != 2 or not (target[0] in (0, batch) or target[1] == features):
            raise Reject(f"it reshapes to {list(target)}, not provably [batch, features]: "
                         "use Flatten")
        self.shape = (batch, features)

    def _features(self):
        sample = self.shape[1:] if self.shape else (None,)
        return None if None in sample else prod(sample)

    def end(self, output: str):
        """Checks that the model's output is where the chain ends."""
        linear = all(isinstance(row, Linear) for row in self.rows)
        if linear and self.current != output:
            raise BadInput(f"{self.source} ends in {self.current!r}, but its output is "
                           f"{output!r}; remove the nodes behind the output.")

    def network(self) -> Network:
        """The layers as a network; raises BadInput with every row that is not supported."""
        unsupported = [row for row in self.rows if isinstance(row, Unsupported)]
        if unsupported:
            count = "1 node" if len(unsupported) == 1 else f"{len(unsupported)} nodes"
            raise BadInput(f"{self.source} has {count} that the engine cannot run; change the "
                           f"model as the table says and export it again.\n{table(unsupported)}")
        if not self.rows:
            raise BadInput(f"{self.source} holds no linear layer; give a model with at least one.")
        for layer in self.rows:
            _check_finite(self.source, layer)
        return Network(tuple(self.rows))


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
    return Reject("only linear layers, ReLU and flattening can run: take it out of the model")


def table(rows: Sequence[Unsupported]) -> str:
    """Plain text, one line a node: its name, operator and the reason."""
    cells = [("node", "operator", "reason")] + [(r.name, r.operator, r.reason) for r in rows]
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


def _as_bias(values: np.ndarray, rows: int) -> np.ndarray:
    """A constant that broadcasts to ``[batch, rows]`` as a vector ``[rows]``."""
    if values.ndim > 2 or prod(values.shape[:-1]) != 1 or values.shape[-1:] not in (
        (), (1,), (rows,)
    ):
        raise Reject(f"its bias has shape {list(values.shape)}, which is not [{rows}]")
    return np.broadcast_to(values.reshape(-1), rows).copy()


def _check_finite(source, layer):
    for tensor, values in (("weight", layer.weight), ("bias", layer.bias)):
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            raise BadInput(f"{source}: the {tensor} of layer {layer.name!r} is "
                           f"{values[tuple(wrong[0])]} at {wrong[0].tolist()}; "
                           "train the model again or repair the file.")
