"""The cycles of an EIE array without its gateware.

Of each stream between two blocks only the number of items that have passed is kept, for all PEs
at once. A block takes an item in a cycle if it came that many cycles before, and if there is room
behind it; the latencies are those of the blocks.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zeroskip.hw.eie.activation import ActivationUnit
from zeroskip.hw.eie.config import BUSY_LATENCY, ENTRIES_PER_ROW, PLACE_LATENCY, EIEConfig
from zeroskip.hw.eie.decoder import WeightDecoder
from zeroskip.hw.eie.lnzd import FAN_IN
from zeroskip.hw.eie.pe import PE
from zeroskip.hw.eie.pointer import PointerRead
from zeroskip.hw.eie.search import EntrySearch
from zeroskip.hw.eie.unpack import Unpack
from zeroskip.hw.memory import BlockRAM
from zeroskip.sw.engines.eie.image import EIEImage


@dataclass(frozen=True, eq=False)
class Work:
    """What a segment finds, and what its columns cost.

    Attributes
    ----------
    grouped : bool
    found : int [slots, clusters]
        The column of each input that is not zero, -1 of one that is.
    useful, padding, rows, late : int [pes, columns]
        Entries that carry a weight; entries that only bridge a gap; rows of the weight memory in
        which a column has bytes; whether no entry ends in the first of them.
    """

    grouped: bool
    found: np.ndarray
    useful: np.ndarray
    padding: np.ndarray
    rows: np.ndarray
    late: np.ndarray

    def entries(self, config: EIEConfig) -> np.ndarray:
        """Useful and padding entries of each PE in the columns that are found, int [pes, 2]."""
        groups = config.groups if self.grouped else 1
        slot, cluster = np.nonzero(self.found >= 0)
        times = np.zeros((groups, self.useful.shape[1]), np.int64)
        np.add.at(times, (slot % groups, self.found[slot, cluster]), 1)
        times = np.repeat(times, config.pes // groups, axis=0)
        return np.stack([(times * kind).sum(axis=1) for kind in (self.useful, self.padding)], 1)


def work(image: EIEImage, vector: np.ndarray) -> Iterator[Work]:
    """The work of each segment of an image of one layer for an input, int [inputs]."""
    config = image.config
    clusters, begin = np.arange(config.clusters), 0
    for segment in image.segments:
        if segment.begin:
            begin = 0
            each = [_count(*own, config.escapes)
                    for own in zip(image.entries, *image.spans(segment), strict=True)]
            counts = [np.stack(kind) for kind in zip(*each, strict=True)]
        slots = np.arange(begin // config.clusters, -(-segment.limit // config.clusters))[:, None]
        index = slots * config.clusters + clusters
        active = (index < segment.limit) & (vector[np.minimum(index, len(vector) - 1)] != 0)
        column = slots // (config.groups if segment.grouped else 1) * config.clusters + clusters
        yield Work(bool(segment.grouped), np.where(active, column, -1), *counts)
        begin = segment.limit


def _count(memory: np.ndarray, starts: np.ndarray, stops: np.ndarray,
           escapes: bool) -> tuple[np.ndarray, ...]:
    """Useful and padding entries, rows, and whether the first is late, of the columns of one PE,
    int64 [columns] each."""
    blank = np.append(memory & 15 == 0, [True, True])   # stand before the first and behind the last
    rows = np.where(stops > starts, (stops - 1) // ENTRIES_PER_ROW - starts // ENTRIES_PER_ROW + 1,
                    0)
    if not escapes:
        padding = _sums(blank, starts, stops)
        return stops - starts - padding, padding, rows, np.zeros_like(rows)

    # Of blank bytes in a row, counted from the column's start, each second one is an entry.
    at = np.arange(len(blank))
    before = np.where(blank, -1, at)
    begin = starts[stops > starts]
    before[begin] = np.maximum(before[begin], begin - 1)
    even = (at - np.maximum.accumulate(before)) % 2 == 0
    late = (rows > 1) & (starts % ENTRIES_PER_ROW == ENTRIES_PER_ROW - 1) & (blank & ~even)[starts]
    return (_sums(~blank, starts, stops), _sums(blank & even, starts, stops), rows,
            late.astype(np.int64))


def _sums(bits: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(bits)])
    return sums[stops] - sums[starts]


def predict(image: EIEImage, vector: np.ndarray) -> int:
    """Computing cycles of one input, int [inputs], on an image of one layer."""
    # The descriptor of the first segment was read before the input was complete.
    segments = [_segment(image.config, each) for each in work(image, vector)]
    return sum(segments) + BlockRAM.LATENCY * (len(segments) - 1)


def _segment(config: EIEConfig, each: Work) -> int:
    """Computing cycles of one segment. Cycle 0 is the one in which the scan is commanded."""
    search, elements, now = _Search(config, each), _Elements(config, each), 0
    full = _history(config.broadcast_latency, np.zeros(search.streams, bool))
    while not (search.done and elements.done(search)):
        full.append(elements.full)
        search.step(now, full.popleft())
        elements.step(now, search)
        now += 1
    reply = 2 * config.broadcast_latency + PLACE_LATENCY + BUSY_LATENCY - 2
    sent = max(search.end + 1, 2 + reply)
    return 1 + max(sent + 1 + reply, elements.idle + config.broadcast_latency + BUSY_LATENCY)


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
        self._ahead, self._go = config.runahead, np.ones(config.clusters, bool)
        levels = 0
        while FAN_IN ** levels < config.clusters:
            levels += 1
        # Nodes on the way of an activation; behind the first, it is one in a row.
        self._nodes = levels + (config.groups > 1 and not each.grouped)

        slot, cluster = np.nonzero(each.found >= 0)
        queue = slot % config.groups * config.clusters + cluster
        by_queue = np.argsort(queue, kind="stable")
        self._columns = each.found[slot, cluster][by_queue]
        self._next = np.searchsorted(queue[by_queue], np.arange(config.pes))
        self._level, self._held = np.zeros((2, config.groups, config.clusters), int)
        self._hits = np.zeros((len(each.found) + 1, config.groups, config.clusters), int)
        self._hits[slot, slot % config.groups, cluster] = 1
        self._slot = np.zeros(config.clusters, int)
        latency = ActivationUnit.latency(config)
        self._found = np.zeros((latency, config.groups, config.clusters), int)
        self._reading = np.zeros((latency, config.clusters), bool)
        self._tree = [deque() for _ in range(self.streams)]

        self.end, self._left = 0, len(slot)
        self.order = np.zeros((self.streams, self._left + 1), int)
        self.sent = np.zeros(self.streams, int)

    @property
    def done(self) -> bool:
        """Whether every slot was read and every column sent."""
        return not (self._left or self._reading.any()
                    or (self._slot < len(self._hits) - 1).any())

    def step(self, now: int, full: np.ndarray) -> None:
        """One cycle; ``full`` [streams] stops a broadcast."""
        go, self._go = self._go, (self._level < self._ahead).all(axis=0)
        if self._reading.any() or self._level.any():
            self.end = max(self.end, now + 2 + self._way)

        # What a first node's registers have room for enters; then one of those before leaves.
        enters = (self._level > 0) & (self._held < 2)
        for stream, tree in enumerate(self._tree):
            if self._nodes > 1:
                if tree and tree[0][0] <= now and not full[stream]:
                    self._send(now, stream, tree.popleft()[1])
                if len(tree) < 2 * (self._nodes - 1):       # a register on the way holds two
                    column = self._pick(stream, self._held)
                    tree.extend([(now + self._nodes - 1, column)] if column is not None else [])
            elif not full[stream]:
                column = self._pick(stream, self._held if self._nodes else self._level)
                if column is not None:
                    self._send(now, stream, column)
        if self._nodes:
            self._level, self._held = self._level - enters, self._held + enters

        reads = go & (self._slot < len(self._hits) - 1) & (now > self._way)
        found = self._hits[self._slot, :, np.arange(len(reads))].T * reads
        self._slot = self._slot + reads
        self._level = self._level + self._found[0] * go
        self._found = np.where(go, np.concatenate([self._found[1:], [found]]), self._found)
        self._reading = np.where(go, np.concatenate([self._reading[1:], [reads]]), self._reading)

    def _send(self, now: int, stream: int, column: int) -> None:
        self.order[stream, self.sent[stream]] = column
        self.sent[stream] += 1
        self._left -= 1
        self.end = max(self.end, now + 1)

    def _pick(self, stream: int, levels: np.ndarray) -> int | None:
        """The column that the first queue of a stream has, if any has one."""
        levels = levels.reshape(self.streams, -1)[stream]
        first = int((levels > 0).argmax())
        if not levels[first]:
            return None
        levels[first] -= 1
        queue = stream * len(levels) + first
        self._next[queue] += 1
        return self._columns[self._next[queue] - 1]


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
        # Cycles from the one in which an entry is taken apart to the one in which its PE is idle.
        self._tail = Unpack.LATENCY - 1 + WeightDecoder.LATENCY + PE.awaited(config)
        self._streams = config.groups if each.grouped else 1
        self._stream = self._pe * self._streams // config.pes
        entries = each.useful + each.padding
        # Of a column: cycles of its entries, rows to read, those before its first entry, whether it
        # has any.
        cycles = entries if config.drops_empty else np.maximum(entries, 1)
        self._columns = np.stack([cycles, np.maximum(each.rows, 1), each.late, entries > 0],
                                 axis=-1)
        self._jobs = np.zeros((config.pes, (each.found >= 0).sum() + 1, 4), int)

        none = np.zeros(config.pes, int)
        # Columns accepted, kept, taken by the row read, reached by it, begun.
        self._accepted, self._kept, self._taken, self._reached, self._begun = (none,) * 5
        # The column being read: its rows to come, and those before its first entry. The one being
        # taken apart: cycles to come.
        self._rows, self._late, self._left = (none,) * 3
        self._read, self._gone, self._per_row = none, none, none + 1
        self._looks = self._go = np.ones(config.pes, bool)
        self._sent = _history(PLACE_LATENCY + config.broadcast_latency + 1,
                              np.zeros(self._streams, int))
        # Columns accepted and kept, by the steps of the pointer stage.
        self._looking = np.zeros((PointerRead.latency(config), 2, config.pes), int)
        # Slices and columns that were read, by the steps still between them and the queue.
        self._slices = np.zeros((EntrySearch.latency(config) + 1, 2, config.pes), int)
        self.idle = 0

    @property
    def full(self) -> np.ndarray:
        """Whether any queue of each broadcast is full, bool [streams]."""
        level = self._sent[0][self._stream] - self._accepted
        return (level >= self._config.queue_depth).reshape(self._streams, -1).any(axis=1)

    def done(self, search: _Search) -> bool:
        """Whether everything that was sent is finished."""
        return bool((self._looking[0, 0] == search.sent[self._stream]).all()
                    and (self._begun == self._kept).all() and not self._left.any())

    def step(self, now: int, search: _Search) -> None:
        """One cycle, after that of ``search``."""
        self._sent.append(search.sent.copy())
        arrived = self._sent.popleft()[self._stream]
        looked_up, pushed = self._looking[0]
        looks, self._looks = self._looks, pushed - self._taken < self._config.runahead
        if (looked_up != self._accepted).any():
            self.idle = max(self.idle, now + 1)
        self._take_apart(now)
        self._read_row(pushed)

        accepts = (arrived > self._accepted) & looks
        column = self._columns[self._pe, search.order[self._stream, self._accepted]]
        keeps = accepts & (column[:, 0] > 0)
        self._jobs[self._pe[keeps], self._kept[keeps]] = column[keeps]
        self._accepted = self._accepted + accepts
        self._kept = self._kept + keeps
        steps = np.concatenate([self._looking[1:], [[self._accepted, self._kept]]])
        self._looking = np.where(looks, steps, self._looking)

    def _take_apart(self, now: int) -> None:
        """An entry of the column whose slices are in the queue."""
        slices, reached = self._slices[0]
        begins = (self._left <= 1) & (reached > self._begun)
        cycles, rows, late, _ = self._jobs[self._pe, self._begun].T
        self._left = np.where(begins, cycles, np.maximum(self._left - 1, 0))
        self._per_row = np.where(begins, -(-cycles // np.maximum(rows - late, 1)), self._per_row)
        self._gone = self._gone + begins * (rows - late)
        self._begun = self._begun + begins
        # Of the column being taken apart, the slices behind the first are still in the queue.
        waiting = np.minimum(np.maximum(-(-self._left // self._per_row) - 1, 0), slices)
        self._stop = slices - self._gone + waiting >= self._config.runahead
        if self._left.any():
            gives = self._jobs[self._pe, np.maximum(self._begun - 1, 0), 3]
            self.idle = max(self.idle, now + 1 + (self._tail if (gives * self._left).any() else 1))

    def _read_row(self, pushed: np.ndarray) -> None:
        """A row of the column being read; then the next of those that were looked up."""
        go, self._go = self._go, ~self._stop
        reads = go & (self._rows > 0)
        self._rows = self._rows - reads
        self._read = self._read + (reads & (self._late <= 0))
        self._reached = self._reached + (reads & (self._late == 0))
        self._late = self._late - reads
        steps = np.concatenate([self._slices[1:], [[self._read, self._reached]]])
        self._slices = np.where(go, steps, self._slices)

        takes = (self._rows == 0) & (pushed > self._taken)
        job = self._jobs[self._pe, self._taken]
        self._rows = np.where(takes, job[:, 1], self._rows)
        self._late = np.where(takes, job[:, 2], self._late)
        self._taken = self._taken + takes
