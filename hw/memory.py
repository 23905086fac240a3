"""Block RAM as the devices have it: one write port, one read port, an output register."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for


class WritePort(wiring.Signature):
    """The write side of a memory, as its user drives it; one word a cycle, always taken."""

    def __init__(self, *, address: int, data: int):
        super().__init__({"en": Out(1), "address": Out(address), "data": Out(data)})


class BlockRAM(wiring.Component):
    """A memory with a registered output.

    Throughput is one read and one write a cycle. A read sees the writes of earlier cycles. What it
    gives of a word that is written in its own cycle is the old word in simulation and unknown in a
    device.

    Parameters
    ----------
    shape : shape-like
        Shape of a word.
    depth : int
        Words.

    Members
    -------
    write : In(WritePort)
    en : In(1)
        Reads; while it is low the memory's output holds and no power is spent on a read.
    hold : In(1)
        The output register keeps its word.
    address : In
    data : Out
        The word, ``LATENCY`` cycles after its address.
    """

    LATENCY = 2

    def __init__(self, shape, *, depth: int):
        self.shape, self.depth = shape, depth
        address = bits_for(depth - 1)
        super().__init__({
            "write": In(WritePort(address=address, data=Shape.cast(shape).width)),
            "en": In(1),
            "hold": In(1),
            "address": In(address),
            "data": Out(shape),
        })

    def elaborate(self, platform):
        m = Module()
        # Without "no_rw_check" Yosys builds a bypass around the memory for a read of the word that
        # is written. Registers without a reset fit into the memory's own.
        m.submodules.memory = memory = Memory(shape=self.shape, depth=self.depth, init=[],
                                              attrs={"no_rw_check": 1})
        write, read = memory.write_port(), memory.read_port(domain="comb")
        word, held = (Signal.like(self.data, reset_less=True) for _ in range(2))
        m.d.comb += [
            write.en.eq(self.write.en),
            write.addr.eq(self.write.address),
            write.data.eq(self.write.data),
            read.addr.eq(self.address),
            self.data.eq(held),
        ]
        with m.If(self.en):
            m.d.sync += word.eq(read.data)
        with m.If(~self.hold):
            m.d.sync += held.eq(word)
        return m
