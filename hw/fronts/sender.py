"""From replies to bytes."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.fronts.cobs import Encoder
from zeroskip.hw.fronts.frame import CHECKSUM, REPLY


class FrameSender(wiring.Component):
    """Sends a reply's header, its words and their CRC, and takes it with the last byte.

    A byte takes six cycles, and those of the encoder.

    Members
    -------
    i : In(stream of REPLY)
    address : Out(8)
        Of a word of the reply's payload; ``word``, an input, is that word two cycles later.
    checksum : Out(CHECKSUM)
    o : Out(stream of 8)
        Bytes of the line.
    """

    i: In(stream.Signature(REPLY))
    address: Out(8)
    word: In(32)
    checksum: Out(CHECKSUM)
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.submodules.encoder = encoder = Encoder()
        wiring.connect(m, encoder.o, wiring.flipped(self.o))
        reply, crc, out = self.i.p, self.checksum, encoder.i
        # Byte in the word; word from the first behind the header; it is the CRC.
        byte, index, tail = Signal(2), Signal(10, init=-2 % 1024), Signal()
        loaded, selected, data = Signal(8), Signal(8), Signal(8)
        m.d.comb += [
            self.address.eq(index), tail.eq(index == Mux(reply.words, reply.count, 0)),
            out.p.data.eq(data), out.p.last.eq(tail & (byte == 3)),
        ]
        header = Array([reply.seq, reply.op | 0x80, reply.answer, 0,
                        reply.count[:8], reply.count[8], reply.expected, 0])
        with m.If(index[9]):
            m.d.comb += selected.eq(header[Cat(byte, index[0])])
        with m.Elif(tail):
            m.d.comb += selected.eq(crc.crc)
        with m.Else():
            m.d.comb += selected.eq(loaded)

        def check(half):    # What leaves the CRC shifts it, without feedback.
            m.d.comb += [crc.valid.eq(1), crc.half.eq(half ^ tail.replicate(4))]

        with m.FSM():
            with m.State("FETCH"), m.If(self.i.valid):
                m.next = "READ"
            with m.State("READ"):
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += loaded.eq(self.word.word_select(byte, 8))
                m.next = "SELECT"
            with m.State("SELECT"):
                m.d.sync += data.eq(selected)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += out.valid.eq(1)
                with m.If(out.ready):
                    check(data[:4])
                    m.next = "CHECK"
            with m.State("CHECK"):
                check(data[4:])
                m.d.sync += byte.eq(byte + 1)
                m.next = "FETCH"
                with m.If(byte == 3):
                    m.d.sync += index.eq(index + 1)
                with m.If(out.p.last):
                    m.d.comb += [crc.valid.eq(0), crc.clear.eq(1), self.i.ready.eq(1)]
                    m.d.sync += [byte.eq(0), index.eq(-2)]
        return m
