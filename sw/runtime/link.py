"""The host's side of the link to a board: words to and from its bus, in frames.

The frames are described in :mod:`zeroskip.hw.fronts.frame`. One is in flight at a time; one that
gets no reply is sent again under the same number, and the board does not execute it twice.
"""

import random
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from cobs import cobs

from zeroskip.hw.fronts.frame import WORDS, Answer, Op
from zeroskip.hw.system.config import MAGIC
from zeroskip.sw.errors import LinkError

_HEADER = struct.Struct("<BBHHH")
_REPLY = struct.Struct("<BBBBHBB")
_IDENTITY = struct.Struct("<4sIQ")
_LONGEST = 1100
"""Bytes of a frame on the wire, with its stuffing: no more are kept of what does not end."""


class NoReply(LinkError):
    """No valid reply came, however often the frame was sent."""


class OutOfStep(LinkError):
    """The board expects another frame than the one that was sent."""


class OutOfRange(LinkError):
    """The board has no such address, or it cannot be read, or written."""


class Refused(LinkError):
    """What answers is no board of ours, or of another version."""


class Transport(Protocol):
    """A pipe of bytes to a board, which may lose or spoil some."""

    def write(self, data: bytes) -> None:
        """Sends bytes."""

    def read(self, timeout: float) -> bytes:
        """Bytes that have come; if there are none, waits ``timeout`` seconds for the first."""

    def close(self) -> None:
        """Ends the connection."""


@dataclass(frozen=True)
class Identity:
    """What a board says that it is."""

    version: int
    digest: int


@dataclass(frozen=True)
class Reply:
    """A frame from the board whose CRC held; ``op`` is that of the request."""

    seq: int
    op: int
    answer: Answer
    count: int
    expected: int
    payload: bytes

    def answers(self, op: Op, count: int) -> bool:
        """Whether this can be said to a request of ``op`` for ``count`` words: as many words are
        done as the answer means, and those that were read are there."""
        if op is Op.IDENTIFY:
            count = _IDENTITY.size // 4
        match self.answer:
            case Answer.OK:
                done = self.count == count
            case Answer.BUSY | Answer.RANGE:
                done = self.count < count and op is not Op.IDENTIFY
            case _:
                done = self.count == 0
        return done and len(self.payload) == 4 * self.count * (op is not Op.WRITE)


def encode_request(seq: int, op: Op, address: int = 0, count: int = 0, *, fixed: bool = False,
                   payload: bytes = b"") -> bytes:
    """A frame on the wire, with its zero byte."""
    body = _HEADER.pack(seq, op.value, address, count, fixed) + payload
    return cobs.encode(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"


def decode_reply(frame: bytes) -> Reply | None:
    """The reply in a frame without its zero byte; None if the frame is spoilt."""
    try:
        content = cobs.decode(frame)
    except cobs.DecodeError:
        return None
    body, crc = content[:-4], content[-4:]
    if len(body) < _REPLY.size or zlib.crc32(body).to_bytes(4, "little") != crc:
        return None
    seq, op, answer, _, count, expected, _ = _REPLY.unpack_from(body)
    if not op & 0x80 or answer not in {each.value for each in Answer}:
        return None
    return Reply(seq, op & 0x7F, Answer(answer), count, expected, body[_REPLY.size:])


class Link:
    """Reads and writes words on the bus of a board; :meth:`identify` comes first.

    Parameters
    ----------
    transport : Transport
    timeout : float
        Seconds after which a frame without reply is sent again.
    retries : int
        Times that it is sent again.
    """

    def __init__(self, transport: Transport, *, timeout: float = 0.5, retries: int = 8):
        self._transport, self._timeout, self._retries = transport, timeout, retries
        self._seq = random.randrange(256)
        self._received = b""

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def identify(self) -> Identity:
        """Begins a session; afterwards the board takes frames of this link."""
        magic, *identity = _IDENTITY.unpack(self._exchange(Op.IDENTIFY).payload)
        if magic != MAGIC:
            raise Refused("what answers is not a Zeroskip board; check the port")
        # Nothing but this read can follow on a late copy of the frame that identified.
        self._exchange(Op.READ)
        return Identity(*identity)

    def write(self, address: int, words: np.ndarray, *, fixed: bool = False) -> int:
        """Writes ``words`` from ``address``, in bytes, on, or all to it if it is ``fixed``.

        Returns how many were written: fewer than all if a window has no room now.
        """
        words, done = np.asarray(words).astype("<u4"), 0
        while done < len(words):
            chunk = words[done:done + WORDS]
            reply = self._exchange(Op.WRITE, address + 4 * done * (not fixed), len(chunk),
                                   fixed=fixed, payload=chunk.tobytes())
            done += reply.count
            if reply.count < len(chunk):
                break
        return done

    def read(self, address: int, count: int, *, fixed: bool = False) -> np.ndarray:
        """The words from ``address``, in bytes, on, or all from it if it is ``fixed``.

        They are fewer than ``count`` if a window has no more to give now.
        """
        payload = b""
        while (done := len(payload) // 4) < count:
            asked = min(WORDS, count - done)
            reply = self._exchange(Op.READ, address + 4 * done * (not fixed), asked, fixed=fixed)
            payload += reply.payload
            if reply.count < asked:
                break
        return np.frombuffer(payload, "<u4").astype(np.uint32)

    def _exchange(self, op: Op, address: int = 0, count: int = 0, **kinds) -> Reply:
        """Sends a frame until its reply comes."""
        self._seq = (self._seq + 1) % 256
        request, strange = encode_request(self._seq, op, address, count, **kinds), None
        for _ in range(1 + self._retries):
            self._transport.write(b"\0" + request)      # ends what noise may have begun
            for reply in self._replies(op):
                if reply.answers(op, count):
                    return _judged(reply, address, kinds.get("fixed", False))
                strange = reply     # it may be late, from another session
        if strange is not None:
            raise Refused(f"the board was asked to {op.name.lower()} {count} words and answered "
                          f"{strange.answer.name} with a count of {strange.count} and "
                          f"{len(strange.payload)} bytes, which does not fit; check that its "
                          "version is that of this program")
        raise NoReply(f"the board did not answer {1 + self._retries} frames; check that it is "
                      "connected and runs this design")

    def _replies(self, op: Op) -> Iterator[Reply]:
        """Replies under the number of the last frame, as long as it is waited for them."""
        end = time.monotonic() + self._timeout
        while (left := end - time.monotonic()) > 0 and (data := self._transport.read(left)):
            *frames, rest = (self._received + data).split(b"\0")
            self._received = rest[-_LONGEST:]
            for reply in map(decode_reply, frames):
                if reply is not None and (reply.seq, reply.op) == (self._seq, op.value):
                    yield reply


def _judged(reply: Reply, address: int, fixed: bool) -> Reply:
    """The reply, if the frame was executed as far as the windows let it."""
    match reply.answer:
        case Answer.OK | Answer.BUSY:
            return reply
        case Answer.RANGE:
            place = address + 4 * reply.count * (not fixed)
            raise OutOfRange(f"the board cannot {Op(reply.op).name.lower()} address {place:#x}; "
                             "check that its design is the one that this program expects")
        case Answer.SEQUENCE:
            raise OutOfStep("the board expects another frame, because it was reset or another "
                            "program speaks to it; identify it again")
        case _:
            raise Refused(f"the board refused the frame ({reply.answer.name}); "
                          "check that its version is that of this program")
