"""Emitter: the outputs of a layer, counted out."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import activation_layout, output_layout
from zeroskip.hw.stream import delay


class Emitter(wiring.Component):
    """Sends what the LNZD trees find on as outputs, and says when it was the last one.

    Latency is none, throughput one output a cycle.

    Members
    -------
    emitting : In(1)
        Outputs are being scanned for; from the cycle in which it falls on, ``count`` is about the
        next layer.
    count : In
        Outputs of the layer, at least one.
    found : In(stream of ``activation_layout``)
    outputs : Out(stream of ``output_layout``)
    done : Out(1)
        The last one left a cycle ago.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "emitting": In(1),
            "count": In(config.column_width),
            "found": In(stream.Signature(activation_layout(config))),
            "outputs": Out(stream.Signature(output_layout(config))),
            "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        left, last = Signal(self.config.column_width), Signal()
        sent = self.outputs.valid & self.outputs.ready
        m.d.comb += [
            self.outputs.valid.eq(self.found.valid),
            self.outputs.payload.index.eq(self.found.payload.index),
            self.outputs.payload.value.eq(self.found.payload.value),
            self.outputs.payload.last.eq(last),
            self.found.ready.eq(self.outputs.ready),
            self.done.eq(delay(m, sent & last, 1)),
        ]
        with m.If(~self.emitting):
            m.d.sync += [left.eq(self.count), last.eq(self.count == 1)]
        with m.Elif(sent):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
        return m
