"""Activation read and write: requantisation, the two roles, and the scan for non-zeros."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.activation import ActivationUnit, Requantise
from zeroskip.hw.eie.arithmetic import ArithmeticUnit
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sim.bench import receive, simulate

CONFIG = EIEConfig(pes=4, act_depth=16, bias_depth=16, pointers=2)
LOW, HIGH = -32768, 32767


def requantised(accumulator, bias=0, shift=0, relu=0):
    """act(sat16((accumulator + bias) >> shift)), and whether it was saturated."""
    exact = (accumulator + bias) // 2 ** shift
    value = max(LOW, min(HIGH, exact))
    return {"value": max(0, value) if relu else value, "saturated": int(value != exact)}


def around(shift, width):
    """Accumulators at the ends of the output and of the width, at zero, and at each half."""
    ends = [(1 << width - 1) - 1, -(1 << width - 1)]
    marks = [(mark << shift) + half + near for mark in (LOW - 1, LOW, -2, -1, 0, 1, HIGH, HIGH + 1)
             for half in {0, 1 << shift >> 1} for near in (-1, 0, 1)]
    return [*ends, *(mark for mark in marks if ends[1] <= mark <= ends[0])]


@pytest.fixture(scope="session")
def requantise(record):
    """``requantise(pairs, shift, relu)``: outputs for (accumulator, bias), one a cycle."""
    def requantise(pairs, shift=0, relu=0, *, width=32):
        dut, left = Requantise(EIEConfig(acc_width=width)), []

        async def bench(ctx):
            ctx.set(dut.shift, shift)
            ctx.set(dut.relu, relu)
            ctx.set(dut.i.valid, 1)
            for accumulator, bias in pairs:
                ctx.set(dut.i.payload, accumulator)
                ctx.set(dut.bias, bias)
                await ctx.tick()
            ctx.set(dut.i.valid, 0)

        simulate(dut, bench, background=[record(left, dut.o)])
        assert [cycle for cycle, _ in left] == list(
            range(Requantise.LATENCY, Requantise.LATENCY + len(pairs)))
        return [output for _, output in left]
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
        {"value": 0, "saturated": 1}, {"value": 0, "saturated": 0}]


def order(ctx, dut, **fields):
    for name, value in fields.items():
        ctx.set(dut.command[name], value)


async def scan(ctx, dut, **fields):
    """Starts a scan; the command takes one cycle."""
    order(ctx, dut, scan=1, **fields)
    await ctx.tick()
    order(ctx, dut, scan=0)


async def drain(ctx, dut, accumulators, *, word=0, bias=0, clear=0):
    """Drain commands, one a cycle, and the accumulators as the arithmetic unit gives them.
    Returns when the last is in the memory."""
    late = ArithmeticUnit.DRAIN_LATENCY
    for cycle in range(len(accumulators) - 1 + ActivationUnit.WRITEBACK_LATENCY):
        now = cycle < len(accumulators)
        order(ctx, dut, drain=now, clear=now and clear, word=word + cycle if now else 15,
              bias=bias + cycle if now else 15)
        valid = late <= cycle < late + len(accumulators)
        ctx.set(dut.drained.valid, valid)
        ctx.set(dut.drained.payload, accumulators[cycle - late] if valid else 999)
        await ctx.tick()


def found(words, *, identity=0, first=0, limit=64, source=0, emit=0, pes=4):
    """What a scan delivers: this PE's columns below the limit, zeros skipped unless emitted."""
    columns = range(first + identity, limit, pes)
    return [{"column": column, "value": words[source + n]} for n, column in enumerate(columns)
            if words[source + n] or emit]


@pytest.fixture(scope="session")
def search(transfer, fill):
    """``search(words, stalls, identity=, first=, ...)``: what a scan over ``words`` delivers."""
    def search(words, *, identity=0, stalls=None, background=lambda dut: [], config=CONFIG,
               **fields):
        dut = ActivationUnit(config)

        async def before(ctx):
            ctx.set(dut.identity, identity)
            await fill(ctx, dut.load, {at: word % 65536 for at, word in enumerate(words)})
            await scan(ctx, dut, **fields)

        expected = found(words, identity=identity, pes=config.pes, **fields)
        (out,) = transfer(dut, [], [(dut.o, len(expected))], before=before, stalls=stalls,
                          background=background(dut))
        assert out == expected
    return search


WORDS = st.lists(st.just(0) | st.integers(LOW, HIGH), min_size=16, max_size=16)


@given(data=st.data(), words=WORDS)
@settings(deadline=None, derandomize=True, max_examples=15)
def test_a_scan_finds_what_is_not_zero(search, stalls, data, words):
    source = data.draw(st.integers(0, 15))
    first = data.draw(st.integers(0, 60))
    limit = data.draw(st.integers(first, min(64, first + 4 * (16 - source))))
    search(words, identity=data.draw(st.integers(0, 3)), first=first, limit=limit,
           source=source, emit=data.draw(st.integers(0, 1)), stalls=stalls)


@pytest.mark.parametrize("word", [LOW, -1, 1, 256, HIGH])
def test_only_exact_zeros_are_skipped(search, word):
    search([0, word, 0, 0, word, word, *[0] * 10], limit=64)


def test_emit_delivers_zeros_too(search):
    search([0, 5, 0, -5, *[0] * 12], limit=50, emit=1)


@pytest.mark.parametrize("limit", range(10))
@pytest.mark.parametrize("identity", range(4))
def test_each_pe_has_every_fourth_column_from_its_own(search, identity, limit):
    search(range(1, 17), identity=identity, limit=limit)


@pytest.mark.parametrize(("pes", "identity"), [(1, 0), (3, 2), (5, 4)])
def test_other_numbers_of_pes_and_words(search, pes, identity):
    config = EIEConfig(pes=pes, act_depth=10, pointers=2)
    search(range(1, 11), identity=identity, limit=10 * pes, config=config)


@pytest.mark.parametrize("words", [[0] * 16, [0] * 15 + [1], [1] + [0] * 15], ids=str)
def test_mostly_zeros(search, words):
    search(words, limit=64)


def test_a_scan_reads_one_word_a_cycle(search, record):
    for words in ([7] * 16, [7, 0, 0, 7, 7, 0, 7, *[0] * 8, 7]):
        left = []
        search(words, limit=64, background=lambda dut, left=left: [record(left, dut.o)])
        start = left[0][0]
        assert [cycle - start for cycle, _ in left] == [n for n, word in enumerate(words) if word]


def test_scanning_lasts_from_the_command_to_the_last_activation(search, watch, stalls):
    for words in ([0] * 16, [7] * 16, [0, 3] * 8):
        log = []
        search(words, limit=64, stalls=stalls, background=lambda dut, log=log: [
            watch(log, dut.scanning, dut.command.scan, dut.o.valid & dut.o.ready)])
        start = next(cycle for cycle, (_, scan, _) in enumerate(log) if scan)
        scanning = [cycle for cycle, (scanning, *_) in enumerate(log) if scanning]
        assert scanning == list(range(start + 1, scanning[-1] + 1))
        taken = [cycle for cycle, (*_, took) in enumerate(log) if took]
        assert not taken or taken[-1] <= scanning[-1]


def read_back(words, script):
    """The words, as an emitting scan gives them after ``script(ctx, dut)``."""
    dut, out = ActivationUnit(CONFIG), []

    async def bench(ctx):
        await script(ctx, dut)
        await scan(ctx, dut, emit=1, limit=4 * words)
        out.extend(await receive(ctx, dut.o, words))

    simulate(dut, bench)
    return [item["value"] for item in out]


def test_loads_go_to_the_source_of_either_role(fill):
    for role, expected in ((0, [1, 2]), (1, [3, 4])):
        async def script(ctx, dut, role=role):
            await fill(ctx, dut.load, {0: 1, 1: 2})
            order(ctx, dut, role=1)
            await fill(ctx, dut.load, {0: 3, 1: 4})
            order(ctx, dut, role=role)

        assert read_back(2, script) == expected


@pytest.mark.parametrize("role", [0, 1])
def test_outputs_go_to_the_destination_and_the_source_stays(fill, role):
    for scanned, expected in ((role, [8, 9]), (1 - role, [5, 6])):
        async def script(ctx, dut, scanned=scanned):
            order(ctx, dut, role=role)
            await fill(ctx, dut.load, {0: 8, 1: 9})
            await drain(ctx, dut, [5, 6])
            order(ctx, dut, role=scanned)

        assert read_back(2, script) == expected


@given(pairs=st.lists(BIASED, min_size=1, max_size=16), data=st.data(),
       shift=st.integers(0, 31), relu=st.integers(0, 1))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_drained_accumulators_are_requantised_each_with_its_bias(fill, pairs, data, shift, relu):
    at = data.draw(st.integers(0, 16 - len(pairs)))

    async def script(ctx, dut):
        order(ctx, dut, shift=shift, relu=relu)
        await fill(ctx, dut.load_bias, {at + k: bias % (1 << 32)
                                        for k, (_, bias) in enumerate(pairs)})
        await drain(ctx, dut, [accumulator for accumulator, _ in pairs], bias=at)
        order(ctx, dut, role=1)

    assert read_back(len(pairs), script) == [
        requantised(*pair, shift, relu)["value"] for pair in pairs]


def test_outputs_start_at_the_word_that_the_command_says():
    async def script(ctx, dut):
        await drain(ctx, dut, [1, 2, 3, 4])
        await drain(ctx, dut, [7, 8], word=1)
        order(ctx, dut, role=1)

    assert read_back(4, script) == [1, 7, 8, 4]


def test_clearing_writes_nothing():
    async def script(ctx, dut):
        await drain(ctx, dut, [1, 2])
        await drain(ctx, dut, [70000, 80000], clear=1)
        order(ctx, dut, role=1)

    assert read_back(2, script) == [1, 2]


def test_the_write_back_latency_is_as_stated():
    dut, out = ActivationUnit(CONFIG), []

    async def bench(ctx):
        order(ctx, dut, scan=1, emit=1, limit=1)
        order(ctx, dut, drain=1)
        for cycle in range(ActivationUnit.WRITEBACK_LATENCY):
            ctx.set(dut.drained.valid, cycle == ArithmeticUnit.DRAIN_LATENCY)
            ctx.set(dut.drained.payload, 1234)
            # The scan reads its first word in the cycle after its command.
            order(ctx, dut, scan=cycle == ActivationUnit.WRITEBACK_LATENCY - 1)
            await ctx.tick()
            order(ctx, dut, drain=0)
        order(ctx, dut, scan=0, role=1)
        out.extend(await receive(ctx, dut.o, 1))

    simulate(dut, bench)
    assert out == [{"column": 0, "value": 1234}]


@pytest.mark.parametrize("clear", [0, 1])
def test_saturated_is_set_once_for_each_output_that_was(watch, clear):
    dut, log = ActivationUnit(CONFIG), []
    accumulators = [HIGH + 1, HIGH, LOW, LOW - 1, 1 << 30]
    simulate(dut, lambda ctx: drain(ctx, dut, accumulators, clear=clear),
             background=[watch(log, dut.saturated)])
    flags = [flag for flag, in log]
    first = ActivationUnit.WRITEBACK_LATENCY - 1
    assert flags[first:first + 5] == ([0] * 5 if clear else [1, 0, 0, 1, 1])
    assert sum(flags) == (0 if clear else 3)


def test_a_scan_after_another_starts_afresh(fill, record):
    dut, left = ActivationUnit(CONFIG), []

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        await fill(ctx, dut.load, {0: 1, 1: 2, 2: 3})
        for first, limit in ((0, 9), (20, 25)):
            await scan(ctx, dut, first=first, limit=limit)
            await ctx.tick().repeat(12)

    simulate(dut, bench, background=[record(left, dut.o)])
    assert [item for _, item in left] == [
        *found([1, 2, 3], limit=9), *found([1, 2, 3], first=20, limit=25)]
    assert {later - earlier for (earlier, _), (later, _) in pairwise(left[:3])} == {1}
