"""The host side of an EIE array, for every simulator: load, send vectors, file outputs."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.counters import ControlCounter, PECounter
from zeroskip.hw.eie.layouts import output_layout
from zeroskip.sw.engines.base import Progress, Result
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.loads import EIELoads, Grid
from zeroskip.sw.engines.eie.records import (
    block_items,
    clear_items,
    input_items,
    load_items,
    records,
    row_items,
    start_items,
)
from zeroskip.sw.engines.payload import unpack_fields
from zeroskip.sw.engines.wire import Read, Write, exchange
from zeroskip.sw.errors import EngineError

BATCH = 16
"""Images that run in one call of the simulator, between two steps of progress."""

COUNTERS = 16
"""Addresses of counters in one unit of the array."""


@dataclass(frozen=True)
class EIEStatistics:
    """Where the cycles of a batch went, from the array's own counters.

    Attributes
    ----------
    images : int
    control : dict of ControlCounter name (lower case) to int
    pe : dict of PECounter name (lower case) to int64 [pes]
    loads, load_words : int
        How many times weights were loaded, and words of 32 bits that went over the load bus.
    """

    images: int
    control: dict[str, int]
    pe: dict[str, np.ndarray]
    loads: int
    load_words: int
    layers = ()     # counted together

    @classmethod
    def from_counts(cls, images: int, counts: np.ndarray, loads: int,
                    load_words: int) -> "EIEStatistics":
        """From ``counts`` int [pes + 1, 16], as the array's ``stats`` port gives them."""
        return cls(
            images,
            {which.name.lower(): int(counts[-1, which.value]) for which in ControlCounter},
            {which.name.lower(): counts[:-1, which.value].astype(np.int64)
             for which in PECounter},
            loads, load_words)

    @property
    def cycles(self) -> int:
        """Cycles in computing mode, all images together."""
        return self.control["cycles"]

    @property
    def multipliers(self) -> int:
        """One a PE."""
        return len(self.pe["useful"])

    @property
    def utilisation(self) -> float:
        """Useful multiply-accumulates over PEs times cycles."""
        return float(self.pe["useful"].sum() / max(1, self.multipliers * self.cycles))

    @property
    def saturated(self) -> int:
        """Outputs that had to be saturated."""
        return int(self.pe["saturated"].sum())

    def shares(self) -> dict[str, np.ndarray]:
        """Per PE, the share of the computing cycles that went to each cause; they add to 1."""
        causes = list(PECounter)[:PECounter.TAIL.value + 1]
        return {cause.name.lower(): self.pe[cause.name.lower()] / max(1, self.cycles)
                for cause in causes}

    def as_json(self) -> dict:
        """Plain numbers for ``--json``."""
        return {"images": self.images, "utilisation": self.utilisation, **self.control,
                "loads": self.loads, "load_words": self.load_words,
                "load_bytes": 4 * self.load_words,
                "pe": {name: counts.tolist() for name, counts in self.pe.items()}}


def run(model, image: EIEImage | EIELoads, inputs: np.ndarray,
        progress: Progress | None = None) -> Result:
    """Runs ``inputs`` (int16 [batch, in]) on a fresh array.

    ``model`` is the array in any simulator, with the interface of
    :class:`zeroskip.sw.engines.base.Device`. ``EngineError`` where not every output of every image
    came just once.
    """
    loader = _Loader(model)
    outputs, times = (_run_loads if isinstance(image, EIELoads) else _run_once)(
        loader, image, inputs, progress)
    statistics = None
    if image.config.counters:
        statistics = EIEStatistics.from_counts(len(inputs), _counters(model, image.config),
                                               loader.loads, loader.words)
    return Result(outputs, times, statistics, statistics and statistics.saturated)


class _Loader:
    """The load bus of an array.

    Attributes
    ----------
    loads : int
        How many times weights were loaded.
    words : int
        Words of 32 bits that were sent.
    """

    def __init__(self, model):
        self.model = model
        self.loads = self.words = 0

    def send(self, items: np.ndarray, *, weights: bool = False) -> None:
        """Items uint32 [n, words]; with ``weights`` or without."""
        exchange(self.model, [Write("load", items)])
        self.loads += weights
        self.words += items.size


def _run_once(loader: _Loader, image: EIEImage, inputs: np.ndarray,
              progress: Progress | None) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Outputs and their times on an array that is loaded once."""
    loader.send(load_items(image), weights=True)
    shapes = [(len(inputs), segment.outputs) for segment in image.segments if segment.outputs]
    outputs = tuple(np.zeros(shape, np.int16) for shape in shapes)
    times = tuple(np.zeros(shape, np.int64) for shape in shapes)
    sent = [layer for layer, end in enumerate(s for s in image.segments if s.swap) if end.outputs]
    names = [image.layers[layer].name for layer in sent]
    # the first image alone: its time says how long all will take
    for start, stop in pairwise(sorted({0, *range(1, len(inputs), BATCH), len(inputs)})):
        samples = slice(start, stop)
        _run_batch(loader.model, image, inputs[samples], [y[samples] for y in outputs],
                   [t[samples] for t in times], names, start)
        if progress:
            progress(samples.stop, len(inputs))
    return tuple(tuple(map(image.logical, sent, arrays)) for arrays in (outputs, times))


def _run_loads(loader: _Loader, image: EIELoads, inputs: np.ndarray,
               progress: Progress | None) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Outputs and their times on an array that each layer is loaded into for itself."""
    loader.send(clear_items(image.config))
    x, outputs, times = inputs, [], []
    total, done = sum(len(layer.rows) for layer in image.layers), 0
    for layer in image.layers:
        y = np.zeros((len(x), layer.outputs), np.int16)
        when = np.zeros(y.shape, np.int64)
        for row in range(len(layer.rows)):
            _run_row(loader, layer, row, x, y, when)
            done += 1
            if progress:
                progress(done * len(inputs) // total, len(inputs))
        outputs.append(y)
        times.append(when)
        x = y
    return tuple(outputs), tuple(times)


def _run_row(loader: _Loader, layer: Grid, row: int, x: np.ndarray, y: np.ndarray,
             times: np.ndarray) -> None:
    """One block of rows for all samples, as many at a time as the array keeps sums of; files the
    outputs in ``y`` and ``times``."""
    loader.send(row_items(layer, row))
    loaded = None
    for first in range(0, len(x), layer.samples):
        samples, left = x[first:first + layer.samples], 0
        for column, block in enumerate(layer.rows[row]):
            if block is not loaded:
                loader.send(block_items(block), weights=True)
                loaded = block
            for number, sample in enumerate(samples):
                send = column == len(layer.rows[row]) - 1 and number == len(samples) - 1
                loader.send(start_items(layer, row, column, number, send=send))
                start = Write("inputs", input_items(sample[left:left + block.inputs]))
                if not send:
                    exchange(loader.model, [start])
            left += block.inputs
        wanted = (len(samples) - 1) * layer.stride(row) + block.layers[0].slots
        found = exchange(loader.model, [start, Read("outputs", wanted)])["outputs"]
        _file(loader.model, layer, row, found, y, times, slice(first, first + len(samples)))


def _file(model, layer: Grid, row: int, found: tuple[np.ndarray, np.ndarray], y: np.ndarray,
          times: np.ndarray, samples: slice) -> None:
    """Files what a block of rows sent of some samples."""
    block, (payload, cycles) = layer.rows[row][0], found
    fields = unpack_fields(output_layout(block.config), payload)
    index = fields["index"].astype(np.int64)
    if model.pending("outputs"):
        raise EngineError(f"the EIE array sent more than the {len(index)} outputs of images "
                          f"{samples.start} to {samples.stop - 1}")
    _check(index[None], fields["last"].astype(bool)[None], layer.name, samples.start)
    at = np.argsort(index)
    values = fields["value"].astype(np.uint16).view(np.int16)[at]
    when = cycles.astype(np.int64)[at]
    where = layer.order[:, 0] == row
    places = layer.order[where, 1] + layer.stride(row) * np.arange(samples.stop - samples.start
                                                                   )[:, None]
    y[samples, where], times[samples, where] = values[places], when[places]


def _run_batch(model, image: EIEImage, inputs: np.ndarray, outputs: list[np.ndarray],
               times: list[np.ndarray], names: list[str], first: int) -> None:
    """Sends ``inputs`` one vector after another and files what comes in ``outputs``, ``times``.

    ``names`` are those of the layers that send, ``first`` is the number of the first image.
    """
    batch, wanted = len(inputs), sum(layer.shape[1] for layer in outputs)
    payload, cycles = exchange(model, records(image, inputs))["outputs"]
    found = unpack_fields(output_layout(image.config), payload)
    index = found["index"].astype(np.int64).reshape(batch, wanted)
    value = found["value"].astype(np.uint16).view(np.int16).reshape(batch, wanted)
    last = found["last"].astype(bool).reshape(batch, wanted)
    cycles = cycles.astype(np.int64).reshape(batch, wanted)
    if model.pending("outputs"):
        raise EngineError(f"the EIE array sent more than the {batch * wanted} outputs of images "
                          f"{first} to {first + batch - 1}")
    start = 0
    for name, layer, when in zip(names, outputs, times, strict=True):
        mine = slice(start, start + layer.shape[1])
        _check(index[:, mine], last[:, mine], name, first)
        np.put_along_axis(layer, index[:, mine], value[:, mine], 1)
        np.put_along_axis(when, index[:, mine], cycles[:, mine], 1)
        start = mine.stop


def _check(index: np.ndarray, last: np.ndarray, name: str, first: int) -> None:
    """``EngineError`` unless each row of ``index`` int64 [batch, outputs] of a layer holds every
    index once, and only its end is the ``last``, bool alike."""
    batch, count = index.shape
    seen = np.zeros((batch, count + 1), bool)
    np.put_along_axis(seen, np.minimum(index, count), True, 1)
    if not seen[:, :count].all():
        image, missing = np.argwhere(~seen[:, :count])[0]
        others, times = np.unique(index[image], return_counts=True)
        instead = others[(times > 1) | (others >= count)][0]
        raise EngineError(f"the EIE array did not send output {missing} of the {count} of layer "
                          f"{name} for image {first + image}, but {instead} "
                          f"{'twice' if instead < count else 'which there is not'}")
    wrong = last != (np.arange(count) == count - 1)
    if wrong.any():
        image, at = np.argwhere(wrong)[0]
        raise EngineError(f"the EIE array marked {'no' if at == count - 1 else 'an early'} output "
                          f"as the last of the {count} of layer {name} for image {first + image}")


def _counters(model, config: EIEConfig) -> np.ndarray:
    counts = np.zeros((config.pes + 1, COUNTERS), np.int64)
    for unit, select in np.ndindex(counts.shape):
        model.poke("stats__pe", unit)
        model.poke("stats__select", select)
        model.tick(config.stats_latency)
        counts[unit, select] = model.peek("stats__count")
    return counts
