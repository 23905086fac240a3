"""A trained network as every front end delivers it and the compiler takes it."""

from dataclasses import dataclass

import numpy as np


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
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray
    activation: str


@dataclass(frozen=True)
class Network:
    """A chain of :class:`Linear` layers; the input is flattened before the first."""

    layers: tuple[Linear, ...]

    @property
    def inputs(self) -> int:
        """Length of the flattened input vector."""
        return self.layers[0].weight.shape[1]

    @property
    def outputs(self) -> int:
        """Length of the output vector."""
        return self.layers[-1].weight.shape[0]

    def forward(self, x: np.ndarray) -> list[np.ndarray]:
        """Float outputs of every layer.

        ``x`` is a float array, batch first, any shape that flattens to ``[batch, inputs]``;
        the result holds one float32 ``[batch, out]`` array per layer.
        """
        y, outputs = np.asarray(x, np.float32).reshape(len(x), -1), []
        for layer in self.layers:
            y = y @ layer.weight.T + layer.bias
            if layer.activation == "relu":
                y = np.maximum(y, 0)
            outputs.append(y)
        return outputs
