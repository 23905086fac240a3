"""Central control at its ports: loads, inputs, the sequence of a network, and the broadcast."""

from collections import deque
from dataclasses import dataclass, field
from random import Random

import pytest
from amaranth.hdl import Const
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.activation import ActivationUnit
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.control import CentralControl
from zeroskip.hw.eie.counters import ControlCounter
from zeroskip.hw.eie.layouts import (
    LoadTarget,
    Phase,
    descriptor,
    descriptor_stride,
    descriptor_words,
)
from zeroskip.sim.bench import checker, receive, send, simulate

CONFIG = EIEConfig(pes=3, acc_depth=8, act_depth=16, bias_depth=16, pointers=64, codebooks=2,
                   descriptors=5)
LATENCY = st.sampled_from([0, 1, 3])
LATENCIES = pytest.mark.parametrize("latency", [0, 1, 3])


def sized(latency):
    """``CONFIG`` with other registers between control and the PEs."""
    return EIEConfig(pes=3, acc_depth=8, act_depth=16, bias_depth=16, pointers=64, codebooks=2,
                     descriptors=5, broadcast_latency=latency)


def segment(**fields):
    return {"limit": 9, **fields}


def descriptor_loads(config, segments):
    """The load words of a network."""
    for number, fields in enumerate(segments):
        bits = Const.cast(descriptor(config).const(fields)).value
        for word in range(descriptor_words(config)):
            yield {"target": LoadTarget.DESCRIPTORS, "data": bits >> 32 * word & 0xFFFFFFFF,
                   "address": descriptor_stride(config) * number + word}


def vector(*values):
    return [{"value": value, "last": k == len(values) - 1} for k, value in enumerate(values)]


def found(count, start=0):
    return [{"column": start + k, "value": -start - k - 1} for k in range(count)]


@dataclass
class PEs:
    """Stands in for the PEs and the LNZD tree. Its answers come as late as they may.

    ``answers`` are the activations found by each scan; ``full`` is the share of the cycles in
    which a queue is full, and ``hold`` the cycles that a PE is busy after a broadcast.
    """

    dut: CentralControl
    answers: list
    full: float = 0.0
    hold: int = 5
    stalls: object = None
    late: int = field(init=False)

    def __post_init__(self):
        self.late = 2 * self.dut.config.broadcast_latency

    async def scan(self, ctx):
        answers, dut = iter(self.answers), self.dut
        ctx.set(dut.found_idle, 1)
        while True:
            *_, scan = await ctx.tick().sample(dut.command.scan)
            if scan:
                for _ in range(self.late):
                    await ctx.tick()
                ctx.set(dut.scanning, 1)
                for _ in range(5):
                    await ctx.tick()
                # From here on the tree alone knows that something is still to come.
                ctx.set(dut.found_idle, 0)
                ctx.set(dut.scanning, 0)
                await send(ctx, dut.found, next(answers), self.stalls)
                ctx.set(dut.found_idle, 1)

    async def work(self, ctx):
        road, left = deque([0] * self.late), 0
        async for *_, broadcast in ctx.tick().sample(self.dut.broadcast.valid):
            road.append(broadcast)
            left = self.hold if road.popleft() else max(0, left - 1)
            ctx.set(self.dut.busy, left > 0)

    async def fill_up(self, ctx):
        random = Random(4)
        while self.full:
            ctx.set(self.dut.full, random.random() < self.full)
            await ctx.tick()

    @property
    def processes(self):
        return [self.scan, self.work, self.fill_up]


class Log:
    """Every cycle of a run, seen at the ports."""

    SIGNALS = ("command", "computing", "full", "busy")

    def __init__(self, cycles, outputs, counts):
        self.cycles = [dict(zip((*self.SIGNALS, "broadcast", "payload", "found"), cycle,
                                strict=True)) for cycle in cycles]
        self.outputs, self.counts = outputs, counts
        ready = next(k for k, cycle in enumerate(self.cycles) if not cycle["command"]["clear"])
        self.commands = [(k, cycle["command"]) for k, cycle in enumerate(self.cycles)
                         if k >= ready]

    def when(self, name):
        """Cycles in which a port is set."""
        return [k for k, cycle in enumerate(self.cycles) if cycle[name]]

    def scans(self, *names):
        return [tuple(command[name] for name in names) for _, command in self.commands
                if command["scan"]]

    def drains(self):
        return [(k, command) for k, command in self.commands if command["drain"]]

    def broadcasts(self):
        return [cycle["payload"] for cycle in self.cycles if cycle["broadcast"]]

    def phases(self):
        """The phases of the computing cycles, each run of the same once."""
        every = [Phase(cycle["command"]["phase"]).name for cycle in self.cycles
                 if cycle["computing"]]
        return [phase for k, phase in enumerate(every) if k == 0 or every[k - 1] != phase]


@pytest.fixture(scope="session")
def network(watch):
    """``network(segments, answers, **options)``: the log of a network of these segments, whose
    scans find these activations."""
    def network(segments, answers, *, config=CONFIG, runs=1, stalls=None, full=0.0, hold=5):
        dut, cycles, outputs, counts = CentralControl(config), [], [], []
        source, sink = stalls(1) if stalls else (None, None)
        pes = PEs(dut, answers * runs, full=full, hold=hold, stalls=source)
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
            *pes.processes, checker(dut.outputs),
            watch(cycles, *signals, dut.broadcast.valid, dut.broadcast.payload, dut.found.valid)],
            deadline=5_000)
        return Log(cycles, outputs, dict(zip(ControlCounter, counts, strict=True)))
    return network


LAYER = segment(rows=4, swap=1, last=1, destination=2, bias=3, shift=7, relu=1, codebook=1)


@pytest.mark.parametrize("depth", [2, 5, 8])
def test_after_reset_every_accumulator_is_cleared_before_anything_is_taken(watch, depth):
    dut, log = CentralControl(EIEConfig(acc_depth=depth)), []
    simulate(dut, background=[watch(log, dut.command, dut.load.ready, dut.inputs.ready)],
             quiet=depth + 10)
    assert [(command["row"], command["drain"], command["clear"], load, inputs)
            for command, load, inputs in log[:depth]] == [(k, 1, 1, 0, 0) for k in range(depth)]
    assert {(command["drain"], load, inputs) for command, load, inputs in log[depth + 1:]} == {
        (0, 1, 1)}


def test_loads_pass_on_unchanged(record):
    dut, passed = CentralControl(CONFIG), []
    words = [{"target": target, "pe": k % 3, "address": 9 * k, "data": 0x87654321 + k}
             for k, target in enumerate(LoadTarget)]
    simulate(dut, lambda ctx: send(ctx, dut.load, words), background=[record(passed, dut.write)])
    assert [word for _, word in passed] == [{**word, "target": word["target"].value}
                                            for word in words]
    assert passed[-1][0] - passed[0][0] == len(words) - 1, "one a cycle"


VALUES = st.lists(st.integers(-32768, 32767), min_size=1, max_size=20)


@pytest.mark.parametrize("pes", [1, 2, 3, 5])
@given(values=VALUES)
@settings(deadline=None, derandomize=True, max_examples=3)
def test_inputs_are_dealt_to_the_pes_in_turn(record, stalls, pes, values):
    config = EIEConfig(pes=pes, act_depth=20)
    dut, dealt = CentralControl(config), []
    simulate(dut, lambda ctx: send(ctx, dut.inputs, vector(*values), stalls(1)[0]),
             background=[record(dealt, dut.write)])
    assert [word for _, word in dealt] == [
        {"target": LoadTarget.ACTIVATIONS.value, "pe": k % pes, "address": k // pes,
         "data": value % (1 << 32)} for k, value in enumerate(values)]


def test_the_next_vector_starts_at_the_first_pe_again(record):
    dut, dealt = CentralControl(CONFIG), []

    async def host(ctx):
        await send(ctx, dut.load, descriptor_loads(CONFIG, [segment(last=1)]))
        for _ in range(2):
            await send(ctx, dut.inputs, vector(1, 2, 3, 4))

    simulate(dut, host, background=[*PEs(dut, [[], []]).processes, record(dealt, dut.write)])
    assert [(word["pe"], word["address"]) for _, word in dealt
            if word["target"] == LoadTarget.ACTIVATIONS.value] == [
                (0, 0), (1, 0), (2, 0), (0, 1)] * 2


def test_a_load_goes_before_an_input(record):
    dut, passed = CentralControl(CONFIG), []
    words = [{"target": LoadTarget.WEIGHTS, "data": k} for k in range(3)]
    simulate(dut, lambda ctx: send(ctx, dut.inputs, vector(7, 8)),
             lambda ctx: send(ctx, dut.load, words), background=[record(passed, dut.write)])
    assert [word["data"] for _, word in passed] == [0, 1, 2, 7, 8]


def test_loads_and_inputs_wait_while_a_network_runs(record, watch):
    dut, log, passed = CentralControl(CONFIG), [], []
    pes = PEs(dut, [found(5), found(4)])

    async def host(ctx):
        await send(ctx, dut.load, descriptor_loads(
            CONFIG, [segment(rows=2, outputs=4, swap=1, last=1)]))
        await send(ctx, dut.inputs, vector(1))
        ctx.set(dut.load.valid, 1)
        ctx.set(dut.inputs.valid, 1)
        await receive(ctx, dut.outputs, 4)
        ctx.set(dut.load.valid, 0)
        ctx.set(dut.inputs.valid, 0)

    simulate(dut, host, background=[*pes.processes, record(passed, dut.write), watch(
        log, dut.computing, dut.outputs.valid, dut.load.ready, dut.inputs.ready)])
    assert any(computing for computing, *_ in log)
    assert not any(ready for computing, output, *readies in log if computing or output
                   for ready in readies)
    assert len(passed) == descriptor_words(CONFIG) + 1


def test_the_scan_carries_the_segment(network):
    log = network([segment(first=5, limit=44, source=6), segment(first=44, limit=63, source=15,
                                                                 last=1)], [found(3), []])
    assert log.scans("first", "limit", "source", "emit", "role") == [
        (5, 44, 6, 0, 0), (44, 63, 15, 0, 0)]


def test_the_descriptors_run_in_order_up_to_the_last_one(network):
    log = network([segment(first=k, last=k == 4) for k in range(5)], [found(k) for k in range(5)])
    assert log.scans("first") == [(k,) for k in range(5)]
    log = network([segment(first=k, last=k == 2) for k in range(5)], [found(k) for k in range(5)])
    assert log.scans("first") == [(0,), (1,), (2,)]


@given(latency=LATENCY, counts=st.lists(st.integers(0, 12), min_size=3, max_size=3))
@settings(deadline=None, derandomize=True, max_examples=6)
def test_what_the_scans_find_is_broadcast_in_order(network, stalls, latency, counts):
    answers = [found(count, 20 * k) for k, count in enumerate(counts)]
    log = network([segment(), segment(rows=2), segment(rows=2, last=1)], answers, full=0.3,
                  stalls=stalls, config=sized(latency))
    assert log.broadcasts() == [item for answer in answers for item in answer]


@pytest.mark.parametrize("full", [0.3, 0.9])
def test_the_broadcast_stops_while_a_queue_is_full(network, full):
    log = network([LAYER], [found(20)], full=full)
    assert len(log.broadcasts()) == 20
    assert not set(log.when("broadcast")) & set(log.when("full"))


def test_one_activation_is_broadcast_in_each_cycle_that_none_is_full(network):
    for full in (0.0, 0.5):
        log = network([LAYER], [found(30)], full=full)
        cycles = log.when("broadcast")
        assert [k for k in range(cycles[0], cycles[-1] + 1) if not log.cycles[k]["full"]] == cycles


@LATENCIES
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("hold", [1, 60])
def test_write_back_waits_until_every_pe_has_finished(network, latency, hold, count):
    log = network([LAYER], [found(count)], config=sized(latency), hold=hold)
    assert log.drains()[0][0] > log.when("busy")[-1] > log.when("broadcast")[-1]


@LATENCIES
def test_a_layer_without_any_activation_is_written_back(network, latency):
    log = network([LAYER], [[]], config=sized(latency))
    assert log.broadcasts() == []
    assert len(log.drains()) == 4


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
def test_the_accumulators_are_drained_one_a_cycle_with_word_and_bias(network, rows):
    log = network([{**LAYER, "rows": rows}], [found(2)])
    first = log.drains()[0][0]
    assert [(cycle, command["row"], command["word"], command["bias"], command["clear"])
            for cycle, command in log.drains()] == [
                (first + k, k, 2 + k, 3 + k, 0) for k in range(rows)]


def test_rows_none_goes_on_without_write_back(network):
    log = network([segment(), segment(rows=1, last=1)], [found(3), found(3)])
    assert len(log.drains()) == 1
    assert log.drains()[0][0] > log.when("broadcast")[-1]


@LATENCIES
def test_the_drain_keeps_its_shift_relu_and_role_until_it_is_in_the_memory(network, latency):
    following = segment(first=1, rows=3, shift=2, swap=1, last=1)
    log = network([{**LAYER, "last": 0}, following], [found(2), found(2)], config=sized(latency))
    for cycle, command in log.drains():
        until = dict(log.commands)[cycle + ActivationUnit.WRITEBACK_LATENCY - 1]
        assert [until[name] for name in ("shift", "relu", "role")] == [
            command[name] for name in ("shift", "relu", "role")]
    assert [(command["shift"], command["relu"], command["role"])
            for _, command in log.drains()] == [(7, 1, 0)] * 4 + [(2, 0, 1)] * 3


def test_the_next_scan_waits_until_the_outputs_are_in_the_memory(network):
    log = network([{**LAYER, "last": 0}, segment(last=1)], [found(2), []])
    second = [cycle for cycle, command in log.commands if command["scan"]][1]
    # A scan reads its first word in the cycle after its command.
    assert second + 1 >= log.drains()[-1][0] + ActivationUnit.WRITEBACK_LATENCY


def test_the_codebook_stays_until_every_pe_has_finished(network):
    log = network([segment(codebook=1), segment(codebook=0, last=1)], [found(4), found(4)],
                  hold=20)
    scans = [cycle for cycle, command in log.commands if command["scan"]]
    commands = dict(log.commands)
    assert {commands[k]["codebook"] for k in range(scans[0], scans[1]) if log.cycles[k]["busy"]
            } == {1}
    assert {commands[k]["codebook"] for k in range(scans[1], len(log.cycles))
            if log.cycles[k]["busy"]} == {0}


def test_roles_swap_only_where_a_segment_says_so(network):
    log = network([segment(rows=1, swap=1), segment(rows=1), segment(rows=1, swap=1),
                   segment(last=1)], [[]] * 4, runs=1)
    assert log.scans("role") == [(0,), (1,), (1,), (0,)]


def test_the_next_run_starts_in_the_role_that_the_last_one_left(network):
    log = network([LAYER], [found(1)], runs=3)
    assert log.scans("role") == [(0,), (1,), (0,)]


@given(latency=LATENCY, counts=st.lists(st.integers(1, 12), min_size=2, max_size=2))
@settings(deadline=None, derandomize=True, max_examples=6)
def test_wanted_outputs_leave_with_their_index_and_the_last_is_marked(network, stalls, latency,
                                                                      counts):
    answers = [found(2), found(counts[0], 7), found(3), found(counts[1], 1)]
    log = network([segment(rows=2, outputs=counts[0], swap=1),
                   segment(rows=2, outputs=counts[1], swap=1, last=1)], answers,
                  runs=2, stalls=stalls, config=sized(latency))
    assert log.outputs == 2 * [[
        {"index": item["column"], "value": item["value"], "last": int(k == len(answer) - 1)}
        for answer in answers[1::2] for k, item in enumerate(answer)]]
    assert log.broadcasts() == 2 * [*answers[0], *answers[2]]


def test_outputs_are_scanned_for_in_the_new_role_zeros_too(network):
    log = network([segment(rows=2, outputs=5, swap=1, source=3, first=2, last=1)],
                  [found(1), found(5)])
    assert log.scans("emit", "first", "limit", "source", "role") == [
        (0, 2, 9, 3, 0), (1, 0, 5, 0, 1)]


def test_each_run_is_exactly_like_the_first(network):
    log = network([{**LAYER, "swap": 0}], [found(4)], runs=3)
    assert log.broadcasts() == found(4) * 3
    assert [command["row"] for _, command in log.drains()] == list(range(4)) * 3


def test_the_command_says_computing_with_the_port(network):
    log = network([LAYER], [found(4)])
    assert [cycle["command"]["computing"] for cycle in log.cycles] == [
        cycle["computing"] for cycle in log.cycles]


def test_the_phases_of_a_segment(network):
    assert network([LAYER], [found(4)]).phases() == ["FILL", "TAIL", "WRITEBACK"]
    assert network([segment(), LAYER], [found(4), []]).phases() == [
        "FILL", "TAIL", "FILL", "TAIL", "WRITEBACK"]


def test_the_phase_is_full_exactly_while_an_activation_waits(network):
    log = network([LAYER], [found(30)], full=0.5)
    assert [cycle["command"]["phase"] == Phase.FULL.value for cycle in log.cycles] == [
        bool(cycle["found"] and cycle["full"]) for cycle in log.cycles]


def test_every_drain_is_in_phase_writeback(network):
    assert {command["phase"] for _, command in network([LAYER], [[]]).drains()} == {
        Phase.WRITEBACK.value}


def test_the_counters_count_what_the_ports_show(network):
    log = network([segment(rows=3, swap=1), segment(rows=2, outputs=6, swap=1, last=1)],
                  [found(20), found(10), found(6)], runs=2, full=0.4)
    counts = log.counts
    assert counts[ControlCounter.CYCLES] == len(log.when("computing"))
    assert counts[ControlCounter.BROADCASTS] == 60
    assert counts[ControlCounter.HELD] == sum(
        cycle["found"] and cycle["full"] and cycle["computing"] for cycle in log.cycles)
    assert counts[ControlCounter.HELD] > 10
    assert counts[ControlCounter.RUNS] == 2


def test_io_cycles_are_those_of_inputs_and_outputs(network):
    quiet = network([LAYER], [[]])
    assert quiet.counts[ControlCounter.IO_CYCLES] == 3
    spoken = network([segment(rows=2, outputs=6, swap=1, last=1)], [[], found(6)])
    assert 3 + 6 <= spoken.counts[ControlCounter.IO_CYCLES] <= 3 + 6 + 8


def test_no_network_has_finished_after_reset():
    dut, counts = CentralControl(CONFIG), []

    async def bench(ctx):
        await ctx.tick().repeat(CONFIG.acc_depth + 10)
        for which in ControlCounter:
            ctx.set(dut.select, which)
            await ctx.tick()
            counts.append(ctx.get(dut.count))

    simulate(dut, bench)
    assert counts == [0] * len(ControlCounter)


@pytest.mark.parametrize("target", LoadTarget)
def test_only_the_counters_target_clears(watch, target):
    dut, log = CentralControl(CONFIG), []
    simulate(dut, lambda ctx: send(ctx, dut.load, [{"target": target}] * 2),
             background=[watch(log, dut.clear)])
    assert sum(clear for clear, in log) == (2 if target is LoadTarget.COUNTERS else 0)


def test_built_without_counters(watch):
    config = EIEConfig(counters=False)
    dut, log = CentralControl(config), []
    simulate(dut, background=[watch(log, dut.count)])
    assert set(log) == {(0,)}
