"""Block RAM: latency, read against write, and a held output."""

import pytest
from amaranth.hdl import signed, unsigned
from amaranth.lib import data
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.fpga.area import synthesise
from zeroskip.fpga.families.ecp5 import ECP5
from zeroskip.hw.memory import BlockRAM
from zeroskip.sim.bench import simulate

DEPTHS = (1, 2, 5, 8)


def observe(watch, dut, steps):
    """The data of every cycle, for steps of (write or None, read or None, hold), one a cycle;
    without ``hold`` at the end."""
    log = []

    async def drive(ctx):
        for write, read, *hold in steps:
            ctx.set(dut.write.en, write is not None)
            if write is not None:
                ctx.set(dut.write.address, write[0])
                ctx.set(dut.write.data, write[1])
            ctx.set(dut.en, read is not None)
            if read is not None:
                ctx.set(dut.address, read)
            ctx.set(dut.hold, any(hold))
            await ctx.tick()
        ctx.set(dut.write.en, 0)
        ctx.set(dut.en, 0)
        ctx.set(dut.hold, 0)

    simulate(dut, drive, background=[watch(log, dut.data)], quiet=dut.LATENCY + 1)
    return [value for value, in log]


def words_read(depth, steps):
    """Per step the word that was read last: of earlier cycles' writes, not this one's."""
    memory, word, words = [0] * depth, 0, []
    for write, read, *_ in steps:
        word = word if read is None else memory[read]
        words.append(word)
        if write is not None:
            memory[write[0]] = write[1]
    return words


def words_seen(depth, steps):
    """Per cycle the data: the word read by the cycle before last, or by the one before the
    output was held."""
    seen = [0, 0]
    for (_, _, hold), word in zip(steps[1:], words_read(depth, steps[:-1]), strict=True):
        seen.append(seen[-1] if hold else word)
    return seen


def steps(depth, *more):
    address = st.integers(0, depth - 1)
    write = st.tuples(address, st.integers(0, 255))
    return st.lists(st.tuples(st.none() | write, st.none() | address, *more),
                    min_size=1, max_size=60)


@pytest.mark.parametrize("depth", DEPTHS)
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=25)
def test_each_read_gives_its_word_after_the_latency(watch, depth, data):
    given_steps = data.draw(steps(depth))
    log = observe(watch, BlockRAM(unsigned(8), depth=depth), given_steps)
    seen = log[BlockRAM.LATENCY:BlockRAM.LATENCY + len(given_steps)]
    assert seen == words_read(depth, given_steps)


@pytest.mark.parametrize("depth", DEPTHS)
@given(data=st.data())
@settings(deadline=None, derandomize=True, max_examples=25)
def test_a_held_output_keeps_its_word_whatever_is_read(watch, depth, data):
    given_steps = data.draw(steps(depth, st.booleans()))
    log = observe(watch, BlockRAM(unsigned(8), depth=depth), given_steps)
    assert log[:1 + len(given_steps)] == words_seen(depth, given_steps)


def test_a_read_does_not_see_the_write_of_its_own_cycle(watch):
    log = observe(watch, BlockRAM(8, depth=4), [((1, 7), None), ((1, 9), 1), (None, 1)])
    assert log[1 + BlockRAM.LATENCY:3 + BlockRAM.LATENCY] == [7, 9]


def test_the_output_holds_while_enable_is_low(watch):
    log = observe(watch, BlockRAM(8, depth=4), [((2, 5), None), (None, 2), ((2, 6), None),
                                                (None, None), (None, None)])
    assert log[1 + BlockRAM.LATENCY:] == [5] * len(log[1 + BlockRAM.LATENCY:])


def test_what_was_read_waits_in_the_memory_while_the_output_is_held(watch):
    fill = [((k, 10 + k), None, 0) for k in range(4)]
    log = observe(watch, BlockRAM(8, depth=4), [
        *fill, (None, 1, 0), (None, 2, 0), (None, None, 1), (None, None, 1), (None, None, 0)])
    assert log[4 + BlockRAM.LATENCY:] == [11, 11, 11, *[12] * len(log[7 + BlockRAM.LATENCY:])]


def test_a_held_output_stays_when_its_word_is_overwritten(watch):
    log = observe(watch, BlockRAM(8, depth=4), [
        ((3, 5), None, 0), (None, 3, 0), (None, None, 0), ((3, 6), None, 1), (None, 3, 1),
        (None, None, 1), (None, None, 0)])
    assert log[1 + BlockRAM.LATENCY:8] == [5] * 4 + [6]


def test_words_may_be_signed(watch):
    log = observe(watch, BlockRAM(signed(16), depth=2), [((1, 0x8000), None), (None, 1)])
    assert log[-1] == -0x8000


def test_words_may_be_structures(watch):
    layout = data.StructLayout({"low": 4, "high": 4})
    log = observe(watch, BlockRAM(layout, depth=2), [((0, 0xA5), None), (None, 0)])
    assert log[-1] == {"low": 5, "high": 10}


def test_needs_no_logic_beside_it():
    """The output register is a flip-flop a bit until ``fpga/pack.py`` moves it inside."""
    cells = synthesise(BlockRAM(32, depth=512), ECP5, soft=False)
    assert (cells.memories, cells.flip_flops, cells.logic) == (1, 32, 0)
