"""The samples that set a network's scales, and the activations that they cause."""

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.network import Network
from zeroskip.sw.quantize.kmeans import refuse_nonfinite


def samples(network: Network, calibration: np.ndarray) -> np.ndarray:
    """The calibration set, batch first, as float32 [batch, inputs].

    Raises :class:`BadInput` where it does not fit the network or is not finite.
    """
    shape = np.shape(calibration)
    if len(shape) < 2 or not shape[0] or np.prod(shape[1:]) != network.inputs:
        raise BadInput(f"calibration must be batch first with {network.inputs} values a sample, "
                       f"not {list(shape)}")
    with np.errstate(over="ignore"):    # becomes infinite, and is refused
        flat = np.asarray(calibration, np.float32).reshape(shape[0], -1)
    refuse_nonfinite("calibration", flat)
    return flat


def check_weights(network: Network) -> None:
    """Raises :class:`BadInput` for a weight or a bias that is not finite."""
    for layer in network.layers:
        refuse_nonfinite(f"layer {layer.name}: weight", layer.weight)
        refuse_nonfinite(f"layer {layer.name}: bias", layer.bias)


def activations(network: Network, x: np.ndarray) -> list[np.ndarray]:
    """Float outputs of every layer; raises :class:`BadInput` for one that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = network.forward(x)
    for layer, y in zip(network.layers, outputs, strict=True):
        refuse_nonfinite(f"layer {layer.name}: output", y)
    return outputs
