"""The stallable pipeline: registers that step together, and what makes them stall."""

from collections.abc import Sequence

from amaranth.hdl import *

from zeroskip.hw.stream import Queue, delay


class Stages:
    """Registers in a row behind one ``enable``: all of them step, or all of them stall.

    ::

        stage 0       1          2
        signal --> [reg] --> [reg] --> ...
                     ^          ^
        enable ------+----------+------

    Not a component, for it has no ports: it adds registers to the module it is given, for as many
    signals and as many stages of each as are asked for. After reset they are zero.

    Parameters
    ----------
    m : Module
    enable : Value
        The registers step in a cycle in which it is high.
    """

    def __init__(self, m: Module, enable: ValueLike):
        self._m, self.enable = m, enable

    def step(self, signal, stages: int = 1):
        """``signal`` so many stages later."""
        return delay(self._m, signal, stages, self.enable)

    def taps(self, signal, stages: int) -> list:
        """``signal`` at each stage: at 0, which is itself, to ``stages``."""
        taps = [signal]
        for _ in range(stages):
            taps.append(self.step(taps[-1]))
        return taps


class RunAhead(Stages):
    """Stages that run ahead of the queues behind them, and stall before one could refuse.

    ::

                    +-- enable <-- reg <-- level < ahead --+
                    v                                      |
        item --> stage 1 --> ... --> stage n --> (leaves) --> queue --> o

    A register stands between the level and ``enable``, so that no path leads from the queue's
    reader through every stage; an item may therefore come while the queue already holds ``ahead``,
    and the queue has one slot more. With ``ahead`` of three and a reader that takes one item a
    cycle, one leaves in every cycle: the stages stall and step again before the queue is empty.

    Parameters
    ----------
    m : Module
    queues : sequence of Queue
        Made by :meth:`queue`; the fullest decides.
    ahead : int
        Items in a queue from which on the stages stall.

    Attributes
    ----------
    enable, stalled : Signal
        Opposites, but for the cycle after reset, when both are low. ``enable`` has to reach every
        register on the way; what asks at the end of it has ``stalled`` to itself.
    """

    def __init__(self, m: Module, queues: Sequence[Queue], ahead: int):
        super().__init__(m, Signal(name="enable"))
        self.stalled = Signal()
        above = Cat(queue.level >= ahead for queue in queues).any()
        m.d.sync += [self.enable.eq(~above), self.stalled.eq(above)]

    @staticmethod
    def queue(shape, ahead: int) -> Queue:
        """A queue with room for what runs ahead."""
        return Queue(shape, depth=ahead + 1)

    def leaves(self, valid: ValueLike) -> Value:
        """Whether the item at the last stage, if there is one, leaves it in this cycle."""
        return valid & ~self.stalled
