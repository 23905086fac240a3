"""The stuffing of frames, both ways, against the package ``cobs``."""

import pytest
from cobs import cobs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zeroskip.hw.fronts.cobs import Decoder, Encoder
from zeroskip.sim.bench import device

FRAMES = st.lists(st.lists(st.sampled_from([0, 0, 1, 2, 255]), min_size=1, max_size=12)
                  .map(bytes), max_size=4)
LONG = [bytes([7] * n) for n in (253, 254, 255, 508)] + [
    bytes([7] * 254 + [0]), bytes([0] + [9] * 254), bytes([7] * 254 + [0, 0]), b"\0"]


def plain(frame):
    return [{"data": byte, "last": k == len(frame) - 1} for k, byte in enumerate(frame)]


def encoded(transfer, frames, **kinds):
    dut, wire = device(Encoder), b"".join(cobs.encode(frame) + b"\0" for frame in frames)
    items = [item for frame in frames for item in plain(frame)]
    (found,) = transfer(dut, [(dut.i, items)], [(dut.o, len(wire))], **kinds)
    return bytes(found), wire


def decoded(transfer, wire, **kinds):
    """What the decoder makes of bytes: frames, and whether each was whole."""
    dut, count = device(Decoder), 0
    left = gap = 0
    for byte in wire:   # A zero between two blocks is the code's doing; else one item a byte.
        if byte and not left:
            count, left, gap = count + gap, byte - 1, byte != 255
        else:
            count, left, gap = count + 1, byte and left - 1, byte and gap
    (items,) = transfer(dut, [(dut.i, list(wire))], [(dut.o, count)], **kinds)
    frames, frame = [], b""
    for item in items:
        if item["end"]:
            frames.append((frame, bool(item["good"])))
            frame = b""
        else:
            frame += bytes([item["data"]])
    return frames


@given(frames=FRAMES)
@settings(deadline=None, derandomize=True, max_examples=10)
def test_encoder_stuffs_as_the_package_does(transfer, stalls, frames):
    found, wire = encoded(transfer, frames, stalls=stalls)
    assert found == wire


@pytest.mark.parametrize("frame", LONG, ids=range(len(LONG)))
def test_blocks_of_254_bytes(transfer, frame):
    found, wire = encoded(transfer, [frame, b"\1"], patience=10)
    assert found == wire
    assert decoded(transfer, wire) == [(frame, True), (b"\1", True)]


@given(frames=FRAMES)
@settings(deadline=None, derandomize=True, max_examples=10)
def test_decoder_takes_the_stuffing_out(transfer, stalls, frames):
    wire = b"".join(cobs.encode(frame) + b"\0" for frame in frames)
    assert decoded(transfer, wire, stalls=stalls) == [(frame, True) for frame in frames]


@given(wire=st.lists(st.sampled_from([0, 1, 2, 3, 255]), max_size=40))
@example(wire=[0, 0, 5, 1, 0, 2, 7, 0])
@settings(deadline=None, derandomize=True, max_examples=60)
def test_decoder_tells_broken_frames(transfer, wire):
    wire = bytes([*wire, 0])
    for piece, (frame, good) in zip(wire[:-1].split(b"\0"), decoded(transfer, wire), strict=True):
        try:
            assert (frame, good) == (cobs.decode(piece), True)
        except cobs.DecodeError:
            assert not good


def test_decoder_takes_a_byte_a_cycle(transfer, record):
    dut, log = device(Decoder), []
    wire = cobs.encode(bytes([5, 0, 0, 6])) + b"\0"
    transfer(dut, [(dut.i, list(wire))], [(dut.o, 5)], background=[record(log, dut.i)])
    assert [cycle for cycle, _ in log] == list(range(len(wire)))
