"""The host's side of the link over a wire that loses, spoils, doubles and reorders frames; with
``ZEROSKIP_REGRESSION=1``, until 10^6 of them have been sent."""

import os
import random
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from cobs import cobs

from zeroskip.hw.bus import Status
from zeroskip.hw.fronts.frame import Answer, Op
from zeroskip.sim.endpoint_model import EndpointModel
from zeroskip.sw.runtime.link import (
    Identity,
    Link,
    NoReply,
    OutOfRange,
    OutOfStep,
    Refused,
    decode_reply,
    encode_request,
)

FRAMES = 1_000_000 if os.environ.get("ZEROSKIP_REGRESSION") == "1" else 3_000
REGISTERS, DEPTH, BASE, WINDOW = 600, 700, 0x10, 0x4000


class Board:
    """What it is, registers behind that, and one address where words enter a queue and leave it."""

    def __init__(self):
        self.identity = [0x314B535A, 3, 0xABCD, 0xFEDC0000]
        self.registers, self.queue = [0] * REGISTERS, []
        self.endpoint = EndpointModel(self)

    def __call__(self, address, write, data):
        if address == WINDOW and write:
            if len(self.queue) == DEPTH:
                return Status.BUSY, 0
            self.queue.append(data)
            return Status.OK, 0
        if address == WINDOW:
            return (Status.OK, self.queue.pop(0)) if self.queue else (Status.BUSY, 0)
        place, rest = divmod(address - BASE, 4)
        if place < 0 and not write:
            return Status.OK, self.identity[place]
        if not 0 <= place < REGISTERS or rest:
            return Status.RANGE, 0
        if write:
            self.registers[place] = data
        return Status.OK, self.registers[place]


class Wire:
    """A transport to a board; ``fault`` gets each frame's bytes and gives those that arrive."""

    def __init__(self, board, fault=lambda data: data):
        self.board, self.fault, self.frames, self.closed = board, fault, 0, False
        self.waiting = b""

    def write(self, data):
        self.frames += 1
        self.waiting += self.fault(self.board.endpoint.feed(self.fault(data)))

    def read(self, timeout):
        data, self.waiting = self.waiting, b""
        return data

    def close(self):
        self.closed = True


class Fault:
    """Spoils a share of the frames, and counts how."""

    def __init__(self, seed, share):
        self.rng, self.share, self.log, self.late = random.Random(seed), share, Counter(), b""

    def __call__(self, data):
        if not data or self.rng.random() >= self.share:
            late, self.late = self.late, b""
            return data + late
        rng, place = self.rng, self.rng.randrange(len(data))
        kind = rng.choice(["dropped", "cut", "flipped", "duplicated", "reordered", "garbage"])
        self.log[kind] += 1
        match kind:
            case "dropped":
                return b""
            case "cut":
                return data[:place]
            case "flipped":
                flipped = bytearray(data)
                for _ in range(rng.choice([1, 2, 3, 8])):
                    flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                return bytes(flipped)
            case "duplicated":
                return data * 2
            case "reordered":
                data, self.late = self.late, data
                return data
        return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def link(board):
    link = Link(Wire(board))
    link.identify()
    return link


def numbers(*values):
    return np.array(values, np.uint32)


def test_identify_gives_version_and_digest(board):
    assert Link(Wire(board)).identify() == Identity(version=3, digest=0xFEDC00000000ABCD)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_any_count_of_words_goes_in_frames_of_256(board, link, count):
    words = np.arange(count, dtype=np.uint32) * 0x01010101
    assert link.write(BASE, words) == count
    assert board.registers[:count] == words.tolist()
    read = link.read(BASE, count)
    assert (read.dtype, read.tolist()) == (np.uint32, words.tolist())


def test_fixed_address_is_that_of_every_frame(link):
    words = np.arange(600, dtype=np.uint32)
    assert link.write(WINDOW, words, fixed=True) == 600
    assert link.read(WINDOW, 600, fixed=True).tolist() == words.tolist()


def test_busy_window_takes_a_part_and_the_rest_later(link):
    words = np.arange(DEPTH + 5, dtype=np.uint32)
    done = link.write(WINDOW, words, fixed=True)
    assert done == DEPTH
    assert link.write(WINDOW, words[done:], fixed=True) == 0
    assert link.read(WINDOW, 300, fixed=True).tolist() == list(range(300))
    assert link.write(WINDOW, words[done:], fixed=True) == 5
    assert link.read(WINDOW, 600, fixed=True).tolist() == list(range(300, DEPTH + 5))
    assert link.read(WINDOW, 1, fixed=True).tolist() == []


@pytest.mark.parametrize(("act", "message"), [
    (lambda link: link.write(BASE + 4 * (REGISTERS - 3), numbers(1, 2, 3, 4)),
     "the board cannot write address 0x970; check that .*"),
    (lambda link: link.read(BASE, 601), "the board cannot read address 0x970; check that .*"),
    (lambda link: link.write(BASE + 2, numbers(1)), "the board cannot write address 0x12; .*"),
    (lambda link: link.read(0x1000, 2, fixed=True), "the board cannot read address 0x1000; .*"),
])
def test_address_that_the_board_does_not_have(link, act, message):
    with pytest.raises(OutOfRange, match=f"^{message}$"):
        act(link)
    assert len(link.read(BASE, 1)) == 1


def test_dead_wire_raises_after_the_retries(board):
    wire = Wire(board, lambda data: b"")
    with pytest.raises(NoReply, match=r"^the board did not answer 4 frames; check that .*$"):
        Link(wire, retries=3).identify()
    assert wire.frames == 4


def test_silent_wire_takes_no_longer_than_its_timeouts(board):
    class Noise(Wire):
        def read(self, timeout):
            assert timeout <= 0.01
            return b"noise\0"

    with pytest.raises(NoReply):
        Link(Noise(board), timeout=0.01, retries=1).identify()


def test_board_that_was_reset_is_out_of_step(board, link):
    board.endpoint = EndpointModel(board)
    with pytest.raises(OutOfStep, match="identify it again$"):
        link.write(BASE, numbers(7))
    assert board.registers[0] == 0
    link.identify()
    assert link.write(BASE, numbers(7)) == 1


def test_other_answerer_is_refused(board):
    board.identity[0] ^= 1
    with pytest.raises(Refused, match="^what answers is not a Zeroskip board; check the port$"):
        Link(Wire(board)).identify()


def test_frame_that_the_board_does_not_know_is_refused(link, monkeypatch):
    monkeypatch.setattr(EndpointModel, "_execute", lambda *_: (Answer.BAD_OP, 0, b""))
    with pytest.raises(Refused, match=r"^the board refused the frame \(BAD_OP\); check .*$"):
        link.read(BASE, 1)


class Liar(Wire):
    """Gives replies of its own to all but ``IDENTIFY`` and the read after it."""

    def __init__(self, board, answer, count, payload):
        super().__init__(board)
        self.said = answer.value, 0, count, 0, 0

        def lie(data):
            request = cobs.decode(data.strip(b"\0"))
            if self.frames <= 2:
                return board.endpoint.feed(data)
            body = struct.pack("<BBBBHBB", request[0], request[1] | 0x80, *self.said) + payload
            return cobs.encode(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"
        self.feed = lie

    def write(self, data):
        self.frames += 1
        self.waiting += self.feed(data)


LIES = {
    "a count without payload": (Answer.OK, 4, b""),
    "three bytes": (Answer.OK, 4, b"abc"),
    "fewer words than the count": (Answer.OK, 4, bytes(12)),
    "more words than the count": (Answer.OK, 4, bytes(20)),
    "fewer words than asked for": (Answer.OK, 3, bytes(12)),
    "more words than asked for": (Answer.OK, 5, bytes(20)),
    "busy after all words": (Answer.BUSY, 4, bytes(16)),
    "no such address after all words": (Answer.RANGE, 4, bytes(16)),
    "words of a frame that was not executed": (Answer.SEQUENCE, 1, bytes(4)),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.timeout(10)
def test_reply_that_does_not_fit(board, lie):
    answer, count, payload = LIES[lie]
    link = Link(Liar(board, answer, count, payload), retries=2)
    link.identify()
    with pytest.raises(Refused, match=rf"^the board was asked to read 4 words and answered "
                       rf"{answer.name} with a count of {count} and {len(payload)} bytes, which "
                       "does not fit; check .*$"):
        link.read(BASE, 4)


@pytest.mark.parametrize(("answer", "count"), [(Answer.OK, 1), (Answer.OK, 3), (Answer.BUSY, 2)])
def test_reply_to_a_write_that_does_not_fit(board, answer, count):
    link = Link(Liar(board, answer, count, b""), retries=2)
    link.identify()
    with pytest.raises(Refused, match="^the board was asked to write 2 words and answered"):
        link.write(BASE, numbers(7, 8))


@pytest.mark.parametrize("length", [0, 3, 12, 20])
def test_identity_of_another_length(board, length, monkeypatch):
    monkeypatch.setattr(EndpointModel, "_execute",
                        lambda *_: (Answer.OK, length // 4, bytes(length)))
    with pytest.raises(Refused, match="^the board was asked to identify 0 words and answered OK"):
        Link(Wire(board), retries=2).identify()


def test_a_board_that_has_no_identity(board):
    board.endpoint = EndpointModel(lambda *_: (Status.RANGE, 0))
    with pytest.raises(Refused, match="identify 0 words and answered RANGE with a count of 0 and"):
        Link(Wire(board)).identify()


def test_identity_that_is_busy(board, monkeypatch):
    monkeypatch.setattr(EndpointModel, "_execute", lambda *_: (Answer.BUSY, 2, bytes(8)))
    with pytest.raises(Refused, match="^the board was asked to identify 0 words and answered BUSY"):
        Link(Wire(board), retries=2).identify()


@pytest.mark.timeout(10)
def test_noise_without_an_end_is_not_kept(board):
    class Noise(Wire):
        def read(self, timeout):
            return b"n" * 5000

    link = Link(Noise(board), timeout=0.05, retries=1)
    with pytest.raises(NoReply):
        link.identify()
    assert len(link._received) < 2000


def test_close_closes_the_transport(board):
    wire = Wire(board)
    Link(wire).close()
    assert wire.closed


def test_reply_that_comes_late_or_twice_is_not_taken_for_the_next(board):
    late = []

    def delay(data):    # Every reply arrives after its frame was sent again.
        late.append(data)
        return late.pop(0) if len(late) > 1 else b""

    wire = Wire(board)
    link = Link(wire)
    link.identify()
    board.registers[:4] = [10, 11, 12, 13]
    feed = board.endpoint.feed
    board.endpoint.feed = lambda data: delay(feed(data))
    assert [int(link.read(BASE + 4 * k, 1)[0]) for k in range(4)] == [10, 11, 12, 13]


def test_request_on_the_wire():
    wire = encode_request(5, Op.WRITE, 0x1234, 1, fixed=True, payload=b"\1\2\3\4")
    assert wire.endswith(b"\0")
    assert wire.count(b"\0") == 1
    frame = cobs.decode(wire[:-1])
    assert frame[:-4] == bytes.fromhex("0502 3412 0100 0100 01020304")
    assert zlib.crc32(frame) == 0x2144DF1C      # of anything with its own CRC behind it


@pytest.mark.parametrize("frame", [b"", b"\5\1", b"\1", cobs.encode(bytes(12))])
def test_spoilt_reply_is_none(frame):
    assert decode_reply(frame) is None


def test_regression_of_faults_executes_each_frame_once_and_takes_no_wrong_word(run_seed):
    random.seed(10 + run_seed)  # the first number of a link
    rng, fault, board = random.Random(11 + run_seed), Fault(12 + run_seed, 0.15), Board()
    wire = Wire(board, fault)
    link = Link(wire, retries=40)
    registers, queue, log = [0] * REGISTERS, [], Counter()

    def settle(act, *args, **kinds):
        """Acts; if a late copy of an old frame began a new session, nothing was executed."""
        while True:
            try:
                return act(*args, **kinds)
            except OutOfStep:
                log["out of step"] += 1
                link.identify()

    settle(link.identify)
    while wire.frames < FRAMES:
        kind, count = rng.choice("wwwrrriiioooo"), rng.choice([0, 1, 2, 3, 17, 256])
        words = np.frombuffer(rng.randbytes(4 * count), "<u4")
        place = rng.randrange(REGISTERS - count)
        log[kind] += 1
        if kind == "w":
            assert settle(link.write, BASE + 4 * place, words) == count
            registers[place:place + count] = words.tolist()
        elif kind == "r":
            assert settle(link.read, BASE + 4 * place, count).tolist() == \
                registers[place:place + count]
        elif kind == "i":
            taken = settle(link.write, WINDOW, words, fixed=True)
            assert taken == min(count, DEPTH - len(queue))
            queue += words[:taken].tolist()
        else:
            read = settle(link.read, WINDOW, count, fixed=True).tolist()
            assert read == queue[:count]
            del queue[:count]
        if rng.random() < 0.01:
            settle(link.identify)
        assert (board.queue, board.registers) == (queue, registers)
    print(f"{wire.frames} frames sent, {board.endpoint.executed} executed, faults "
          f"{dict(sorted(fault.log.items()))}, acts {dict(sorted(log.items()))}")
    assert len(fault.log) == 6
