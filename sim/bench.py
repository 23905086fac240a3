"""The bench kit: drives and watches any component in Amaranth's simulator.

Every bench has random stalls, a handshake checker on each stream, and a deadline. A VCD is
written only when a path for it is given.
"""

import contextlib
import functools
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from amaranth.lib import data
from amaranth.sim import Simulator, SimulatorContext


class Stalls:
    """How long one side of a stream waits before each item.

    Parameters
    ----------
    seed : int
    fraction : float
        Share of the cycles in which this side waits, 0 to below 1.
    burst : int
        Cycles of one wait.
    """

    def __init__(self, seed: int = 0, fraction: float = 0.0, burst: int = 1):
        if not 0 <= fraction < 1:
            raise ValueError(f"fraction must be at least 0 and below 1, not {fraction}")
        self._random = random.Random(seed)
        # A wait follows another with probability p, so that p / (1 - p) of them stand before an
        # item: bursts of b then take the share pb / (pb + 1 - p) of the cycles.
        self._again = fraction / (fraction + burst * (1 - fraction))
        self._burst = burst

    def cycles(self) -> int:
        """Cycles to wait now."""
        cycles = 0
        while self._random.random() < self._again:
            cycles += self._burst
        return cycles

    def patient(self) -> bool:
        """Whether to show ``ready`` only once ``valid`` is seen; a sender must not mind."""
        return self._random.random() < 0.5


class ProtocolError(AssertionError):
    """A device broke the rules of a stream."""


def plain(payload):
    """A payload as Python numbers: an integer, or a dictionary of them for a structure."""
    if isinstance(payload, data.Const):
        return {name: plain(payload[name]) for name, _ in payload.shape()}
    return getattr(payload, "value", payload)


async def send(ctx: SimulatorContext, port, items: Iterable, stalls: Stalls | None = None):
    """Offers ``items``, one after another, at a stream that the device receives."""
    for item in items:
        for _ in range(stalls.cycles() if stalls else 0):
            await ctx.tick()
        ctx.set(port.payload, item)
        ctx.set(port.valid, 1)
        ready = False
        while not ready:
            *_, ready = await ctx.tick().sample(port.ready)
        ctx.set(port.valid, 0)


async def receive(ctx: SimulatorContext, port, count: int, stalls: Stalls | None = None) -> list:
    """Takes ``count`` items from a stream that the device sends, as :func:`plain` numbers."""
    items = []
    for _ in range(count):
        for _ in range(stalls.cycles() if stalls else 0):
            await ctx.tick()
        if stalls and stalls.patient():
            while not ctx.get(port.valid):
                await ctx.tick()
        ctx.set(port.ready, 1)
        valid = False
        while not valid:
            *_, valid, payload = await ctx.tick().sample(port.valid, port.payload)
        ctx.set(port.ready, 0)
        items.append(plain(payload))
    return items


async def listen(ctx: SimulatorContext, port, items: list):
    """A background process: appends to ``items`` what leaves a stream without flow control."""
    async for *_, valid, payload in ctx.tick().sample(port.valid, port.payload):
        if valid:
            items.append(plain(payload))


def checker(port, name: str = "stream"):
    """A background process that holds a device to the rules of the stream it sends:
    once valid, ``valid`` and ``payload`` stay until ``ready``."""
    async def check(ctx: SimulatorContext):
        waiting = None
        cycle = 0
        signals = ctx.tick().sample(port.valid, port.ready, port.payload)
        async for *_, valid, ready, payload in signals:
            if waiting is not None and not valid:
                raise ProtocolError(f"{name}: valid fell before ready in cycle {cycle}")
            if waiting is not None and plain(payload) != waiting:
                raise ProtocolError(f"{name}: payload changed while it waited in cycle {cycle}")
            waiting = plain(payload) if valid and not ready else None
            cycle += 1
    return check


def simulate(dut, *benches: Callable, background: Iterable[Callable] = (),
             deadline: int = 20_000, quiet: int = 50, vcd: Path | None = None):
    """Runs the benches on ``dut`` until all have returned.

    Parameters
    ----------
    dut : Component
        With one clock domain, ``sync``.
    benches : async functions of the simulator's context
    background : async functions
        Watch only; they run until the end, for example :func:`checker`.
    deadline : int
        Cycles; a bench that takes longer fails with ``TimeoutError``.
    quiet : int
        Cycles that the simulation goes on after the last bench, for the watchers to see
        whether anything still comes.
    vcd : path, optional
    """
    running = len(benches)

    def bench(function):
        async def run(ctx):
            nonlocal running
            await function(ctx)
            running -= 1
        return run

    async def clock_watch(ctx):
        for _ in range(deadline):
            await ctx.tick()
            if not running:
                for _ in range(quiet):
                    await ctx.tick()
                return
        raise TimeoutError(f"{running} of {len(benches)} benches still ran "
                           f"after {deadline} cycles")

    functions = [*map(bench, benches), *background]
    try:
        _bench_of(dut, max(ROOM, len(functions))).run(functions, clock_watch, vcd)
    except BaseException:
        _bench_of.cache_clear()         # what stopped midway is not used again
        raise


@functools.lru_cache(maxsize=32)
def device(kind: Callable, *args, **kwargs):
    """``kind(*args, **kwargs)``, one component for all who ask for the same.

    :func:`simulate` elaborates it once, and begins from reset each time.
    """
    return kind(*args, **kwargs)


ROOM = 12
"""Functions that a simulator has room for, unless there are more."""


class _Bench:
    """A simulator of ``dut`` that runs up to ``room`` functions, and a last one that ends the run.

    Amaranth takes no function after the first run, but starts those that it has anew. Those that
    it has look up here what to do.
    """

    def __init__(self, dut, room: int):
        self._simulator, self._room, self._used = Simulator(dut), room, False
        self._simulator.add_clock(1e-6)
        for place in range(room + 1):
            self._simulator.add_testbench(self._at(place), background=place < room)

    def _at(self, place: int) -> Callable:
        async def run(ctx):
            await ctx.delay(0)          # so that all have begun when one fails at once
            if place in self._functions:
                await self._functions[place](ctx)
        return run

    def run(self, functions: list[Callable], last: Callable, vcd: Path | None):
        if self._used:
            self._simulator.reset()
        self._used, self._functions = True, {**dict(enumerate(functions)), self._room: last}
        with self._simulator.write_vcd(str(vcd)) if vcd else contextlib.nullcontext():
            self._simulator.run()
        del self._functions             # and with them what they hold


_bench_of = functools.lru_cache(maxsize=32)(_Bench)
