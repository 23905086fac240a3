"""Bricks for streams: a queue with a level, items of many words, streams without flow control,
plain delays, and what any of many says."""

import math
from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for


def flow(shape) -> stream.Signature:
    """A stream whose receiver takes one item in every cycle; ``ready`` is constant."""
    return stream.Signature(shape, always_ready=True)


class Queue(wiring.Component):
    """A first-in first-out queue of any payload.

    Latency is one cycle, throughput one item a cycle while it is neither full nor empty.
    ``level`` counts the items inside; an item that enters in this cycle counts from the next.

    Members
    -------
    i, o : stream of ``shape``
    level : Out(range(depth + 1))
    """

    def __init__(self, shape, *, depth: int):
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(bits_for(depth)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.slots = slots = Memory(shape=self.o.payload.shape(), depth=self.depth,
                                            init=[])
        write, read = slots.write_port(), slots.read_port(domain="comb")
        push, pop = self.i.valid & self.i.ready, self.o.valid & self.o.ready
        m.d.comb += [write.en.eq(push), write.data.eq(self.i.payload),
                     self.o.payload.eq(read.data)]
        for port, moves in ((write, push), (read, pop)):
            at = Signal(range(self.depth))
            m.d.comb += port.addr.eq(at)
            with m.If(moves):
                m.d.sync += at.eq(Mux(at == self.depth - 1, 0, at + 1))

        # What is asked of the level is known when the cycle begins.
        full = Signal()
        m.d.comb += self.i.ready.eq(~full)
        with m.If(push & ~pop):
            m.d.sync += [self.level.eq(self.level + 1), self.o.valid.eq(1),
                         full.eq(self.level == self.depth - 1)]
        with m.Elif(pop & ~push):
            m.d.sync += [self.level.eq(self.level - 1), self.o.valid.eq(self.level != 1),
                         full.eq(0)]
        return m


class Skid(wiring.Component):
    """A register on the way of a stream; ``i.ready`` comes from another, so that it waits for no
    logic behind it. What arrives when ``o`` stops is kept there.

    Latency is one cycle, throughput one item a cycle.

    Members
    -------
    i, o : stream of ``shape``
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        spare, holds = Signal.like(self.o.payload), Signal()
        m.d.comb += self.i.ready.eq(~holds)
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [self.o.valid.eq(holds | self.i.valid), holds.eq(0),
                         self.o.payload.eq(Mux(holds, spare, self.i.payload))]
        with m.Elif(~holds):
            m.d.sync += holds.eq(self.i.valid)
        with m.If(~holds):
            m.d.sync += spare.eq(self.i.payload)
        return m


class Upsizer(wiring.Component):
    """Makes an item of whole words of 32 bits, the lowest first.

    An item is there a cycle after its last word, and the next one's words enter once it has left.

    Members
    -------
    i : In(stream of 32)
    o : Out(stream of ``shape``)
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(32)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        payload = Value.cast(self.o.payload)
        words = -(-len(payload) // 32)
        held, count = Signal(32 * words), Signal(range(words))
        m.d.comb += [self.i.ready.eq(~self.o.valid), payload.eq(held)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [held.eq(Cat(held, self.i.payload)[32:]), count.eq(count + 1)]
            with m.If(count == words - 1):
                m.d.sync += [count.eq(0), self.o.valid.eq(1)]
        return m


class Downsizer(wiring.Component):
    """Takes an item apart into words of 32 bits, the lowest first.

    The first word is there a cycle after its item, the others follow one a cycle; the next item
    enters once all have left.

    Members
    -------
    i : In(stream of ``shape``)
    o : Out(stream of 32)
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(32))})

    def elaborate(self, platform):
        m = Module()
        payload = Value.cast(self.i.payload)
        words = -(-len(payload) // 32)
        held, count = Signal(32 * words), Signal(range(words + 1))
        m.d.comb += [self.i.ready.eq(count == 0), self.o.valid.eq(count != 0),
                     self.o.payload.eq(held[:32])]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [held.eq(payload.as_unsigned()), count.eq(words)]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += [held.eq(held >> 32), count.eq(count - 1)]
        return m


def delay(m: Module, signal, cycles: int, go: ValueLike = 1, *, reset_less: bool = False):
    """``signal`` as it was ``cycles`` clock cycles ago, of those in which ``go`` was high; zero
    after reset, but for registers without one, which is what multipliers have inside."""
    for _ in range(cycles):
        later = Signal.like(signal, reset_less=reset_less)
        with m.If(go):
            m.d.sync += later.eq(signal)
        signal = later
    return signal


def either(m: Module, signals: Sequence[ValueLike], cycles: int) -> Value:
    """The bits that any of ``signals`` has, ``cycles`` later; found in a tree with a register
    behind each level."""
    for left in range(cycles, 0, -1):
        fan_in = math.ceil(len(signals) ** (1 / left))
        signals = [delay(m, reduce(or_, signals[at:at + fan_in]), 1)
                   for at in range(0, len(signals), fan_in)]
    return reduce(or_, signals)
