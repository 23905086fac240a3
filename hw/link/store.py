"""A block RAM without logic beside it."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.memory import WritePort


class Store(wiring.Component):
    """A memory that is either written or read in a cycle.

    So synthesis need not build what a block RAM does not do by itself when both meet at one
    address: 50 LUTs and 75 flip-flops for words of 32 bits.

    Members
    -------
    write : In(WritePort)
    address : In
    data : Out(width)
        The word, one cycle after its address; it holds while a word is written.
    """

    def __init__(self, width: int, *, depth: int):
        self.width, self.depth = width, depth
        address = bits_for(depth - 1)
        super().__init__({"write": In(WritePort(address=address, data=width)),
                          "address": In(address), "data": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [write.en.eq(self.write.en), write.addr.eq(self.write.address),
                     write.data.eq(self.write.data), read.addr.eq(self.address)]
        with m.If(~self.write.en):
            m.d.sync += self.data.eq(read.data)
        return m
