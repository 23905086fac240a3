"""The bench kit: the checker sees broken rules, the deadline ends, stalls have their share."""

import gc

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, enum, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from zeroskip.sim.bench import (
    ROOM,
    ProtocolError,
    Stalls,
    checker,
    device,
    listen,
    plain,
    receive,
    send,
    simulate,
)


def sender(steps, shape=8):
    """A device that shows (valid, payload) step by step, whatever its receiver says."""
    m, port, cycle = Module(), stream.Signature(shape).create(), Signal(8)
    m.d.sync += cycle.eq(cycle + 1)
    for number, (valid, payload) in enumerate(steps):
        with m.If(cycle == number):
            m.d.comb += [port.valid.eq(valid), port.payload.eq(payload)]
    return m, port


def wire(shape=8):
    """A stream that is its own other end."""
    m, port = Module(), stream.Signature(shape).create()
    m.d.sync += Signal().eq(port.valid)
    return m, port


def check(steps, ready=()):
    """Runs the checker on a device of these steps; ``ready`` in these cycles."""
    m, port = sender(steps)

    async def take(ctx):
        for cycle in range(len(steps)):
            ctx.set(port.ready, cycle in ready)
            await ctx.tick()

    simulate(m, take, background=[checker(port, "port")], quiet=1)


def test_checker_catches_valid_that_falls():
    with pytest.raises(ProtocolError, match="^port: valid fell before ready in cycle 2$"):
        check([(1, 5), (1, 5), (0, 5), (1, 5)])


def test_checker_catches_a_payload_that_changes():
    with pytest.raises(ProtocolError, match="^port: payload changed while it waited in cycle 3$"):
        check([(0, 0), (1, 5), (1, 5), (1, 6)])


def test_checker_catches_the_item_after_one_that_was_taken():
    with pytest.raises(ProtocolError, match="valid fell before ready in cycle 2"):
        check([(1, 5), (1, 6), (0, 0)], ready={0})


def test_checker_lets_a_correct_sender_pass():
    check([(0, 9), (1, 5), (1, 5), (1, 6), (0, 7), (0, 8), (1, 8), (0, 0)], ready={0, 2, 3, 6})


def test_checker_sees_every_field_of_a_structure():
    shape = data.StructLayout({"a": 4, "b": data.StructLayout({"c": 2})})
    m, port = sender([(1, shape.const({"b": {"c": 1}})), (1, shape.const({"b": {"c": 2}}))], shape)

    with pytest.raises(ProtocolError, match="payload changed"):
        simulate(m, background=[checker(port)])


def test_deadline_ends_a_bench_that_hangs():
    m, port = sender([(0, 0)])
    with pytest.raises(TimeoutError, match="^1 of 2 benches still ran after 100 cycles$"):
        simulate(m, lambda ctx: receive(ctx, port, 1), lambda ctx: receive(ctx, port, 0),
                 deadline=100)


@pytest.mark.parametrize("bench", [lambda ctx, port: receive(ctx, port, 1),
                                   lambda ctx, port: send(ctx, port, [1])],
                         ids=["receive", "send"])
def test_a_bench_that_hangs_leaves_nothing_behind(recwarn, monkeypatch, bench):
    ignored = []
    monkeypatch.setattr("sys.unraisablehook", ignored.append)
    m, port = wire()
    with pytest.raises(TimeoutError):
        simulate(m, lambda ctx: bench(ctx, port), deadline=20)
    gc.collect()
    assert not ignored
    assert not recwarn


def test_a_mistake_in_a_bench_is_raised():
    m, _ = sender([])

    async def wrong(ctx):
        await ctx.tick()
        raise KeyError("wrong")

    with pytest.raises(KeyError):
        simulate(m, wrong)


@pytest.mark.parametrize("quiet", [0, 1, 30])
def test_watchers_see_the_quiet_cycles_after_the_last_bench(quiet):
    m, port = sender([(1, 1)] * 100)
    items = []

    async def bench(ctx):
        await ctx.tick().repeat(5)

    async def watch(ctx):
        await listen(ctx, port, items)

    simulate(m, bench, background=[watch], quiet=quiet)
    assert 5 + quiet <= len(items) <= 6 + quiet


def test_send_and_receive_move_one_item_a_cycle_in_order():
    m, port = wire()
    cycles, items = [], []

    async def take(ctx):
        items.extend(await receive(ctx, port, 10))

    async def count(ctx):
        async for *_, moved in ctx.tick().sample(port.valid & port.ready):
            cycles.append(moved)

    simulate(m, lambda ctx: send(ctx, port, range(10)), take, background=[count])
    assert items == list(range(10))
    assert cycles[:10] == [1] * 10
    assert sum(cycles) == 10


@pytest.mark.parametrize("seed", range(5))
def test_send_and_receive_lose_nothing_under_stalls(seed):
    m, port = wire()
    items = []

    async def take(ctx):
        items.extend(await receive(ctx, port, 30, Stalls(seed + 50, 0.5, 3)))

    simulate(m, lambda ctx: send(ctx, port, range(30), Stalls(seed, 0.7)), take,
             background=[checker(port)])
    assert items == list(range(30))


def test_a_patient_receiver_unmasks_valid_that_waits_for_ready():
    m, port = Module(), stream.Signature(8).create()
    m.d.sync += Signal().eq(1)
    m.d.comb += port.valid.eq(port.ready)
    with pytest.raises(TimeoutError):
        simulate(m, lambda ctx: receive(ctx, port, 20, Stalls(1)), deadline=200)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("burst", [1, 4, 20])
def test_stalls_take_their_share_of_the_cycles(fraction, burst):
    stalls = Stalls(3, fraction, burst)
    waits = [stalls.cycles() for _ in range(20_000)]
    assert sum(waits) / (sum(waits) + len(waits)) == pytest.approx(fraction, abs=0.02)
    assert all(wait % burst == 0 for wait in waits)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2])
def test_stalls_refuse_other_fractions(fraction):
    with pytest.raises(ValueError, match=f"^fraction must be at least 0 and below 1, "
                                         f"not {fraction}$"):
        Stalls(fraction=fraction)


def test_stalls_repeat_with_their_seed():
    first, second, other = (Stalls(seed, 0.3) for seed in (1, 1, 2))
    waits = [[stalls.cycles() for _ in range(50)] for stalls in (first, second, other)]
    assert waits[0] == waits[1] != waits[2]


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.75, 0.9])
def test_stalls_have_no_rhythm(fraction):
    stalls = Stalls(1, fraction)
    assert len({stalls.cycles() for _ in range(200)}) > 1


class Colour(enum.Enum, shape=2):
    RED = 2


def test_plain_gives_numbers():
    layout = data.StructLayout({"a": signed(4), "b": data.StructLayout({"c": Colour})})
    assert plain(layout.const({"a": -3, "b": {"c": Colour.RED}})) == {"a": -3, "b": {"c": 2}}
    assert plain(7) == 7
    assert plain(Colour.RED) == 2


def test_a_vcd_is_written_when_asked_for(tmp_path):
    m, port = sender([(1, 1)])
    simulate(m, lambda ctx: receive(ctx, port, 1), vcd=tmp_path / "bench.vcd")
    assert (tmp_path / "bench.vcd").read_text().startswith("$")


class Sum(Component):
    """Adds up what comes, in a register and in a memory."""

    i: In(8)
    o: Out(16)
    stored: Out(16)

    def __init__(self, first=0):
        self.made, self._first = 0, first
        super().__init__()

    def elaborate(self, platform):
        self.made += 1
        m = Module()
        m.submodules.memory = memory = Memory(shape=16, depth=1, init=[self._first])
        write = memory.write_port()
        read = memory.read_port(domain="comb")
        m.d.comb += [write.en.eq(1), write.data.eq(read.data + self.i),
                     self.stored.eq(read.data)]
        m.d.sync += self.o.eq(self.o + self.i)
        return m


def add(dut, value, *others):
    """Sums after three cycles of ``value``; ``others`` are run beside."""
    seen = []

    async def bench(ctx):
        seen.append((ctx.get(dut.i), ctx.get(dut.o), ctx.get(dut.stored)))
        ctx.set(dut.i, value)
        for _ in range(3):
            await ctx.tick()
        seen.append((ctx.get(dut.i), ctx.get(dut.o), ctx.get(dut.stored)))

    simulate(dut, bench, *others)
    return seen


def test_each_run_begins_from_reset_and_the_device_is_elaborated_once():
    dut = Sum(5)
    for value in (3, 7, 3):
        assert add(dut, value) == [(0, 0, 5), (value, 3 * value, 5 + 3 * value)]
    assert dut.made == 1


@pytest.mark.parametrize("counts", [(ROOM + 3, 0, ROOM + 3), (0, ROOM - 1, 1)])
def test_a_run_may_have_more_functions_or_fewer_than_the_one_before(counts):
    dut, ran = Sum(), []

    def other(number):
        async def run(ctx):
            for _ in range(number):
                await ctx.tick()
            ran.append(number)
        return run

    for count in counts:
        ran.clear()
        assert add(dut, 2, *map(other, range(count)))[-1] == (2, 6, 6)
        assert ran == list(range(count))


def test_a_run_after_one_that_failed_begins_from_reset():
    dut = Sum()

    async def wrong(ctx):
        await ctx.tick()
        raise ProtocolError("planted")

    for _ in range(2):
        with pytest.raises(ProtocolError, match="planted"):
            add(dut, 9, wrong)
        assert add(dut, 2) == [(0, 0, 0), (2, 6, 6)]


def test_one_device_for_equal_arguments():
    assert device(Sum, 5) is device(Sum, 5)
    assert device(Sum, first=5) is not device(Sum, first=6)
    assert type(device(Sum, 1)) is Sum
