"""Central control unit: I/O mode, computing mode, and the broadcast (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from zeroskip.hw.counters import WIDTH, Counters
from zeroskip.hw.eie.activation import ActivationUnit
from zeroskip.hw.eie.config import EIEConfig
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
)
from zeroskip.hw.memory import BlockRAM
from zeroskip.hw.stream import flow

INPUT = data.StructLayout({"value": signed(16), "last": 1})
"""An input activation; ``last`` marks the end of the vector and starts the network."""


def output(config: EIEConfig) -> data.StructLayout:
    """An output activation with its index; ``last`` marks the end of a layer's outputs."""
    return data.StructLayout({"index": config.column_width, "value": signed(16), "last": 1})


class CentralControl(wiring.Component):
    """Runs a network, one descriptor after another.

    In I/O mode it takes loads and inputs, which it deals out to the PEs in turn. The last
    input starts computing mode: for each segment the PEs scan for non-zero activations, which
    are broadcast, one a cycle, while no queue is full; when every PE has finished,
    accumulators are written back. Wanted outputs leave in the order in which the LNZD tree
    finds them. After reset it first clears the accumulators.

    ``command`` and ``broadcast`` reach the PEs ``broadcast_latency`` cycles later, and
    ``full``, ``scanning`` and ``busy`` are as old when they arrive.

    Members
    -------
    load : In(stream of ``load_word``)
    inputs : In(stream of ``INPUT``)
    outputs : Out(stream of ``output``)
    write : Out(flow of ``load_word``)
        To the PEs.
    command : Out(``command``)
    found : In(stream of ``activation``)
        From the LNZD tree.
    found_idle : In(1)
        Nothing is inside the tree.
    broadcast : Out(flow of ``activation``)
    full, scanning, busy : In(1)
        Whether any PE is.
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
            "found": In(stream.Signature(activation(config))),
            "found_idle": In(1),
            "broadcast": Out(flow(activation(config))),
            "full": In(1),
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
        self._send(m, segment, searching, emitting)
        self._sequence(m, at, segment, io, searching, emitting, finished)
        if self.config.counters:
            self._count(m, searching, emitting, finished)
        return m

    def _descriptors(self, m: Module, at: Value) -> data.View:
        """The descriptor memory, written by loads; returns descriptor ``at``."""
        layout, low = descriptor(self.config), exact_log2(descriptor_stride(self.config))
        word, words = self.load.payload, []
        for k in range(descriptor_words(self.config)):
            m.submodules[f"descriptor_{k}"] = memory = BlockRAM(32, depth=self.config.descriptors)
            m.d.comb += [
                memory.write.en.eq(self.load.valid & self.load.ready
                                   & (word.target == LoadTarget.DESCRIPTORS)
                                   & (word.address[:low] == k)),
                memory.write.address.eq(word.address[low:]),
                memory.write.data.eq(word.data),
                memory.en.eq(1),
                memory.address.eq(at),
            ]
            words.append(memory.data)
        return data.View(layout, Cat(*words)[:layout.size])

    def _take(self, m: Module, io: Value):
        """I/O mode: passes loads on, and deals inputs out to the PEs."""
        pe, word = Signal(self.config.identity_width), Signal(self.config.word_width)
        m.d.comb += [
            self.load.ready.eq(io),
            self.inputs.ready.eq(io & ~self.load.valid),
            self.clear.eq(io & self.load.valid
                          & (self.load.payload.target == LoadTarget.COUNTERS)),
        ]
        with m.If(self.load.valid):
            m.d.comb += [self.write.valid.eq(io), self.write.payload.eq(self.load.payload)]
        with m.Else():
            m.d.comb += [
                self.write.valid.eq(io & self.inputs.valid),
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

    def _send(self, m: Module, segment: data.View, searching: Value, emitting: Value):
        """Activations from the tree go to every PE, or to the output stream."""
        left = Signal(self.config.column_width)
        m.d.comb += [
            self.broadcast.valid.eq(searching & self.found.valid & ~self.full),
            self.broadcast.payload.eq(self.found.payload),
            self.outputs.valid.eq(emitting & self.found.valid),
            self.outputs.payload.index.eq(self.found.payload.column),
            self.outputs.payload.value.eq(self.found.payload.value),
            self.outputs.payload.last.eq(left == 1),
            self.found.ready.eq(Mux(emitting, self.outputs.ready, searching & ~self.full)),
        ]
        with m.If(~emitting):
            m.d.sync += left.eq(segment.outputs)
        with m.Elif(self.outputs.valid & self.outputs.ready):
            m.d.sync += left.eq(left - 1)

    def _command(self, m: Module, segment: data.View) -> tuple[Signal, ...]:
        """What a segment says to the PEs; returns the registers that the sequence moves: the
        role, and row, word and bias of the write-back."""
        role, row = Signal(), Signal(self.config.row_width)
        word, bias = Signal(self.config.word_width), Signal(self.config.bias_width)
        command = self.command
        m.d.comb += [
            command.first.eq(segment.first),
            command.limit.eq(segment.limit),
            command.source.eq(segment.source),
            command.row.eq(row),
            command.word.eq(word),
            command.bias.eq(bias),
            command.codebook.eq(segment.codebook),
            command.shift.eq(segment.shift),
            command.relu.eq(segment.relu),
            command.role.eq(role),
            command.computing.eq(self.computing),
        ]
        return role, row, word, bias

    def _sequence(self, m: Module, at: Value, segment: data.View,
                  io: Value, searching: Value, emitting: Value, finished: Value):
        """The state machine over the segments of a network."""
        command = self.command
        # Until a command's effect on `scanning` and `busy` is seen here.
        reply = 2 * self.config.broadcast_latency
        flush = ActivationUnit.WRITEBACK_LATENCY
        wait = Signal(range(max(reply, flush) + 1))
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)

        role, row, word, bias = self._command(m, segment)

        def fetch(index):
            m.d.sync += [at.eq(index), wait.eq(BlockRAM.LATENCY - 1)]
            m.next = "FETCH"

        def advance():
            with m.If(segment.last):
                m.d.comb += finished.eq(1)
                m.next = "IO"
            with m.Else():
                fetch(at + 1)

        with m.FSM(init="CLEAR"):
            with m.State("CLEAR"):
                m.d.comb += [command.drain.eq(1), command.clear.eq(1)]
                m.d.sync += row.eq(row + 1)
                with m.If(row == self.config.acc_depth - 1):
                    m.next = "IO"

            with m.State("IO"):
                m.d.comb += io.eq(1)
                with m.If(self.inputs.valid & self.inputs.ready & self.inputs.payload.last):
                    fetch(0)

            with m.State("FETCH"):
                m.d.comb += self.computing.eq(1)
                with m.If(wait == 0):
                    m.next = "SCAN"

            with m.State("SCAN"):
                m.d.comb += [self.computing.eq(1), command.scan.eq(1)]
                m.d.sync += wait.eq(reply)
                m.next = "SEARCH"

            with m.State("SEARCH"):
                m.d.comb += [self.computing.eq(1), searching.eq(1)]
                with m.If(self.found.valid & self.full):
                    m.d.comb += command.phase.eq(Phase.FULL)
                with m.If((wait == 0) & ~self.scanning & self.found_idle):
                    m.d.sync += wait.eq(reply)
                    m.next = "TAIL"

            with m.State("TAIL"):
                m.d.comb += [self.computing.eq(1), command.phase.eq(Phase.TAIL)]
                m.d.sync += [row.eq(0), word.eq(segment.destination), bias.eq(segment.bias)]
                with m.If((wait == 0) & ~self.busy):
                    with m.If(segment.rows == 0):
                        advance()
                    with m.Else():
                        m.next = "WRITEBACK"

            with m.State("WRITEBACK"):
                m.d.comb += [self.computing.eq(1), command.phase.eq(Phase.WRITEBACK),
                             command.drain.eq(1)]
                m.d.sync += [row.eq(row + 1), word.eq(word + 1), bias.eq(bias + 1)]
                with m.If(row + 1 == segment.rows):
                    m.d.sync += wait.eq(flush)
                    m.next = "FLUSH"

            with m.State("FLUSH"):
                m.d.comb += [self.computing.eq(1), command.phase.eq(Phase.WRITEBACK)]
                with m.If(wait == 0):
                    m.d.sync += role.eq(role ^ segment.swap)
                    with m.If(segment.outputs == 0):
                        advance()
                    with m.Else():
                        m.next = "EMIT"

            with m.State("EMIT"):
                m.d.comb += [
                    command.scan.eq(1), command.emit.eq(1), command.first.eq(0),
                    command.limit.eq(segment.outputs), command.source.eq(0),
                ]
                m.next = "EMITTING"

            with m.State("EMITTING"):
                m.d.comb += emitting.eq(1)
                with m.If(self.outputs.valid & self.outputs.ready & self.outputs.payload.last):
                    advance()

    def _count(self, m: Module, searching: Value, emitting: Value, finished: Value):
        m.submodules.counters = counters = Counters(ControlCounter)
        events = {
            ControlCounter.CYCLES: self.computing,
            ControlCounter.BROADCASTS: self.broadcast.valid,
            ControlCounter.HELD: searching & self.found.valid & self.full,
            ControlCounter.IO_CYCLES: emitting | (self.inputs.valid & self.inputs.ready),
            ControlCounter.RUNS: finished,
        }
        m.d.comb += [counters.events[which.value].eq(event) for which, event in events.items()]
        m.d.comb += [counters.clear.eq(self.clear), counters.select.eq(self.select),
                     self.count.eq(counters.value)]
