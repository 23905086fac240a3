"""Central control unit: I/O mode and computing mode (paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.counters import WIDTH, count
from zeroskip.hw.eie.broadcast import Broadcast
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.counters import ControlCounter
from zeroskip.hw.eie.dealer import InputDealer
from zeroskip.hw.eie.emitter import Emitter
from zeroskip.hw.eie.fetch import DescriptorFetch
from zeroskip.hw.eie.layouts import (
    INPUT,
    activation_layout,
    command_layout,
    load_word_layout,
    output_layout,
    work_layout,
)
from zeroskip.hw.eie.sequencer import Sequencer
from zeroskip.hw.stream import delay, flow


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
    load : In(stream of ``load_word_layout``)
    inputs : In(stream of ``INPUT``)
    outputs : Out(stream of ``output_layout``)
    write : Out(flow of ``load_word_layout``)
        To the clusters.
    command : Out(``command_layout``)
    found : In(stream of ``activation_layout``), one per group
        From the LNZD trees.
    found_idle : In(1)
        Nothing is inside the trees.
    broadcast : Out(flow of ``work_layout``), one per group
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
            "load": In(stream.Signature(load_word_layout(config))),
            "inputs": In(stream.Signature(INPUT)),
            "outputs": Out(stream.Signature(output_layout(config))),
            "write": Out(flow(load_word_layout(config))),
            "command": Out(command_layout(config)),
            "found": In(stream.Signature(activation_layout(config))).array(config.groups),
            "found_idle": In(1),
            "broadcast": Out(flow(work_layout(config))).array(config.groups),
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
        m.submodules.fetch = fetch = DescriptorFetch(self.config)
        m.submodules.dealer = dealer = InputDealer(self.config)
        m.submodules.broadcast = broadcast = Broadcast(self.config)
        m.submodules.emitter = emitter = Emitter(self.config)
        m.submodules.sequencer = sequencer = Sequencer(self.config)
        self._connect_io(m, dealer, emitter, fetch)
        self._connect_broadcast(m, broadcast, emitter, sequencer, fetch.segment)
        m.d.comb += [
            fetch.advance.eq(sequencer.advance),
            dealer.loading.eq(sequencer.loading),
            dealer.dealing.eq(sequencer.dealing),
            emitter.emitting.eq(sequencer.emitting),
            emitter.count.eq(fetch.segment.outputs),
            sequencer.segment.eq(fetch.segment),
            sequencer.start.eq(dealer.start),
            sequencer.resume.eq(dealer.resume),
            sequencer.held.eq(broadcast.held),
            sequencer.idle.eq(self.found_idle & broadcast.idle),
            sequencer.scanning.eq(self.scanning),
            sequencer.busy.eq(self.busy),
            sequencer.emitted.eq(emitter.done),
            self.command.eq(sequencer.command),
            self.computing.eq(sequencer.command.computing),
        ]
        if self.config.counters:
            m.d.comb += self.count.eq(count(m, {
                ControlCounter.CYCLES: self.computing,
                ControlCounter.BROADCASTS: broadcast.sent,
                ControlCounter.HELD: broadcast.held,
                ControlCounter.IO_CYCLES: sequencer.emitting | (self.inputs.valid
                                                                & self.inputs.ready),
                ControlCounter.RUNS: sequencer.finished,
            }, clear=delay(m, self.clear, 1), select=self.select))
        return m

    def _connect_io(self, m: Module, dealer: InputDealer, emitter: Emitter,
                    fetch: DescriptorFetch):
        wiring.connect(m, wiring.flipped(self.load), dealer.load)
        wiring.connect(m, wiring.flipped(self.inputs), dealer.inputs)
        wiring.connect(m, emitter.outputs, wiring.flipped(self.outputs))
        wiring.connect(m, dealer.write, wiring.flipped(self.write))
        m.d.comb += [
            fetch.load.payload.eq(self.load.payload),
            fetch.load.valid.eq(self.load.valid & self.load.ready),
            self.clear.eq(dealer.clear),
        ]

    def _connect_broadcast(self, m: Module, broadcast: Broadcast, emitter: Emitter,
                           sequencer: Sequencer, segment: Value):
        for tree, port in zip(self.found, broadcast.found, strict=True):
            wiring.connect(m, wiring.flipped(tree), port)
        for port, group in zip(broadcast.o, self.broadcast, strict=True):
            wiring.connect(m, port, wiring.flipped(group))
        wiring.connect(m, broadcast.outputs, emitter.found)
        m.d.comb += [
            broadcast.search.eq(delay(m, sequencer.searching, 1)),
            broadcast.grouped.eq(segment.grouped),
            broadcast.first.eq(segment.first),
            broadcast.stride.eq(segment.stride),
            broadcast.full.eq(self.full),
        ]
