"""What the endpoint of the host link does, in Python; after the frames' description, which
stands in :mod:`zeroskip.hw.fronts.frame`, and not after the gateware."""

import struct
import zlib
from collections.abc import Callable

from cobs import cobs

from zeroskip.hw.bus import Status
from zeroskip.hw.fronts.frame import WORDS, Answer, Op

Bus = Callable[[int, bool, int], tuple[Status, int]]
"""Address in bytes, whether it is a write, and the word to write; gives the status and the word
read."""


class EndpointModel:
    """An endpoint on ``bus``; ``executed`` counts the frames that it executed."""

    def __init__(self, bus: Bus):
        self._bus = bus
        self._pending = b""
        self._last: int | None = None
        self._kept = b""
        self.executed = 0

    def feed(self, wire: bytes) -> bytes:
        """Takes bytes from the host; gives the bytes to it."""
        *frames, self._pending = (self._pending + wire).split(b"\0")
        return b"".join(self._frame(frame) for frame in frames)

    def _frame(self, stuffed: bytes) -> bytes:
        try:
            frame = cobs.decode(stuffed)
        except cobs.DecodeError:
            return b""
        body, crc = frame[:-4], frame[-4:]
        if not 8 <= len(body) <= 8 + 4 * WORDS or zlib.crc32(body).to_bytes(4, "little") != crc:
            return b""
        seq, op, address, count, flags = struct.unpack_from("<BBHHH", body)
        following = 0 if self._last is None else (self._last + 1) % 256
        if op != Op.IDENTIFY.value:
            if self._last is not None and seq == self._last:
                return self._kept
            if self._last is None or seq != following:
                return _reply(seq, op, Answer.SEQUENCE, 0, following, b"")
        answer, done, payload = self._execute(op, address, count, flags, body[8:])
        self.executed += 1
        self._last = seq
        self._kept = _reply(seq, op, answer, done, (seq + 1) % 256, payload)
        return self._kept

    def _execute(self, op, address, count, flags, payload) -> tuple[Answer, int, bytes]:
        """How it ended, the words done, and the payload of the reply."""
        if op not in (Op.IDENTIFY.value, Op.READ.value, Op.WRITE.value):
            return Answer.BAD_OP, 0, b""
        write = op == Op.WRITE.value
        if count > WORDS or len(payload) != 4 * count * write:
            return Answer.BAD_LENGTH, 0, b""
        if op == Op.IDENTIFY.value:
            address, count, flags = 0, 4, 0
        read = b""
        for k in range(count):
            word = int.from_bytes(payload[4 * k:4 * k + 4], "little")
            status, value = self._bus((address + 4 * k * (not flags & 1)) % (1 << 16), write, word)
            if status is not Status.OK:
                return Answer(status.value), k, read
            if not write:
                read += value.to_bytes(4, "little")
        return Answer.OK, count, read


def _reply(seq, op, answer, count, expected, payload) -> bytes:
    """A reply on the wire; ``op`` is that of the request."""
    body = struct.pack("<BBBBHBB", seq, op | 0x80, answer.value, 0, count, expected, 0) + payload
    return cobs.encode(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"
