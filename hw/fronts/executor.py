"""What is done with a request: executed on the bus once, answered as before, or refused."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.bus import BUS, Status
from zeroskip.hw.fronts.frame import REPLY, REQUEST, Answer, Op
from zeroskip.hw.memory import WritePort


class Executor(wiring.Component):
    """Executes a request if it is the next one, and offers the reply.

    A word takes three cycles and those of the bus. A request is taken when its reply is, so that
    there is one at a time. The words of the last reply stay where they were written, for when it
    has to be given again.

    Parameters
    ----------
    patience : int
        A power of two: times that a word is tried again, while a window is busy, before the
        frame ends with ``BUSY``.

    Members
    -------
    i : In(stream of REQUEST)
    o : Out(stream of REPLY)
    bus : Out(BUS)
    address : Out(8)
        Of a word of the request's payload; ``word``, an input, is that word two cycles later.
    words : Out(WritePort)
        Word k of the reply's payload goes to address k.
    """

    def __init__(self, *, patience: int = 256):
        self.patience = checked(patience)
        super().__init__({
            "i": In(stream.Signature(REQUEST)), "o": Out(stream.Signature(REPLY)),
            "bus": Out(BUS), "address": Out(8), "word": In(32),
            "words": Out(WritePort(address=8, data=32)),
        })

    def elaborate(self, platform):
        m = Module()
        header, reply = self.i.p.header, self.o.p
        kept, refused = Signal(REPLY), Signal()
        m.d.comb += [
            reply.eq(kept), reply.seq.eq(header.seq),
            self.address.eq(kept.count), self.words.address.eq(kept.count),
        ]
        with m.If(refused):
            m.d.comb += [reply.op.eq(header.op), reply.answer.eq(Answer.SEQUENCE),
                         reply.count.eq(0), reply.words.eq(0)]
        with m.FSM():
            with m.State("IDLE"), m.If(self.i.valid):
                self._judge(m, kept, refused)
            self._execute(m, kept)
            with m.State("REPLY"):
                m.d.comb += [self.o.valid.eq(1), self.i.ready.eq(self.o.ready)]
                with m.If(self.o.ready):
                    m.next = "IDLE"
        return m

    def _judge(self, m, kept, refused):
        """The frame is executed, or its reply repeated, or it is refused."""
        header, known, following, found = self.i.p.header, Signal(), Signal(8), Signal(Answer)
        m.d.comb += following.eq(header.seq + 1)
        with m.If(~self.i.p.whole):
            m.d.comb += found.eq(Answer.BAD_LENGTH)
        with m.If(header.op[2:].any() | (header.op[:2] == 3)):
            m.d.comb += found.eq(Answer.BAD_OP)
        m.d.sync += refused.eq(~known | (following != kept.expected))
        m.next = "REPLY"
        with m.If((header.op == Op.IDENTIFY) | known & (header.seq == kept.expected)):
            m.d.sync += [
                known.eq(1), refused.eq(0), kept.op.eq(header.op), kept.answer.eq(found),
                kept.count.eq(0), kept.expected.eq(following),
                kept.words.eq((found == Answer.OK) & (header.op != Op.WRITE)),
            ]
            with m.If(found == Answer.OK):
                m.next = "FETCH"

    def _execute(self, m, kept):
        """One word after another, until all are done or one ends badly."""
        header, request, response = self.i.p.header, self.bus.request, self.bus.response
        identify, tries = header.op == Op.IDENTIFY, Signal(self.patience.bit_length())
        address = Signal(16)
        m.d.comb += [
            request.p.address.eq(address), request.p.write.eq(header.op == Op.WRITE),
            request.p.strobes.eq(0b1111), request.p.data.eq(self.word),
            self.words.data.eq(response.p.data),
        ]
        with m.State("FETCH"):
            m.d.sync += tries.eq(0)
            m.next = "READ"
            with m.If(kept.count == 0):
                m.d.sync += address.eq(Mux(identify, 0, header.address))
            with m.If((kept.count == Mux(identify, 4, header.count[:9]))
                      | (kept.answer != Answer.OK)):
                m.next = "REPLY"
        with m.State("READ"):
            m.next = "REQUEST"
        with m.State("REQUEST"):
            m.d.comb += request.valid.eq(1)
            with m.If(request.ready):
                m.next = "RESPONSE"
        with m.State("RESPONSE"):
            m.d.comb += response.ready.eq(1)
            with m.If(response.valid):
                m.next = "FETCH"
                with m.If(response.p.status == Status.OK):
                    m.d.comb += self.words.en.eq(1)
                    m.d.sync += [kept.count.eq(kept.count + 1),
                                 address.eq(address + Mux(header.flags[0] & ~identify, 0, 4))]
                with m.Elif((response.p.status == Status.BUSY) & ~tries[-1]):
                    m.d.sync += tries.eq(tries + 1)
                    m.next = "REQUEST"
                with m.Else():
                    m.d.sync += kept.answer.eq(response.p.status)


def checked(patience: int) -> int:
    """``patience``; ``ValueError`` where an executor cannot have it."""
    if patience < 1 or patience & patience - 1:
        raise ValueError(f"patience must be a power of two, not {patience}")
    return patience
