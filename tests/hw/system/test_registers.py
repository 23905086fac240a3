# amaranth: UnusedElaboratable=no
"""The register file: each way of access, the windows, and what a description must be."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.bus import Status
from zeroskip.hw.system.registers import Access, Field, Page, Register, RegisterFile, Window
from zeroskip.sim.bench import Stalls, checker, receive, send, simulate


def register(name, access, *widths):
    fields = [Field(f"f{k}", width, "A field.") for k, width in enumerate(widths)]
    return Register(name, access, fields, "A register.")


ITEMS = [
    register("level", Access.READ, 32),
    register("mode", Access.WRITE, 3, 9),
    register("events", Access.CLEAR, 8),
    register("start", Access.PULSE, 2),
    Window("words", "in", "To the core."),
    Window("results", "out", "From the core."),
]
LEVEL, MODE, EVENTS, START, WORDS, RESULTS, END = range(0, 4 * len(ITEMS) + 4, 4)


async def access(ctx, dut, address, data=None, strobes=None):
    """Reads, or writes ``data``: the status, and the word read. A read has no strobes."""
    strobes = 15 * (data is not None) if strobes is None else strobes
    await send(ctx, dut.bus.request, [{"address": address, "write": data is not None,
                                       "strobes": strobes, "data": data or 0}])
    (response,) = await receive(ctx, dut.bus.response, 1)
    return Status(response["status"]), response["data"]


def run(bench, **kinds):
    dut = RegisterFile(ITEMS)
    simulate(dut, lambda ctx: bench(ctx, dut), **kinds)


def test_addresses_count_in_the_order_of_the_description():
    assert list(Page("page", 0x3000, ITEMS).addresses.items()) == [
        ("level", 0x3000), ("mode", 0x3004), ("events", 0x3008), ("start", 0x300C),
        ("words", 0x3010), ("results", 0x3014)]


def test_read_register_gives_what_the_core_drives_and_cannot_be_written():
    async def bench(ctx, dut):
        ctx.set(dut.level, 0xFEDCBA98)
        assert await access(ctx, dut, LEVEL) == (Status.OK, 0xFEDCBA98)
        assert await access(ctx, dut, LEVEL, 5) == (Status.RANGE, 0)
    run(bench)


def test_written_register_reads_back_as_wide_as_it_is():
    async def bench(ctx, dut):
        assert ctx.get(dut.mode) == 0
        assert await access(ctx, dut, MODE, 0xFFFFF123) == (Status.OK, 0)
        assert ctx.get(dut.mode) == 0x123
        assert await access(ctx, dut, MODE) == (Status.OK, 0x123)
    run(bench)


def test_events_stay_until_a_one_clears_them():
    async def bench(ctx, dut):
        ctx.set(dut.events_set, 0b1011)
        await ctx.tick()
        ctx.set(dut.events_set, 0)
        assert await access(ctx, dut, EVENTS, 0b0110) == (Status.OK, 0)
        assert await access(ctx, dut, EVENTS) == (Status.OK, 0b1001)
        ctx.set(dut.events_set, 0b0001)
        assert await access(ctx, dut, EVENTS, 0b1001) == (Status.OK, 0)
        assert ctx.get(dut.events) == 0b0001
    run(bench)


@pytest.mark.parametrize("after", range(-2, 4))
def test_an_event_of_one_cycle_is_lost_only_if_it_came_before_its_clear(after):
    """The write is executed in the cycle in which its request is taken."""
    async def bench(ctx, dut):
        ctx.set(dut.bus.response.ready, 1)
        ctx.set(dut.bus.request.payload,
                {"address": EVENTS, "write": 1, "strobes": 15, "data": 0b0110})
        for cycle in range(-2, 6):
            ctx.set(dut.bus.request.valid, cycle == 0)
            ctx.set(dut.events_set, 0b0101 if cycle == after else 0)
            await ctx.tick()
        assert ctx.get(dut.events) == (0b0001 if after < 0 else 0b0101)
    run(bench)


def test_pulse_is_high_for_one_cycle_and_reads_zero(watch):
    log, dut = [], RegisterFile(ITEMS)

    async def bench(ctx):
        assert await access(ctx, dut, START, 0b10) == (Status.OK, 0)
        assert await access(ctx, dut, START) == (Status.OK, 0)

    simulate(dut, bench, background=[watch(log, dut.start)])
    assert sorted(log)[-2:] == [(0,), (0b10,)]


def test_writes_elsewhere_change_nothing():
    async def bench(ctx, dut):
        await access(ctx, dut, MODE, 7)
        for address in (LEVEL, EVENTS, START, WORDS, RESULTS, END, 0x8004, 0xFFFC,
                        *range(MODE + 1, MODE + 4)):
            await access(ctx, dut, address, 0xFFFFFFFF)
        assert await access(ctx, dut, MODE) == (Status.OK, 7)
    run(bench)


@pytest.mark.parametrize("address", [END, 0x20 + MODE, 0x100 + MODE, 0x8000 + MODE, 0xFFFC,
                                     *(place + k for place in (LEVEL, MODE, EVENTS, START, WORDS,
                                                               RESULTS) for k in (1, 2, 3))])
@pytest.mark.parametrize("data", [None, 1])
def test_address_beyond_the_last_or_not_of_a_word_is_out_of_range(address, data):
    async def bench(ctx, dut):
        assert await access(ctx, dut, address, data) == (Status.RANGE, 0)
    run(bench)


@pytest.mark.parametrize("strobes", range(16))
def test_bytes_that_are_written(strobes):
    """``mode`` has twelve bits and ``events`` eight."""
    mask = sum(0xFF << 8 * k for k in range(4) if strobes >> k & 1)

    async def bench(ctx, dut):
        await access(ctx, dut, MODE, 0xA5C)
        assert await access(ctx, dut, MODE, 0xFFFFF3A3, strobes) == (Status.OK, 0)
        assert ctx.get(dut.mode) == (0xA5C & ~mask | 0x3A3 & mask)
        ctx.set(dut.events_set, 0b1011)
        await ctx.tick()
        ctx.set(dut.events_set, 0)
        assert await access(ctx, dut, EVENTS, 0xFFFFFF06, strobes) == (Status.OK, 0)
        assert ctx.get(dut.events) == (0b1001 if strobes & 1 else 0b1011)
    run(bench)


@pytest.mark.parametrize(("strobes", "pulses"), [(0b1110, [(0,)]), (0b0001, [(0,), (0b10,)])])
def test_pulse_of_bytes_that_are_written(watch, strobes, pulses):
    log, dut = [], RegisterFile(ITEMS)

    async def bench(ctx):
        assert await access(ctx, dut, START, 0xFE, strobes) == (Status.OK, 0)

    simulate(dut, bench, background=[watch(log, dut.start)])
    assert sorted({*log}) == pulses


@pytest.mark.parametrize("strobes", range(15))
def test_a_window_takes_whole_words(strobes):
    async def bench(ctx, dut):
        assert await access(ctx, dut, WORDS, 11, strobes) == (Status.RANGE, 0)
        assert not ctx.get(dut.words.valid)
        assert await access(ctx, dut, WORDS, 12) == (Status.OK, 0)
        assert await access(ctx, dut, WORDS, 13, strobes) == (Status.RANGE, 0)
        assert await receive(ctx, dut.words, 1) == [12]
    run(bench)


def test_a_response_that_is_not_there_is_zero():
    """So that those of several can be added."""
    async def bench(ctx, dut):
        ctx.set(dut.level, 0xFFFFFFFF)
        for address in (LEVEL, 0x8000, RESULTS):
            await access(ctx, dut, address)
            assert ctx.get(dut.bus.response.payload.as_value()) == 0
    run(bench)


def test_windows_have_one_direction():
    async def bench(ctx, dut):
        assert await access(ctx, dut, WORDS) == (Status.RANGE, 0)
        assert await access(ctx, dut, RESULTS, 1) == (Status.RANGE, 0)
        assert not ctx.get(dut.words.valid)
    run(bench)


def test_write_to_a_full_window_is_busy_and_pushes_nothing():
    async def bench(ctx, dut):
        assert await access(ctx, dut, WORDS, 11) == (Status.OK, 0)
        assert await access(ctx, dut, WORDS, 12) == (Status.BUSY, 0)
        assert await receive(ctx, dut.words, 1) == [11]
        assert not ctx.get(dut.words.valid)
    run(bench)


def test_read_takes_a_word_and_is_busy_without_one():
    dut, offered = RegisterFile(ITEMS), []

    async def host(ctx):
        assert await access(ctx, dut, RESULTS) == (Status.BUSY, 0)
        offered.append(True)
        await ctx.tick().repeat(3)
        assert await access(ctx, dut, RESULTS) == (Status.OK, 13)
        assert await access(ctx, dut, RESULTS) == (Status.BUSY, 0)

    async def core(ctx):
        while not offered:
            await ctx.tick()
        await send(ctx, dut.results, [13])

    simulate(dut, host, core)


@given(words=st.lists(st.integers(0, 2**32 - 1), max_size=12), seed=st.integers(0, 999))
@settings(deadline=None, derandomize=True, max_examples=5)
def test_words_pass_the_windows_in_order_and_none_is_lost(stalls, words, seed):
    dut, read, taken = RegisterFile(ITEMS), [], []

    async def host(ctx):
        written = 0
        while written < len(words) or len(read) < len(words):
            if written < len(words):
                status, _ = await access(ctx, dut, WORDS, words[written])
                written += status is Status.OK
            status, word = await access(ctx, dut, RESULTS)
            if status is Status.OK:
                read.append(word)

    async def core(ctx):
        taken.extend(await receive(ctx, dut.words, len(words), stalls(seed)[1]))

    simulate(dut, host, core, lambda ctx: send(ctx, dut.results, words, stalls(seed)[0]),
             background=[checker(dut.words), checker(dut.bus.response)])
    assert read == taken == words


def test_response_comes_one_cycle_after_its_request_and_waits(record):
    dut, asked, answered = RegisterFile(ITEMS), [], []
    requests = [{"address": address, "write": 0, "strobes": 0, "data": 0}
                for address in (LEVEL, 0x24, RESULTS, MODE)]
    simulate(dut, lambda ctx: send(ctx, dut.bus.request, requests),
             lambda ctx: receive(ctx, dut.bus.response, 4),
             background=[record(asked, dut.bus.request), record(answered, dut.bus.response)])
    assert [cycle for cycle, _ in answered] == [cycle + 1 for cycle, _ in asked] == [1, 3, 5, 7]

    async def host(ctx):
        await receive(ctx, dut.bus.response, 4, Stalls(1, 0.8))

    simulate(dut, lambda ctx: send(ctx, dut.bus.request, requests), host,
             background=[checker(dut.bus.response)])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Field("a b", 1, ""), "name of a field must be an identifier, not 'a b'"),
    (lambda: Field("a", 0, ""), "width of field 'a' must be at least 1, not 0"),
    (lambda: register("wide", Access.READ, 30, 3), "register 'wide' must have 1 to 32 bits, "
                                                   "not 33"),
    (lambda: register("none", Access.READ), "register 'none' must have 1 to 32 bits, not 0"),
    (lambda: register("if", Access.READ, 1), "name of a register must be an identifier, not 'if'"),
    (lambda: register("_a", Access.READ, 1), "name of a register must be an identifier, not '_a'"),
    (lambda: Register("a", Access.READ, [Field("b", 1, ""), Field("b", 1, "")], ""),
     "fields of register 'a' must have different names, not 'b' twice"),
    (lambda: Window("", "in", ""), "name of a window must be an identifier, not ''"),
    (lambda: Window("a", "inout", ""), "direction of window 'a' must be 'in' or 'out', "
                                       "not 'inout'"),
])
def test_description_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


@pytest.mark.parametrize(("items", "message"), [
    ([Window("a", "in", ""), Window("a", "out", "")],
     "ports of the registers must have different names, not 'a' twice"),
    ([register("a", Access.CLEAR, 1), register("a_set", Access.WRITE, 1)],
     "ports of the registers must have different names, not 'a_set' twice"),
    ([register("bus", Access.READ, 1)], "'bus' must not be the name of a register or window, "
                                        "because the register file uses it itself"),
    ([register("elaborate", Access.READ, 1)], "'elaborate' must not be .*"),
])
def test_register_file_that_cannot_be(items, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        RegisterFile(items)


def test_register_file_of_nothing_answers_out_of_range():
    dut = RegisterFile([])

    async def bench(ctx):
        assert await access(ctx, dut, 0) == (Status.RANGE, 0)

    simulate(dut, bench)
