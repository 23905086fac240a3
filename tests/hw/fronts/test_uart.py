# amaranth: UnusedElaboratable=no
"""The UART: bytes there and back, timing, and what the receiver drops."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.fronts.uart import Receiver, Transmitter
from zeroskip.sim.bench import checker, device, receive, send, simulate

BYTES = st.lists(st.integers(0, 255), max_size=6)


def bits(byte, stop=1):
    return [0, *(byte >> k & 1 for k in range(8)), stop]


async def drive(ctx, dut, levels, cycles):
    """Puts levels on the receiver's pin, each for so many cycles."""
    for level in levels:
        ctx.set(dut.rx, level)
        await ctx.tick().repeat(cycles)


def heard(dut, levels, cycles, watch=()):
    """The bytes that come out of a receiver that is always asked."""
    found = []

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        await drive(ctx, dut, [*levels, 1, 1], cycles)

    async def listen(ctx):
        async for *_, valid, payload in ctx.tick().sample(dut.o.valid, dut.o.payload):
            if valid:
                found.append(payload)

    simulate(dut, bench, background=[listen, *watch], quiet=20 * dut.divisor)
    return found


@pytest.mark.parametrize("divisor", [4, 5, 16])
@given(data=BYTES)
@settings(deadline=None, derandomize=True, max_examples=5)
def test_receiver_hears_bytes_without_a_gap(divisor, data):
    levels = [level for byte in data for level in bits(byte)]
    assert heard(Receiver(divisor=divisor), levels, divisor) == data


@pytest.mark.parametrize("cycles", [31, 33])
def test_receiver_bears_a_clock_three_per_cent_off(cycles):
    data = [0x55, 0xAA, 0, 255, 1, 128]
    levels = [level for byte in data for level in bits(byte)]
    assert heard(Receiver(divisor=32), levels, cycles) == data


def test_receiver_drops_a_byte_without_stop_bit_and_waits_for_the_line():
    levels = [*bits(0x5A, stop=0), *[0] * 30, 1, *bits(0x77)]
    assert heard(Receiver(divisor=8), levels, 8) == [0x77]


def test_receiver_ignores_a_spike():
    dut, found = device(Receiver, divisor=16), []

    async def bench(ctx):
        for level, cycles in ((0, 6), (1, 40)):
            await drive(ctx, dut, [level], cycles)
        for level in bits(0x42):
            await drive(ctx, dut, [level], 16)
        found.extend(await receive(ctx, dut.o, 1))

    simulate(dut, bench)
    assert found == [0x42]


def test_overrun_keeps_the_first_byte_and_says_that_one_was_lost(watch):
    dut, log = device(Receiver, divisor=4), []

    async def bench(ctx):
        await drive(ctx, dut, [*bits(1), *bits(2), 1, 1], 4)
        assert await receive(ctx, dut.o, 1) == [1]
        await drive(ctx, dut, [*bits(3), 1, 1], 4)
        assert await receive(ctx, dut.o, 1) == [3]

    simulate(dut, bench, background=[checker(dut.o), watch(log, dut.overrun)])
    assert sum(overrun for overrun, in log) == 1


@pytest.mark.parametrize("divisor", [4, 7])
def test_latency_of_the_receiver(record, divisor):
    dut, log = device(Receiver, divisor=divisor), []

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        await ctx.tick().repeat(10)
        await drive(ctx, dut, [*bits(0x3C), 1], divisor)

    simulate(dut, bench, background=[record(log, dut.o)])
    assert log == [(10 + 9 * divisor + divisor // 2 + 3, 0x3C)]


@pytest.mark.parametrize("divisor", [4, 9])
@given(data=BYTES)
@settings(deadline=None, derandomize=True, max_examples=5)
def test_transmitter_sends_start_data_and_stop(watch, divisor, data):
    dut, log = device(Transmitter, divisor=divisor), []
    simulate(dut, lambda ctx: send(ctx, dut.i, data), background=[watch(log, dut.tx)],
             quiet=12 * divisor)
    line = "".join(str(level) for level, in log)
    expected = "".join("1" + "".join(str(bit) * divisor for bit in bits(byte)) for byte in data)
    assert line.startswith(expected)
    assert set(line[len(expected):]) == {"1"}


@pytest.mark.parametrize("kind", [Receiver, Transmitter])
def test_divisor_below_four_is_refused(kind):
    with pytest.raises(ValueError, match="^divisor must be at least 4, not 3$"):
        kind(divisor=3)
