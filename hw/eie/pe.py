"""One processing element: the paper's figure 4(b), wired."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.counters import WIDTH, Counters
from zeroskip.hw.eie.activation import ActivationUnit
from zeroskip.hw.eie.arithmetic import ArithmeticUnit
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.counters import PECounter
from zeroskip.hw.eie.decoder import WeightDecoder
from zeroskip.hw.eie.layouts import LoadTarget, Phase, activation, command, load_word
from zeroskip.hw.eie.pointer import PointerRead
from zeroskip.hw.eie.queue import ActivationQueue
from zeroskip.hw.eie.spmat import SparseMatrixRead
from zeroskip.hw.stream import flow


class PE(wiring.Component):
    """Activation queue, pointer read, sparse-matrix read, weight decoder, arithmetic unit and
    activation unit in a row. Throughput is one entry a cycle.

    All PEs are the same module: what tells them apart is the ``identity`` at its port.

    Members
    -------
    identity : In
        Number of this PE.
    load : In(flow of ``load_word``)
        Writes to the memories; those for other PEs are ignored.
    command : In(``command``)
    i : In(flow of ``activation``)
        The broadcast.
    full : Out(1)
        The broadcast must stop.
    found : Out(stream of ``activation``)
        This PE's own activations, to the LNZD tree.
    scanning : Out(1)
        Something is still to come from ``found``.
    busy : Out(1)
        A broadcast activation still has entries before the arithmetic unit, which takes a
        drain right behind them.
    clear : In(1)
        Clears the counters.
    select : In(4); count : Out(32)
        A counter (``PECounter``), one cycle later.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "identity": In(config.identity_width),
            "load": In(flow(load_word(config))),
            "command": In(command(config)),
            "i": In(flow(activation(config))),
            "full": Out(1),
            "found": Out(stream.Signature(activation(config))),
            "scanning": Out(1),
            "busy": Out(1),
            "clear": In(1),
            "select": In(4),
            "count": Out(WIDTH),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = ActivationQueue(config)
        m.submodules.pointer = pointer = PointerRead(config)
        m.submodules.spmat = spmat = SparseMatrixRead(config)
        m.submodules.decoder = decoder = WeightDecoder(config)
        m.submodules.arithmetic = arithmetic = ArithmeticUnit(config)
        m.submodules.activation = act = ActivationUnit(config)

        m.d.comb += [
            queue.i.payload.eq(self.i.payload), queue.i.valid.eq(self.i.valid),
            self.full.eq(queue.full),
        ]
        wiring.connect(m, queue.o, pointer.i)
        wiring.connect(m, pointer.o, spmat.i)
        wiring.connect(m, spmat.o, decoder.i)
        wiring.connect(m, decoder.o, arithmetic.i)
        wiring.connect(m, arithmetic.o, act.drained)
        wiring.connect(m, act.o, wiring.flipped(self.found))

        waiting = queue.o.valid | pointer.busy
        m.d.comb += [
            decoder.codebook.eq(self.command.codebook),
            arithmetic.drain.valid.eq(self.command.drain),
            arithmetic.drain.payload.eq(self.command.row),
            act.identity.eq(self.identity),
            act.command.eq(self.command),
            self.scanning.eq(act.scanning),
            self.busy.eq(waiting | spmat.busy | decoder.o.valid),
        ]

        for target, port in {
            LoadTarget.WEIGHTS: spmat.load,
            LoadTarget.POINTERS: pointer.load,
            LoadTarget.BIASES: act.load_bias,
            LoadTarget.CODEBOOK: decoder.load,
            LoadTarget.ACTIVATIONS: act.load,
        }.items():
            word = self.load.payload
            m.d.comb += [
                port.en.eq(self.load.valid & (word.pe == self.identity)
                           & (word.target == target)),
                port.address.eq(word.address),
                port.data.eq(word.data),
            ]

        if config.counters:
            m.submodules.counters = counters = Counters(PECounter)
            idle = self.command.computing & ~decoder.o.valid
            events = {
                PECounter.USEFUL: decoder.o.valid & ~decoder.padding,
                PECounter.PADDING: decoder.o.valid & decoder.padding,
                PECounter.EMPTY: idle & waiting,
                PECounter.ROW_READS: spmat.reads,
                PECounter.SATURATED: act.saturated,
            }
            for phase in Phase:
                events[PECounter[phase.name]] = idle & ~waiting & (self.command.phase == phase)
            m.d.comb += [counters.events[which.value].eq(event)
                         for which, event in events.items()]
            m.d.comb += [counters.clear.eq(self.clear), counters.select.eq(self.select),
                         self.count.eq(counters.value)]
        return m
