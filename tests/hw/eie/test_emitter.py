"""Emitter: outputs pass, the last one of each layer is marked and told."""

import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.emitter import Emitter
from zeroskip.sim.bench import device, receive, send, simulate


@pytest.mark.parametrize("counts", [[1], [2, 1], [5, 3, 9]], ids=str)
def test_the_last_of_every_layer_is_marked(stalls, watch, counts):
    dut, left, log = device(Emitter, EIEConfig(pes=4)), [], []
    items = [{"index": 3 * k, "column": 1, "value": k - 5} for k in range(sum(counts))]
    sending, taking = stalls(1)

    async def layers(ctx):
        at = 0
        for count in counts:
            ctx.set(dut.emitting, 0)
            ctx.set(dut.count, count)
            await ctx.tick()
            ctx.set(dut.emitting, 1)
            ctx.set(dut.count, 99)      # from now on it does not matter
            await send(ctx, dut.found, items[at:at + count], sending)
            at += count
            while not ctx.get(dut.done):
                await ctx.tick()

    async def take(ctx):
        left.extend(await receive(ctx, dut.outputs, len(items), taking))

    simulate(dut, layers, take, background=[
        watch(log, dut.outputs.valid & dut.outputs.ready & dut.outputs.payload.last, dut.done)])
    ends = {sum(counts[:k + 1]) - 1 for k in range(len(counts))}
    assert left == [{"index": item["index"], "value": item["value"], "last": int(k in ends)}
                    for k, item in enumerate(items)]
    assert [done for _, done in log[1:]] == [last for last, _ in log[:-1]]
