"""Activation registers: the accumulators of one PE in two roles that swap (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.memory import BlockRAM, WritePort


class ActivationRegisters(wiring.Component):
    """Two memories of accumulators: one is the source of a layer, the other its destination.

    Both are read with a latency of ``LATENCY`` cycles, one word a cycle each, and written one
    word a cycle each.

    Members
    -------
    role : In(1)
        Which memory is the source; constant while anything is in flight.
    wipe : In(1)
        Zeroes word ``source.address`` of both.
    source, destination : In
        ``address``, ``data`` (``LATENCY`` cycles later), and ``write``, a WritePort. While
        ``enable`` is low, what is being read stalls.
    """

    LATENCY = BlockRAM.LATENCY

    def __init__(self, config: EIEConfig):
        self.config = config
        side = wiring.Signature({
            "address": Out(config.word_width),
            "enable": Out(1),
            "data": In(signed(config.acc_width)),
            "write": Out(WritePort(address=config.word_width, data=config.acc_width)),
        })
        super().__init__({"role": In(1), "wipe": In(1), "source": In(side),
                          "destination": In(side)})

    def elaborate(self, platform):
        m = Module()
        memories = []
        for number in range(2):
            m.submodules[f"role_{number}"] = memory = BlockRAM(
                signed(self.config.acc_width), depth=self.config.act_depth)
            memories.append(memory)
            for side, is_mine in ((self.source, self.role == number),
                                  (self.destination, self.role != number)):
                with m.If(is_mine):
                    m.d.comb += [
                        memory.address.eq(side.address),
                        memory.en.eq(side.enable),
                        memory.hold.eq(~side.enable),
                        memory.write.en.eq(side.write.en),
                        memory.write.address.eq(side.write.address),
                        memory.write.data.eq(side.write.data),
                    ]
            with m.If(self.wipe):
                m.d.comb += [memory.write.en.eq(1), memory.write.data.eq(0),
                             memory.write.address.eq(self.source.address)]
        m.d.comb += [
            self.source.data.eq(Mux(self.role, memories[1].data, memories[0].data)),
            self.destination.data.eq(Mux(self.role, memories[0].data, memories[1].data)),
        ]
        return m
