"""Frames between a host and a system's bus, over any pipe of bytes that may lose or spoil some.

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

from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

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


REQUEST = data.StructLayout({"header": HEADER, "whole": 1})
"""A frame whose CRC held, and whether its payload is as long as its header says."""

REPLY = data.StructLayout({
    "seq": 8, "op": 8, "answer": Answer, "count": 9, "expected": 8, "words": 1})
"""What the header of a reply says, ``op`` being that of the request; ``words`` tells whether the
words that were done are its payload."""

CHECKSUM = wiring.Signature({
    "half": Out(4), "valid": Out(1), "clear": Out(1), "crc": In(32), "match": In(1)})
"""A CRC-32 as its user sees it, who gives it half a byte at a time, the lower one first, and
nothing while another one uses it. ``crc``, and ``match`` of a frame with its CRC behind it, are
there two cycles after the last half; ``clear`` begins anew."""
