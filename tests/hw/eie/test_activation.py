"""Activation read: requantisation, the sum over a cluster, and the scan for non-zeros."""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.activation import ActivationUnit, Requantise
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sim.bench import Stalls, checker, device, receive, simulate

LOW, HIGH = -32768, 32767


def requantised(accumulator, bias=0, shift=0, relu=0):
    """act(sat16((accumulator + bias) >> shift)), and whether it was saturated."""
    exact = (accumulator + bias) // 2 ** shift
    value = max(LOW, min(HIGH, exact))
    return {"value": max(0, value) if relu else value, "saturated": int(value != exact),
            "zero": int(not (max(0, value) if relu else value))}


def around(shift, width):
    """Accumulators at the ends of the output and of the width, at zero, and at each half."""
    ends = [(1 << width - 1) - 1, -(1 << width - 1)]
    marks = [(mark << shift) + half + near for mark in (LOW - 1, LOW, -2, -1, 0, 1, HIGH, HIGH + 1)
             for half in {0, 1 << shift >> 1} for near in (-1, 0, 1)]
    return [*ends, *(mark for mark in marks if ends[1] <= mark <= ends[0])]


@pytest.fixture(scope="session")
def requantise(watch):
    """``requantise(pairs, shift, relu)``: outputs for (accumulator, bias), one a cycle in which it
    does not stall."""
    def requantise(pairs, shift=0, relu=0, *, width=32):
        dut, log, random = device(Requantise, EIEConfig(acc_width=width)), [], Random(shift)

        async def bench(ctx):
            ctx.set(dut.shift, shift)
            ctx.set(dut.relu, relu)
            for accumulator, bias in [*pairs, *[(0, 0)] * (Requantise.LATENCY + 1)]:
                ctx.set(dut.i, accumulator)
                ctx.set(dut.bias, bias)
                go = 0
                while not go:
                    go = random.random() < 0.8
                    ctx.set(dut.enable, go)
                    await ctx.tick()

        simulate(dut, bench, background=[watch(log, dut.enable, dut.o)])
        moves = [output for go, output in log if go]
        return moves[Requantise.LATENCY:Requantise.LATENCY + len(pairs)]
    return requantise


@pytest.mark.parametrize("width", [17, 32])
@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("shift", range(32))
def test_shift_saturation_and_relu(requantise, shift, relu, width):
    pairs = [(accumulator, 0) for accumulator in around(shift, width)]
    assert requantise(pairs, shift, relu, width=width) == [
        requantised(accumulator, 0, shift, relu) for accumulator, _ in pairs]


@pytest.mark.parametrize("shift", range(1, 31))
def test_a_half_rounds_up_when_the_bias_holds_it(requantise, shift):
    half = 1 << shift - 1
    accumulators = [a for a in around(shift, 32) if a + half < 1 << 31]
    exact = [math.floor(Fraction(a, 2 ** shift) + Fraction(1, 2)) for a in accumulators]
    assert [output["value"] for output in requantise([(a, half) for a in accumulators], shift)
            ] == [max(LOW, min(HIGH, value)) for value in exact]


BIASED = st.tuples(st.integers(-(1 << 30), (1 << 30) - 1), st.integers(-(1 << 30), (1 << 30) - 1))


@given(pairs=st.lists(BIASED, max_size=50), shift=st.integers(0, 31), relu=st.integers(0, 1))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_each_accumulator_gets_its_own_bias(requantise, pairs, shift, relu):
    assert requantise(pairs, shift, relu) == [requantised(*pair, shift, relu) for pair in pairs]


def test_saturation_tells_of_the_value_before_relu(requantise):
    assert requantise([(LOW - 1, 0), (LOW, 0)], relu=1) == [
        {"value": 0, "saturated": 1, "zero": 1}, {"value": 0, "saturated": 0, "zero": 1}]


GROUPS = pytest.mark.parametrize("groups", [1, 2, 4])
SINKS = pytest.mark.parametrize("stalls", ["free", "choked", "bursts"], indirect=True)


def sized(groups, clusters=2, **sizes):
    return EIEConfig(**{"pes": groups * clusters, "groups": groups, "act_depth": 8,
                        "bias_depth": 40, **sizes})


def slots(config, identity, start, limit):
    """The cluster's slots whose index is ``start`` to ``limit`` - 1: slot t has c + K * t."""
    return [t for t in range(config.act_depth * config.groups)
            if start <= identity + config.clusters * t < limit]


def output(config, words, biases, t, *, bias=0, shift=0, relu=0, raw=0, summed=0):
    """Slot t: in PE t mod G, word t // G; or the sum of word t in all PEs of the cluster."""
    groups = config.groups
    accumulator = sum(each[t] for each in words) if summed else words[t % groups][t // groups]
    if raw:
        return {"value": accumulator, "saturated": 0, "zero": int(not accumulator)}
    return requantised(accumulator, biases.get(bias + t, 0), shift, relu)


def item(config, identity, t, value, grouped):
    """What is found at slot t; a grouped layer's group t mod G counts the columns it has."""
    first = identity + config.clusters * (t // config.groups if grouped else t)
    return {"index": identity + config.clusters * t, "column": first, "value": value}


class Sources:
    """The sources of a cluster's PEs: a word two cycles after its address, as it was before the
    writes of the same cycle. Notes what is zeroed."""

    def __init__(self, dut, words):
        self.dut, self.cleared = dut, []
        # Junk up to the last address.
        depth = 1 << dut.config.word_width
        self.words = [[*each, *[12345] * (depth - len(each))] for each in words]

    async def run(self, ctx):
        # The memory's output, and the register behind it.
        read = held = [0] * len(self.words)
        clears = [signal for port in self.dut.clear
                  for signal in (port.en, port.address, port.data)]
        samples = ctx.tick().sample(self.dut.enable, self.dut.word, *clears)
        async for _, _, enable, word, *writes in samples:
            if enable:
                read, held = [each[word] for each in self.words], read
            for port, value in zip(self.dut.values, held, strict=True):
                ctx.set(port, value)
            for group, each in enumerate(self.words):
                enabled, address, zero = writes[3 * group:3 * group + 3]
                if enabled:
                    each[address] = zero
                    self.cleared.append((group, address))


async def scan(ctx, dut, **fields):
    """Starts a scan; ``scan`` and what goes with it take one cycle, the rest stays."""
    layout = {"begin": 1, "emit": 0, "clear": 0, "grouped": 0, **fields}
    reading = layout.pop("reading", {"raw": 1})
    for name, value in {**layout, "scan": 1}.items():
        ctx.set(dut.command[name], value)
    ctx.set(dut.command.reading, reading)
    await ctx.tick()
    for name in ("scan", "begin", "emit", "clear", "limit"):
        ctx.set(dut.command[name], 0)


async def idle(ctx, dut):
    await ctx.tick()    # it is known a cycle late
    while ctx.get(dut.scanning):
        await ctx.tick()


@dataclass
class Seen:
    """What a series of scans did: saturated outputs, words zeroed, words after it."""

    saturated: int
    cleared: list
    words: list


@pytest.fixture(scope="session")
def search(transfer, fill, watch):
    """``search(config, words, scans, ...)``: scans one after another; what they find must be what
    the words say."""
    def search(config, words, scans, *, identity=0, biases=None, stalls=None,
               background=lambda dut: []):
        dut, biases, log = device(ActivationUnit, config), biases or {}, []
        sources = Sources(dut, words)
        state, start = [list(each) for each in words], 0
        expected = [[] for _ in range(config.groups)]
        for fields in scans:
            start = 0 if fields.get("begin", 1) else start
            reading = fields.get("reading", {"raw": 1})
            for t in slots(config, identity, start, fields["limit"]):
                value = output(config, state, biases, t, **reading)["value"]
                if value or fields.get("emit"):
                    expected[t % config.groups].append(
                        item(config, identity, t, value, fields.get("grouped", 0)))
                if fields.get("clear"):
                    for group, word in touched(config, t, reading):
                        state[group][word] = 0
            start = max(start, fields["limit"])

        async def before(ctx):
            ctx.set(dut.identity, identity)
            await fill(ctx, dut.load_bias, {at: b % (1 << config.acc_width)
                                            for at, b in biases.items()})
            for fields in scans:
                await scan(ctx, dut, **fields)
                await idle(ctx, dut)

        out = transfer(dut, [], [(port, len(each)) for port, each in
                                 zip(dut.o, expected, strict=True)], before=before,
                       stalls=stalls, background=[sources.run, watch(log, dut.saturated),
                                                  *background(dut)],
                       patience=60 + 20 * len(scans))
        assert out == expected
        return Seen(sum(flag for flag, in log), sources.cleared,
                    [each[:config.act_depth] for each in sources.words])
    return search


def touched(config, t, reading):
    """The (PE, word) that hold slot t."""
    if reading.get("summed"):
        return [(group, t) for group in range(config.groups)]
    return [(t % config.groups, t // config.groups)]


def whole(config, value=7):
    """Words that are all the same, or one after another: ``value`` of a number."""
    at = value if callable(value) else lambda _: value
    return [[at(word * config.groups + group) for word in range(config.act_depth)]
            for group in range(config.groups)]


@st.composite
def readings(draw, config, most=HIGH):
    """Words, biases, and how they are read; the words often zero, or too large for 16 bits."""
    kind = draw(st.sampled_from(["raw", "plain", "summed"]))
    reading = {"raw": 1} if kind == "raw" else {
        "shift": draw(st.integers(0, 8)), "relu": draw(st.integers(0, 1)),
        "bias": draw(st.integers(0, config.bias_depth - config.act_depth * config.groups)),
        "summed": int(kind == "summed")}
    limit = most if kind == "raw" else 1 << 20
    word = st.just(0) | st.integers(-limit - 1, limit)
    words = draw(st.lists(st.lists(word, min_size=config.act_depth, max_size=config.act_depth),
                          min_size=config.groups, max_size=config.groups))
    random = Random(draw(st.integers(0, 99)))
    biases = {at: random.choice([0, random.randrange(-1 << 18, 1 << 18)])
              for at in range(config.bias_depth)}
    length = config.act_depth * (config.clusters if kind == "summed" else config.pes)
    return words, biases, reading, length


@SINKS
@GROUPS
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=4)
def test_scans_find_what_is_not_zero(search, stalls, groups, data):
    config = sized(groups, clusters=data.draw(st.integers(1, 3)),
                   runahead=data.draw(st.sampled_from([2, 15])))
    words, biases, reading, length = data.draw(readings(config))
    limits = sorted(data.draw(st.lists(st.integers(0, length), min_size=1, max_size=3)))
    fields = {"reading": reading, **{name: data.draw(st.integers(0, 1))
                                     for name in ("grouped", "emit", "clear")}}
    identity = data.draw(st.integers(0, config.clusters - 1))
    seen = search(config, words, [{**fields, "begin": int(k == 0), "limit": limit}
                                  for k, limit in enumerate(limits)],
                  identity=identity, biases=biases, stalls=stalls)
    read = slots(config, identity, 0, limits[-1])
    zeroed = [place for t in read for place in touched(config, t, reading)]
    assert seen.cleared == (zeroed if fields["clear"] else [])
    saturated = [output(config, words, biases, t, **reading)["saturated"] for t in read]
    assert seen.saturated == (sum(saturated) if fields["clear"] else 0)


@GROUPS
@pytest.mark.parametrize("runahead", [2, 3])
@pytest.mark.parametrize("reading", [{"raw": 1}, {"bias": 3, "shift": 1}, {"bias": 5, "summed": 1}],
                         ids=["raw", "biased", "summed"])
def test_a_scan_that_stalls_finds_the_same(search, watch, groups, runahead, reading):
    """No two words or biases are alike, so that one that comes early or late is seen."""
    config, log = sized(groups, act_depth=40, bias_depth=200, runahead=runahead), []
    words = whole(config, lambda t: 37 * t % 9973 + 1)
    biases = {at: 91 * at % 9001 for at in range(config.bias_depth)}
    limit = 2 * 40 * (1 if reading.get("summed") else groups)
    search(config, words, [{"limit": limit, "reading": reading, "clear": 1}], biases=biases,
           identity=1, stalls=lambda seed: [None, Stalls(seed, 0.9)],
           background=lambda dut: [watch(log, dut.scanning, dut.enable)])
    stalled = [not go for scanning, go in log if scanning]
    assert sum(stalled) > len(stalled) / 6
    assert sum(now != before for before, now in pairwise(stalled)) >= 8


@GROUPS
def test_only_exact_zeros_are_skipped(search, groups):
    config = sized(groups)
    words = whole(config, lambda t: [0, LOW, -1, 0, 0, 1, 256, HIGH, 0][t % 9])
    search(config, words, [{"limit": 16 * groups}])


@GROUPS
def test_an_accumulator_that_rounds_to_zero_is_skipped(search, groups):
    config = sized(groups)
    words = whole(config, lambda t: [-9, -8, -1, 0, 7, 8][t % 6])
    biases = dict.fromkeys(range(8 * groups), 8)
    search(config, words, biases=biases, scans=[
        {"limit": 16 * groups, "reading": {"shift": 4, "relu": relu}} for relu in (0, 1)])


@pytest.mark.parametrize("groups", [2, 4])
def test_sums_that_cancel_are_skipped(search, groups):
    config = sized(groups)
    words = [[5] * 8, [-5, -5, 0, -5, -5, 5, -5, -5], *[[0] * 8] * (groups - 2)]
    search(config, words, [{"limit": 16, "grouped": 1, "reading": {"summed": 1}}])


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("width", [17, 32])
def test_sums_are_exact_though_they_overflow_on_the_way(search, groups, width):
    config, most = sized(groups, acc_width=width), (1 << width - 1) - 1
    high = [[most] * 8] * (groups // 2)
    low = [[-most - 1, -most, -most + 9, *[1 - most] * 5]] * (groups // 2)
    search(config, [*high, *low], [{"limit": 16, "reading": {"summed": 1}}])
    search(config, [*low, *high], [{"limit": 16, "reading": {"summed": 1}}])


@GROUPS
def test_each_slot_gets_its_own_bias(search, groups):
    config = sized(groups)
    for summed, count in ((0, 8 * groups), (1, 8)):
        search(config, whole(config, 1000), [
            {"limit": 2 * count, "reading": {"bias": bias, "shift": 1, "summed": summed}}
            for bias in (0, 5, 40 - count)],
            identity=1, biases={at: 100 * at for at in range(40)})


def test_inputs_are_read_without_bias(search):
    search(sized(2), whole(sized(2), lambda t: t - 3), [{"limit": 32}],
           biases=dict.fromkeys(range(40), 999))


@GROUPS
def test_emit_delivers_zeros_too(search, groups):
    config = sized(groups)
    search(config, whole(config, lambda t: 5 * (t % 4 == 1)), [{"limit": 13, "emit": 1}])


@GROUPS
@pytest.mark.parametrize("identity", range(3))
def test_each_cluster_has_every_third_index_from_its_own(search, groups, identity):
    config = sized(groups, clusters=3)
    search(config, whole(config, lambda t: t + 1), identity=identity, scans=[
        {"limit": limit} for limit in (*range(8), 24 * groups - 1, 24 * groups)])


@GROUPS
@pytest.mark.parametrize("clusters", [1, 2, 5])
def test_a_grouped_layer_numbers_the_columns_of_each_group(search, groups, clusters):
    config = sized(groups, clusters, act_depth=6)
    words = whole(config, lambda t: t % 5)
    search(config, words, [{"limit": config.pes * 6, "grouped": 1}], identity=clusters - 1)


@GROUPS
@pytest.mark.parametrize("length", [2, 3, 16])
def test_blocks_go_on_where_the_last_one_ended(search, groups, length):
    config = sized(groups)
    limits = [*range(length, 16 * groups, length), 16 * groups]
    search(config, whole(config, lambda t: t % 7), identity=1, scans=[
        {"limit": limit, "begin": int(k == 0), "grouped": grouped}
        for grouped in (0, 1) for k, limit in enumerate(limits)])


@GROUPS
def test_a_scan_that_begins_starts_afresh(search, groups):
    config = sized(groups)
    search(config, whole(config, lambda t: t + 1),
           [{"limit": 9}, {"limit": 12, "begin": 0}, {"limit": 5}, {"limit": 16 * groups}])


@GROUPS
@pytest.mark.parametrize("summed", [0, 1])
def test_exactly_the_words_that_are_read_are_zeroed_once(search, groups, summed):
    config, reading = sized(groups), {"summed": summed}
    words = whole(config, lambda t: t + 1)
    blocks = [{"limit": 3}, {"limit": 11, "begin": 0}]
    kept = search(config, words, [{**block, "reading": reading} for block in blocks])
    assert kept.cleared == []
    assert kept.words == words
    seen = search(config, words, [{**block, "reading": reading, "clear": 1} for block in blocks])
    zeroed = [place for t in slots(config, 0, 0, 11) for place in touched(config, t, reading)]
    assert seen.cleared == zeroed
    assert seen.words == [[0 if (group, k) in zeroed else word for k, word in enumerate(each)]
                          for group, each in enumerate(words)]


def test_a_clearing_scan_that_finds_nothing_more_reads_zeros(search):
    config = sized(4)
    search(config, whole(config), [{"limit": 40, "clear": 1}, {"limit": 64}])


@GROUPS
@pytest.mark.parametrize("reading", [{"raw": 1}, {"shift": 1}, {"summed": 1}], ids=str)
def test_a_scan_reads_one_slot_a_cycle(search, watch, record, groups, reading):
    config, log = sized(groups), []
    left = [[] for _ in range(groups)]
    words = whole(config, lambda t: 64 * (t % 3 != 1))
    count = config.act_depth * (1 if reading.get("summed") else groups)
    search(config, words, [{"limit": 2 * count, "reading": reading}], background=lambda dut: [
        watch(log, dut.command.scan), *(record(*each) for each in zip(left, dut.o, strict=True))])
    start = log.index((1,)) + 1
    latency = ActivationUnit.latency(config) + 1    # the queue
    assert sorted(cycle - start - latency for each in left for cycle, _ in each) == [
        t for t in range(count) if output(config, words, {}, t, **reading)["value"]]


@SINKS
@pytest.mark.parametrize("groups", [1, 4])
def test_scanning_lasts_from_the_command_to_the_last_activation(search, watch, groups, stalls):
    config = sized(groups)
    for value in (0, 7, lambda t: t == 8 * groups - 1):
        log = []
        search(config, whole(config, value), [{"limit": 16 * groups}], stalls=stalls,
               background=lambda dut, log=log: [watch(
                   log, dut.scanning, dut.command.scan,
                   *(port.valid & port.ready for port in dut.o))])
        start = next(cycle for cycle, (_, now, *_) in enumerate(log) if now)
        scanning = [cycle for cycle, (busy, *_) in enumerate(log) if busy]
        assert scanning == list(range(start + 2, scanning[-1] + 1))
        taken = [cycle for cycle, (_, _, *took) in enumerate(log) if any(took)]
        assert not taken or taken[-1] <= scanning[-1]


@GROUPS
def test_a_limit_of_none_finds_nothing(search, groups):
    config = sized(groups)
    seen = search(config, whole(config), [{"limit": 0, "clear": 1}, {"limit": 0, "begin": 0}])
    assert seen.cleared == []


@pytest.mark.parametrize(("groups", "blocked"), [(1, 0), (2, 1), (4, 0), (4, 2)])
def test_a_stream_that_is_not_taken_stops_the_walk_and_nothing_is_lost(record, groups, blocked):
    config = sized(groups, clusters=1, act_depth=32)
    dut, left = device(ActivationUnit, config), [[] for _ in range(groups)]
    sources, patience = Sources(dut, whole(config, lambda t: t + 1)), 200

    async def bench(ctx):
        await scan(ctx, dut, limit=32 * groups)

    def receiver(group):
        async def run(ctx):
            await ctx.tick().repeat(patience if group == blocked else 1)
            await receive(ctx, dut.o[group], 32)
        return run

    simulate(dut, bench, *(receiver(group) for group in range(groups)), background=[
        sources.run, *map(checker, dut.o),
        *(record(*each) for each in zip(left, dut.o, strict=True))], deadline=1000)
    assert [[each for _, each in log] for log in left] == [
        [item(config, 0, t, t + 1, 0) for t in range(group, 32 * groups, groups)]
        for group in range(groups)]
    others = [[cycle for cycle, _ in log] for group, log in enumerate(left) if group != blocked]
    assert all(cycles[5] < patience / 2 < patience < cycles[-1] for cycles in others)


@pytest.mark.parametrize("clear", [0, 1])
def test_saturated_outputs_are_counted_when_read_for_the_last_time(search, clear):
    config = sized(2)
    words = whole(config, lambda t: [HIGH + 1, HIGH, LOW, LOW - 1, 1 << 30, 0][t % 6])
    for reading in ({}, {"relu": 1}):
        seen = search(config, words, [{"limit": 24, "reading": reading, "emit": 1},
                                      {"limit": 24, "reading": reading, "clear": clear}])
        assert seen.saturated == 6 * clear


@GROUPS
def test_wipe_goes_through_the_words_one_a_cycle_and_a_scan_starts_at_zero(watch, groups):
    dut, log = device(ActivationUnit, sized(groups)), []

    async def bench(ctx):
        await ctx.tick().repeat(2)
        ctx.set(dut.command.wipe, 1)
        await ctx.tick().repeat(8)
        ctx.set(dut.command.wipe, 0)
        await scan(ctx, dut, limit=16 * groups)

    simulate(dut, bench, background=[
        watch(log, dut.command.wipe, dut.word, dut.scanning, *(port.en for port in dut.clear))])
    assert [word for wipe, word, *_ in log if wipe] == list(range(8))
    assert not any(flag for wipe, _, *flags in log for flag in flags if wipe)
    start = next(cycle for cycle, (_, _, scanning, *_) in enumerate(log) if scanning)
    assert [word for _, word, *_ in log[start - 1:][:8 * groups]] == [
        t // groups for t in range(8 * groups)]
