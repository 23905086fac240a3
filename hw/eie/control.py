"""Central control unit: I/O mode and computing mode (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from zeroskip.hw.counters import WIDTH, Counters
from zeroskip.hw.eie.broadcast import Broadcast
from zeroskip.hw.eie.config import BUSY_LATENCY, PLACE_LATENCY, EIEConfig
from zeroskip.hw.eie.counters import ControlCounter
from zeroskip.hw.eie.layouts import (
    LoadTarget,
    Phase,
    activation,
    command,
    descriptor,
    descriptor_stride,
    descriptor_words,
    load_word,
    reading,
    work,
)
from zeroskip.hw.memory import BlockRAM
from zeroskip.hw.stream import delay, flow

INPUT = data.StructLayout({"value": signed(16), "last": 1})
"""An input activation; ``last`` marks the end of the vector and starts the network."""


def output(config: EIEConfig) -> data.StructLayout:
    """An output activation with its index; ``last`` marks the end of a layer's outputs."""
    return data.StructLayout({"index": config.column_width, "value": signed(16), "last": 1})


class CentralControl(wiring.Component):
    """Runs a network, one descriptor after another.

    In I/O mode it takes loads and inputs, which it deals out to the PEs in turn. The last
    input starts computing mode: for each segment the clusters scan for non-zero activations, which
    are broadcast while no queue is full, until every PE has finished. Wanted outputs leave in the
    order in which the LNZD trees find them. After reset it first zeroes the activations.

    ``command`` and ``broadcast`` reach the clusters ``broadcast_latency`` cycles later, and
    ``full``, ``scanning`` and ``busy`` are as old when they arrive.

    Members
    -------
    load : In(stream of ``load_word``)
    inputs : In(stream of ``INPUT``)
    outputs : Out(stream of ``output``)
    write : Out(flow of ``load_word``)
        To the clusters.
    command : Out(``command``)
    found : In(stream of ``activation``), one per group
        From the LNZD trees.
    found_idle : In(1)
        Nothing is inside the trees.
    broadcast : Out(flow of ``work``), one per group
    full : In(groups)
        Whether any queue of the group is.
    scanning, busy : In(1)
        Whether any cluster is.
    computing : Out(1)
        Computing mode: loads and inputs wait.
    clear : Out(1)
        Clears every counter.
    select : In(4); count : Out(32)
        A counter (``ControlCounter``), one cycle later.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "load": In(stream.Signature(load_word(config))),
            "inputs": In(stream.Signature(INPUT)),
            "outputs": Out(stream.Signature(output(config))),
            "write": Out(flow(load_word(config))),
            "command": Out(command(config)),
            "found": In(stream.Signature(activation(config))).array(config.groups),
            "found_idle": In(1),
            "broadcast": Out(flow(work(config))).array(config.groups),
            "full": In(config.groups),
            "scanning": In(1),
            "busy": In(1),
            "computing": Out(1),
            "clear": Out(1),
            "select": In(4),
            "count": Out(WIDTH),
        })

    def elaborate(self, platform):
        m = Module()
        at = Signal(bits_for(self.config.descriptors - 1))
        segment = self._descriptors(m, at)
        io, searching, emitting, finished = (Signal() for _ in range(4))
        self._take(m, io)
        broadcast = self._broadcast(m, segment, searching)
        emitted = self._emit(m, segment, broadcast, emitting)
        self._sequence(m, at, segment, broadcast, emitted, io, searching, emitting, finished)
        if self.config.counters:
            self._count(m, broadcast, emitting, finished)
        return m

    def _descriptors(self, m: Module, at: Value) -> data.View:
        """The descriptor memory, written by loads; returns descriptor ``at``."""
        layout, low = descriptor(self.config), exact_log2(descriptor_stride(self.config))
        word, words = self.load.payload, []
        for k in range(descriptor_words(self.config)):
            m.submodules[f"descriptor_{k}"] = memory = BlockRAM(32, depth=self.config.descriptors)
            m.d.comb += [
                memory.write.en.eq(delay(m, self.load.valid & self.load.ready
                                         & (word.target == LoadTarget.DESCRIPTORS)
                                         & (word.address[:low] == k), 1)),
                memory.write.address.eq(delay(m, word.address[low:], 1)),
                memory.write.data.eq(delay(m, word.data, 1)),
                memory.en.eq(1),
                memory.address.eq(at),
            ]
            words.append(memory.data)
        return data.View(layout, Cat(*words)[:layout.size])

    def _take(self, m: Module, io: Value):
        """I/O mode: passes loads on, and deals inputs out to the PEs."""
        pe, word = Signal(self.config.identity_width), Signal(self.config.word_width)
        # Inputs wait until the first descriptor is read that they may start.
        read = [delay(m, io & ~self.load.valid, k) for k in range(1, 1 + BlockRAM.LATENCY)]
        m.d.comb += [
            self.load.ready.eq(io),
            self.inputs.ready.eq(io & ~self.load.valid & Cat(read).all()),
            self.clear.eq(io & self.load.valid
                          & (self.load.payload.target == LoadTarget.COUNTERS)),
        ]
        with m.If(self.load.valid):
            m.d.comb += [self.write.valid.eq(io), self.write.payload.eq(self.load.payload)]
        with m.Else():
            m.d.comb += [
                self.write.valid.eq(self.inputs.valid & self.inputs.ready),
                self.write.payload.target.eq(LoadTarget.ACTIVATIONS),
                self.write.payload.pe.eq(pe),
                self.write.payload.address.eq(word),
                self.write.payload.data.eq(self.inputs.payload.value),
            ]
        with m.If(self.inputs.valid & self.inputs.ready):
            with m.If(self.inputs.payload.last):
                m.d.sync += [pe.eq(0), word.eq(0)]
            with m.Elif(pe == self.config.pes - 1):
                m.d.sync += [pe.eq(0), word.eq(word + 1)]
            with m.Else():
                m.d.sync += pe.eq(pe + 1)

    def _broadcast(self, m: Module, segment: data.View, searching: Value) -> Broadcast:
        m.submodules.broadcast = broadcast = Broadcast(self.config)
        for tree, port in zip(self.found, broadcast.found, strict=True):
            wiring.connect(m, wiring.flipped(tree), port)
        for port, group in zip(broadcast.o, self.broadcast, strict=True):
            m.d.comb += [group.payload.eq(port.payload), group.valid.eq(port.valid)]
        m.d.comb += [
            broadcast.search.eq(delay(m, searching, 1)), broadcast.grouped.eq(segment.grouped),
            broadcast.first.eq(segment.first), broadcast.stride.eq(segment.stride),
            broadcast.full.eq(self.full),
        ]
        return broadcast

    def _emit(self, m: Module, segment: data.View, broadcast: Broadcast,
              emitting: Value) -> Value:
        """While no activations are searched, those that are found are outputs; returns whether the
        last has left."""
        left, last, found = Signal(self.config.column_width), Signal(), broadcast.outputs
        sent = self.outputs.valid & self.outputs.ready
        m.d.comb += [
            self.outputs.valid.eq(found.valid),
            self.outputs.payload.index.eq(found.payload.index),
            self.outputs.payload.value.eq(found.payload.value),
            self.outputs.payload.last.eq(last),
            found.ready.eq(self.outputs.ready),
        ]
        with m.If(~emitting):
            m.d.sync += [left.eq(segment.outputs), last.eq(segment.outputs == 1)]
        with m.Elif(sent):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
        return delay(m, sent & last, 1)

    def _command(self, m: Module, segment: data.View) -> tuple[Value, Value]:
        """What a segment says to the clusters; returns the registers that the sequence moves: the
        role, and how the source is read."""
        command, role = self.command, Signal()
        layout = reading(self.config)
        source = Signal(layout, init={"raw": 1})
        m.d.comb += [
            command.begin.eq(segment.begin),
            command.clear.eq(segment.clear),
            command.limit.eq(segment.limit),
            command.reading.eq(source),
            command.role.eq(role),
            command.grouped.eq(segment.grouped),
            command.balanced.eq(segment.balanced),
            command.stride.eq(segment.stride),
            command.destination.eq(segment.destination),
            command.codebook.eq(segment.codebook),
            command.computing.eq(self.computing),
        ]
        return role, source

    def _sequence(self, m: Module, at: Value, segment: data.View, broadcast: Broadcast,
                  emitted: Value, io: Value, searching: Value, emitting: Value, finished: Value):
        """The state machine over the segments of a network."""
        command, config = self.command, self.config
        # Until a command's effect on `scanning`, or a broadcast's on `busy`, is seen here. The last
        # broadcast is two cycles old when it is known to be the last.
        reply = 2 * config.broadcast_latency + PLACE_LATENCY + BUSY_LATENCY - 2
        last_word = (1 << config.word_width) - 1
        wait, waited = Signal(range(max(last_word, reply) + 1), init=last_word), Signal()
        with m.If(~waited):
            m.d.sync += [wait.eq(wait - 1), waited.eq(wait == 1)]
        role, source = self._command(m, segment)
        searched = delay(m, searching & waited & ~self.scanning & self.found_idle
                         & broadcast.idle, 1)

        def pause(cycles):
            m.d.sync += [wait.eq(cycles), waited.eq(0)]

        def take():
            m.d.sync += io.eq(1)
            m.next = "IO"

        def advance():
            with m.If(segment.last):
                m.d.sync += [at.eq(0), source.raw.eq(1), source.shift.eq(0), source.relu.eq(0),
                             source.summed.eq(0)]
                m.d.comb += finished.eq(1)
                take()
            with m.Else():
                m.d.sync += at.eq(at + 1)
                pause(BlockRAM.LATENCY)
                m.next = "SCAN"

        with m.FSM(init="WIPE"):
            with m.State("WIPE"):
                m.d.comb += command.wipe.eq(1)
                with m.If(waited):
                    take()

            with m.State("IO"), m.If(
                    self.inputs.valid & self.inputs.ready & self.inputs.payload.last):
                m.d.sync += io.eq(0)
                m.next = "SCAN"

            with m.State("SCAN"):
                m.d.comb += self.computing.eq(1)
                with m.If(waited):
                    m.d.comb += command.scan.eq(1)
                    pause(reply)
                    m.next = "SEARCH"

            with m.State("SEARCH"):
                m.d.comb += [self.computing.eq(1), searching.eq(1)]
                with m.If(broadcast.held):
                    m.d.comb += command.phase.eq(Phase.FULL)
                with m.If(searched):
                    pause(reply)
                    m.next = "TAIL"

            with m.State("TAIL"):
                m.d.comb += [self.computing.eq(1), command.phase.eq(Phase.TAIL)]
                with m.If(waited & ~self.busy):
                    with m.If(segment.swap):
                        m.d.sync += [
                            role.eq(~role), source.bias.eq(segment.bias),
                            source.shift.eq(segment.shift), source.relu.eq(segment.relu),
                            source.raw.eq(0), source.summed.eq(segment.grouped),
                        ]
                    with m.If(segment.outputs == 0):
                        advance()
                    with m.Else():
                        m.next = "EMIT"

            with m.State("EMIT"):
                m.d.comb += [
                    command.scan.eq(1), command.begin.eq(1), command.emit.eq(1),
                    command.clear.eq(segment.last), command.limit.eq(segment.outputs),
                    command.grouped.eq(0), emitting.eq(1),
                ]
                m.next = "EMITTING"

            with m.State("EMITTING"):
                m.d.comb += emitting.eq(1)
                with m.If(emitted):
                    advance()

    def _count(self, m: Module, broadcast: Broadcast, emitting: Value, finished: Value):
        m.submodules.counters = counters = Counters(ControlCounter)
        events = {
            ControlCounter.CYCLES: self.computing,
            ControlCounter.BROADCASTS: broadcast.sent,
            ControlCounter.HELD: broadcast.held,
            ControlCounter.IO_CYCLES: emitting | (self.inputs.valid & self.inputs.ready),
            ControlCounter.RUNS: finished,
        }
        m.d.comb += [counters.events[which.value].eq(delay(m, event, 1))
                     for which, event in events.items()]
        m.d.comb += [counters.clear.eq(delay(m, self.clear, 1)), counters.select.eq(self.select),
                     self.count.eq(counters.value)]
