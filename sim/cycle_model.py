"""The cycles of an EIE array without its gateware.

Of each stream between two blocks only the number of items that have passed is kept, for all PEs
at once. A block takes an item in a cycle if it came that many cycles before, and if there is room
behind it; the latencies are those of the blocks.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from amaranth.utils import ceil_log2

from zeroskip.hw.eie.activation import _UNDER_WAY as UNDER_WAY
from zeroskip.hw.eie.activation import Requantise
from zeroskip.hw.eie.config import ENTRIES_PER_ROW, PLACE_LATENCY, EIEConfig
from zeroskip.hw.eie.directory import CountedColumns, PointerBanks
from zeroskip.hw.eie.lnzd import FAN_IN
from zeroskip.hw.eie.registers import ActivationRegisters
from zeroskip.hw.memory import BlockRAM
from zeroskip.sw.parts.eie import EIEPart

WALK = 3
"""Columns that the sparse-matrix read has under way to the one that it takes apart."""

TAIL = 6
"""Cycles from the one in which an entry is taken apart to the one in which its PE is idle."""


@dataclass(frozen=True, eq=False)
class Work:
    """What a segment finds, and what its columns cost.

    Attributes
    ----------
    grouped : bool
    found : int [slots, clusters]
        The column of each input that is not zero, -1 of one that is.
    useful, padding, bubbles : int [pes, columns]
        Entries that carry a weight; entries that only bridge a gap; cycles at a column's end in
        which a row of the weight memory has bytes of it, but gives no entry.
    """

    grouped: bool
    found: np.ndarray
    useful: np.ndarray
    padding: np.ndarray
    bubbles: np.ndarray

    def entries(self, config: EIEConfig) -> np.ndarray:
        """Useful and padding entries of each PE in the columns that are found, int [pes, 2]."""
        groups = config.groups if self.grouped else 1
        slot, cluster = np.nonzero(self.found >= 0)
        times = np.zeros((groups, self.useful.shape[1]), np.int64)
        np.add.at(times, (slot % groups, self.found[slot, cluster]), 1)
        times = np.repeat(times, config.pes // groups, axis=0)
        return np.stack([(times * kind).sum(axis=1) for kind in (self.useful, self.padding)], 1)


def work(part: EIEPart, vector: np.ndarray) -> Iterator[Work]:
    """The work of each segment of a part of one layer for an input, int [inputs]."""
    config = part.config
    clusters, begin = np.arange(config.clusters), 0
    for segment in part.segments:
        if segment.begin:
            begin = 0
            each = [_count(*own, config.escapes)
                    for own in zip(part.entries, *part.spans(segment), strict=True)]
            counts = [np.stack(kind) for kind in zip(*each, strict=True)]
        slots = np.arange(begin // config.clusters, -(-segment.limit // config.clusters))[:, None]
        index = slots * config.clusters + clusters
        active = (index < segment.limit) & (vector[np.minimum(index, len(vector) - 1)] != 0)
        column = slots // (config.groups if segment.grouped else 1) * config.clusters + clusters
        yield Work(bool(segment.grouped), np.where(active, column, -1), *counts)
        begin = segment.limit


def _count(memory: np.ndarray, starts: np.ndarray, stops: np.ndarray,
           escapes: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Useful and padding entries and bubbles of the columns of one PE, int64 [columns] each."""
    blank = np.append(memory & 15 == 0, [True, True])   # stand before the first and behind the last
    if not escapes:
        padding = _sums(blank, starts, stops)
        return stops - starts - padding, padding, np.zeros_like(padding)

    # Of blank bytes in a row, counted from the column's start, each second one is an entry.
    at = np.arange(len(blank))
    before = np.where(blank, -1, at)
    begin = starts[stops > starts]
    before[begin] = np.maximum(before[begin], begin - 1)
    even = (at - np.maximum.accumulate(before)) % 2 == 0
    escape = blank & ~even

    # The last row of a column holds, besides entries that begin there, the end of one whose escape
    # is the last byte of the row before, and a filler.
    row = np.maximum(starts, (stops - 1) // ENTRIES_PER_ROW * ENTRIES_PER_ROW)
    across = (row > starts) & escape[row - 1]
    free = across & (stops == row + 1) & (row > starts + 1) & ~blank[row - 2]
    bubbles = (stops > starts) & (stops - row <= across + escape[stops - 1]) & ~free
    return (_sums(~blank, starts, stops), _sums(blank & even, starts, stops),
            bubbles.astype(np.int64))


def _sums(bits: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(bits)])
    return sums[stops] - sums[starts]


def predict(part: EIEPart, vector: np.ndarray) -> int:
    """Computing cycles of one input, int [inputs], on a part of one layer."""
    return sum(_segment(part.config, each) for each in work(part, vector))


def _segment(config: EIEConfig, each: Work) -> int:
    """Computing cycles of one segment. Cycle 0 is the one in which the scan is commanded."""
    search, elements, now = _Search(config, each), _Elements(config, each), 0
    full = _history(config.broadcast_latency, np.zeros(search.streams, bool))
    while not (search.done and elements.done(search)):
        full.append(elements.full)
        search.step(now, full.popleft())
        elements.step(now, search)
        now += 1
    reply = 2 * config.broadcast_latency + PLACE_LATENCY
    sent = max(search.end, 1 + reply)
    return BlockRAM.LATENCY + 1 + max(sent + 1 + reply, elements.idle + config.broadcast_latency)


def _history(cycles: int, value: np.ndarray) -> deque:
    """What a signal was in the last ``cycles`` cycles, the oldest first."""
    return deque([value] * cycles)


class _Search:
    """Activation units, LNZD trees and central control: which column is broadcast when.

    Each cluster has a queue of found activations per group. The trees take from the first that is
    not empty, all groups by turns or, in a grouped layer, each from its own.

    Attributes
    ----------
    streams : int
        Broadcasts that go on at a time.
    order : int [streams, columns]
        The columns that were sent, in order.
    sent : int [streams]
    end : int
        The first cycle in which nothing is left to be searched or sent, once it is ``done``.
    """

    def __init__(self, config: EIEConfig, each: Work):
        self.streams = config.groups if each.grouped else 1
        self._way, self._groups = config.broadcast_latency, config.groups
        self._latency = ActivationRegisters.LATENCY + ceil_log2(config.groups) + Requantise.LATENCY
        levels = 1
        while FAN_IN ** levels < config.clusters:
            levels += 1
        self._depth = levels + (not each.grouped)

        slot, cluster = np.nonzero(each.found >= 0)
        queue = slot % config.groups * config.clusters + cluster
        by_queue = np.argsort(queue, kind="stable")
        self._columns = each.found[slot, cluster][by_queue]
        self._next = np.searchsorted(queue[by_queue], np.arange(config.pes))
        self._level = np.zeros((config.groups, config.clusters), int)
        self._hits = np.zeros((len(each.found) + 1, config.groups, config.clusters), int)
        self._hits[slot, slot % config.groups, cluster] = 1
        self._slot = np.zeros(config.clusters, int)
        self._found = _history(self._latency, self._level)
        self._tree = [deque() for _ in range(self.streams)]

        self.end, self._left = 0, len(slot)
        self.order = np.zeros((self.streams, self._left + 1), int)
        self.sent = np.zeros(self.streams, int)

    @property
    def done(self) -> bool:
        """Whether every slot was read and every column sent."""
        return not self._left and bool((self._slot == len(self._hits) - 1).all())

    def step(self, now: int, full: np.ndarray) -> None:
        """One cycle; ``full`` [streams] stops a broadcast."""
        room = (self._level < UNDER_WAY).all(axis=0)
        for stream, tree in enumerate(self._tree):
            if tree and tree[0][0] <= now and not full[stream]:
                self._send(now, stream, tree.popleft()[1])
            if len(tree) < self._depth:
                self._pick(now, stream, tree)
        found = np.zeros_like(self._level)
        reads = room & (self._slot < len(self._hits) - 1) & (now > self._way)
        if reads.any():
            clusters = np.arange(len(reads))
            found = self._hits[self._slot, :, clusters].T * reads
            self._slot = self._slot + reads
            self.end = max(self.end, now + self._latency + 1 + self._way)
        self._found.append(found)
        self._level = self._level + self._found.popleft()

    def _send(self, now: int, stream: int, column: int) -> None:
        self.order[stream, self.sent[stream]] = column
        self.sent[stream] += 1
        self._left -= 1
        self.end = max(self.end, now + 1)

    def _pick(self, now: int, stream: int, tree: deque) -> None:
        """From the first queue of a stream that is not empty into the tree."""
        levels = self._level.reshape(self.streams, -1)[stream]
        first = int((levels > 0).argmax())
        if levels[first]:
            levels[first] -= 1
            queue = stream * len(levels) + first
            tree.append((now + self._depth, self._columns[self._next[queue]]))
            self._next[queue] += 1


class _Elements:
    """Activation queues, pointer stages and sparse-matrix reads of all PEs.

    Attributes
    ----------
    idle : int
        The first cycle in which no PE is at work.
    """

    def __init__(self, config: EIEConfig, each: Work):
        self._config = config
        self._pe = np.arange(config.pes)
        self._streams = config.groups if each.grouped else 1
        self._stream = self._pe * self._streams // config.pes
        entries = each.useful + each.padding
        hollow = each.bubbles if config.drops_empty else np.maximum(each.bubbles, entries == 0)
        # Of a column: all its cycles, and those at its end that give no entry.
        self._cycles = np.stack([entries + hollow, hollow], axis=-1)
        self._jobs = np.zeros((config.pes, (each.found >= 0).sum() + 1, 2), int)
        directory = CountedColumns if config.counts else PointerBanks
        self._lookup = directory.LATENCY + 1

        none = np.zeros(config.pes, int)
        self._accepted, self._kept, self._taken, self._begun = none, none, none, none
        self._left, self._hollow = none, none
        self._sent = _history(PLACE_LATENCY + config.broadcast_latency + 1,
                              np.zeros(self._streams, int))
        self._pushed = _history(self._lookup, none)
        self._walked = _history(WALK, none)
        self.idle = 0

    @property
    def full(self) -> np.ndarray:
        """Whether any queue of each broadcast is full, bool [streams]."""
        level = self._sent[0][self._stream] - self._accepted
        return (level >= self._config.queue_depth).reshape(self._streams, -1).any(axis=1)

    def done(self, search: _Search) -> bool:
        """Whether everything that was sent is finished."""
        return bool((self._accepted == search.sent[self._stream]).all()
                    and (self._begun == self._kept).all() and not self._left.any())

    def step(self, now: int, search: _Search) -> None:
        """One cycle, after that of ``search``."""
        self._sent.append(search.sent.copy())
        arrived = self._sent.popleft()[self._stream]
        pushed, walked = self._pushed.popleft(), self._walked.popleft()

        begins = (self._left <= 1) & (walked > self._begun)
        job = self._jobs[self._pe, self._begun]
        self._left = np.where(begins, job[:, 0], np.maximum(self._left - 1, 0))
        self._hollow = np.where(begins, job[:, 1], self._hollow)
        takes = (pushed > self._taken) & (self._taken - self._begun < WALK + begins)
        accepts = (arrived > self._accepted) & (pushed - self._taken < self._config.runahead)
        column = self._cycles[self._pe, search.order[self._stream, self._accepted]]
        keeps = accepts & (column[:, 0] > 0)
        self._jobs[self._pe[keeps], self._kept[keeps]] = column[keeps]

        self._begun = self._begun + begins
        self._taken = self._taken + takes
        self._accepted = self._accepted + accepts
        self._kept = self._kept + keeps
        self._walked.append(self._taken)
        self._pushed.append(self._kept)
        if accepts.any():
            self.idle = max(self.idle, now + self._lookup)
        if self._left.any():
            gives = (self._left > self._hollow).any()
            self.idle = max(self.idle, now + 1 + (TAIL if gives else 1))
