"""The column directory: from a column's place to its bytes in the weight memory, two ways."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.eie.config import NIBBLES, EIEConfig
from zeroskip.hw.eie.layouts import STRIDE_WIDTH
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.pipeline import Stages


class Directory(wiring.Component):
    """What both kinds share. Throughput is one column a cycle.

    Members
    -------
    enable : In(1)
        While it is low, all stages stall.
    place : In
    start, last : Out
        Its first byte and its last, ``LATENCY`` cycles later.
    empty : Out(1)
        It has none.
    stride, balanced : In
        As in ``command_layout``; a balanced layer has no directory: ``start`` is ``place``.
    load : In(WritePort)
    """

    LATENCY: int

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "enable": In(1),
            "place": In(config.place_width),
            "start": Out(config.pointer_width),
            "last": Out(config.pointer_width),
            "empty": Out(1),
            "stride": In(STRIDE_WIDTH),
            "balanced": In(1),
            "load": In(WritePort(address=bits_for(config.pointers - 1), data=32)),
        })


class PointerBanks(Directory):
    """The paper's (section IV): a pointer per column, p[j] and p[j + 1] in one cycle out of an even
    and an odd bank. Pointers are as wide as the weight memory needs."""

    LATENCY = BlockRAM.LATENCY + 1

    def elaborate(self, platform):
        m = Module()
        config, place = self.config, self.place
        m.submodules.even = even = BlockRAM(config.pointer_width, depth=config.pointers // 2)
        m.submodules.odd = odd = BlockRAM(config.pointer_width, depth=config.pointers // 2)
        for parity, bank in enumerate((even, odd)):
            m.d.comb += [
                bank.write.en.eq(self.load.en & (self.load.address[0] == parity)),
                bank.write.address.eq(self.load.address >> 1),
                bank.write.data.eq(self.load.data),
                bank.en.eq(self.enable),
                bank.hold.eq(~self.enable),
            ]
        m.d.comb += [even.address.eq((place + 1) >> 1), odd.address.eq(place >> 1)]

        then = Stages(m, self.enable).step(place, BlockRAM.LATENCY)
        stop = Signal.like(self.last)
        with m.If(self.enable):
            with m.If(self.balanced):
                m.d.sync += [self.start.eq(then), stop.eq(then + self.stride)]
            with m.Elif(then[0]):
                m.d.sync += [self.start.eq(odd.data), stop.eq(even.data)]
            with m.Else():
                m.d.sync += [self.start.eq(even.data), stop.eq(odd.data)]
        m.d.comb += [self.last.eq(stop - 1), self.empty.eq(self.start == stop)]
        return m


class CountedColumns(Directory):
    """A word holds the address at which its first column starts, and sixteen nibbles of counts:
    16, 8 or 4 columns of 1, 2 or 4 nibbles, low nibble first, as ``stride`` says. A column starts
    at the base plus the counts before its lane.

    The nibbles before the lane are chosen (one cycle) and added up in four sums by their place in a
    count (one), these are added with their weight (two), and the base (one)."""

    LATENCY = BlockRAM.LATENCY + 5

    def elaborate(self, platform):
        m = Module()
        config = self.config
        words = max(2, config.pointers // NIBBLES)
        parts = {"base": config.pointer_width, "low": 32, "high": 32}
        memories = {}
        for number, (name, width) in enumerate(parts.items()):
            m.submodules[name] = memories[name] = memory = BlockRAM(width, depth=words)
            m.d.comb += [
                memory.write.en.eq(self.load.en & (self.load.address[:2] == number)),
                memory.write.address.eq(self.load.address >> 2),
                memory.write.data.eq(self.load.data),
                memory.en.eq(self.enable),
                memory.hold.eq(~self.enable),
                memory.address.eq(self.place >> 4),
            ]

        step = Stages(m, self.enable).step
        place = step(self.place, BlockRAM.LATENCY)
        lane = place[:4]
        nibbles = Cat(memories["low"].data, memories["high"].data)
        chosen = [step(nibbles.word_select(k, 4) & (lane > k).replicate(4))
                  for k in range(NIBBLES - 1)]
        sums = [step(sum(chosen[k::4])) for k in range(4)]
        count = step(nibbles.word_select(lane[2:], 16))

        one, two = self.stride[0], self.stride[1]
        low = step(sums[0] + Mux(one, sums[1], sums[1] << 4))
        high = step(Mux(one | two, sums[2], sums[2] << 8)
                    + Mux(one, sums[3], Mux(two, sums[3] << 4, sums[3] << 12)))
        lane = step(lane)
        mine = step(Mux(one, count.word_select(lane[:2], 4),
                        Mux(two, count.word_select(lane[1], 8), count)))
        before = step(Mux(self.balanced, self.stride, mine), 2)
        count = step(before - 1)
        ahead = Mux(self.balanced, 0, step(low + high))
        base = Mux(self.balanced, step(place, 3), step(memories["base"].data, 3))
        base = step(step(base) + ahead)
        m.d.comb += [self.start.eq(base), self.last.eq(base + count),
                     self.empty.eq(step(before == 0))]
        return m


def kind(config: EIEConfig) -> type[Directory]:
    """The kind that a configuration asks for."""
    return CountedColumns if config.counts else PointerBanks
