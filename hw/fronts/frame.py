"""Frames between a host and a machine's bus, over any pipe of bytes that may lose or spoil some.

On the wire a frame is COBS(header | payload | CRC-32) and a zero byte; numbers are little-endian,
the CRC is that of zlib over header and payload.

========  ==================================================================================
request   seq u8 | op u8 | address u16 | count u16 | flags u16, then the words to write
reply     seq u8 | op + 0x80 u8 | answer u8 | 0 u8 | count u16 | expected u8 | 0 u8, then the
          words read
========  ==================================================================================

``address`` is in bytes, ``count`` (0 to 256) in words of 32 bits. From word to word the address
grows by four, modulo 2^16, or stays if bit 0 of ``flags`` is set; the other bits have no meaning.
The ``count`` of a reply says how many words were done, and ``expected`` which ``seq`` comes next.
``IDENTIFY`` is a ``READ`` of the four words at address 0, whatever its own address, count and flags
are: a system has ``ZSK1`` there, the version u32 and the digest u64.

A frame with wrong stuffing or CRC, of less than 12 bytes or more than 1036, gets no reply and
changes nothing; a stray zero byte does no harm. Any other is told by its ``seq``:

- ``IDENTIFY`` is executed, whatever its ``seq``. Until the first one nothing else is.
- The expected ``seq``: the frame is executed, and the one after it is expected.
- The ``seq`` of the frame executed last: its reply is sent again.
- Anything else is answered with ``SEQUENCE`` and a count of 0; nothing is executed.
"""

from amaranth.hdl import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from zeroskip.hw.bus import BUS, Status
from zeroskip.hw.fronts.cobs import Decoder, Encoder
from zeroskip.hw.memory import BlockRAM

WORDS = 256
"""Words that a frame carries at most."""


class Op(enum.Enum, shape=8):
    """What a request asks for."""

    IDENTIFY = 0
    READ = 1
    WRITE = 2


class Answer(enum.Enum, shape=3):
    """How a request ended; the first three are those of the bus."""

    OK = 0
    RANGE = 1
    """The word after the last one done has no such address; it and the rest were not done."""
    BUSY = 2
    """The window had no room, or nothing to give, for the word after the last one done."""
    BAD_OP = 3
    BAD_LENGTH = 4
    """The count is above 256, or the payload not as long as it says."""
    SEQUENCE = 5
    """The frame is not the expected one; it was not executed."""


HEADER = data.StructLayout({"seq": 8, "op": 8, "address": 16, "count": 16, "flags": 16})


KEPT = data.StructLayout({"op": 8, "answer": Answer, "count": 9, "words": 1})
"""The kept reply: ``words`` tells whether its words are its payload."""


class Endpoint(wiring.Component):
    """Executes the requests of a host on a bus, and replies.

    A request is buffered whole, and executed only once its CRC held. Bytes come in at one in
    two cycles; while a request is executed and its reply is formed, none is taken. A word takes
    three cycles and those of the bus, a byte of the reply six, and those of its encoder.

    Parameters
    ----------
    patience : int
        A power of two: times that a word is tried again, while a window is busy, before the
        frame ends with ``BUSY``.

    Members
    -------
    i, o : stream of 8
        Bytes from the host, and to it.
    bus : Out(BUS)
    """

    def __init__(self, *, patience: int = 256):
        self.patience = patience
        if patience < 1 or patience & patience - 1:
            raise ValueError(f"patience must be a power of two, not {patience}")
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)),
                          "bus": Out(BUS)})
        self._header, self._kept = Signal(HEADER), Signal(KEPT)
        # Byte in the word; word from the first behind the header; it is the last of the words.
        self._byte, self._index, self._end = Signal(2), Signal(10, init=-2 % 1024), Signal()
        self._known, self._expected = Signal(), Signal(8)
        # The reply is SEQUENCE, not the kept one; its CRC leaves.
        self._refused, self._tail = Signal(), Signal()
        self._loaded, self._selected = Signal(8), Signal(8)     # byte of the word; of the reply
        # Four bits for the CRC, one cycle later; it begins anew; the place moves on.
        self._half, self._checked, self._clear = Signal(4), Signal(), Signal()
        self._next_byte, self._next_word = Signal(), Signal()

    def elaborate(self, platform):
        m = Module()
        m.submodules.decoder = self._decoder = Decoder()
        m.submodules.encoder = self._encoder = Encoder()
        self._crc = CRC32_ISO_HDLC(4).create()
        m.submodules.crc = ResetInserter(self._clear)(self._crc)
        m.d.sync += [self._crc.data.eq(self._half), self._crc.valid.eq(self._checked)]
        # The words of the request, then those of the kept reply.
        m.submodules.words = self._words = words = BlockRAM(32, depth=2 * WORDS)
        wiring.connect(m, wiring.flipped(self.i), self._decoder.i)
        wiring.connect(m, self._encoder.o, wiring.flipped(self.o))
        m.d.comb += [words.en.eq(1), words.write.address[:8].eq(self._index),
                     words.address[:8].eq(self._index)]
        with m.If(self._next_byte):
            m.d.sync += self._byte.eq(self._byte + 1)
        with m.If(self._next_word | self._next_byte & (self._byte == 3)):
            m.d.sync += self._index.eq(self._index + 1)
        self._reply_byte(m)
        with m.FSM():
            self._receive(m)
            self._check(m)
            self._execute(m)
            self._reply(m)
        return m

    def _restart(self, m):
        """The next byte is the first of a header."""
        m.d.sync += [self._byte.eq(0), self._index.eq(-2)]

    def _receive(self, m):
        """Bytes become the header, and words in the memory, where the CRC's is of no harm."""
        item, index, header, crc = self._decoder.o, self._index, self._header, self._crc
        words = self._words
        start, long = Signal(24), Signal()
        word = Cat(start, item.p.data)
        with m.State("RECEIVE"):
            m.d.comb += [self._half.eq(item.p.data[:4]),
                         self._checked.eq(item.valid & ~item.p.end)]
            with m.If(item.valid):
                m.next = "TAKE"
        with m.State("TAKE"):
            m.d.comb += [item.ready.eq(1), self._half.eq(item.p.data[4:])]
            m.next = "RECEIVE"
            with m.If(item.p.end):
                m.d.comb += self._clear.eq(1)
                m.d.sync += long.eq(0)
                with m.If(item.p.good & crc.match_detected & ~long & ~index[9] & (index != 0)):
                    m.next = "CHECK"
                with m.Else():
                    self._restart(m)
            with m.Else():
                m.d.comb += [self._checked.eq(1), self._next_byte.eq(1)]
                m.d.sync += [start.eq(word[8:]), long.eq(long | (index == WORDS + 1))]
                with m.If(self._byte == 3):
                    m.d.comb += words.write.en.eq(index[8:] == 0)
                    m.d.sync += self._end.eq(index[:9] == Mux(header.op == Op.WRITE,
                                                              header.count[:9], 0))
                    with m.If(index[9]):
                        m.d.sync += header.eq(Cat(header.as_value()[32:], word))
        m.d.comb += words.write.data.eq(word)

    def _check(self, m):
        """The frame is executed, or its reply repeated, or it is refused."""
        header, kept = self._header, self._kept
        op, following, answer = header.op, Signal(8), Signal(Answer)
        identify, known = op == Op.IDENTIFY, ~op[2:].any() & (op[:2] != 3)
        large = header.count[9:].any() | header.count[8] & header.count[:8].any()
        m.d.comb += following.eq(header.seq + 1)
        with m.State("CHECK"):
            with m.If(~self._end | (self._byte != 0) | large):
                m.d.comb += answer.eq(Answer.BAD_LENGTH)
            with m.If(~known):
                m.d.comb += answer.eq(Answer.BAD_OP)
            self._restart(m)
            m.d.sync += self._refused.eq(~self._known | (following != self._expected))
            m.next = "FETCH REPLY"
            with m.If(identify | self._known & (header.seq == self._expected)):
                good = answer == Answer.OK
                m.d.sync += [
                    self._known.eq(1), self._expected.eq(following), self._refused.eq(0),
                    kept.op.eq(op), kept.answer.eq(answer), kept.count.eq(0),
                    kept.words.eq(good & (op != Op.WRITE)),
                ]
                with m.If(identify):
                    m.d.sync += [header.address.eq(0), header.count.eq(4), header.flags.eq(0)]
                with m.If(good):
                    m.d.sync += self._index.eq(0)
                    m.next = "FETCH"

    def _execute(self, m):
        """One word after another, until all are done or one ends badly."""
        header, kept, bus, words = self._header, self._kept, self.bus, self._words
        tries = Signal(self.patience.bit_length())
        m.d.comb += [
            bus.request.p.address.eq(header.address),
            bus.request.p.write.eq(header.op == Op.WRITE), bus.request.p.strobes.eq(0b1111),
            bus.request.p.data.eq(words.data),
        ]
        with m.State("FETCH"):
            m.d.sync += tries.eq(0)
            m.next = "READ"
            with m.If((self._index[:9] == header.count[:9]) | (kept.answer != Answer.OK)):
                m.d.sync += kept.count.eq(self._index)
                self._restart(m)
                m.next = "FETCH REPLY"
        with m.State("READ"):
            m.next = "REQUEST"
        with m.State("REQUEST"):
            m.d.comb += bus.request.valid.eq(1)
            with m.If(bus.request.ready):
                m.next = "RESPONSE"
        with m.State("RESPONSE"):
            m.d.comb += [bus.response.ready.eq(1), words.write.address[8].eq(1),
                         words.write.data.eq(bus.response.p.data)]
            with m.If(bus.response.valid):
                m.next = "FETCH"
                with m.If(bus.response.p.status == Status.OK):
                    m.d.comb += [words.write.en.eq(1), self._next_word.eq(1)]
                    m.d.sync += header.address.eq(header.address + Mux(header.flags[0], 0, 4))
                with m.Elif((bus.response.p.status == Status.BUSY) & ~tries[-1]):
                    m.d.sync += tries.eq(tries + 1)
                    m.next = "REQUEST"
                with m.Else():
                    m.d.sync += kept.answer.eq(bus.response.p.status)

    def _reply(self, m):
        """Header, words and CRC, a byte at a time."""
        kept, reply, words, tail = self._kept, self._encoder.i, self._words, self._tail
        byte = Signal(8)
        m.d.comb += [
            tail.eq(self._index == Mux(kept.words & ~self._refused, kept.count, 0)),
            reply.p.last.eq(tail & (self._byte == 3)), reply.p.data.eq(byte),
        ]

        def check(half):    # What leaves the CRC shifts it, without feedback.
            m.d.comb += [self._checked.eq(1), self._half.eq(half ^ tail.replicate(4))]

        with m.State("FETCH REPLY"):
            m.d.comb += words.address[8].eq(1)
            m.next = "READ REPLY"
        with m.State("READ REPLY"):
            m.next = "LOAD REPLY"
        with m.State("LOAD REPLY"):
            m.d.sync += self._loaded.eq(words.data.word_select(self._byte, 8))
            m.next = "SELECT REPLY"
        with m.State("SELECT REPLY"):
            m.d.sync += byte.eq(self._selected)
            m.next = "REPLY"
        with m.State("REPLY"):
            m.d.comb += reply.valid.eq(1)
            with m.If(reply.ready):
                check(byte[:4])
                m.next = "CHECK REPLY"
        with m.State("CHECK REPLY"):
            check(byte[4:])
            m.d.comb += self._next_byte.eq(1)
            m.next = "FETCH REPLY"
            with m.If(reply.p.last):
                m.d.comb += [self._checked.eq(0), self._clear.eq(1)]
                self._restart(m)
                m.next = "RECEIVE"

    def _reply_byte(self, m):
        """The byte of the reply at the current place."""
        header, kept, refused, byte = self._header, self._kept, self._refused, self._byte
        selected = self._selected
        first = Array([
            header.seq, Mux(refused, header.op, kept.op) | 0x80,
            Mux(refused, Answer.SEQUENCE, kept.answer), 0,
            Mux(refused, 0, kept.count[:8]), kept.count[8] & ~refused, self._expected, 0,
        ])
        with m.If(self._index[9]):
            m.d.comb += selected.eq(first[Cat(byte, self._index[0])])
        with m.Elif(self._tail):
            m.d.comb += selected.eq(self._crc.crc)
        with m.Else():
            m.d.comb += selected.eq(self._loaded)
