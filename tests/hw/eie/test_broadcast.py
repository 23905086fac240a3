"""The broadcast: to all PEs or to each group, places, full queues, and the way of the outputs."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.broadcast import Broadcast
from zeroskip.hw.eie.config import PLACE_LATENCY, EIEConfig
from zeroskip.sim.bench import Stalls, device, receive, send, simulate

GROUPS = pytest.mark.parametrize("groups", [1, 2, 4])
LAYERS = pytest.mark.parametrize("grouped", [0, 1], ids=["plain", "grouped"])
SOURCES = pytest.mark.parametrize("stalls", ["free", "slow", "bursts"], indirect=True)
MOST = 63
"""Columns of the machines here, less one."""


def sized(groups):
    return EIEConfig(pes=2 * groups, groups=groups, act_depth=128)


def own(group, count, start=0):
    """Activations of one tree, each different from all others."""
    return [{"index": 4 * k + group, "column": (7 * k + group) % (MOST + 1),
             "value": 100 * group + k + 1} for k in range(start, start + count)]


def work_of(items, first, stride):
    return [{"place": first + each["column"] * stride, "value": each["value"]} for each in items]


class Run:
    """Every cycle of a broadcast, seen at the ports, for ``found`` (the items of each tree)."""

    def __init__(self, dut, log):
        names = ("full", "sent", "held", "idle", "search")
        groups = dut.config.groups
        self.cycles = [dict(zip(names, cycle[:len(names)], strict=True)) for cycle in log]
        for cycle, values in zip(self.cycles, log, strict=True):
            ports = values[len(names):]
            parts = [ports[k * groups:(k + 1) * groups] for k in range(4)]
            cycle.update(zip(("waits", "taken", "valid", "work"), parts, strict=True))

    def sent(self, group):
        """(cycle, work) of what goes to a group."""
        return [(at, cycle["work"][group]) for at, cycle in enumerate(self.cycles)
                if cycle["valid"][group]]

    def full(self, at, *groups):
        return any(self.cycles[at]["full"] >> group & 1 for group in groups)


@pytest.fixture(scope="session")
def run(watch):
    """``run(found, ...)``: sends what each tree has found; ``full`` is the share of the cycles in
    which each group's queue is full, all at different times. Checks that all that went out did so
    ``PLACE_LATENCY`` cycles after a cycle that let it."""
    def run(found, *, grouped=0, first=0, stride=1, full=0.0, stalls=None):
        groups = len(found)
        dut, log = device(Broadcast, sized(groups)), []

        async def bench(ctx):
            ctx.set(dut.search, 1)
            for name, value in (("grouped", grouped), ("first", first), ("stride", stride)):
                ctx.set(getattr(dut, name), value)

        def sender(group):
            return lambda ctx: send(ctx, dut.found[group], found[group],
                                    stalls and stalls(group)[0])

        async def fill_up(ctx):
            random = Random(4)
            while full:
                ctx.set(dut.full, sum((random.random() < full) << g for g in range(groups)))
                await ctx.tick()

        simulate(dut, bench, *map(sender, range(groups)), background=[fill_up, watch(
            log, dut.full, dut.sent, dut.held, dut.idle, dut.search,
            *(port.valid for port in dut.found),
            *(port.valid & port.ready for port in dut.found),
            *(port.valid for port in dut.o), *(port.payload for port in dut.o))],
            deadline=5000, quiet=400 if full else 50)
        seen = Run(dut, log)
        for group in range(groups):
            asked = [group] if grouped else range(groups)
            assert not any(seen.full(at - PLACE_LATENCY, *asked) for at, _ in seen.sent(group))
        assert [cycle["sent"] for cycle in seen.cycles[:-PLACE_LATENCY]] == [
            int(any(cycle["valid"])) for cycle in seen.cycles[PLACE_LATENCY:]]
        return seen
    return run


@SOURCES
@GROUPS
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=4)
def test_a_plain_layer_goes_to_every_group_alike(run, stalls, groups, data):
    found = [own(k, data.draw(st.integers(0, 12))) for k in range(groups)]
    first, stride = data.draw(st.integers(0, 100)), data.draw(st.sampled_from([0, 1, 2, 4, 5]))
    seen = run(found, first=first, stride=stride, full=data.draw(st.sampled_from([0.0, 0.4])),
               stalls=stalls)
    everyone = seen.sent(0)
    assert all(seen.sent(group) == everyone for group in range(groups))
    for group, items in enumerate(found):
        assert [work for _, work in everyone if (work["value"] - 1) // 100 == group] == work_of(
            items, first, stride)
    assert len(everyone) == sum(map(len, found))


@SOURCES
@GROUPS
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=4)
def test_a_grouped_layer_goes_to_each_group_apart(run, stalls, groups, data):
    found = [own(k, data.draw(st.integers(0, 12))) for k in range(groups)]
    first, stride = data.draw(st.integers(0, 100)), data.draw(st.sampled_from([0, 1, 2, 4, 5]))
    seen = run(found, grouped=1, first=first, stride=stride, stalls=stalls,
               full=data.draw(st.sampled_from([0.0, 0.4])))
    assert [[work for _, work in seen.sent(group)] for group in range(groups)] == [
        work_of(items, first, stride) for items in found]


@LAYERS
@pytest.mark.parametrize(("first", "stride"), [(0, 1), (4096 - 63 * 63, 63), (4032, 1), (4095, 0)])
def test_places_up_to_the_end_of_the_memory(run, grouped, first, stride):
    # 512 rows of eight bytes.
    found = [[{"index": 0, "column": column, "value": k - 9}
              for k, column in enumerate((0, 1, MOST - 1, MOST))], []]
    seen = run(found, grouped=grouped, first=first, stride=stride)
    assert [work for _, work in seen.sent(0)] == work_of(found[0], first, stride)


@GROUPS
def test_a_plain_layer_sends_one_a_cycle_that_no_queue_is_full(run, groups):
    found = [own(k, 12) for k in range(groups)]
    for full in (0.0, 0.4):
        seen = run(found, full=full)
        at = [cycle for cycle, _ in seen.sent(0)]
        assert at == [cycle for cycle in range(at[0], at[-1] + 1)
                      if not seen.full(cycle - PLACE_LATENCY, *range(groups))]


@GROUPS
def test_a_grouped_layer_sends_one_a_cycle_to_each_group_that_is_not_full(run, groups):
    found = [own(k, 20) for k in range(groups)]
    for full in (0.0, 0.4):
        seen = run(found, grouped=1, full=full)
        for group in range(groups):
            at = [cycle for cycle, _ in seen.sent(group)]
            assert at == [cycle for cycle in range(at[0], at[-1] + 1)
                          if not seen.full(cycle - PLACE_LATENCY, group)]


def test_a_full_queue_holds_only_its_own_group_of_a_grouped_layer(watch):
    dut, log = device(Broadcast, sized(4)), []

    async def bench(ctx):
        for name, value in (("search", 1), ("grouped", 1), ("full", 0b0100)):
            ctx.set(getattr(dut, name), value)
        for group, port in enumerate(dut.found):
            ctx.set(port.payload, {"value": group + 1})
            ctx.set(port.valid, 1)
        await ctx.tick().repeat(10)

    simulate(dut, bench, quiet=0,
             background=[watch(log, *(port.ready for port in dut.found), dut.held, dut.sent)])
    assert {*log[:10]} == {(1, 1, 0, 1, 1, 1)}


@GROUPS
@LAYERS
def test_latency(run, groups, grouped):
    """A plain layer's activations pass the node that merges the trees, if there are many."""
    for group in range(groups):
        seen = run([own(k, k == group) for k in range(groups)], grouped=grouped)
        (entered,) = (at for at, cycle in enumerate(seen.cycles) if any(cycle["taken"]))
        ((left, _),) = seen.sent(group)
        assert left - entered == PLACE_LATENCY + (groups > 1 and not grouped)


@SOURCES
@GROUPS
@LAYERS
@pytest.mark.parametrize("full", [0.0, 0.5])
def test_idle_and_held_tell_what_waits(run, stalls, groups, grouped, full):
    seen = run([own(k, 10) for k in range(groups)], grouped=grouped, full=full, stalls=stalls)
    inside = 0
    for cycle in seen.cycles:
        assert cycle["idle"] == (not cycle["waits"][0] if groups == 1 else inside == 0)
        if grouped or groups == 1:
            held = any(waits and cycle["full"] >> group & 1
                       for group, waits in enumerate(cycle["waits"]))
        else:
            held = inside and cycle["full"]
            inside += sum(cycle["taken"]) - cycle["sent"]
        assert cycle["held"] == bool(held)
    assert inside == 0


@GROUPS
@LAYERS
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=2)
def test_outputs_leave_with_index_and_value_and_no_pe_sees_them(
        transfer, stalls, watch, groups, grouped, data):
    found = [own(k, data.draw(st.integers(0, 10))) for k in range(groups)]
    dut, log = device(Broadcast, sized(groups)), []

    async def before(ctx):
        ctx.set(dut.grouped, grouped)
        ctx.set(dut.full, (1 << groups) - 1)

    (out,) = transfer(dut, list(zip(dut.found, found, strict=True)),
                      [(dut.outputs, sum(map(len, found)))], stalls=stalls, before=before,
                      background=[watch(log, dut.sent, dut.held,
                                        *(port.valid for port in dut.o))])
    for group, items in enumerate(found):
        assert [each for each in out if (each["value"] - 1) // 100 == group] == items
    assert not any(map(any, log))


@LAYERS
def test_outputs_come_between_the_searches_of_two_layers(watch, grouped):
    dut, log, out = device(Broadcast, sized(2)), [], []

    async def bench(ctx):
        ctx.set(dut.stride, 1)
        ctx.set(dut.grouped, grouped)
        for search, start in ((1, 0), (0, 5), (1, 10)):
            ctx.set(dut.search, search)
            for group in range(2):
                await send(ctx, dut.found[group], own(group, 5, start))
            await ctx.tick().repeat(40)

    async def take(ctx):
        out.extend(await receive(ctx, dut.outputs, 10, Stalls(1, 0.5)))

    simulate(dut, bench, take, background=[
        watch(log, *(port.valid for port in dut.o), *(port.payload for port in dut.o))])
    assert out == [*own(0, 5, 5), *own(1, 5, 5)]
    sent = [[cycle[2 + group] for cycle in log if cycle[group]] for group in range(2)]
    searched = [[*own(group, 5), *own(group, 5, 10)] for group in range(2)]
    if not grouped:
        merged = [item for start in (0, 10) for group in range(2)
                  for item in own(group, 5, start)]
        searched = [merged, merged]
    assert sent == [work_of(items, 0, 1) for items in searched]
