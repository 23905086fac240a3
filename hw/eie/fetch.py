"""Descriptor fetch: the segments of a network, one after another."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import (
    LoadTarget,
    descriptor_layout,
    descriptor_stride,
    descriptor_words,
    load_word_layout,
)
from zeroskip.hw.memory import BlockRAM
from zeroskip.hw.stream import delay, flow


class DescriptorFetch(wiring.Component):
    """The descriptor memory, and which descriptor is current: the first one after reset.

    The memory is read in every cycle, so that a descriptor which is loaded while it is current is
    seen too. Throughput of loads is one word a cycle.

    Members
    -------
    load : In(flow of ``load_word_layout``)
        Words for other targets are ignored. One is seen in ``segment`` ``LATENCY`` + 2 cycles
        later: it is written first.
    advance : In(1)
        The next descriptor is current from the next cycle on, behind the last one the first.
    segment : Out(``descriptor_layout``)
        The one that was current ``LATENCY`` cycles ago.
    """

    LATENCY = BlockRAM.LATENCY

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "load": In(flow(load_word_layout(config))),
            "advance": In(1),
            "segment": Out(descriptor_layout(config)),
        })

    def elaborate(self, platform):
        m = Module()
        at = Signal(bits_for(self.config.descriptors - 1))
        with m.If(self.advance):
            m.d.sync += at.eq(Mux(self.segment.last, 0, at + 1))

        # A memory for each word of the load bus that a descriptor takes.
        layout, low = descriptor_layout(self.config), exact_log2(descriptor_stride(self.config))
        word, words = self.load.payload, []
        for k in range(descriptor_words(self.config)):
            m.submodules[f"descriptor_{k}"] = memory = BlockRAM(32, depth=self.config.descriptors)
            m.d.comb += [
                memory.write.en.eq(delay(m, self.load.valid
                                         & (word.target == LoadTarget.DESCRIPTORS)
                                         & (word.address[:low] == k), 1)),
                memory.write.address.eq(delay(m, word.address[low:], 1)),
                memory.write.data.eq(delay(m, word.data, 1)),
                memory.en.eq(1),
                memory.address.eq(at),
            ]
            words.append(memory.data)
        m.d.comb += self.segment.eq(data.View(layout, Cat(*words)[:layout.size]))
        return m
