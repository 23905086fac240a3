"""Activation registers: two memories that change roles, and both wiped at once."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.registers import ActivationRegisters
from zeroskip.sim.bench import device, simulate

DEPTH = 5
CONFIG = EIEConfig(act_depth=DEPTH)
LATENCY = ActivationRegisters.LATENCY
SOURCE, DESTINATION = 0, 1


def step(role=0, *, read=(0, 0), write=(None, None), wipe=0):
    """What the ports show in a cycle: per side the address, and (address, word) written."""
    return {"role": role, "read": read, "write": write, "wipe": wipe}


def words_read(steps, depth=DEPTH):
    """Per step the words of both sides: with the writes of earlier steps, not of this one."""
    memories, words = [[0] * depth for _ in range(2)], []
    for each in steps:
        sides = (memories[each["role"]], memories[1 - each["role"]])
        words.append(tuple(memory[at] for memory, at in zip(sides, each["read"], strict=True)))
        for memory, write in zip(sides, each["write"], strict=True):
            if write:
                memory[write[0]] = write[1]
        if each["wipe"]:
            for memory in sides:
                memory[each["read"][SOURCE]] = 0
    return words


@pytest.fixture(scope="session")
def run(watch):
    """``run(steps)``: the words of both sides that each step's addresses have given; before
    the role changes there is time for what is under way."""
    def run(steps, config=CONFIG):
        dut, log, cycles = device(ActivationRegisters, config), [], []

        async def drive(ctx):
            cycle = 0
            for before, each in pairwise([steps[0], *steps]):
                if each["role"] != before["role"]:
                    ctx.set(dut.source.write.en, 0)
                    ctx.set(dut.destination.write.en, 0)
                    ctx.set(dut.wipe, 0)
                    await ctx.tick().repeat(LATENCY)
                    cycle += LATENCY
                cycles.append(cycle)
                cycle += 1
                ctx.set(dut.role, each["role"])
                ctx.set(dut.wipe, each["wipe"])
                ctx.set(dut.source.enable, 1)
                ctx.set(dut.destination.enable, 1)
                for side, address, write in zip((dut.source, dut.destination), each["read"],
                                                each["write"], strict=True):
                    ctx.set(side.address, address)
                    ctx.set(side.write.en, write is not None)
                    if write:
                        ctx.set(side.write.address, write[0])
                        ctx.set(side.write.data, write[1] % (1 << config.acc_width))
                await ctx.tick()

        simulate(dut, drive, background=[watch(log, dut.source.data, dut.destination.data)],
                 quiet=LATENCY)
        return [log[cycle + LATENCY] for cycle in cycles]
    return run


ADDRESS = st.integers(0, DEPTH - 1)
WRITE = st.none() | st.tuples(ADDRESS, st.integers(-(1 << 31), (1 << 31) - 1))
STEP = st.builds(
    lambda role, read, write, wipe: step(role, read=read, write=(None, None) if wipe else write,
                                         wipe=wipe),
    st.integers(0, 1), st.tuples(ADDRESS, ADDRESS), st.tuples(WRITE, WRITE),
    st.sampled_from([0, 0, 0, 1]))


@given(steps=st.lists(STEP, min_size=1, max_size=60))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_both_sides_read_and_write_at_once(run, steps):
    assert run(steps) == words_read(steps)


@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("side", [SOURCE, DESTINATION])
def test_a_word_is_read_after_the_latency_from_its_side_only(run, role, side):
    write = [None, None]
    write[side] = (2, -7)
    words = run([step(role, write=tuple(write)), step(role, read=(2, 2)), step(role)])
    expected = [0, 0]
    expected[side] = -7
    assert words == [(0, 0), tuple(expected), (0, 0)]


def test_what_was_added_up_is_the_source_of_the_next_layer(run):
    fill = [step(0, write=((k, k + 1), (k, 10 * k + 10))) for k in range(DEPTH)]
    turn = [step(1, read=(k, k)) for k in range(DEPTH)]
    back = [step(0, read=(k, k)) for k in range(DEPTH)]
    words = run([*fill, *turn, *back])
    assert words[DEPTH:] == [*((10 * k + 10, k + 1) for k in range(DEPTH)),
                             *((k + 1, 10 * k + 10) for k in range(DEPTH))]


@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("depth", [2, 3, 8])
def test_a_wipe_zeroes_the_word_of_the_sources_address_in_both(run, role, depth):
    fill = [step(role, write=((k, 5), (k, 6))) for k in range(depth)]
    wipe = [step(role, read=(k, depth - 1), wipe=1) for k in range(depth - 1)]
    look = [step(role, read=(k, k)) for k in range(depth)]
    words = run([*fill, *wipe, *look], EIEConfig(act_depth=depth))
    assert words[-depth:] == [*[(0, 0)] * (depth - 1), (5, 6)]


def test_a_read_does_not_see_the_write_of_its_own_cycle(run):
    both = [step(write=((1, k), (3, k + 100)), read=(1, 3)) for k in range(1, 5)]
    assert run(both) == [(k, k + 100 if k else 0) for k in range(4)]


@pytest.mark.parametrize("width", [17, 24, 32])
def test_words_reach_both_ends_of_an_accumulator(run, width):
    top, bottom = (1 << width - 1) - 1, -(1 << width - 1)
    words = run([step(write=((0, top), (0, bottom))), step()],
                EIEConfig(act_depth=2, acc_width=width))
    assert words[-1] == (top, bottom)


@pytest.mark.parametrize("side", [SOURCE, DESTINATION])
def test_a_side_that_stands_still_keeps_what_it_reads(watch, side):
    dut, log = device(ActivationRegisters, CONFIG), []
    port, other = (dut.source, dut.destination)[::1 if side == SOURCE else -1]

    async def drive(ctx):
        for at in range(4):
            for each in (port, other):
                for member, value in ((each.write.en, 1), (each.write.address, at),
                                      (each.write.data, 10 + at)):
                    ctx.set(member, value)
            await ctx.tick()
        for each in (port, other):
            ctx.set(each.write.en, 0)
            ctx.set(each.enable, 1)
        for at, go in ((1, 1), (2, 1), (3, 0), (0, 0), (3, 1), (0, 1), (0, 1)):
            ctx.set(port.enable, go)
            ctx.set(port.address, at)
            ctx.set(other.address, at)
            await ctx.tick()

    simulate(dut, drive, background=[watch(log, port.data, other.data)], quiet=LATENCY)
    stood, went = zip(*log[4 + LATENCY:4 + LATENCY + 6], strict=True)
    assert (stood, went) == ((11, 11, 11, 12, 13, 10), (11, 12, 13, 10, 13, 10))
