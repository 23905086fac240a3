"""Activation queue: what a busy PE still has to do (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import work_layout
from zeroskip.hw.stream import Queue


class ActivationQueue(wiring.Component):
    """Broadcast activations in front of one PE.

    Latency is one cycle, throughput one activation a cycle. ``full`` rises at ``queue_depth``
    items, which is the back-pressure on the broadcast; the slots above catch what was in flight by
    then, so the queue always takes what arrives.

    Members
    -------
    i : In(stream of ``work_layout``)
    o : Out(stream of ``work_layout``)
    full : Out(1)
        The broadcast must stop.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(work_layout(config))),
            "o": Out(stream.Signature(work_layout(config))),
            "full": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(work_layout(self.config), depth=self.config.queue_slots)
        wiring.connect(m, wiring.flipped(self.i), queue.i)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        # Known a cycle ahead from what enters and leaves.
        more, less = queue.i.valid & ~(queue.o.valid & queue.o.ready), Signal()
        m.d.comb += less.eq(queue.o.valid & queue.o.ready & ~queue.i.valid)
        least = self.config.queue_depth
        m.d.sync += self.full.eq(Mux(more, queue.level >= least - 1,
                                     Mux(less, queue.level > least, queue.level >= least)))
        return m
