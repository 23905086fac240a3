"""Performance counters: where every cycle of every PE went."""

from amaranth.lib import enum


class PECounter(enum.Enum, shape=4):
    """Counters of one PE. The first six add up to the computing cycles."""

    USEFUL = 0      # non-zero weight times non-zero activation
    PADDING = 1     # entries that only bridge a gap
    EMPTY = 2       # columns wait or are looked up, but none with entries is ready
    FILL = 3        # no work: see Phase
    FULL = 4
    TAIL = 5
    ROW_READS = 6   # 64-bit rows read from the weight memory
    SATURATED = 7   # outputs that were saturated


class ControlCounter(enum.Enum, shape=4):
    """Counters of central control."""

    CYCLES = 0      # in computing mode
    BROADCASTS = 1  # cycles in which a non-zero activation was sent, to one group or to all
    HELD = 2        # cycles in which an activation waited because a queue was full
    IO_CYCLES = 3   # taking inputs, giving outputs
    RUNS = 4        # networks finished
