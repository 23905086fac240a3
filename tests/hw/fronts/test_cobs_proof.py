"""The stuffing of frames, proved with blocks of up to three bytes for the 254 of COBS, and two bits
of each byte free."""

import pytest
from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.fronts.cobs import DECODED, PLAIN, Decoder, Encoder
from zeroskip.sim.proof import Claims, Refuted, edited, prove

SHORT = {Encoder: [("place == 254", "place == 3"), ("depth=256", "depth=4")],
         Decoder: [("!= 255", "!= 4")]}
"""What makes the blocks short."""

ROOM = 5
"""Items under way: a zero that is held back, three bytes, the end."""


class Link(wiring.Component):
    """An encoder and a decoder behind it; ``faults`` are edits of either."""

    i: In(stream.Signature(PLAIN))
    o: Out(stream.Signature(DECODED))

    def __init__(self, faults):
        super().__init__()
        self.encoder, self.decoder = (
            edited(kind, *short, *faults.get(kind, []))() for kind, short in SHORT.items())

    def elaborate(self, platform):
        m = Module()
        m.submodules.encoder, m.submodules.decoder = self.encoder, self.decoder
        wiring.connect(m, wiring.flipped(self.i), self.encoder.i)
        wiring.connect(m, self.encoder.o, self.decoder.i)
        wiring.connect(m, self.decoder.o, wiring.flipped(self.o))
        return m


def link(faults=()):
    claims = Claims(dut := Link(dict(faults)))
    claims.m.d.comb += [dut.i.p.data.eq(claims.free("data", 2)),
                        dut.i.p.last.eq(claims.free("last"))]
    comes_back(claims, dut)
    has_no_zero_inside(claims, dut.i, dut.encoder.o)
    return claims


def comes_back(claims, dut):
    """A marked byte comes out as it went in, in order; behind the last one its frame ends, whole.
    """
    m, mark, i, o = claims.m, claims.free("mark"), dut.i, dut.o
    enters, leaves = i.valid & i.ready, o.valid & o.ready
    inside, ahead, item = Signal(range(ROOM + 2)), Signal(range(ROOM + 2)), Signal(PLAIN)
    marked, closing = Signal(), Signal()
    m.d.sync += inside.eq(inside + Mux(enters, 1 + i.p.last, 0) - leaves)
    with m.If(enters & mark & ~marked):
        m.d.sync += [marked.eq(1), item.eq(i.p), ahead.eq(inside - leaves)]
    with m.Elif(leaves & (ahead != 0)):
        m.d.sync += ahead.eq(ahead - 1)
    with m.Elif(leaves):
        m.d.sync += [closing.eq(marked & item.last & ~closing),
                     marked.eq(marked & item.last & ~closing)]
    due = marked & (ahead == 0) & o.valid
    claims.claim("nothing is invented", inside != 0, when=o.valid)
    claims.claim("no more than there is room for", inside <= ROOM)
    claims.claim("the byte comes back", ~o.p.end & (o.p.data == item.data), when=due & ~closing)
    claims.claim("the frame ends, whole", o.p.end & o.p.good, when=due & closing)


def has_no_zero_inside(claims, i, wire):
    """A zero goes out once all of a frame is in, and nothing else of that frame after it."""
    m, begun, whole = claims.m, Signal(), Signal()
    with m.If(i.valid & i.ready):
        m.d.sync += [begun.eq(1), whole.eq(i.p.last)]
    with m.If(wire.valid & wire.ready & (wire.payload == 0)):
        m.d.sync += [begun.eq(0), whole.eq(0)]
    claims.claim("a zero closes a frame", whole, when=wire.valid & (wire.payload == 0))
    claims.claim("nothing behind the zero", begun, when=wire.valid)
    claims.stable(wire)


def test_link():
    prove(link())


@pytest.mark.parametrize(("kind", "old", "new"), [
    (Encoder, "hollow.eq(self.i.p.last & zero)", "hollow.eq(0)"),
    (Encoder, "place == 3", "place == 4"),
    (Encoder, 'm.next = "END"', 'm.next = "COLLECT"'),
    (Decoder, "gap.eq(self.i.payload != 4)", "gap.eq(1)"),
])
def test_link_with_a_fault(kind, old, new):
    with pytest.raises(Refuted):
        prove(link({kind: [(old, new)]}))
