"""Bricks for streams: a queue with a level, streams without flow control, plain delays."""

from amaranth.hdl import *
from amaranth.lib import fifo, stream, wiring
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
        m.submodules.fifo = queue = fifo.SyncFIFO(width=len(Value.cast(self.i.payload)),
                                                  depth=self.depth)
        m.d.comb += [
            queue.w_en.eq(self.i.valid),
            queue.w_data.eq(self.i.payload),
            self.i.ready.eq(queue.w_rdy),
            self.o.valid.eq(queue.r_rdy),
            self.o.payload.eq(queue.r_data),
            queue.r_en.eq(self.o.ready),
            self.level.eq(queue.level),
        ]
        return m


def delay(m: Module, signal, cycles: int):
    """``signal`` as it was ``cycles`` clock cycles ago; zero after reset."""
    for _ in range(cycles):
        later = Signal.like(signal)
        m.d.sync += later.eq(signal)
        signal = later
    return signal
