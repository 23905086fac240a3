"""Samples that people give, as the runs of a graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.graph.network import as_samples
from zeroskip.sw.graph.types import refuse_nonfinite

Samples = np.ndarray | Mapping[str, np.ndarray]
"""An array, batch first, of a model with one input; or arrays by the names of the inputs."""


def runs(graph: Graph, what: str, given: Samples) -> dict[str, np.ndarray]:
    """Values of each input [runs, values] as the graph takes them; ``BadInput``, which begins with
    ``what``, where they do not fit it.

    The last run of a fixed batch is filled with its first sample.
    """
    given = by_name(graph.inputs, what, given)
    found = {}
    for name in graph.inputs:
        called = what if len(graph.inputs) == 1 else f"{what} {name!r}"
        kind = graph.types[name]
        shape = kind.shape[1:] if kind.shape[:1] == (graph.batch,) else kind.shape
        flat = as_samples(called, given[name], shape or (1,))
        found[name] = batched(as_type(called, flat, kind.dtype, "calibration"), graph.batch)
    if len({len(each) for each in found.values()}) != 1:
        raise BadInput(f"{what} has arrays of different numbers of samples; give as many of each")
    return found


def as_type(what: str, values: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """Values of a model's type: floats are converted, and must be finite; integers must have it.

    ``BadInput``, which begins with ``what``, or of floats with ``where`` and the place.
    """
    if dtype.kind != "f" and values.dtype != dtype:
        raise BadInput(f"{what} is {values.dtype}, but the model takes {dtype}; give the "
                       f"integers that the model itself takes, as {dtype}")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):    # becomes infinite, and is refused
            values = values.astype(dtype)
        refuse_nonfinite(where, values)
    return values


def by_name(names: Sequence[str], what: str, given: Samples) -> Mapping[str, np.ndarray]:
    """Arrays by the names of a model's inputs; ``BadInput`` where other names are given."""
    if isinstance(given, np.ndarray):
        if len(names) != 1:
            raise BadInput(f"{what} is one array, but the model has the inputs {', '.join(names)}; "
                           "give an .npz file with an array for each")
        return {names[0]: given}
    if len(names) == len(given) == 1:
        return dict(zip(names, given.values(), strict=True))
    if set(names) != set(given):
        raise BadInput(f"{what} has {', '.join(sorted(given)) or 'nothing'}, but the model has the "
                       f"inputs {', '.join(names)}; give an array for each")
    return given


def batched(samples: np.ndarray, batch: int) -> np.ndarray:
    """Samples [n, values] as runs [runs, batch * values]; the last is filled with its first."""
    if batch == 1:
        return samples
    short = -len(samples) % batch
    if short:
        first = samples[len(samples) - len(samples) % batch]
        samples = np.concatenate([samples, np.repeat(first[None], short, axis=0)])
    return samples.reshape(len(samples) // batch, -1)


def as_array(value: Any) -> np.ndarray:
    """An array, also of a tensor that torch trains, or that lies in another memory."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
