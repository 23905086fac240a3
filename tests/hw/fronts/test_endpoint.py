# amaranth: UnusedElaboratable=no
"""The endpoint of the host link against its model: every answer, every fault of the wire, and
stalls on all sides; with ``ZEROSKIP_REGRESSION=1``, 10,000 frames."""

import os
import random
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cobs import cobs
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from zeroskip.hw.bus import Status
from zeroskip.hw.fronts.endpoint import Endpoint
from zeroskip.hw.fronts.frame import Answer, Op
from zeroskip.hw.fronts.uart import Receiver, Transmitter
from zeroskip.hw.stream import Queue
from zeroskip.hw.system.registers import Access, Field, Register, RegisterFile, Window
from zeroskip.sim.bench import checker, device, receive, send, simulate
from zeroskip.sim.cxxrtl import Model, build
from zeroskip.sim.endpoint_model import EndpointModel
from zeroskip.sw.runtime.link import decode_reply, encode_request

FRAMES = 10_000 if os.environ.get("ZEROSKIP_REGRESSION") == "1" else 500
REGISTERS, DEPTH = 16, 8
WORDS, RESULTS = 4 * REGISTERS, 4 * REGISTERS + 4
ITEMS = [*(Register(f"r{k}", Access.WRITE, [Field("value", 32, "Any.")], "A word.")
           for k in range(REGISTERS)),
         Window("words", "in", "Into a queue."), Window("results", "out", "Out of it.")]
VALUES = struct.Struct(f"<{REGISTERS}I")


class Board(wiring.Component):
    """An endpoint, registers, and windows with a queue between them."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))
    values: Out(32 * REGISTERS)

    def elaborate(self, platform):
        m = Module()
        m.submodules.endpoint = endpoint = Endpoint(patience=4)
        m.submodules.registers = registers = RegisterFile(ITEMS)
        m.submodules.queue = queue = Queue(32, depth=DEPTH)
        wiring.connect(m, endpoint.bus, registers.bus)
        wiring.connect(m, registers.words, queue.i)
        wiring.connect(m, queue.o, registers.results)
        wiring.connect(m, wiring.flipped(self.i), endpoint.i)
        wiring.connect(m, endpoint.o, wiring.flipped(self.o))
        for k in range(REGISTERS):
            m.d.comb += self.values.word_select(k, 32).eq(getattr(registers, f"r{k}"))
        return m


class Bus:
    """What lies behind the endpoint of a :class:`Board`; the window holds a word more."""

    def __init__(self):
        self.registers, self.queue = [0] * REGISTERS, []

    def __call__(self, address, write, data):
        place, rest = divmod(address, 4)
        if place < REGISTERS and not rest:
            if write:
                self.registers[place] = data
            return Status.OK, self.registers[place] * (not write)
        if address == WORDS and write:
            if len(self.queue) == DEPTH + 1:
                return Status.BUSY, 0
            self.queue.append(data)
            return Status.OK, 0
        if address == RESULTS and not write:
            return (Status.OK, self.queue.pop(0)) if self.queue else (Status.BUSY, 0)
        return Status.RANGE, 0


class Pair:
    """A board and its model, after reset; every byte goes to both."""

    def __init__(self, board):
        self.board, self.bus = board, Bus()
        self.model = EndpointModel(self.bus)
        for level in (1, 0):
            board.poke("rst", level)
            board.tick()

    def feed(self, wire):
        """The reply on the wire, the same from both, and both in the same state after it."""
        expected = self.model.feed(wire)
        items = np.frombuffer(wire, np.uint8).astype(np.uint32)[:, None]
        got = self.board.run({"i": items}, {"o": len(expected)}, 3000)["o"][0]
        assert got.astype(np.uint8).tobytes() == expected
        state = self.board.peek("values").to_bytes(4 * REGISTERS, "little")
        assert list(VALUES.unpack(state)) == self.bus.registers
        return expected

    def ask(self, *args, **kinds):
        """The only reply to a request, or None."""
        wire = self.feed(encode_request(*args, **kinds))
        return decode_reply(wire[:-1]) if wire else None

    def rest(self):
        """Nothing more comes, and both are equal behind the windows too."""
        self.board.tick(5000)
        assert not self.board.peek("o__valid")
        self.ask(0, Op.IDENTIFY)
        assert self.ask(1, Op.READ, RESULTS, DEPTH + 2, fixed=True).answer is Answer.BUSY


@pytest.fixture(scope="module")
def library():
    return build(Board, "board", "")


@pytest.fixture
def pair(library):
    return Pair(Model(library))


@pytest.fixture
def known(pair):
    """A pair that was identified with 7, so that 8 is expected."""
    assert pair.ask(7, Op.IDENTIFY).answer is Answer.OK
    return pair


def words(*values):
    return np.array(values, "<u4").tobytes()


def raw(body):
    """A frame with any content and the CRC that belongs to it."""
    return cobs.encode(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"


@pytest.mark.parametrize("seq", [8, 7, 200, 255])
@pytest.mark.parametrize(("address", "flags"), [(0, 0), (8, 1), (2, 0), (0xFFFC, 3)])
def test_identify_reads_four_words_at_address_0_whatever_else_it_says(known, seq, address, flags):
    known.ask(8, Op.WRITE, 0, 5, payload=words(0x314B535A, 2, 3, 4, 5))
    wire = known.feed(raw(struct.pack("<BBHHH", seq, 0, address, 0, flags)))
    reply = decode_reply(wire[:-1])
    assert (reply.seq, reply.answer, reply.count, reply.expected) == (
        seq, Answer.OK, 4, (seq + 1) % 256)
    assert reply.payload == b"ZSK1" + words(2, 3, 4)
    assert known.ask((seq + 1) % 256, Op.READ, 4, 1).payload == words(2), "READ has an address"


@pytest.mark.parametrize("seq", [0, 1, 255])
def test_nothing_is_executed_before_the_first_identify(pair, seq):
    reply = pair.ask(seq, Op.WRITE, 0, 1, payload=words(5))
    assert (reply.answer, reply.count, reply.payload) == (Answer.SEQUENCE, 0, b"")
    assert pair.bus.registers[0] == 0


def test_written_words_are_read_back(known):
    payload = words(*range(100, 116))
    reply = known.ask(8, Op.WRITE, 0, 16, payload=payload)
    assert (reply.answer, reply.count, reply.expected, reply.payload) == (Answer.OK, 16, 9, b"")
    assert known.ask(9, Op.READ, 0, 16).payload == payload


def test_fixed_address_stays(known):
    known.ask(8, Op.WRITE, 12, 3, fixed=True, payload=words(1, 2, 3))
    assert known.bus.registers[3:5] == [3, 0]
    assert known.ask(9, Op.READ, 12, 3, fixed=True).payload == words(3, 3, 3)


def test_largest_frame_goes_both_ways(known):
    payload = words(*range(1, 257))
    assert known.ask(8, Op.WRITE, 20, 256, fixed=True, payload=payload).count == 256
    reply = known.ask(9, Op.READ, 20, 256, fixed=True)
    assert (reply.count, reply.payload) == (256, words(256) * 256)


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_count_of_zero_does_nothing(known, op):
    reply = known.ask(8, op, 0xFFFF)
    assert (reply.answer, reply.count, reply.expected) == (Answer.OK, 0, 9)


def test_words_before_the_end_of_the_range_are_done(known):
    reply = known.ask(8, Op.WRITE, 4 * (REGISTERS - 2), 5, payload=words(1, 2, 0, 0, 0))
    assert (reply.answer, reply.count) == (Answer.RANGE, 3)
    assert known.bus.queue == [0]
    reply = known.ask(9, Op.READ, 4 * (REGISTERS - 2), 5)
    assert (reply.answer, reply.count, reply.payload) == (Answer.RANGE, 2, words(1, 2))


def test_busy_window_says_how_many_words_were_done(known):
    reply = known.ask(8, Op.WRITE, WORDS, 12, fixed=True, payload=words(*range(12)))
    assert (reply.answer, reply.count) == (Answer.BUSY, DEPTH + 1)
    reply = known.ask(9, Op.READ, RESULTS, 12, fixed=True)
    assert (reply.answer, reply.payload) == (Answer.BUSY, words(*range(DEPTH + 1)))


def test_address_wraps_behind_the_last(known):
    assert known.ask(8, Op.READ, 0xFFFC, 2).answer is Answer.RANGE


@pytest.mark.parametrize("address", [1, 2, 3, WORDS + 1, RESULTS + 2])
@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_address_that_is_not_that_of_a_word(known, op, address):
    reply = known.ask(8, op, address, 1, payload=words(7) * (op is Op.WRITE))
    assert (reply.answer, reply.count, reply.payload) == (Answer.RANGE, 0, b"")
    assert not any(known.bus.registers)


def test_repetition_gets_the_kept_reply_and_is_not_executed(known):
    known.ask(8, Op.WRITE, WORDS, 3, fixed=True, payload=words(1, 2, 3))
    first = known.ask(9, Op.READ, RESULTS, 2, fixed=True)
    for _ in range(2):
        assert known.ask(9, Op.READ, RESULTS, 2, fixed=True) == first
    assert known.bus.queue == [3]
    assert known.model.executed == 3


def test_kept_reply_outlives_bad_and_refused_frames(known):
    known.ask(8, Op.WRITE, 0, 4, payload=words(9, 8, 7, 6))
    first = known.ask(9, Op.READ, 0, 4)
    assert known.ask(77, Op.READ, 0, 200).answer is Answer.SEQUENCE
    assert known.feed(raw(bytes(range(1, 256)) * 4)[:-3] + b"\0") == b""
    assert known.feed(raw(b"\x0b\x02" + bytes(1020)) + b"\0") != b""
    assert known.ask(9, Op.READ, 0, 4) == first


@pytest.mark.parametrize("seq", [10, 6, 255, 0])
def test_other_frames_are_answered_with_the_expected_number(known, seq):
    reply = known.ask(seq, Op.WRITE, 0, 1, payload=words(1))
    assert (reply.seq, reply.answer, reply.expected) == (seq, Answer.SEQUENCE, 8)
    assert known.bus.registers[0] == 0


def test_sequence_wraps_from_255_to_0(pair):
    pair.ask(254, Op.IDENTIFY)
    assert pair.ask(255, Op.READ, 0, 1).expected == 0
    assert pair.ask(0, Op.READ, 0, 1).answer is Answer.OK


@pytest.mark.parametrize("op", [3, 4, 0x42, 0x7F])
def test_unknown_op(known, op):
    reply = decode_reply(known.feed(raw(struct.pack("<BBHHH", 8, op, 0, 0, 0)))[:-1])
    assert (reply.op, reply.answer, reply.expected) == (op, Answer.BAD_OP, 9)


@pytest.mark.parametrize(("op", "count", "payload"), [
    (1, 257, 0), (1, 0xFFFF, 0), (1, 512, 0), (1, 1, 4), (2, 1, 0), (2, 1, 3), (2, 1, 5),
    (2, 1, 8), (2, 257, 1024), (2, 512, 0), (2, 0, 1), (2, 0x101, 4), (0, 0, 4), (0, 257, 0),
    (2, 256, 1023), (2, 255, 1024), (1, 0, 1024)])
def test_length_that_does_not_fit_the_count(known, op, count, payload):
    body = struct.pack("<BBHHH", 8, op, 0, count, 0) + bytes(range(1, 256)) * 5
    reply = decode_reply(known.feed(raw(body[:8 + payload]))[:-1])
    assert (reply.answer, reply.count, reply.payload) == (Answer.BAD_LENGTH, 0, b"")
    assert not any(known.bus.registers)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 7, 1033, 1034, 1040, 2000, 5200])
def test_frame_too_short_or_too_long_gets_no_reply(known, length):
    body = struct.pack("<BBHHH", 8, 2, 0, 256, 0) + bytes(range(256)) * 21
    assert known.feed(raw(body[:length])) == b""
    assert known.ask(8, Op.READ, 0, 1).answer is Answer.OK


@pytest.mark.parametrize("wire", [b"\0", b"\0\0\0\0", b"\1\0", b"\xff\0", b"\5\1\0"])
def test_stray_zero_bytes_do_no_harm(known, wire):
    assert known.feed(wire) == b""
    assert known.ask(8, Op.READ, 0, 1).answer is Answer.OK


def test_every_flipped_bit_is_noticed(known):
    request = encode_request(8, Op.WRITE, 0, 2, payload=words(0x01020304, 0xFF00FF00))
    for bit in range(8 * len(request)):
        flipped = bytearray(request)
        flipped[bit // 8] ^= 1 << bit % 8
        assert known.feed(bytes(flipped) + b"\0") == b""
    assert known.ask(8, Op.READ, 0, 1).payload == words(0)


def test_every_truncation_is_noticed(known):
    request = encode_request(8, Op.WRITE, 0, 2, payload=words(0x01020304, 0xFF00FF00))
    for length in range(len(request) - 1):
        assert known.feed(request[:length] + b"\0") == b""
    assert known.ask(8, Op.READ, 0, 1).payload == words(0)


@given(garbage=st.binary(max_size=40))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_second_frame_after_garbage_is_answered(library, garbage):
    pair = Pair(Model(library))
    pair.feed(garbage)
    pair.feed(encode_request(1, Op.IDENTIFY))
    assert pair.ask(2, Op.IDENTIFY).answer is Answer.OK


def request(rng, expected):
    """Any request, most often one that is to be executed."""
    seq = rng.choice([expected] * 6 + [expected - 1, expected + 1, rng.randrange(256)]) % 256
    op = rng.choice([0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3])
    address = rng.choice([0, 12, WORDS, RESULTS, 56, 2, rng.randrange(1 << 16)])
    count = rng.choice([0, 1, 2, 5, 16, 256, rng.randrange(257), rng.randrange(1 << 16)])
    payload = bytes(rng.choice((0, 0, 1, 255, rng.randrange(256)))
                    for _ in range(4 * min(count, 260) if op == 2 else 0))
    if rng.random() < 0.05:
        payload = payload[1:] or b"\0"
    return raw(struct.pack("<BBHHH", seq, op, address, count, rng.randrange(4)) + payload)


def spoil(rng, wire):
    """A frame as a bad wire delivers it, and what happened."""
    place = rng.randrange(len(wire))
    match rng.choice(["whole"] * 5 + ["dropped", "cut", "truncated", "flipped", "duplicated",
                                     "garbage"]):
        case "dropped":
            return "dropped", b""
        case "cut":
            return "cut", wire[:place]
        case "truncated":
            return "truncated", wire[:place] + b"\0"
        case "flipped":
            flipped = bytearray(wire)
            for _ in range(rng.choice([1, 2, 3, 8])):
                flipped[rng.randrange(len(wire))] ^= 1 << rng.randrange(8)
            return "flipped", bytes(flipped)
        case "duplicated":
            return "duplicated", wire * 2
        case "garbage":
            return "garbage", wire[:place] + rng.randbytes(rng.randrange(1, 9)) + wire[place:]
    return "whole", wire


def test_regression_of_faults(pair, run_seed):
    """Dropped, truncated, flipped, duplicated and reordered frames, and garbage between them."""
    rng, expected, late, log = random.Random(20 + run_seed), 0, b"", Counter()
    for _ in range(FRAMES):
        fault, wire = spoil(rng, request(rng, expected))
        if rng.random() < 0.1:      # This frame waits for the next one to overtake it.
            fault, wire, late = "reordered", late, wire
        elif late:
            wire, late = wire + late, b""
        log[fault] += 1
        for frame in pair.feed(wire).split(b"\0")[:-1]:
            reply = decode_reply(frame)
            expected = reply.expected
            log[reply.answer.name] += 1
    pair.feed(b"\0")
    log["executed"] = pair.model.executed
    pair.rest()
    print(f"{FRAMES} frames: {dict(sorted(log.items()))}")
    assert all(log[each.name] for each in Answer)


def test_cycles_of_a_word_and_of_a_byte_of_the_reply(library):
    board, times = Model(library), {}
    for seq, count in enumerate((1, 2, 100, 101)):
        pair = Pair(board)
        pair.ask(seq, Op.IDENTIFY)
        wire = encode_request(seq + 1, Op.WRITE, 0, count, fixed=True,
                              payload=words(*[0x01010101] * count))
        items = np.frombuffer(wire, np.uint8).astype(np.uint32)[:, None]
        before = int(board._now.value)
        (_, came) = board.run({"i": items}, {"o": 14}, 3000)["o"]
        times[count] = int(came[0]) - before
    # Four bytes in at two cycles, then a word at three and the one of the register file.
    assert times[101] - times[100] == times[2] - times[1] == 4 * 2 + 4


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, derandomize=True, max_examples=1, phases=[Phase.generate])
def test_replies_do_not_depend_on_stalls(stalls, watch, seed):
    """In Amaranth's simulator, with the bus in the bench's hands."""
    rng, bus, dut = random.Random(seed), Bus(), device(Endpoint, patience=1)
    model = EndpointModel(Bus())
    wire = [encode_request(1, Op.IDENTIFY), raw(b"\2\2"),
            encode_request(2, Op.WRITE, 56, 3, payload=words(1, 2, 0)),
            encode_request(2, Op.WRITE, 56, 3, payload=words(1, 2, 0)),
            encode_request(3, Op.READ, 52, 2)[:-4] + b"\0",
            encode_request(3, Op.READ, RESULTS, 2, fixed=True),
            encode_request(9, Op.READ, 0, 1), encode_request(4, Op.READ, 52, 4)]
    expected, replies, valid = b"".join(map(model.feed, wire)), [], []
    quick, slow = (stalls(rng.randrange(99)) for _ in range(2))

    async def answer(ctx):
        while True:
            (asked,) = await receive(ctx, dut.bus.request, 1, quick[1])
            status, word = bus(asked["address"], bool(asked["write"]), asked["data"])
            await send(ctx, dut.bus.response, [{"data": word, "status": status}], quick[0])

    async def host(ctx):
        replies.extend(await receive(ctx, dut.o, len(expected), slow[1]))

    simulate(dut, lambda ctx: send(ctx, dut.i, b"".join(wire), slow[0]), host,
             background=[answer, watch(valid, dut.o.valid), checker(dut.o),
                         checker(dut.bus.request)], deadline=30_000)
    assert bytes(replies) == expected
    assert valid[-1] == (0,)


class Wired(wiring.Component):
    """A board behind a UART, and the host's UART."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.submodules.board = board = Board()
        m.submodules.there = there = Transmitter(divisor=4)
        m.submodules.heard = heard = Receiver(divisor=4)
        m.submodules.back = back = Transmitter(divisor=4)
        m.submodules.host = host = Receiver(divisor=4)
        m.d.comb += [heard.rx.eq(there.tx), host.rx.eq(back.tx)]
        wiring.connect(m, wiring.flipped(self.i), there.i)
        wiring.connect(m, heard.o, board.i)
        wiring.connect(m, board.o, back.i)
        wiring.connect(m, host.o, wiring.flipped(self.o))
        return m


def test_frames_pass_a_uart_and_those_sent_too_early_do_no_harm():
    wired, model = Model(build(Wired, "wired", "")), EndpointModel(Bus())

    def feed(request, ignored=b""):
        """Sends both at once; the reply is the one to the first."""
        expected = model.feed(request)
        items = np.frombuffer(request + ignored, np.uint8).astype(np.uint32)[:, None]
        got = wired.run({"i": items}, {"o": len(expected)}, 50_000)["o"][0]
        assert got.astype(np.uint8).tobytes() == expected

    feed(encode_request(1, Op.IDENTIFY))
    feed(encode_request(2, Op.WRITE, 0, 256, fixed=True, payload=words(*range(256))))
    feed(encode_request(3, Op.READ, 0, 256, fixed=True),
         encode_request(4, Op.WRITE, 4, 250, fixed=True, payload=words(*[3] * 250)))
    wired.tick(50_000)
    assert not wired.peek("o__valid")
    feed(b"\0" + encode_request(4, Op.READ, 0, 2))


@pytest.mark.parametrize(("changed", "message"), [
    ({"patience": 0}, "patience must be a power of two, not 0"),
    ({"patience": 3}, "patience must be a power of two, not 3"),
])
def test_endpoint_that_cannot_be(changed, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Endpoint(**changed)


def test_numbers_on_the_wire():
    """As docs/link.md has them; board and model take them from one place."""
    assert {name: each.value for name, each in Op.__members__.items()} == {
        "IDENTIFY": 0, "READ": 1, "WRITE": 2}
    assert {name: each.value for name, each in Answer.__members__.items()} == {
        "OK": 0, "RANGE": 1, "BUSY": 2, "BAD_OP": 3, "BAD_LENGTH": 4, "SEQUENCE": 5}
