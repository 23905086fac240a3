"""What a host exchanges with a core, as data: an ordered list of records.

A record writes words into a port of the core, reads items of a stream, or polls a port until it has
a value. Done one after another, the records of an image never wait for one that comes later, so
that a program without threads can send them; :func:`exchange` lets all streams flow at the same
time, each in its own order.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Write:
    """Items for a stream of the core, uint32 [items, words]."""

    port: str
    items: np.ndarray


@dataclass(frozen=True)
class Read:
    """So many items of a stream of the core."""

    port: str
    items: int


@dataclass(frozen=True)
class Poll:
    """A control port is read until it has this value."""

    port: str
    value: int


Record = Write | Read | Poll


def streams(records: Iterable[Record]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """What records write, uint32 [items, words] by stream, and how many items they read by
    stream."""
    send, receive = defaultdict(list), defaultdict(int)
    for record in records:
        if isinstance(record, Write):
            send[record.port].append(record.items)
        elif isinstance(record, Read):
            receive[record.port] += record.items
    return {port: np.concatenate(items) for port, items in send.items()}, dict(receive)


PIECE = 1 << 25
"""Words that are held back for one call of a device: what a large layer takes is sent in several,
and the core waits a moment between them."""


def exchange(device, records: Iterable[Record]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Does what records say, those that poll at the end; the items of each stream that is read, and
    their times.

    ``device`` is a :class:`zeroskip.sw.engines.base.Device`.
    """
    found: dict[str, list] = defaultdict(list)
    for piece in _pieces(records):
        for port, items in device.run(*streams(piece)).items():
            found[port].append(items)
        for record in piece:
            if isinstance(record, Poll):
                device.wait(record.port, record.value)
    return {port: each[0] if len(each) == 1 else
            tuple(map(np.concatenate, zip(*each, strict=True))) for port, each in found.items()}


def _pieces(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records, as many at a time as write :data:`PIECE` words; each time ends as one reads."""
    piece, words = [], 0
    for record in records:
        piece.append(record)
        words += record.items.size if isinstance(record, Write) else 0
        if isinstance(record, Read) and words >= PIECE:
            yield piece
            piece, words = [], 0
    if piece:
        yield piece
