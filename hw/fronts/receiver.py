"""From bytes to requests whose CRC held."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.fronts.cobs import Decoder
from zeroskip.hw.fronts.frame import CHECKSUM, HEADER, REQUEST, WORDS, Op
from zeroskip.hw.memory import WritePort


class FrameReceiver(wiring.Component):
    """Takes a frame at one byte in two cycles, and offers it if it is good.

    While it offers one it takes no byte. A frame that is spoilt, too short or too long is
    forgotten.

    Members
    -------
    i : In(stream of 8)
        Bytes of the line.
    o : Out(stream of REQUEST)
    words : Out(WritePort)
        Word k of the frame's payload goes to address k, before it is known to be good.
    checksum : Out(CHECKSUM)
    """

    i: In(stream.Signature(8))
    o: Out(stream.Signature(REQUEST))
    words: Out(WritePort(address=8, data=32))
    checksum: Out(CHECKSUM)

    def elaborate(self, platform):
        m = Module()
        m.submodules.decoder = decoder = Decoder()
        wiring.connect(m, wiring.flipped(self.i), decoder.i)
        item, crc = decoder.o, self.checksum
        # Byte in the word; word from the first behind the header.
        byte, index = Signal(2), Signal(10, init=-2 % 1024)
        start, last, long = Signal(24), Signal(), Signal()
        header = Signal(HEADER)
        count = header.count
        word = Cat(start, item.p.data)
        m.d.comb += [
            self.words.address.eq(index), self.words.data.eq(word), self.o.p.header.eq(header),
            self.o.p.whole.eq(last & (byte == 0)
                              & ~(count[9:].any() | count[8] & count[:8].any())),
        ]
        with m.FSM():
            with m.State("LOW"):
                m.d.comb += [crc.half.eq(item.p.data[:4]), crc.valid.eq(item.valid & ~item.p.end)]
                with m.If(item.valid):
                    m.next = "HIGH"
            with m.State("HIGH"):
                m.d.comb += [item.ready.eq(1), crc.half.eq(item.p.data[4:])]
                m.next = "LOW"
                with m.If(item.p.end):
                    m.d.comb += crc.clear.eq(1)
                    m.d.sync += long.eq(0)
                    with m.If(item.p.good & crc.match & ~long & ~index[9] & (index != 0)):
                        m.next = "OFFER"
                    with m.Else():
                        m.d.sync += [byte.eq(0), index.eq(-2)]
                with m.Else():
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += [start.eq(word[8:]), byte.eq(byte + 1),
                                 long.eq(long | (index == WORDS + 1))]
                    with m.If(byte == 3):
                        # The CRC's own word, behind the last, is of no harm.
                        m.d.comb += self.words.en.eq(index[8:] == 0)
                        m.d.sync += [index.eq(index + 1), last.eq(
                            index[:9] == Mux(header.op == Op.WRITE, count[:9], 0))]
                        with m.If(index[9]):
                            m.d.sync += header.eq(Cat(header.as_value()[32:], word))
            with m.State("OFFER"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [byte.eq(0), index.eq(-2)]
                    m.next = "LOW"
        return m
