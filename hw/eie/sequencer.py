"""Sequencer: the state machine over the segments of a network."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import BUSY_LATENCY, PLACE_LATENCY, EIEConfig
from zeroskip.hw.eie.fetch import DescriptorFetch
from zeroskip.hw.eie.layouts import Phase, command_layout, descriptor_layout, reading_layout
from zeroskip.hw.stream import delay


class Sequencer(wiring.Component):
    """Says what the clusters, the broadcast and the rest of central control do next.

    ::

        WIPE --> IO --start--> SCAN --> SEARCH --> TAIL --+--> EMIT --> EMITTING --+
                 ^              ^ ^                       |                        |
                 |              | +------- more ----------+--------- more ---------+
                 |              +-resume- PAUSED <-pause--+-------- pause ---------+
                 +-------------------- last --------------+--------- last ---------+

    After reset the activations are wiped. ``SCAN`` starts the search for non-zero activations of a
    segment, which goes on in ``SEARCH`` until nothing is left to be broadcast, and ``TAIL`` waits
    for the slowest PE. Where the segment asks for outputs, they are scanned for in the new role.

    What is told to the clusters takes a while to get there, and their answer to come back: no
    answer counts before it can be one to the last command.

    Members
    -------
    segment : In(``descriptor_layout``)
        The current descriptor, ``DescriptorFetch.LATENCY`` cycles after ``advance``.
    advance : Out(1)
        The segment is done.
    finished : Out(1)
        With ``advance``: so is the network.
    loading, dealing : Out(1)
        Loads are taken; inputs are taken.
    start : In(1)
        The last input is taken.
    resume : In(1)
        A paused network goes on.
    command : Out(``command_layout``)
    searching : Out(1)
        Activations that are found go to the PEs.
    held : In(1)
        One waits for a full queue.
    idle : In(1)
        None is in the trees, or waits behind them.
    scanning, busy : In(1)
        Whether any cluster is.
    emitting : Out(1)
        What is found are outputs.
    emitted : In(1)
        The last output has left.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "segment": In(descriptor_layout(config)),
            "advance": Out(1),
            "finished": Out(1),
            "loading": Out(1),
            "dealing": Out(1),
            "start": In(1),
            "resume": In(1),
            "command": Out(command_layout(config)),
            "searching": Out(1),
            "held": In(1),
            "idle": In(1),
            "scanning": In(1),
            "busy": In(1),
            "emitting": Out(1),
            "emitted": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        command, segment, config = self.command, self.segment, self.config
        # Until a command's effect on `scanning`, or a broadcast's on `busy`, is seen here. The last
        # broadcast is two cycles old when it is known to be the last.
        reply = 2 * config.broadcast_latency + PLACE_LATENCY + BUSY_LATENCY - 2
        last_word = (1 << config.word_width) - 1
        wait, waited = Signal(range(max(last_word, reply) + 1), init=last_word), Signal()
        with m.If(~waited):
            m.d.sync += [wait.eq(wait - 1), waited.eq(wait == 1)]
        swap = Signal()
        self._say(m, swap)
        searched = delay(m, self.searching & waited & ~self.scanning & self.idle, 1)

        def after(cycles, state):
            m.d.sync += [wait.eq(cycles), waited.eq(0)]
            m.next = state

        def take():
            m.d.sync += [self.loading.eq(1), self.dealing.eq(1)]
            m.next = "IO"

        def go_on():
            m.d.sync += [self.loading.eq(0), self.dealing.eq(0)]
            after(DescriptorFetch.LATENCY, "SCAN")

        def leave():
            m.d.comb += self.advance.eq(1)
            with m.If(segment.last):
                m.d.comb += self.finished.eq(1)
                take()
            with m.Elif(segment.pause):
                m.d.sync += self.loading.eq(1)
                m.next = "PAUSED"
            with m.Else():
                go_on()

        with m.FSM(init="WIPE"):
            with m.State("WIPE"):
                m.d.comb += command.wipe.eq(1)
                with m.If(waited):
                    take()

            with m.State("IO"), m.If(self.start):   # the first descriptor is there by now
                m.d.sync += [self.loading.eq(0), self.dealing.eq(0)]
                m.next = "SCAN"

            with m.State("PAUSED"), m.If(self.resume):
                go_on()

            with m.State("SCAN"):
                m.d.comb += command.computing.eq(1)
                with m.If(waited):
                    m.d.comb += command.scan.eq(1)
                    after(reply, "SEARCH")

            with m.State("SEARCH"):
                m.d.comb += [command.computing.eq(1), self.searching.eq(1)]
                with m.If(self.held):
                    m.d.comb += command.phase.eq(Phase.FULL)
                with m.If(searched):
                    after(reply, "TAIL")

            with m.State("TAIL"):
                m.d.comb += [command.computing.eq(1), command.phase.eq(Phase.TAIL)]
                with m.If(waited & ~self.busy):
                    m.d.comb += swap.eq(segment.swap)
                    with m.If(segment.outputs == 0):
                        leave()
                    with m.Else():
                        m.next = "EMIT"

            with m.State("EMIT"):
                m.d.comb += [
                    command.scan.eq(1), command.begin.eq(1), command.emit.eq(1),
                    command.clear.eq(segment.last), command.limit.eq(segment.outputs),
                    command.grouped.eq(0), self.emitting.eq(1),
                ]
                m.next = "EMITTING"

            with m.State("EMITTING"):
                m.d.comb += self.emitting.eq(1)
                with m.If(self.emitted):
                    leave()
        return m

    def _say(self, m: Module, swap: Value):
        """What holds for a whole segment, unless a state says otherwise; and which role is the
        source, and how it is read: as inputs at first, after a ``swap`` as this segment's sums."""
        command, segment = self.command, self.segment
        for name in ("begin", "clear", "limit", "grouped", "balanced", "stride", "destination",
                     "codebook"):
            m.d.comb += command[name].eq(segment[name])
        source = Signal(reading_layout(self.config), init={"raw": 1})
        role = Signal()
        m.d.comb += [command.role.eq(role), command.reading.eq(source)]
        with m.If(swap):
            m.d.sync += [
                role.eq(~role), source.bias.eq(segment.bias), source.shift.eq(segment.shift),
                source.relu.eq(segment.relu), source.raw.eq(0), source.summed.eq(segment.grouped),
            ]
        with m.If(self.finished):
            m.d.sync += [source.raw.eq(1), source.shift.eq(0), source.relu.eq(0),
                         source.summed.eq(0)]
