"""Amaranth's own simulation of any component, with the interface of the compiled ones."""

from collections.abc import Awaitable, Callable

import numpy as np
from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext

from zeroskip.sw.runtime.backend import PATIENCE, Simulated


class AmaranthModel(Simulated):
    """One instance of a component with one clock domain, ``sync``; needs no tool.

    Names are those of the Verilog: ``inputs__payload`` is ``inputs.payload``. Payloads are
    little-endian rows of 32-bit words, as many as the payload is wide.
    """

    def __init__(self, component: wiring.Component):
        self._ports = {"__".join(map(str, path)): Value.cast(value)
                       for path, _, value in component.signature.flatten(component)}
        self._job: Callable[[SimulatorContext], Awaitable] | None = None
        self._now = 0
        self._simulator = Simulator(component)
        self._simulator.add_clock(1e-6)
        self._simulator.add_testbench(self._work)
        self._simulator.advance()       # up to where it waits for its first job

    def reset(self) -> None:
        """All is as it was when the model was made."""
        self._job, self._now = None, 0
        self._simulator.reset()
        self._simulator.advance()

    async def _work(self, ctx: SimulatorContext):
        """Does one job after another; between them no time passes, since nobody advances it."""
        while True:
            if self._job:
                await self._job(ctx)
                self._job = None
            await ctx.delay(0)

    def _do(self, job: Callable[[SimulatorContext], Awaitable]) -> None:
        """Advances the simulation until ``job`` is done."""
        self._job = job
        while self._job:
            self._simulator.advance()

    def _port(self, name: str) -> Value:
        if name not in self._ports:
            raise KeyError(f"the design has no object '{name}'")
        return self._ports[name]

    def poke(self, name: str, value: int) -> None:
        """Sets an input of at most 32 bits."""
        port = self._port(name)

        async def job(ctx):
            ctx.set(port, value)
        self._do(job)

    def peek(self, name: str) -> int:
        """The value of a port of at most 32 bits."""
        port, found = self._port(name), []

        async def job(ctx):
            found.append(ctx.get(port) & (1 << len(port)) - 1)
        self._do(job)
        return found[0]

    def tick(self, cycles: int = 1) -> None:
        """Advances the clock."""
        async def job(ctx):
            await ctx.tick().repeat(cycles)
        self._do(job)

    def run(self, send: dict[str, np.ndarray], receive: dict[str, int],
            patience: int = PATIENCE) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Sends and receives over streams until all is done; see
        :meth:`zeroskip.sw.engines.base.Device.run`."""
        senders = [_Sender(self._stream(name), name, items) for name, items in send.items()]
        receivers = [_Receiver(self._stream(name), name, count)
                     for name, count in receive.items()]
        streams = [*senders, *receivers]

        async def job(ctx):
            tick, still = ctx.tick(), 0
            while still < patience:
                for stream in streams:
                    stream.offer(ctx)
                if all(stream.finished for stream in streams):
                    return
                moved = [stream.transfer(ctx, self._now) for stream in streams]
                still = 0 if any(moved) else still + 1
                self._now += 1
                await tick
        self._do(job)
        for stream in streams:
            if not stream.finished:
                raise TimeoutError(f"'{stream.name}' moved {stream.done} of {stream.count} items, "
                                   f"then nothing happened for {patience} cycles")
        return {receiver.name: (_words(receiver.items, len(receiver.payload)),
                                np.array(receiver.times, np.uint64)) for receiver in receivers}

    def _stream(self, name: str) -> tuple[Value, Value, Value]:
        return tuple(self._port(f"{name}__{part}") for part in ("payload", "valid", "ready"))


class _Stream:
    """One stream in one run: ``done`` of ``count`` items have moved."""

    def __init__(self, ports: tuple[Value, Value, Value], name: str, count: int):
        self.payload, self.valid, self.ready = ports
        self.name, self.count, self.done = name, count, 0
        self._raised = None

    @property
    def finished(self) -> bool:
        return self.done == self.count

    def _raise(self, ctx: SimulatorContext, signal: Value) -> None:
        """Holds ``valid`` or ``ready`` until all is done; setting a signal is slow."""
        if self._raised != (not self.finished):
            self._raised = not self.finished
            ctx.set(signal, self._raised)

    def moves(self, ctx: SimulatorContext) -> bool:
        """Whether an item passes at the next clock edge."""
        return bool(ctx.get(self.valid) and ctx.get(self.ready))


class _Sender(_Stream):
    def __init__(self, ports, name: str, items: np.ndarray):
        super().__init__(ports, name, len(items))
        words = -(-len(self.payload) // 32)
        if items.shape[1:] != (words,):
            raise ValueError(f"items for '{name}' must be {words} words wide, "
                             f"not {items.shape[1:]}")
        self._items = [sum(word << 32 * k for k, word in enumerate(item))
                       for item in np.asarray(items, np.uint32).tolist()]
        self._shown = None

    def offer(self, ctx: SimulatorContext) -> None:
        """Shows the next item, or that there is none."""
        if not self.finished and self.done != self._shown:
            self._shown = self.done
            ctx.set(self.payload, self._items[self.done])
        self._raise(ctx, self.valid)

    def transfer(self, ctx: SimulatorContext, now: int) -> bool:  # noqa: ARG002 - as a receiver
        moves = self.moves(ctx)
        self.done += moves
        return moves


class _Receiver(_Stream):
    def __init__(self, ports, name: str, count: int):
        super().__init__(ports, name, count)
        self.items: list[int] = []
        self.times: list[int] = []

    def offer(self, ctx: SimulatorContext) -> None:
        """Shows whether another item is wanted."""
        self._raise(ctx, self.ready)

    def transfer(self, ctx: SimulatorContext, now: int) -> bool:
        moves = self.moves(ctx)
        if moves:
            self.items.append(ctx.get(self.payload))
            self.times.append(now)
            self.done += 1
        return moves


def _words(items: list[int], width: int) -> np.ndarray:
    """Payloads as uint32 [items, words]."""
    words = -(-width // 32)
    return np.array([[item >> 32 * k & 0xFFFFFFFF for k in range(words)] for item in items],
                    np.uint32).reshape(len(items), words)


KEPT = 4
"""Models that are kept for a next one of the same key: to elaborate a core takes seconds."""

_kept: dict[tuple[str, str], AmaranthModel] = {}


def simulator() -> Callable:
    """Backend ``python``: some thousand cycles a second, and no tool needed.

    A model is that of before, reset, if one was made for the same key not long ago.
    """
    def model(make, name: str, key: str) -> AmaranthModel:
        found = _kept.pop((name, key), None)
        if found:
            found.reset()
        else:
            found = AmaranthModel(make())
        _kept[name, key] = found        # as the last
        while len(_kept) > KEPT:
            del _kept[next(iter(_kept))]
        return found
    return model
