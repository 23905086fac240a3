"""Records: what they send and read, by stream, in their order."""

import numpy as np
import pytest

from zeroskip.sw.engines import wire
from zeroskip.sw.engines.wire import Poll, Read, Write, exchange, streams


def items(*numbers):
    return np.array(numbers, np.uint32).reshape(-1, 1)


RECORDS = [Write("a", items(1, 2)), Write("b", items(3)), Read("y", 2), Write("a", items(4)),
           Read("z", 1), Read("y", 3), Poll("busy", 0)]


def test_the_items_of_a_stream_keep_their_order():
    send, receive = streams(RECORDS)
    assert {name: each.tolist() for name, each in send.items()} == {
        "a": [[1], [2], [4]], "b": [[3]]}
    assert receive == {"y": 5, "z": 1}


class Device:
    """Notes what it is asked for."""

    def __init__(self):
        self.seen = []

    def run(self, send, receive):
        self.seen.append(({name: each.tolist() for name, each in send.items()}, receive))
        return {name: (np.full((count, 1), len(self.seen)), np.arange(count))
                for name, count in receive.items()}

    def wait(self, name, value):
        self.seen.append((name, value))
        if value:
            raise TimeoutError(name)


def test_a_poll_comes_when_all_has_moved():
    device = Device()
    found = exchange(device, iter(RECORDS))
    assert {name: (y.tolist(), times.tolist()) for name, (y, times) in found.items()} == {
        "y": ([[1]] * 5, [0, 1, 2, 3, 4]), "z": ([[1]], [0])}
    assert device.seen == [({"a": [[1], [2], [4]], "b": [[3]]}, {"y": 5, "z": 1}), ("busy", 0)]


def test_many_records_move_in_pieces_that_end_as_they_read(monkeypatch):
    monkeypatch.setattr(wire, "PIECE", 3)
    device = Device()
    found = exchange(device, iter(RECORDS))
    assert device.seen == [
        ({"a": [[1], [2]], "b": [[3]]}, {"y": 2}), ({"a": [[4]]}, {"z": 1, "y": 3}), ("busy", 0)]
    assert {name: (y.tolist(), times.tolist()) for name, (y, times) in found.items()} == {
        "y": ([[1], [1], [2], [2], [2]], [0, 1, 0, 1, 2]), "z": ([[2]], [0])}


def test_a_poll_may_time_out():
    with pytest.raises(TimeoutError):
        exchange(Device(), [Write("a", items(1)), Poll("busy", 1)])
