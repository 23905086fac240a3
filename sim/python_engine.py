"""Engine ``python``: the array's gateware in Amaranth's own simulator. Needs no tool."""

import numpy as np
from amaranth.sim import Simulator

from zeroskip.hw.eie.array import EIE
from zeroskip.sim.bench import send
from zeroskip.sim.engine import COUNTERS, Progress, Result, Statistics, collect
from zeroskip.sw.driver.eie import load_words
from zeroskip.sw.program import Program

class PythonEngine:
    """The reference simulation, some thousand cycles a second."""

    name = "python"

    def run(self, program: Program, inputs: np.ndarray,
            progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sim.engine.Engine`.

        A run that makes no progress for a million cycles raises ``TimeoutError``.
        """
        dut = EIE(program.config)
        outputs = collect(program, len(inputs))
        counts = np.zeros((program.config.pes + 1, COUNTERS), np.int64)

        async def bench(ctx):
            words = ({"target": int(target), "pe": int(pe), "address": int(address),
                      "data": int(word)} for target, pe, address, word in load_words(program))
            await send(ctx, dut.load, words)
            for image, vector in enumerate(inputs):
                await send(ctx, dut.inputs, (
                    {"value": int(value), "last": j == len(vector) - 1}
                    for j, value in enumerate(vector)))
                for layer in outputs:
                    await self._receive(ctx, dut, layer[image])
                if progress:
                    progress(image + 1, len(inputs))
            await self._read_counters(ctx, dut, counts)

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()
        return Result(tuple(outputs), Statistics.from_counts(len(inputs), counts))

    async def _receive(self, ctx, dut: EIE, outputs: np.ndarray):
        ctx.set(dut.outputs.ready, 1)
        silent = 0
        async for *_, valid, payload in ctx.tick().sample(dut.outputs.valid, dut.outputs.payload):
            silent = 0 if valid else silent + 1
            if valid:
                outputs[payload.index] = payload.value
                if payload.last:
                    break
            if silent > 1_000_000:
                raise TimeoutError("the array gave no output for a million cycles")
        ctx.set(dut.outputs.ready, 0)

    async def _read_counters(self, ctx, dut: EIE, counts: np.ndarray):
        for unit in range(len(counts)):
            for select in range(COUNTERS):
                ctx.set(dut.stats.pe, unit)
                ctx.set(dut.stats.select, select)
                await ctx.tick().repeat(dut.STATS_LATENCY)
                counts[unit, select] = ctx.get(dut.stats.count)
