"""Input dealer: I/O mode, loads to where they belong and inputs to the PEs in turn."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.fetch import DescriptorFetch
from zeroskip.hw.eie.layouts import INPUT, LoadTarget, load_word_layout
from zeroskip.hw.stream import delay, flow


class InputDealer(wiring.Component):
    """Passes loads on, and inputs as loads of activations: input j to word j // N of PE j mod N.

    Latency is none, throughput one word a cycle. A load goes before an input, and an input waits
    until the loads before it are seen: the last one starts a network, whose descriptor may just
    have been loaded.

    Members
    -------
    loading, dealing : In(1)
        Loads are taken; inputs are taken.
    load : In(stream of ``load_word_layout``)
    inputs : In(stream of ``INPUT``)
    write : Out(flow of ``load_word_layout``)
        To the clusters.
    start : Out(1)
        The last input of a vector is taken.
    resume, clear : Out(1)
        The load ``LoadTarget.RESUME``, or ``COUNTERS``, is taken.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "loading": In(1),
            "dealing": In(1),
            "load": In(stream.Signature(load_word_layout(config))),
            "inputs": In(stream.Signature(INPUT)),
            "write": Out(flow(load_word_layout(config))),
            "start": Out(1),
            "resume": Out(1),
            "clear": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        pe, word = Signal(self.config.identity_width), Signal(self.config.word_width)
        quiet = self.dealing & ~self.load.valid
        seen = [quiet, *(delay(m, quiet, 1 + k) for k in range(DescriptorFetch.LATENCY))]
        m.d.comb += [
            self.load.ready.eq(self.loading),
            self.inputs.ready.eq(Cat(seen).all()),
        ]
        loaded, taken = self.load.valid & self.loading, self.inputs.valid & self.inputs.ready
        for target, event in ((LoadTarget.RESUME, self.resume), (LoadTarget.COUNTERS, self.clear)):
            m.d.comb += event.eq(loaded & (self.load.payload.target == target))

        with m.If(self.load.valid):
            m.d.comb += [self.write.valid.eq(self.loading),
                         self.write.payload.eq(self.load.payload)]
        with m.Else():
            m.d.comb += [
                self.write.valid.eq(taken),
                self.write.payload.target.eq(LoadTarget.ACTIVATIONS),
                self.write.payload.pe.eq(pe),
                self.write.payload.address.eq(word),
                self.write.payload.data.eq(self.inputs.payload.value),
            ]
        m.d.comb += self.start.eq(taken & self.inputs.payload.last)
        with m.If(taken):
            with m.If(self.inputs.payload.last):
                m.d.sync += [pe.eq(0), word.eq(0)]
            with m.Elif(pe == self.config.pes - 1):
                m.d.sync += [pe.eq(0), word.eq(word + 1)]
            with m.Else():
                m.d.sync += pe.eq(pe + 1)
        return m
