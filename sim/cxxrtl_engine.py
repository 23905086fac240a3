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
        wanted = sum(layer.shape[1] for layer in result.outputs)
        last = np.arange(inputs.shape[1]) == inputs.shape[1] - 1
        for image, vector in enumerate(inputs):
            items = pack_fields(INPUT, {"value": vector.view(np.uint16), "last": last})
            payload, times = model.run({"inputs": items}, {"outputs": wanted})["outputs"]
            found = unpack_fields(output(config), payload)
            start = 0
            for layer, when in zip(result.outputs, result.times, strict=True):
                mine = slice(start, start + layer.shape[1])
                index = found["index"][mine]
                layer[image, index] = found["value"][mine].astype(np.uint16).view(np.int16)
                when[image, index] = times[mine]
                start += layer.shape[1]
            if progress:
                progress(image + 1, len(inputs))
        counts = self._counters(model, config.pes)
        return replace(result, statistics=Statistics.from_counts(len(inputs), counts))

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
