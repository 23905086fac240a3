"""Consistent overhead byte stuffing (Cheshire and Baker, 1999): frames without zero bytes,
each closed by one."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.memory import BlockRAM

DECODED = data.StructLayout({"data": 8, "end": 1, "good": 1})
"""A byte of a frame; or, with ``end``, the end of one, and whether its last block was whole."""

PLAIN = data.StructLayout({"data": 8, "last": 1})
"""A byte of a frame, and whether it is the last."""


class Decoder(wiring.Component):
    """Takes the stuffing out of frames.

    It is combinational between its streams; throughput is one byte a cycle. A zero byte closes
    the frame whatever was before it.

    Members
    -------
    i : In(stream of 8)
    o : Out(stream of DECODED)
    """

    i: In(stream.Signature(8))
    o: Out(stream.Signature(DECODED))

    def elaborate(self, platform):
        m = Module()
        left, gap = Signal(8), Signal()     # bytes left of the block; a zero stands behind it
        zero, code, gives = Signal(), Signal(), Signal()
        m.d.comb += [
            zero.eq(self.i.payload == 0),
            code.eq((left == 0) & ~zero),
            gives.eq(~code | gap),
            self.o.valid.eq(self.i.valid & gives),
            self.i.ready.eq(self.o.ready | ~gives),
            self.o.p.data.eq(Mux(code, 0, self.i.payload)),
            self.o.p.end.eq(zero),
            self.o.p.good.eq(left == 0),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += left.eq(Mux(code, self.i.payload, left) - 1)
            with m.If(code):
                m.d.sync += gap.eq(self.i.payload != 255)
            with m.If(zero):
                m.d.sync += [left.eq(0), gap.eq(0)]
        return m


class Encoder(wiring.Component):
    """Stuffs frames and closes each with a zero byte.

    A block, up to 254 bytes without a zero, is collected at one byte a cycle; then its code
    leaves, and its bytes at one in three cycles. Nothing is taken meanwhile.

    Members
    -------
    i : In(stream of PLAIN)
    o : Out(stream of 8)
    """

    i: In(stream.Signature(PLAIN))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.submodules.block = block = BlockRAM(8, depth=256)
        place, code = Signal(8, init=1), Signal(8)  # where the next byte is; one beyond the last
        last, hollow = Signal(), Signal()           # the frame ends; with an empty block
        zero = Signal()
        m.d.comb += [zero.eq(self.i.p.data == 0), block.en.eq(1),
                     block.write.data.eq(self.i.p.data),
                     block.write.address.eq(place), block.address.eq(place)]
        with m.FSM():
            with m.State("COLLECT"):
                m.d.comb += [self.i.ready.eq(1), block.write.en.eq(self.i.valid & ~zero)]
                with m.If(self.i.valid):
                    m.d.sync += [last.eq(self.i.p.last), hollow.eq(self.i.p.last & zero),
                                 place.eq(place + ~zero)]
                    with m.If(zero | self.i.p.last | (place == 254)):
                        m.next = "CODE"
            with m.State("CODE"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(place)]
                with m.If(self.o.ready):
                    m.d.sync += [code.eq(place), place.eq(1)]
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.next = "READ"
                with m.If(place == code):
                    m.d.sync += [place.eq(1), hollow.eq(0)]
                    m.next = "COLLECT"
                    with m.If(last):
                        m.next = "END"
                    with m.If(hollow):
                        m.next = "CODE"
            with m.State("READ"):
                m.next = "BYTE"
            with m.State("BYTE"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(block.data)]
                with m.If(self.o.ready):
                    m.d.sync += place.eq(place + 1)
                    m.next = "FETCH"
            with m.State("END"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "COLLECT"
        return m
