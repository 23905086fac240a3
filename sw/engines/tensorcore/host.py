"""The host side of a tensor core, for every simulator: patches, streams, outputs."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.tensorcore.core import CoreCounter, TensorCore
from zeroskip.sw.engines.base import Progress, Result
from zeroskip.sw.engines.tensorcore.part import TensorCoreLayer, TensorCorePart
from zeroskip.sw.engines.tensorcore.schedule import RAW, Schedule
from zeroskip.sw.errors import EngineError
from zeroskip.sw.graph.im2col import columns, fold

COLUMNS = 4096
"""Columns of B in one GEMM, at most, where an image has not more of its own."""


@dataclass(frozen=True)
class TensorCoreStatistics:
    """Where the cycles of a batch went, from the core's own counters.

    Attributes
    ----------
    images : int
    multipliers : int
    layers : tuple of dict
        By layer: CoreCounter name (lower case), and ``useful``, the products of a stored
        weight and an activation that were asked for.
    saturated : int
        Outputs that had to be saturated.
    """

    images: int
    multipliers: int
    layers: tuple[dict[str, int], ...]
    saturated: int

    @property
    def cycles(self) -> int:
        """Cycles from the commands to the last outputs, all layers and images together."""
        return sum(layer["cycles"] for layer in self.layers)

    @property
    def utilisation(self) -> float:
        """Useful products over multipliers times cycles."""
        useful = sum(layer["useful"] for layer in self.layers)
        return useful / max(1, self.multipliers * self.cycles)

    def shares(self) -> dict[str, float]:
        """Share of the cycles by what happened in them; they add to 1. ``edges`` are steps'
        worth of multipliers that had nothing to do: rows, columns and parts of K past the
        last; ``fill`` is the pipeline filling and emptying at the ends of a GEMM."""
        total = {name: sum(layer[name] for layer in self.layers) for name in self.layers[0]}
        shares = {name: total[name] / max(1, self.cycles) for name in
                  ("steps", "wait_weights", "wait_activations", "wait_outputs")}
        fill = 1 - sum(shares.values())
        steps = shares.pop("steps")
        return {"useful": self.utilisation, "edges": steps - self.utilisation, **shares,
                "fill": fill}

    def as_json(self) -> dict:
        """Plain numbers for ``--json``."""
        return {"images": self.images, "utilisation": self.utilisation, "cycles": self.cycles,
                "saturated": self.saturated, "layers": list(self.layers)}


@dataclass(frozen=True)
class Product:
    """One GEMM's outputs int32 [m, n], which were saturated bool [m, n], and the cycle since
    reset in which each left the core, int64 [m, n]."""

    outputs: np.ndarray
    saturated: np.ndarray
    times: np.ndarray


def multiply(model, schedule: Schedule, values: np.ndarray, indices: np.ndarray, b: np.ndarray,
             *, bias: np.ndarray | None = None, scale: tuple[np.ndarray, np.ndarray] | None = None,
             zero_point: int = 0, relu: bool = False, int4: bool = False) -> Product:
    """Runs one GEMM; ``EngineError`` if the core sends more outputs than it has.

    Parameters
    ----------
    model
        The core in any simulator, with the interface of :class:`zeroskip.sim.cxxrtl.Model`.
    schedule : Schedule
    values, indices : int8, uint8 [m, kept]
        See :meth:`Schedule.weights`.
    b : int8 [n, k]
        The columns of B.
    bias : int [m], optional
    scale : multiplier and shift, int [m] each, optional
        Without them the outputs are the sums.
    zero_point, relu, int4
        Of the command.
    """
    m, raw = schedule.m, scale is None
    multiplier, shift = (np.full(m, value) for value in RAW) if raw else scale
    senders = {
        "commands": schedule.command(zero_point=zero_point, relu=relu, raw=raw, int4=int4),
        "weights": schedule.weights(values, indices),
        "channels": schedule.channels(np.zeros(m, int) if bias is None else bias,
                                      multiplier, shift),
        "activations": schedule.activations(b),
    }
    payload, cycles = model.run(senders, {"outputs": schedule.output_rows})["outputs"]
    if model.pending("outputs"):
        raise EngineError(f"the tensor core sent more than the {schedule.output_rows} rows of "
                          f"outputs of a product of {m} x {schedule.n}")
    outputs, saturated = schedule.outputs(payload)
    width = schedule.config.columns
    return Product(outputs, saturated, schedule.gather(
        np.repeat(cycles.astype(np.int64)[:, None], width, axis=1)))


def counters(model) -> dict[str, int]:
    """The core's counters by name (lower case), once it is idle; they start from zero again.
    ``TimeoutError`` if it does not fall idle."""
    model.wait("busy", 0)
    counts = {}
    for which in CoreCounter:
        model.poke("stats__select", which.value)
        model.tick(TensorCore.stats_latency)
        counts[which.name.lower()] = model.peek("stats__count")
    model.poke("stats__clear", 1)
    model.tick()
    model.poke("stats__clear", 0)
    return counts


def run(model, part: TensorCorePart, inputs: np.ndarray,
        progress: Progress | None = None) -> Result:
    """Runs ``inputs`` (int8 [batch, in]) layer by layer on a core.

    Its outputs come without a number: ``EngineError`` if they are more than were asked for, or if
    the core has not finished one product for each that was sent.
    """
    x, outputs, times, layers, saturated = inputs, [], [], [], 0
    batch = len(inputs)
    for number, layer in enumerate(part.layers):
        pieces, counts, images = [], Counter(), max(1, COLUMNS // layer.positions)
        for start in range(0, batch, images):
            pieces.append(_run_layer(model, part, layer, x[start:start + images]))
            found = counters(model)
            if found["gemms"] != 1:
                raise EngineError(f"the tensor core finished {found['gemms']} products where one "
                                  f"of layer {layer.name} was sent")
            counts.update(found)
            if progress:
                progress(number * batch + min(start + images, batch), len(part.layers) * batch)
        y = np.concatenate([fold(piece.outputs.T, layer.geometry) for piece in pieces])
        x = y.astype(layer.output.dtype)
        outputs.append(x)
        times.append(np.concatenate([fold(piece.times.T, layer.geometry) for piece in pieces]))
        saturated += sum(int(piece.saturated.sum()) for piece in pieces)
        useful = layer.values.size * layer.positions * batch
        layers.append({**counts, "useful": useful})
    return Result(tuple(outputs), tuple(times), TensorCoreStatistics(
        batch, part.config.multipliers, tuple(layers), saturated), saturated)


def _run_layer(model, part: TensorCorePart, layer: TensorCoreLayer, x: np.ndarray) -> Product:
    b = x if layer.geometry is None else columns(x, layer.geometry, layer.input_zero_point)
    schedule = Schedule.of(part.config, layer.pattern, layer.rows, b.shape[1], len(b))
    return multiply(
        model, schedule, layer.values, layer.indices, b, bias=layer.bias,
        scale=None if layer.raw else (layer.multiplier, layer.shift),
        zero_point=0 if layer.raw else layer.output_zero_point, relu=layer.activation == "relu")
