"""Weight decoder: from a 4-bit index to a 16-bit weight (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import ENTRY, WEIGHT, operation_layout
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.stream import delay, flow


class WeightDecoder(wiring.Component):
    """Looks the weight up in the codebook and adds the run of zeros to the row.

    Latency is ``LATENCY`` cycles, throughput one entry a cycle.

    Members
    -------
    i : In(flow of ``ENTRY``)
    o : Out(flow of ``operation_layout``)
    padding : Out(1)
        With ``o``: the entry only bridges a gap; its weight is zero.
    busy : Out(1)
        An entry is on its way to ``o``.
    codebook, destination : In
        Which codebook, and the word of the pass's first row; constant during a segment.
    load : In(WritePort)
        Address = 16 * codebook + index.
    """

    LATENCY = 2

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(flow(ENTRY)),
            "o": Out(flow(operation_layout(config))),
            "padding": Out(1),
            "busy": Out(1),
            "codebook": In(bits_for(config.codebooks - 1)),
            "destination": In(config.word_width),
            "load": In(WritePort(address=bits_for(16 * config.codebooks - 1),
                                 data=WEIGHT.width)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.codebooks = codebooks = BlockRAM(WEIGHT, depth=16 * self.config.codebooks)
        wiring.connect(m, wiring.flipped(self.load), codebooks.write)
        entry = self.i.payload
        m.d.comb += [codebooks.en.eq(1), codebooks.address.eq(Cat(entry.v, self.codebook)),
                     self.o.payload.weight.eq(codebooks.data)]
        assert self.LATENCY == BlockRAM.LATENCY

        # A row is the one before it, or that in front of the first, and a step further.
        valid, row = delay(m, self.i.valid, 1), self.o.payload.row
        before = delay(m, (self.destination - 1)[:len(row)], 1)
        step, first = delay(m, (entry.gap + 1)[:len(row)], 1), delay(m, entry.first, 1)
        m.d.comb += self.busy.eq(valid)
        m.d.sync += [
            self.o.valid.eq(valid),
            self.o.payload.value.eq(delay(m, entry.value, 1)),
            self.padding.eq(delay(m, entry.v == 0, 1)),
        ]
        with m.If(valid):
            m.d.sync += row.eq(Mux(first, before, row) + step)
        return m
