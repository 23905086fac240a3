"""Descriptor fetch: what is loaded is read, in order, and from the first one again."""

import pytest
from amaranth.hdl import Const

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.fetch import DescriptorFetch
from zeroskip.hw.eie.layouts import (
    LoadTarget,
    descriptor_layout,
    descriptor_stride,
    descriptor_words,
)
from zeroskip.sim.bench import device, simulate

CONFIGS = [EIEConfig(pes=2, descriptors=5), EIEConfig(pes=2, descriptors=5, weight_rows=1 << 16)]


def loads(config, segments):
    """The load words of descriptors, and a few for others in between."""
    for number, fields in enumerate(segments):
        bits = Const.cast(descriptor_layout(config).const(fields)).value
        for word in range(descriptor_words(config)):
            address = descriptor_stride(config) * number + word
            for target in (LoadTarget.DESCRIPTORS, LoadTarget.WEIGHTS, LoadTarget.BIASES):
                yield {"target": target, "address": address,
                       "data": bits >> 32 * word & 0xFFFFFFFF
                       if target is LoadTarget.DESCRIPTORS else 0x55555555}


@pytest.mark.parametrize("config", CONFIGS, ids=descriptor_words)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_descriptors_in_order_and_the_first_again_behind_the_last(feed, config, count):
    dut, found = device(DescriptorFetch, config), []
    segments = [{"limit": 7 + k, "outputs": 3 * k, "last": int(k == count - 1)}
                for k in range(count)]

    async def bench(ctx):
        await feed(ctx, dut.load, loads(config, segments))
        await ctx.tick().repeat(DescriptorFetch.LATENCY + 2)
        for _ in range(2 * count + 1):
            found.append({name: ctx.get(dut.segment[name]) for name in segments[0]})
            ctx.set(dut.advance, 1)
            await ctx.tick()
            ctx.set(dut.advance, 0)
            await ctx.tick().repeat(DescriptorFetch.LATENCY)

    simulate(dut, bench)
    assert found == [*segments, *segments, segments[0]]


def test_a_load_is_seen_after_the_cycles_that_are_promised(feed, watch):
    dut, log = device(DescriptorFetch, CONFIGS[0]), []
    word = {"target": LoadTarget.DESCRIPTORS, "address": 0, "data": 1}
    simulate(dut, lambda ctx: feed(ctx, dut.load, [word]), background=[watch(log, dut.segment)])
    seen = [segment["first"] for segment, in log]
    assert seen[:DescriptorFetch.LATENCY + 3] == [0] * (DescriptorFetch.LATENCY + 2) + [1]
