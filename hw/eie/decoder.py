"""Weight decoder: from a 4-bit index to a 16-bit weight (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import ENTRY, operation
from zeroskip.hw.memory import WritePort
from zeroskip.hw.stream import flow


class WeightDecoder(wiring.Component):
    """Looks the weight up in the codebook and adds the run of zeros to the row.

    Latency is one cycle, throughput one entry a cycle.

    Members
    -------
    i : In(flow of ``ENTRY``)
    o : Out(flow of ``operation``)
    padding : Out(1)
        With ``o``: the entry only bridges a gap; its weight is zero.
    codebook, destination : In
        Which codebook, and the word of the pass's first row; constant during a segment.
    load : In(WritePort)
        Address = 16 * codebook + index.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(flow(ENTRY)),
            "o": Out(flow(operation(config))),
            "padding": Out(1),
            "codebook": In(bits_for(config.codebooks - 1)),
            "destination": In(config.word_width),
            "load": In(WritePort(address=bits_for(16 * config.codebooks - 1), data=16)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.codebooks = codebooks = Memory(
            shape=signed(16), depth=16 * self.config.codebooks, init=[])
        write, read = codebooks.write_port(), codebooks.read_port(domain="comb")
        entry = self.i.payload
        m.d.comb += [
            write.en.eq(self.load.en),
            write.addr.eq(self.load.address),
            write.data.eq(self.load.data),
            read.addr.eq(Cat(entry.v, self.codebook)),
        ]
        m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(self.i.valid):
            row = self.o.payload.row
            m.d.sync += [
                self.o.payload.weight.eq(read.data),
                self.o.payload.value.eq(entry.value),
                self.padding.eq(entry.v == 0),
                row.eq(Mux(entry.first, self.destination, row + 1) + entry.gap),
            ]
        return m
