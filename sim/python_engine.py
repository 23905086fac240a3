"""Engine ``python``: the array's gateware in Amaranth's own simulator. Needs no tool."""

from dataclasses import replace

import numpy as np
from amaranth.sim import Simulator

from zeroskip.hw.eie.array import EIE
from zeroskip.sim.bench import send
from zeroskip.sim.engine import COUNTERS, PATIENCE, Progress, Result, Statistics
from zeroskip.sw.driver.eie import load_words
from zeroskip.sw.program import Program


class PythonEngine:
    """The reference simulation, some thousand cycles a second."""

    name = "python"

    def run(self, program: Program, inputs: np.ndarray,
            progress: Progress | None = None) -> Result:
        """See :class:`zeroskip.sim.engine.Engine`."""
        dut = EIE(program.config)
        result = Result.empty(program, len(inputs))
        counts = np.zeros((program.config.pes + 1, COUNTERS), np.int64)
        now = 0

        async def clock(ctx):
            nonlocal now
            async for _ in ctx.tick():
                now += 1

        async def receive(ctx, outputs, times):
            for _ in range(len(outputs)):
                ctx.set(dut.outputs.ready, 1)
                for _ in range(PATIENCE):
                    *_, valid, found = await ctx.tick().sample(dut.outputs.valid,
                                                               dut.outputs.payload)
                    if valid:
                        break
                else:
                    raise TimeoutError(f"no output for {PATIENCE:,} cycles")
                outputs[found.index], times[found.index] = found.value, now
            ctx.set(dut.outputs.ready, 0)

        async def bench(ctx):
            words = ({"target": int(target), "pe": int(pe), "address": int(address),
                      "data": int(word)} for target, pe, address, word in load_words(program))
            await send(ctx, dut.load, words)
            for image, vector in enumerate(inputs):
                await send(ctx, dut.inputs, (
                    {"value": int(value), "last": j == len(vector) - 1}
                    for j, value in enumerate(vector)))
                for outputs, times in zip(result.outputs, result.times, strict=True):
                    await receive(ctx, outputs[image], times[image])
                if progress:
                    progress(image + 1, len(inputs))
            for unit, select in np.ndindex(counts.shape):
                ctx.set(dut.stats.pe, unit)
                ctx.set(dut.stats.select, select)
                await ctx.tick().repeat(dut.STATS_LATENCY)
                counts[unit, select] = ctx.get(dut.stats.count)

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(clock, background=True)
        simulator.add_testbench(bench)
        simulator.run()
        return replace(result, statistics=Statistics.from_counts(len(inputs), counts))
