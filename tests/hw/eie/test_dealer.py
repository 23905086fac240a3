"""Input dealer: loads pass, inputs are dealt out, and what starts, resumes and clears."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.dealer import InputDealer
from zeroskip.hw.eie.fetch import DescriptorFetch
from zeroskip.hw.eie.layouts import LoadTarget
from zeroskip.sim.bench import device, send, simulate

CONFIG = EIEConfig(pes=6, groups=2, act_depth=16)


def mode(dut, loading=1, dealing=1):
    """A bench that sets the mode, I/O by default."""
    async def run(ctx):
        ctx.set(dut.loading, loading)
        ctx.set(dut.dealing, dealing)
    return run


def vector(*values):
    return [{"value": value, "last": k == len(values) - 1} for k, value in enumerate(values)]


def test_loads_pass_on_unchanged(record):
    dut, passed = device(InputDealer, CONFIG), []
    words = [{"target": target, "pe": k % 6, "address": 5 * k, "data": 0x87654321 + k}
             for k, target in enumerate(LoadTarget)]
    simulate(dut, mode(dut), lambda ctx: send(ctx, dut.load, words),
             background=[record(passed, dut.write)])
    assert [word for _, word in passed] == [{**word, "target": word["target"].value}
                                            for word in words]
    assert passed[-1][0] - passed[0][0] == len(words) - 1, "one a cycle"


VALUES = st.lists(st.integers(-32768, 32767), min_size=1, max_size=20)


@pytest.mark.parametrize("stalls", ["free", "slow", "bursts"], indirect=True)
@pytest.mark.parametrize(("groups", "clusters"), [(1, 1), (1, 5), (2, 3), (4, 1)])
@given(values=VALUES)
@settings(deadline=None, derandomize=True, max_examples=2)
def test_inputs_are_dealt_to_the_pes_in_turn(record, stalls, groups, clusters, values):
    config = EIEConfig(pes=groups * clusters, groups=groups, act_depth=20)
    dut, dealt = device(InputDealer, config), []
    simulate(dut, mode(dut), lambda ctx: send(ctx, dut.inputs, vector(*values), stalls(1)[0]),
             background=[record(dealt, dut.write)])
    assert [word for _, word in dealt] == [
        {"target": LoadTarget.ACTIVATIONS.value, "pe": k % config.pes,
         "address": k // config.pes, "data": value % (1 << 32)}
        for k, value in enumerate(values)]


def test_a_load_goes_before_an_input(record):
    dut, passed = device(InputDealer, CONFIG), []
    words = [{"target": LoadTarget.WEIGHTS, "data": k} for k in range(3)]
    simulate(dut, mode(dut), lambda ctx: send(ctx, dut.inputs, vector(7, 8)),
             lambda ctx: send(ctx, dut.load, words), background=[record(passed, dut.write)])
    assert [word["data"] for _, word in passed] == [0, 1, 2, 7, 8]


@pytest.mark.parametrize("target", LoadTarget)
def test_only_their_targets_clear_and_resume(watch, target):
    dut, log = device(InputDealer, CONFIG), []
    simulate(dut, mode(dut), lambda ctx: send(ctx, dut.load, [{"target": target}] * 2),
             background=[watch(log, dut.clear, dut.resume)])
    clear, resume = map(sum, zip(*log, strict=True))
    assert clear == (2 if target is LoadTarget.COUNTERS else 0)
    assert resume == (2 if target is LoadTarget.RESUME else 0)


@pytest.mark.parametrize(("loading", "dealing"), [(0, 0), (1, 0), (1, 1)])
def test_what_is_taken_in_each_mode(watch, loading, dealing):
    dut, log = device(InputDealer, CONFIG), []

    async def offer(ctx):
        ctx.set(dut.inputs.valid, 1)
        await ctx.tick().repeat(10)
        ctx.set(dut.load.valid, 1)
        await ctx.tick().repeat(3)

    simulate(dut, mode(dut, loading, dealing), offer, quiet=0, background=[
        watch(log, dut.load.ready, dut.inputs.ready, dut.write.valid)])
    assert log[5][:3] == (loading, dealing, dealing)
    assert log[11][:3] == (loading, 0, loading)


def test_an_input_waits_until_a_descriptor_before_it_is_read(record):
    dut, taken, loaded = device(InputDealer, CONFIG), [], []

    async def both(ctx):
        await send(ctx, dut.load, [{"target": LoadTarget.DESCRIPTORS}])
        await send(ctx, dut.inputs, vector(1, 2))

    simulate(dut, mode(dut), both, background=[record(loaded, dut.load),
                                               record(taken, dut.inputs)])
    assert [cycle - loaded[0][0] for cycle, _ in taken] == [
        1 + DescriptorFetch.LATENCY, 2 + DescriptorFetch.LATENCY]


def test_the_last_input_starts(watch):
    dut, log = device(InputDealer, CONFIG), []
    simulate(dut, mode(dut), lambda ctx: send(ctx, dut.inputs, vector(1, 2, 3)),
             background=[watch(log, dut.inputs.valid & dut.inputs.ready, dut.start)])
    assert [start for taken, start in log if taken] == [0, 0, 1]
    assert sum(start for _, start in log) == 1
