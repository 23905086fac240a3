"""What the tests of the gateware share: stalls, drivers and watchers.

Every fixture gives a function, and lives for the whole session so that hypothesis may use it.
"""

import pytest

from zeroskip.sim.bench import Stalls, checker, plain, receive, send, simulate

STALLS = {
    # Of the sender and of the receiver: share of the cycles, length of one wait.
    "free": ((0.0, 1), (0.0, 1)),
    "slow": ((0.3, 1), (0.3, 1)),
    "starved": ((0.9, 1), (0.0, 1)),
    "choked": ((0.0, 1), (0.9, 1)),
    "crawling": ((0.9, 1), (0.9, 1)),
    "bursts": ((0.5, 12), (0.5, 12)),
}


@pytest.fixture(scope="session", params=STALLS)
def stalls(request):
    """``stalls(seed)``: the stalls of a sender and of a receiver."""
    return lambda seed: [Stalls(seed, *side) for side in STALLS[request.param]]


def _watch(log: list, *signals):
    async def watch(ctx):
        async for _, _, *values in ctx.tick().sample(*signals):
            log.append(tuple(plain(value) for value in values))
    return watch


@pytest.fixture(scope="session")
def watch():
    """``watch(log, *signals)``: a background process that logs the signals of every cycle."""
    return _watch


@pytest.fixture(scope="session")
def record():
    """``record(log, port)``: a background process that logs (cycle, payload) of each transfer."""
    def record(log: list, port):
        async def run(ctx):
            cycle = 0
            samples = ctx.tick().sample(port.valid, port.ready, port.payload)
            async for *_, valid, ready, payload in samples:
                if valid and ready:
                    log.append((cycle, plain(payload)))
                cycle += 1
        return run
    return record


@pytest.fixture(scope="session")
def feed():
    """``feed(ctx, port, items)``: drives a stream without flow control, an item a cycle;
    None is a cycle without one."""
    async def feed(ctx, port, items):
        for item in items:
            ctx.set(port.valid, item is not None)
            if item is not None:
                ctx.set(port.payload, item)
            await ctx.tick()
        ctx.set(port.valid, 0)
    return feed


@pytest.fixture(scope="session")
def fill():
    """``fill(ctx, port, words)``: writes {address: data} through a WritePort, one a cycle."""
    async def fill(ctx, port, words: dict):
        for address, data in words.items():
            ctx.set(port.en, 1)
            ctx.set(port.address, address)
            ctx.set(port.data, data)
            await ctx.tick()
        ctx.set(port.en, 0)
    return fill


@pytest.fixture(scope="session")
def transfer():
    """``transfer(dut, sends, receives)``: sends [(port, items)], takes [(port, count)], gives
    the items of each receiving port.

    Receiving ports are checked for the handshake, and for silence after the last item.
    ``before`` runs ahead of the first item. The deadline grows with the items, so that a hang
    is found, and shrunk, in little time.
    """
    def transfer(dut, sends, receives, *, stalls=None, before=None, background=(), patience=40):
        outputs, last_valid, prepared = [[] for _ in receives], [], []
        moves = sum(len(items) for _, items in sends) + sum(count for _, count in receives)

        async def prepare(ctx):
            if before:
                await before(ctx)
            prepared.append(True)

        def sender(seed, port, items):
            async def run(ctx):
                while not prepared:
                    await ctx.tick()
                await send(ctx, port, items, stalls and stalls(seed)[0])
            return run

        def receiver(seed, port, count):
            async def run(ctx):
                outputs[seed] += await receive(ctx, port, count, stalls and stalls(seed)[1])
            return run

        simulate(
            dut, prepare,
            *(sender(k, *each) for k, each in enumerate(sends)),
            *(receiver(k, *each) for k, each in enumerate(receives)),
            background=[*background, *(checker(port) for port, _ in receives),
                        _watch(last_valid, *(port.valid for port, _ in receives))],
            deadline=500 + patience * moves)
        assert not any(last_valid[-1]), "more items came than were expected"
        return outputs
    return transfer
