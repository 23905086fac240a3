"""The host side of a tensor core, for every simulator: sends what an image says, files outputs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.tensorcore.core import CoreCounter, TensorCore
from zeroskip.sw.engines.base import Progress, Result
from zeroskip.sw.engines.tensorcore.image import TensorCoreImage
from zeroskip.sw.engines.tensorcore.packed import TensorCoreLayer
from zeroskip.sw.engines.tensorcore.product import ProductImage
from zeroskip.sw.engines.tensorcore.schedule import Schedule
from zeroskip.sw.engines.wire import Record, exchange
from zeroskip.sw.errors import EngineError
from zeroskip.sw.graph.im2col import fold


@dataclass(frozen=True)
class TensorCoreStatistics:
    """Where the cycles of a batch went, from the core's own counters.

    Attributes
    ----------
    images : int
    multipliers : int
    layers : tuple of dict
        By layer: CoreCounter name (lower case); ``useful``, the products of a stored weight and
        an activation that were asked for; and its own ``saturated``.
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
        """Share of the cycles by what happened in them. ``edges`` are steps' worth of multipliers
        that had nothing to do: rows, columns and parts of K past the last, and samples that fill
        the last batch; ``fill`` is the rest, a pipeline that fills and empties at the ends of a
        GEMM."""
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
class Outputs:
    """One GEMM's outputs int32 [m, n], which were saturated bool [m, n], and the cycle since
    reset in which each left the core, int64 [m, n]."""

    values: np.ndarray
    saturated: np.ndarray
    times: np.ndarray


def collect(model, schedule: Schedule, records: Iterable[Record]) -> Outputs:
    """Runs one GEMM; ``EngineError`` if the core sends more outputs than it has.

    ``model`` is the core in any simulator, with the interface of
    :class:`zeroskip.sw.engines.base.Device`; ``records`` are those of the schedule.
    """
    payload, cycles = exchange(model, records)["outputs"]
    if model.pending("outputs"):
        raise EngineError(f"the tensor core sent more than the {schedule.output_rows} rows of "
                          f"outputs of a product of {schedule.m} x {schedule.n}")
    values, saturated = schedule.outputs(payload)
    width = schedule.config.columns
    return Outputs(values, saturated, schedule.gather(
        np.repeat(cycles.astype(np.int64)[:, None], width, axis=1)))


def multiply(model, image: ProductImage, a: np.ndarray, b: np.ndarray, bias: np.ndarray) -> Outputs:
    """Runs a product whose operands both come now; see :meth:`ProductImage.records`."""
    return collect(model, image.schedule, image.records(a, b, bias))


def counters(model) -> dict[str, int]:
    """The idle core's counters by name (lower case); they start from zero again."""
    counts = {}
    for which in CoreCounter:
        model.poke("stats__select", which.value)
        model.tick(TensorCore.stats_latency)
        counts[which.name.lower()] = model.peek("stats__count")
    model.poke("stats__clear", 1)
    model.tick()
    model.poke("stats__clear", 0)
    return counts


def run(model, image: TensorCoreImage, inputs: np.ndarray,
        progress: Progress | None = None) -> Result:
    """Runs ``inputs`` (int8 [samples, in]) on a core, batch by batch, each layer by layer; zeros
    fill the last batch.

    Outputs come without a number: ``EngineError`` if they are more than were asked for, or if
    the core has not finished one product for each that was sent.
    """
    samples, done = len(inputs), 0
    steps = -(-samples // image.batch) * len(image.layers)
    outputs = [np.zeros((samples, layer.outputs), layer.output.dtype) for layer in image.layers]
    times = [np.zeros(y.shape, np.int64) for y in outputs]
    counts = [Counter(saturated=0) for _ in image.layers]
    for start in range(0, samples, image.batch):
        x = np.zeros((image.batch, inputs.shape[1]), np.int8)
        real = inputs[start:start + image.batch]
        x[:len(real)] = real
        for layer, y, when, count in zip(image.layers, outputs, times, counts, strict=True):
            found = _run_layer(model, image, layer, x)
            count.update(_one_product(model, layer))
            x, flags, cycles = (fold(each.T, layer.geometry) for each in (
                found.values.astype(y.dtype), found.saturated, found.times))
            y[start:start + len(real)], when[start:start + len(real)] = (
                x[:len(real)], cycles[:len(real)])
            count["saturated"] += int(flags[:len(real)].sum())
            done += 1
            if progress:
                progress(done * samples // steps, samples)
    layers = tuple({**count, "useful": layer.useful * layer.positions * samples}
                   for count, layer in zip(counts, image.layers, strict=True))
    saturated = sum(layer["saturated"] for layer in layers)
    return Result(tuple(outputs), tuple(times), TensorCoreStatistics(
        samples, image.config.multipliers, layers, saturated), saturated)


def _run_layer(model, image: TensorCoreImage, layer: TensorCoreLayer, x: np.ndarray) -> Outputs:
    return collect(model, layer.schedule(image.config, len(x)), layer.records(image.config, x))


def _one_product(model, layer: TensorCoreLayer) -> dict[str, int]:
    """The counters after a layer; ``EngineError`` where it was not one product."""
    found = counters(model)
    if found["gemms"] != 1:
        raise EngineError(f"the tensor core finished {found['gemms']} products where one of layer "
                          f"{layer.name} was sent")
    return found
