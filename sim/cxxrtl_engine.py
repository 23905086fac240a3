"""Engine ``cxxrtl``: the array's gateware, compiled; hundreds of times faster."""

from dataclasses import replace

import numpy as np
from amaranth.lib import data

from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.control import INPUT, output
from zeroskip.hw.eie.layouts import load_word
from zeroskip.sim.cxxrtl import Model, build, compiler
from zeroskip.sim.engine import COUNTERS, Progress, Result, Statistics
from zeroskip.sw.driver.eie import load_words
from zeroskip.sw.program import Program

BATCH = 64
"""Images that run in one call of the compiled clock loop, between two steps of progress."""


class CxxrtlEngine:
    """The default where a C++ compiler is found; raises ``ToolMissing`` elsewhere."""

    name = "cxxrtl"

    def __init__(self):
        compiler()

    def run(self, program: Program, inputs: np.ndarray,
            progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sim.engine.Engine`."""
        config = program.config
        model = Model(build(lambda: EIE(config), "eie", config.digest()))
        words = load_words(program)
        fields = ("target", "pe", "address", "data")
        model.run({"load": pack_fields(
            load_word(config), dict(zip(fields, words.T, strict=True)))}, {})

        result = Result.empty(program, len(inputs))
        for start in range(0, len(inputs), BATCH):
            images = slice(start, min(start + BATCH, len(inputs)))
            self._run_batch(model, program, inputs[images], images, result)
            if progress:
                progress(images.stop, len(inputs))
        counts = self._counters(model, config.pes)
        return replace(result, statistics=Statistics.from_counts(len(inputs), counts))

    def _run_batch(self, model: Model, program: Program, inputs: np.ndarray, images: slice,
                   result: Result) -> None:
        """Sends ``inputs`` one vector after another and files the outputs under ``images``."""
        batch, length = inputs.shape
        items = pack_fields(INPUT, {
            "value": np.ascontiguousarray(inputs).view(np.uint16).reshape(-1),
            "last": np.tile(np.arange(length) == length - 1, batch)})
        wanted = sum(layer.shape[1] for layer in result.outputs)
        payload, times = model.run({"inputs": items}, {"outputs": batch * wanted})["outputs"]
        found = unpack_fields(output(program.config), payload)
        index = found["index"].reshape(batch, wanted)
        value = found["value"].astype(np.uint16).view(np.int16).reshape(batch, wanted)
        times = times.astype(np.int64).reshape(batch, wanted)
        start = 0
        for layer, when in zip(result.outputs, result.times, strict=True):
            mine = slice(start, start + layer.shape[1])
            np.put_along_axis(layer[images], index[:, mine].astype(np.int64), value[:, mine], 1)
            np.put_along_axis(when[images], index[:, mine].astype(np.int64), times[:, mine], 1)
            start = mine.stop

    def _counters(self, model: Model, pes: int) -> np.ndarray:
        counts = np.zeros((pes + 1, COUNTERS), np.int64)
        for unit in range(pes + 1):
            for select in range(COUNTERS):
                model.poke("stats__pe", unit)
                model.poke("stats__select", select)
                model.tick(EIE.STATS_LATENCY)
                counts[unit, select] = model.peek("stats__count")
        return counts


def pack_fields(layout: data.StructLayout, values: dict[str, np.ndarray]) -> np.ndarray:
    """Unsigned field values, each [n], as payloads uint32 [n, words]."""
    n = len(next(iter(values.values())))
    payload = np.zeros((n, -(-layout.size // 32)), np.uint32)
    for name, field in layout:
        value = np.asarray(values[name], np.uint64) << np.uint64(field.offset % 32)
        word = field.offset // 32
        payload[:, word] |= (value & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        if field.offset % 32 + field.width > 32:
            payload[:, word + 1] |= (value >> np.uint64(32)).astype(np.uint32)
    return payload


def unpack_fields(layout: data.StructLayout, payload: np.ndarray) -> dict[str, np.ndarray]:
    """The inverse of :func:`pack_fields`: uint64 [n] per field."""
    wide = np.concatenate([payload, np.zeros((len(payload), 1), np.uint32)], 1).astype(np.uint64)
    values = {}
    for name, field in layout:
        word = field.offset // 32
        both = wide[:, word] | wide[:, word + 1] << np.uint64(32)
        values[name] = both >> np.uint64(field.offset % 32) & np.uint64((1 << field.width) - 1)
    return values
