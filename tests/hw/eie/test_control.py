"""Central control at its ports: loads, inputs, the sequence of a network, and the broadcast."""

from collections import deque
from itertools import pairwise
from random import Random

import pytest
from amaranth.hdl import Const
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import BUSY_LATENCY, PLACE_LATENCY, EIEConfig
from zeroskip.hw.eie.control import CentralControl
from zeroskip.hw.eie.counters import ControlCounter
from zeroskip.hw.eie.layouts import (
    LoadTarget,
    Phase,
    descriptor_layout,
    descriptor_stride,
    descriptor_words,
)
from zeroskip.hw.memory import BlockRAM
from zeroskip.sim.bench import checker, device, receive, send, simulate

LATENCY = st.sampled_from([0, 1, 3])
LATENCIES = pytest.mark.parametrize("latency", [0, 1, 3])
GROUPED = pytest.mark.parametrize("grouped", [0, 1], ids=["plain", "grouped"])


def sized(latency=1, groups=2, clusters=3, **sizes):
    return EIEConfig(**{"pes": clusters * groups, "groups": groups, "act_depth": 16,
                        "bias_depth": 32, "pointers": 64, "codebooks": 2, "descriptors": 5,
                        "broadcast_latency": latency, **sizes})


CONFIG = sized()


def segment(**fields):
    return {"begin": 1, "limit": 9, "stride": 1, **fields}


LAYER = segment(first=5, stride=4, swap=1, last=1, outputs=4, destination=2, bias=3, shift=7,
                relu=1, codebook=1)


def descriptor_loads(config, segments):
    """The load words of a network."""
    for number, fields in enumerate(segments):
        bits = Const.cast(descriptor_layout(config).const(fields)).value
        for word in range(descriptor_words(config)):
            yield {"target": LoadTarget.DESCRIPTORS, "data": bits >> 32 * word & 0xFFFFFFFF,
                   "address": descriptor_stride(config) * number + word}


def vector(*values):
    return [{"value": value, "last": k == len(values) - 1} for k, value in enumerate(values)]


def found(count, start=0):
    """``count`` activations, each different from all others."""
    return [{"index": k, "column": 5 * k % 32, "value": -start - k - 1} for k in range(count)]


def group_of(config, item):
    return item["index"] // config.clusters % config.groups


def work(items, **fields):
    """What a segment makes of the activations that are found."""
    return [{"place": fields.get("first", 0) + item["column"] * fields["stride"],
             "value": item["value"]} for item in items]


class Clusters:
    """Stands in for the clusters and the LNZD trees. Its answers come as late as they may.

    ``answers`` are the activations found by each scan; ``full`` is the share of the cycles in
    which a queue of each group is full, and ``hold`` the cycles that a PE is busy after a
    broadcast.
    """

    def __init__(self, dut, answers, full=0.0, hold=5, stalls=None):
        self.dut, self.answers, self.full, self.hold = dut, answers, full, hold
        self.stalls, self.late = stalls, 2 * dut.config.broadcast_latency
        self.pending = [deque() for _ in range(dut.config.groups)]

    async def scan(self, ctx):
        answers, dut = iter(self.answers), self.dut
        ctx.set(dut.found_idle, 1)
        while True:
            *_, scan = await ctx.tick().sample(dut.command.scan)
            if scan:
                for _ in range(self.late + 1):
                    await ctx.tick()
                ctx.set(dut.scanning, 1)
                for _ in range(5):
                    await ctx.tick()
                # From here on the trees alone know that something is still to come.
                for item in next(answers):
                    self.pending[group_of(dut.config, item)].append(item)
                ctx.set(dut.found_idle, not any(self.pending))
                ctx.set(dut.scanning, 0)

    def tree(self, group):
        pending, port = self.pending[group], self.dut.found[group]

        async def run(ctx):
            while True:
                if pending:
                    await send(ctx, port, [pending[0]], self.stalls)
                    pending.popleft()
                    ctx.set(self.dut.found_idle, not any(self.pending))
                else:
                    await ctx.tick()
        return run

    async def work(self, ctx):
        road, left = deque([0] * (self.late + BUSY_LATENCY)), 0
        async for _, _, *valid in ctx.tick().sample(*(port.valid for port in self.dut.broadcast)):
            road.append(any(valid))
            left = self.hold if road.popleft() else max(0, left - 1)
            ctx.set(self.dut.busy, left > 0)

    async def fill_up(self, ctx):
        random = Random(4)
        while self.full:
            ctx.set(self.dut.full, sum((random.random() < self.full) << group
                                       for group in range(self.dut.config.groups)))
            await ctx.tick()

    @property
    def processes(self):
        return [self.scan, self.work, self.fill_up,
                *(self.tree(group) for group in range(self.dut.config.groups))]


class Log:
    """Every cycle of a run, seen at the ports."""

    SIGNALS = ("command", "computing", "full", "busy", "scanning")
    PORTS = ("sent", "work", "waits", "taken")

    def __init__(self, config, cycles, outputs, counts):
        self.groups = config.groups
        self.cycles = [dict(zip(self.SIGNALS, cycle[:len(self.SIGNALS)], strict=True))
                       for cycle in cycles]
        for cycle, values in zip(self.cycles, cycles, strict=True):
            ports = values[len(self.SIGNALS):]
            parts = [ports[k * self.groups:(k + 1) * self.groups] for k in range(4)]
            cycle.update(zip(self.PORTS, parts, strict=True))
        self.outputs, self.counts = outputs, counts
        self.commands = [cycle["command"] for cycle in self.cycles]

    def when(self, name):
        """Cycles in which a port is set, or that of any group."""
        return [k for k, cycle in enumerate(self.cycles)
                if (any(cycle[name]) if name in self.PORTS else cycle[name])]

    def starts(self):
        """Cycles in which a scan starts."""
        return [k for k, command in enumerate(self.commands) if command["scan"]]

    def scans(self, *names):
        return [tuple(self.commands[k][name] for name in names) for k in self.starts()]

    def readings(self):
        """How the source is read in each scan, (raw, bias, shift, relu, summed)."""
        return [tuple(reading[name] for name in ("raw", "bias", "shift", "relu", "summed"))
                for (reading,) in self.scans("reading")]

    def broadcasts(self, group=0):
        return [cycle["work"][group] for cycle in self.cycles if cycle["sent"][group]]

    def held(self, grouped):
        """Per cycle, whether an activation waits for a full queue: the first of a group, or one
        that the trees gave and that is not sent."""
        inside, held = 0, []
        for k, cycle in enumerate(self.cycles[:-PLACE_LATENCY]):
            search = cycle["computing"] and not cycle["command"]["scan"]
            if grouped:
                held.append(search and any(waits and cycle["full"] >> group & 1
                                           for group, waits in enumerate(cycle["waits"])))
            else:
                held.append(bool(search and inside and cycle["full"]))
                inside += search * sum(cycle["taken"]) - any(
                    self.cycles[k + PLACE_LATENCY]["sent"])
        return held

    def phases(self):
        """The phases of the computing cycles, each run of the same once."""
        every = [Phase(cycle["command"]["phase"]).name for cycle in self.cycles
                 if cycle["computing"]]
        return [phase for k, phase in enumerate(every) if k == 0 or every[k - 1] != phase]


@pytest.fixture(scope="session")
def network(watch):
    """``network(segments, answers, **options)``: the log of a network of these segments, whose
    scans find these activations."""
    def network(segments, answers, *, config=CONFIG, runs=1, stalls=None, **options):
        dut, cycles, outputs, counts = device(CentralControl, config), [], [], []
        source, sink = stalls(1) if stalls else (None, None)
        clusters = Clusters(dut, answers * runs, stalls=source, **options)
        wanted = sum(s.get("outputs", 0) for s in segments)

        async def host(ctx):
            await send(ctx, dut.load, descriptor_loads(config, segments))
            await send(ctx, dut.load, [{"target": LoadTarget.COUNTERS}])
            for _ in range(runs):
                await send(ctx, dut.inputs, vector(1, 2, 3))
                outputs.append(await receive(ctx, dut.outputs, wanted, sink))
                while not ctx.get(dut.inputs.ready):
                    await ctx.tick()
            await ctx.tick()
            for which in ControlCounter:
                ctx.set(dut.select, which)
                await ctx.tick()
                counts.append(ctx.get(dut.count))

        signals = [getattr(dut, name) for name in Log.SIGNALS]
        simulate(dut, host, background=[
            *clusters.processes, checker(dut.outputs),
            watch(cycles, *signals, *(port.valid for port in dut.broadcast),
                  *(port.payload for port in dut.broadcast),
                  *(port.valid for port in dut.found),
                  *(port.valid & port.ready for port in dut.found))], deadline=5_000)
        return Log(config, cycles, outputs, dict(zip(ControlCounter, counts, strict=True)))
    return network


@pytest.mark.parametrize(("depth", "words"), [(2, 2), (5, 8), (16, 16)])
def test_after_reset_every_word_is_wiped_before_anything_is_taken(watch, depth, words):
    dut, log = device(CentralControl, sized(act_depth=depth)), []
    simulate(dut, background=[watch(log, dut.command.wipe, dut.load.ready, dut.inputs.ready,
                                    dut.command.scan)], quiet=words + 10)
    assert log[:words] == [(1, 0, 0, 0)] * words
    # Inputs wait until the first descriptor is read.
    assert log[words:words + BlockRAM.LATENCY] == [(0, 1, 0, 0)] * BlockRAM.LATENCY
    assert {*log[words + BlockRAM.LATENCY:]} == {(0, 1, 1, 0)}


def test_the_next_vector_starts_at_the_first_pe_again(record):
    config = sized(clusters=1)
    dut, dealt = device(CentralControl, config), []

    async def host(ctx):
        await send(ctx, dut.load, descriptor_loads(config, [segment(last=1)]))
        for _ in range(2):
            await send(ctx, dut.inputs, vector(1, 2, 3))

    simulate(dut, host, background=[*Clusters(dut, [[], []]).processes,
                                    record(dealt, dut.write)])
    assert [(word["pe"], word["address"]) for _, word in dealt
            if word["target"] == LoadTarget.ACTIVATIONS.value] == [(0, 0), (1, 0), (0, 1)] * 2


def test_loads_and_inputs_wait_while_a_network_runs(record, watch):
    dut, log, passed = device(CentralControl, CONFIG), [], []
    clusters = Clusters(dut, [found(5), found(2), found(4)])

    async def host(ctx):
        await send(ctx, dut.load, descriptor_loads(
            CONFIG, [segment(), segment(outputs=4, swap=1, last=1)]))
        await send(ctx, dut.inputs, vector(1))
        ctx.set(dut.load.valid, 1)
        ctx.set(dut.inputs.valid, 1)
        await receive(ctx, dut.outputs, 4)
        ctx.set(dut.load.valid, 0)
        ctx.set(dut.inputs.valid, 0)

    simulate(dut, host, background=[*clusters.processes, record(passed, dut.write), watch(
        log, dut.computing, dut.outputs.valid, dut.load.ready, dut.inputs.ready)])
    started = next(k for k, (computing, *_) in enumerate(log) if computing)
    ended = max(k for k, (_, output, *_) in enumerate(log) if output)
    assert {readies for _, _, *readies in map(tuple, log[started:ended + 2])
            for readies in readies} == {0}
    assert log[ended + 2][2:] == (1, 0)
    assert log[ended + 2 + BlockRAM.LATENCY][2:] == (1, 1)
    assert len(passed) == 2 * descriptor_words(CONFIG) + 1


def test_the_scan_carries_the_segment(network):
    log = network([segment(limit=44, grouped=1), segment(begin=0, limit=63, clear=1, grouped=1),
                   segment(limit=96, clear=1, last=1)], [found(3), [], []])
    assert log.scans("begin", "limit", "clear", "grouped", "emit", "role") == [
        (1, 44, 0, 1, 0, 0), (0, 63, 1, 1, 0, 0), (1, 96, 1, 0, 0, 0)]


def test_the_descriptors_run_in_order_up_to_the_last_one(network):
    log = network([segment(limit=k, last=k == 4) for k in range(5)], [found(k) for k in range(5)])
    assert log.scans("limit") == [(k,) for k in range(5)]
    log = network([segment(limit=k, last=k == 2) for k in range(5)], [found(k) for k in range(5)])
    assert log.scans("limit") == [(0,), (1,), (2,)]


@pytest.mark.parametrize("stalls", ["free", "slow", "bursts"], indirect=True)
@GROUPED
@given(latency=LATENCY, counts=st.lists(st.integers(0, 12), min_size=3, max_size=3),
       stride=st.integers(0, 63))
@settings(deadline=None, derandomize=True, max_examples=3)
def test_what_the_scans_find_is_broadcast_with_its_place(network, stalls, grouped, latency,
                                                         counts, stride):
    config = sized(latency, weight_rows=1024)
    answers = [found(count, 20 * k) for k, count in enumerate(counts)]
    segments = [segment(first=90 * k, stride=stride, grouped=grouped, balanced=1)
                for k in range(3)]
    segments[-1]["last"] = 1
    log = network(segments, answers, full=0.3, stalls=stalls, config=config)
    for group in range(2):
        expected = [[each for each in answer if not grouped or group_of(config, each) == group]
                    for answer in answers]
        sent = iter(log.broadcasts(group))
        for part, fields in zip(expected, segments, strict=True):
            # Those of the two groups of a plain layer come in any order.
            assert sorted((next(sent) for _ in part), key=str) == sorted(
                work(part, **fields), key=str)
        assert next(sent, None) is None


@pytest.mark.parametrize("full", [0.3, 0.7])
@GROUPED
def test_the_broadcast_stops_while_a_queue_is_full(network, grouped, full):
    log = network([{**LAYER, "grouped": grouped}], [found(20), found(4)], full=full)
    for group in range(2):
        queues = 1 << group if grouped else 0b11
        free = [k + PLACE_LATENCY for k, cycle in enumerate(log.cycles)
                if not cycle["full"] & queues]
        sent = [k for k, cycle in enumerate(log.cycles) if cycle["sent"][group]]
        assert len(sent) == (20 if not grouped else [11, 9][group])
        assert not set(sent) - set(free)


def test_one_activation_is_broadcast_in_each_cycle_that_none_is_full(network):
    for full in (0.0, 0.3):
        log = network([LAYER], [found(30), found(4)], full=full)
        cycles = log.when("sent")
        assert [k for k in range(cycles[0], cycles[-1] + 1)
                if not log.cycles[k - PLACE_LATENCY]["full"]] == cycles


@LATENCIES
@GROUPED
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("hold", [1, 60])
def test_the_next_scan_waits_until_every_pe_has_finished(network, latency, grouped, hold, count):
    following = segment(swap=1, outputs=4, last=1, grouped=grouped)
    log = network([{**following, "last": 0}, following],
                  [found(count), found(4), found(count), found(4)],
                  config=sized(latency), hold=hold)
    assert log.scans("emit") == [(0,), (1,), (0,), (1,)]
    for scan, later in zip(log.starts()[::2], log.starts()[1::2], strict=True):
        inside = range(scan, later)
        assert max(k for k in log.when("busy") if k in inside) > max(
            k for k in log.when("sent") if k in inside)
        assert not log.cycles[later]["busy"]
    assert sum(len(log.broadcasts(group)) for group in range(2)) == 2 * count * (2 - grouped)


@LATENCIES
def test_a_segment_without_any_activation_passes_on_soon(network, latency):
    log = network([segment()] * 4 + [segment(last=1)], [[]] * 5, config=sized(latency))
    assert log.broadcasts() == []
    # A reply to the scan takes twice the latency and two cycles; then the clusters here scan for
    # five cycles, until which nothing can follow, which is known a cycle later; then a broadcast
    # could still be on its way; then the next descriptor is read.
    seen = 2 * latency + 2 + 5 + 1
    tail = 2 * latency + PLACE_LATENCY + BUSY_LATENCY
    assert [later - scan for scan, later in pairwise(log.starts())] == [
        seen + tail + BlockRAM.LATENCY] * 4


@LATENCIES
def test_a_command_stands_until_every_pe_has_finished(network, latency):
    names = ("destination", "codebook", "stride", "balanced", "grouped", "role", "reading")
    segments = [
        segment(destination=3, codebook=1, stride=5, balanced=1),
        segment(destination=9, codebook=0, stride=2, grouped=1, swap=1, bias=7, shift=3),
        segment(destination=1, codebook=1, stride=1, swap=1, outputs=4, last=1)]
    log = network(segments, [found(6)] * 3 + [found(4)], config=sized(latency), hold=20)
    raw = {"raw": 1, "bias": 0, "shift": 0, "relu": 0, "summed": 0}
    summed = {"raw": 0, "bias": 7, "shift": 3, "relu": 0, "summed": 1}
    expected = [(3, 1, 5, 1, 0, 0, raw), (9, 0, 2, 0, 1, 0, raw), (1, 1, 1, 0, 0, 1, summed)]
    for start, end, values in zip(log.starts()[:3], log.starts()[1:], expected, strict=True):
        # The last sum is written in the first cycle that no PE is busy.
        last = max(k for k in log.when("busy") if k < end) + 1
        for k in range(start, last + 1):
            assert tuple(log.commands[k][name] for name in names) == values


def test_roles_swap_only_where_a_segment_says_so(network):
    log = network([segment(swap=1), segment(), segment(swap=1), segment(last=1)], [[]] * 4)
    assert log.scans("role") == [(0,), (1,), (1,), (0,)]


def test_the_next_run_starts_in_the_role_that_the_last_one_left(network):
    log = network([LAYER], [found(1), found(4)], runs=3)
    assert log.scans("role") == [(0,), (1,), (1,), (0,), (0,), (1,)]


def test_sums_are_read_as_the_segment_says_that_swapped(network):
    log = network([segment(), segment(swap=1, bias=9, shift=4, relu=1, grouped=1),
                   segment(grouped=1), segment(swap=1, bias=2, shift=31, outputs=4),
                   segment(swap=1, bias=5, shift=6, relu=1, grouped=1, outputs=4, last=1)],
                  [[], [], [], [], found(4), [], found(4)], runs=2)
    raw, first, second, third = (1, 0, 0, 0, 0), (0, 9, 4, 1, 1), (0, 2, 31, 0, 0), (0, 5, 6, 1, 1)
    seen = [(reading if not reading[0] else (1, 0, *reading[2:])) for reading in log.readings()]
    assert seen == 2 * [raw, raw, first, first, second, second, third]


@pytest.mark.parametrize("stalls", ["free", "choked", "bursts"], indirect=True)
@given(latency=LATENCY, counts=st.lists(st.integers(1, 12), min_size=2, max_size=2),
       grouped=st.integers(0, 1))
@settings(deadline=None, derandomize=True, max_examples=4)
def test_wanted_outputs_leave_with_their_index_and_the_last_is_marked(
        network, stalls, latency, counts, grouped):
    answers = [found(2), found(counts[0], 7), found(3, 20), found(counts[1], 31)]
    log = network([segment(outputs=counts[0], swap=1, grouped=grouped),
                   segment(outputs=counts[1], swap=1, last=1)], answers,
                  runs=2, stalls=stalls, config=sized(latency))
    expected = [{"index": item["index"], "value": item["value"]}
                for answer in answers[1::2] for item in answer]
    for run in log.outputs:
        assert [item.pop("last") for item in run] == [
            int(k in (counts[0] - 1, sum(counts) - 1)) for k in range(sum(counts))]
        layers = [run[:counts[0]], run[counts[0]:]]
        assert [item for layer in layers
                for item in sorted(layer, key=lambda item: item["index"])] == expected
    assert len(log.broadcasts()) == 2 * 5


def test_outputs_are_scanned_for_in_the_new_role_zeros_too(network):
    log = network([segment(outputs=5, swap=1, limit=33),
                   segment(begin=0, outputs=3, swap=1, last=1)],
                  [found(1), found(5), [], found(3)])
    assert log.scans("emit", "begin", "limit", "role", "clear") == [
        (0, 1, 33, 0, 0), (1, 1, 5, 1, 0), (0, 0, 9, 1, 0), (1, 1, 3, 0, 1)]


def test_the_last_outputs_are_cleared_as_they_leave(network):
    """Those of other layers are the inputs of the next one, which clears them."""
    log = network([segment(clear=1, outputs=2, swap=1), segment(clear=1, outputs=3, swap=1,
                                                                last=1)],
                  [[], found(2), [], found(3)])
    assert log.scans("emit", "clear") == [(0, 1), (1, 0), (0, 1), (1, 1)]


def test_each_run_is_exactly_like_the_first(network):
    log = network([LAYER], [found(4), found(4, 50)], runs=3)
    assert log.broadcasts() == work(found(4), **LAYER) * 3
    assert log.outputs[1:] == log.outputs[:1] * 2
    assert len(log.outputs[0]) == 4


def test_the_command_says_computing_with_the_port(network):
    log = network([LAYER], [found(4), found(4)])
    assert [command["computing"] for command in log.commands] == [
        cycle["computing"] for cycle in log.cycles]
    first, second = log.starts()
    assert {k for k in log.when("busy") if k > first} <= set(log.when("computing"))
    assert not [k for k in log.when("computing") if k >= second]


def test_it_computes_from_the_first_scan_to_that_for_outputs(network):
    log = network([segment(), LAYER], [found(4), found(2), found(4)])
    first, _, outputs = log.starts()
    assert log.when("computing") == list(range(first, outputs))


def test_the_phases_of_a_segment(network):
    assert network([LAYER], [found(4), found(4)]).phases() == ["FILL", "TAIL"]
    assert network([segment(), LAYER], [found(4), [], found(4)]).phases() == [
        "FILL", "TAIL"] * 2


@GROUPED
def test_the_phase_is_full_exactly_while_an_activation_waits(network, grouped):
    log = network([{**LAYER, "grouped": grouped}], [found(30), found(4)], full=0.4)
    held = log.held(grouped)
    assert [command["phase"] == Phase.FULL.value for command in log.commands[:len(held)]] == held


@GROUPED
def test_the_counters_count_what_the_ports_show(network, grouped):
    log = network([segment(swap=1, grouped=grouped),
                   segment(outputs=6, swap=1, last=1, grouped=grouped)],
                  [found(20), found(10), found(6)], runs=2, full=0.4)
    counts = log.counts
    assert counts[ControlCounter.CYCLES] == len(log.when("computing"))
    assert counts[ControlCounter.BROADCASTS] == len(log.when("sent"))
    assert grouped or counts[ControlCounter.BROADCASTS] == 60
    assert counts[ControlCounter.HELD] == sum(log.held(grouped)) > 10
    assert counts[ControlCounter.RUNS] == 2


def test_io_cycles_are_those_of_inputs_and_outputs(network):
    log = network([segment(outputs=6, swap=1, last=1)], [[], found(6)])
    emitting = log.starts()[1]
    taken = [k for k in log.when("taken") if k >= emitting]
    # An output leaves the trees a cycle before it leaves; that it was the last is known one later.
    assert log.counts[ControlCounter.IO_CYCLES] == 3 + taken[-1] + 1 - emitting + 2


def test_no_network_has_finished_after_reset():
    dut, counts = device(CentralControl, CONFIG), []

    async def bench(ctx):
        await ctx.tick().repeat(CONFIG.act_depth + 10)
        for which in ControlCounter:
            ctx.set(dut.select, which)
            await ctx.tick()
            counts.append(ctx.get(dut.count))

    simulate(dut, bench)
    assert counts == [0] * len(ControlCounter)


def test_its_own_counters_are_cleared_too():
    dut, counts = device(CentralControl, CONFIG), []

    async def bench(ctx):
        for loads in ([], [{"target": LoadTarget.COUNTERS}]):
            await send(ctx, dut.inputs, [{"value": 1, "last": 0}] * 3)
            await send(ctx, dut.load, loads)
            await ctx.tick().repeat(3)
            ctx.set(dut.select, ControlCounter.IO_CYCLES)
            await ctx.tick()
            counts.append(ctx.get(dut.count))

    simulate(dut, bench)
    assert counts == [3, 0]


def test_built_without_counters(watch):
    dut, log = device(CentralControl, sized(counters=False)), []
    simulate(dut, background=[watch(log, dut.count)])
    assert set(log) == {(0,)}


@pytest.fixture(scope="session")
def paused(watch):
    """``paused(segments, answers, loads)``: the log of a network that gets these loads, one list
    in each pause, while the next input waits; and its outputs."""
    def paused(segments, answers, loads, config=CONFIG):
        dut, log, outputs = device(CentralControl, config), [], []

        async def host(ctx):
            await send(ctx, dut.load, descriptor_loads(config, segments))
            await send(ctx, dut.inputs, vector(1, 2, 3))
            ctx.set(dut.inputs.payload, {"value": 9, "last": 0})
            ctx.set(dut.inputs.valid, 1)
            for words in loads:
                await send(ctx, dut.load, words)

        async def take(ctx):
            for each in segments:
                outputs.append(await receive(ctx, dut.outputs, each.get("outputs", 0)))

        clusters = Clusters(dut, answers)
        simulate(dut, host, take, quiet=100, background=[*clusters.processes, watch(
            log, dut.command, dut.computing, dut.load.valid, dut.load.ready, dut.inputs.ready,
            dut.write.valid, dut.write.payload.data)])
        names = ("command", "computing", "load", "loading", "dealing", "writes", "data")
        return [dict(zip(names, cycle, strict=True)) for cycle in log], outputs
    return paused


RESUME = {"target": LoadTarget.RESUME}
WEIGHTS = [{"target": LoadTarget.WEIGHTS, "pe": 1, "address": k, "data": 77 + k} for k in range(5)]


def scans_of(log):
    return [k for k, cycle in enumerate(log) if cycle["command"]["scan"]]


@LATENCIES
def test_a_pause_takes_loads_but_no_inputs_until_it_is_told_to_go_on(paused, latency):
    log, outputs = paused([segment(pause=1), LAYER], [found(5), found(3), found(4)],
                          [WEIGHTS, [RESUME]], sized(latency))
    first, second, emit = scans_of(log)
    pause = [k for k in range(first, emit) if log[k]["loading"]]
    assert pause == list(range(pause[0], pause[-1] + 1))
    assert not any(log[k]["computing"] or log[k]["command"]["emit"] for k in pause)
    assert not any(cycle["dealing"] for cycle in log[first:emit])
    written = [log[k]["data"] for k in pause if log[k]["writes"]]
    assert written == [word["data"] for word in WEIGHTS] + [0]
    assert second - pause[-1] == 1 + BlockRAM.LATENCY
    assert len(outputs[1]) == 4
    assert log[-1]["dealing"]


def test_a_descriptor_that_is_loaded_in_a_pause_is_the_next_one(paused):
    """The load just before it goes on is seen too."""
    other = list(descriptor_loads(CONFIG, [segment(), {**LAYER, "limit": 33}]))
    log, _ = paused([segment(pause=1, limit=44), LAYER], [found(5), found(3), found(4)],
                    [[*other[-descriptor_words(CONFIG):], RESUME]])
    assert [log[k]["command"]["limit"] for k in scans_of(log)] == [44, 33, 4]


def test_a_pause_keeps_role_and_reading(paused):
    log, _ = paused([segment(swap=1, bias=3, shift=7, relu=1, pause=1), segment(pause=1),
                     segment(swap=1, outputs=2, last=1)],
                    [found(1), found(2), found(3), found(2)], [[RESUME], [RESUME]])
    scans = [log[k]["command"] for k in scans_of(log)]
    assert [each["role"] for each in scans] == [0, 1, 1, 0]
    assert [each["reading"]["raw"] for each in scans] == [1, 0, 0, 0]
    assert {each["reading"]["shift"] for each in scans[1:3]} == {7}


def test_a_pause_comes_behind_the_outputs(paused):
    log, outputs = paused([segment(swap=1, outputs=3, pause=1), LAYER],
                          [found(1), found(3), found(2), found(4)], [[RESUME]])
    assert list(map(len, outputs)) == [3, 4]
    assert [log[k]["command"]["emit"] for k in scans_of(log)] == [0, 1, 0, 1]


def test_the_last_segment_does_not_pause(network):
    log = network([{**LAYER, "pause": 1}], [found(2), found(4)], runs=2)
    assert list(map(len, log.outputs)) == [4, 4]


def test_to_go_on_says_nothing_outside_a_pause(paused, watch):
    dut, log = device(CentralControl, CONFIG), []
    simulate(dut, lambda ctx: send(ctx, dut.load, [RESUME] * 3),
             background=[watch(log, dut.command.scan, dut.computing)])
    assert set(log) == {(0, 0)}
    log, _ = paused([segment(pause=1), LAYER], [found(5), found(3), found(4)],
                    [[WEIGHTS[0], RESUME, RESUME]])
    assert len(scans_of(log)) == 3
