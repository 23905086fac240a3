"""Processing element: every block of one PE, wired (paper, figure 4)."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.counters import WIDTH, count
from zeroskip.hw.eie.arithmetic import ArithmeticUnit
from zeroskip.hw.eie.config import BUSY_LATENCY, EIEConfig
from zeroskip.hw.eie.counters import PECounter
from zeroskip.hw.eie.decoder import WeightDecoder
from zeroskip.hw.eie.layouts import LoadTarget, Phase, command_layout, load_word_layout, work_layout
from zeroskip.hw.eie.pointer import PointerRead
from zeroskip.hw.eie.queue import ActivationQueue
from zeroskip.hw.eie.registers import ActivationRegisters
from zeroskip.hw.eie.spmat import SparseMatrixRead
from zeroskip.hw.memory import WritePort
from zeroskip.hw.netlist.share import shared
from zeroskip.hw.stream import delay, flow


class PE(wiring.Component):
    """Activation queue, pointer read, sparse-matrix read, weight decoder, arithmetic unit and
    activation registers in a row. Throughput is one entry a cycle.

    All PEs are the same module: what tells them apart is the ``identity`` at its port.

    Members
    -------
    identity : In
        Number of this PE.
    load : In(flow of ``load_word_layout``)
        Writes to the memories; those for other PEs are ignored.
    command : In(``command_layout``)
    i : In(flow of ``work_layout``)
        The broadcast.
    full : Out(1)
        The broadcast must stop.
    word : In; value : Out(signed(acc_width))
        Reads a word of the source, ``ActivationRegisters.LATENCY`` cycles later.
    enable : In(1)
        While it is low, what is being read there stalls.
    clear : In(WritePort)
        Writes the source.
    busy : Out(1)
        A cycle ago, a broadcast activation had entries whose sums will not be written before
        central control can answer.
    saturated : In(1)
        Counts an output that was saturated.
    clear_counters : In(1)
    select : In(4); count : Out(32)
        A counter (``PECounter``), one cycle later.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "identity": In(config.identity_width),
            "load": In(flow(load_word_layout(config))),
            "command": In(command_layout(config)),
            "i": In(flow(work_layout(config))),
            "full": Out(1),
            "word": In(config.word_width),
            "value": Out(signed(config.acc_width)),
            "enable": In(1),
            "clear": In(WritePort(address=config.word_width, data=config.acc_width)),
            "busy": Out(1),
            "saturated": In(1),
            "clear_counters": In(1),
            "select": In(4),
            "count": Out(WIDTH),
        })

    @staticmethod
    def awaited(config: EIEConfig) -> int:
        """Stages of the arithmetic unit that keep the PE busy: the sum of an operation that is past
        them is written before the roles can swap, which takes the way to central control, a cycle
        there, and the way back."""
        return max(0, ArithmeticUnit.LATENCY - 2 - 2 * config.broadcast_latency)

    @shared
    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = ActivationQueue(config)
        m.submodules.pointer = pointer = PointerRead(config)
        m.submodules.spmat = spmat = SparseMatrixRead(config)
        m.submodules.decoder = decoder = WeightDecoder(config)
        m.submodules.arithmetic = arithmetic = ArithmeticUnit(config)
        m.submodules.registers = registers = ActivationRegisters(config)

        m.d.comb += [
            queue.i.payload.eq(self.i.payload), queue.i.valid.eq(self.i.valid),
            self.full.eq(queue.full),
        ]
        wiring.connect(m, queue.o, pointer.i)
        wiring.connect(m, pointer.o, spmat.i)
        wiring.connect(m, spmat.o, decoder.i)
        wiring.connect(m, decoder.o, arithmetic.i)

        m.d.comb += [
            pointer.stride.eq(self.command.stride),
            pointer.balanced.eq(self.command.balanced),
            decoder.codebook.eq(self.command.codebook),
            decoder.destination.eq(self.command.destination),
            registers.role.eq(self.command.role),
            registers.wipe.eq(self.command.wipe),
            registers.source.address.eq(self.word),
            registers.source.enable.eq(self.enable),
            self.value.eq(registers.source.data),
            registers.destination.address.eq(arithmetic.address),
            registers.destination.enable.eq(1),
            arithmetic.data.eq(registers.destination.data),
        ]
        wiring.connect(m, arithmetic.write, registers.destination.write)
        self._load(m, spmat.load, pointer.load, decoder.load, registers.source.write)

        waiting = queue.o.valid | pointer.busy | spmat.busy | decoder.busy
        adding = Cat(decoder.o.valid, arithmetic.in_flight)[:self.awaited(config)]
        m.d.sync += self.busy.eq(waiting | adding.any())
        assert BUSY_LATENCY == 1
        if config.counters:
            self._count(m, decoder, delay(m, waiting, 1), spmat.reads)
        return m

    def _load(self, m: Module, weights, pointers, codebook, source):
        """Words of the load bus to the memories, a cycle later; the source is cleared too."""
        word = self.load.payload
        ports = {LoadTarget.WEIGHTS: weights, LoadTarget.POINTERS: pointers,
                 LoadTarget.CODEBOOK: codebook, LoadTarget.ACTIVATIONS: source}
        for target, port in ports.items():
            m.d.comb += [
                port.en.eq(delay(m, self.load.valid & (word.pe == self.identity)
                                 & (word.target == target), 1)),
                port.address.eq(delay(m, word.address, 1)),
                port.data.eq(delay(m, word.data, 1)),
            ]
        with m.If(self.clear.en):
            m.d.comb += [source.en.eq(1), source.address.eq(self.clear.address),
                         source.data.eq(self.clear.data)]

    def _count(self, m: Module, decoder: WeightDecoder, waiting: Value, reads: Value):
        """Counts what was in the last cycle, as ``waiting`` is."""
        idle = delay(m, self.command.computing & ~decoder.o.valid, 1)
        phase_then = delay(m, self.command.phase, 1)
        events = {
            PECounter.USEFUL: decoder.o.valid & ~decoder.padding,
            PECounter.PADDING: decoder.o.valid & decoder.padding,
            PECounter.EMPTY: idle & waiting,
            PECounter.ROW_READS: reads,
            PECounter.SATURATED: self.saturated,
        }
        for phase in Phase:
            events[PECounter[phase.name]] = idle & ~waiting & (phase_then == phase)
        m.d.comb += self.count.eq(count(m, events, clear=delay(m, self.clear_counters, 1),
                                        select=self.select))
