"""Activation read and write: ReLU, the two roles, and the search for non-zeros
(paper, section IV)."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.arithmetic import ArithmeticUnit
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import activation, command
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.stream import Queue, delay, flow

OUTPUT = data.StructLayout({"value": signed(16), "saturated": 1})
"""A finished output: its value, and whether it had to be saturated to 16 bits."""


class Requantise(wiring.Component):
    """act(sat16((accumulator + bias) >> shift)); the stored bias contains 2^(shift - 1), so
    that a half rounds up.

    Latency is ``LATENCY`` cycles, throughput one a cycle.

    Members
    -------
    i : In(flow of signed(acc_width))
    bias : In(signed(acc_width))
        With ``i``.
    shift, relu : In
        Constant during a layer.
    o : Out(flow of ``OUTPUT``)
        ``saturated`` tells of the value before ReLU.
    """

    LATENCY = 3

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(flow(signed(config.acc_width))),
            "bias": In(signed(config.acc_width)),
            "shift": In(5),
            "relu": In(1),
            "o": Out(flow(OUTPUT)),
        })

    def elaborate(self, platform):
        m = Module()
        biased, shifted = (Signal(signed(self.config.acc_width)) for _ in range(2))
        m.d.sync += [biased.eq(self.i.payload + self.bias), shifted.eq(biased >> self.shift)]

        low, high = -(1 << 15), (1 << 15) - 1
        below, above = shifted < low, shifted > high
        m.d.sync += self.o.payload.saturated.eq(below | above)
        with m.If(self.relu & (shifted < 0)):
            m.d.sync += self.o.payload.value.eq(0)
        with m.Elif(below):
            m.d.sync += self.o.payload.value.eq(low)
        with m.Elif(above):
            m.d.sync += self.o.payload.value.eq(high)
        with m.Else():
            m.d.sync += self.o.payload.value.eq(shifted)
        m.d.comb += self.o.valid.eq(delay(m, self.i.valid, self.LATENCY))
        return m


class ActivationUnit(wiring.Component):
    """The activations of one PE in two roles, source and destination, which swap per layer.

    Written back are the drained accumulators, through :class:`Requantise`. A scan walks the
    source words of this PE's columns, one a cycle, and hands on those that are not exactly
    zero, or all of them when ``emit`` is set. ``WRITEBACK_LATENCY`` cycles after its drain
    command an output is in the memory.

    Members
    -------
    identity : In
        Number of this PE.
    command : In(``command``)
    drained : In(flow of signed(acc_width))
        From the arithmetic unit, which got the same drain command.
    load, load_bias : In(WritePort)
        Activations of the source role; biases.
    o : Out(stream of ``activation``)
    scanning : Out(1)
        Something is still to come from ``o``.
    saturated : Out(1)
        An output was saturated in this cycle.
    """

    WRITEBACK_LATENCY = ArithmeticUnit.DRAIN_LATENCY + Requantise.LATENCY + 1

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "identity": In(config.identity_width),
            "command": In(command(config)),
            "drained": In(flow(signed(config.acc_width))),
            "load": In(WritePort(address=config.word_width, data=16)),
            "load_bias": In(WritePort(address=config.bias_width, data=config.acc_width)),
            "o": Out(stream.Signature(activation(config))),
            "scanning": Out(1),
            "saturated": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = BlockRAM(signed(16), depth=2 << self.config.word_width)
        self._write_back(m, memory)
        self._scan(m, memory)
        return m

    def _write_back(self, m: Module, memory: BlockRAM):
        command = self.command
        m.submodules.requantise = requantise = Requantise(self.config)
        m.submodules.biases = biases = BlockRAM(signed(self.config.acc_width),
                                                depth=self.config.bias_depth)
        wiring.connect(m, wiring.flipped(self.load_bias), biases.write)
        m.d.comb += [
            biases.en.eq(1),
            biases.address.eq(
                delay(m, command.bias, ArithmeticUnit.DRAIN_LATENCY - BlockRAM.LATENCY)),
            requantise.bias.eq(biases.data),
            requantise.shift.eq(command.shift),
            requantise.relu.eq(command.relu),
        ]
        wiring.connect(m, wiring.flipped(self.drained), requantise.i)

        latency = ArithmeticUnit.DRAIN_LATENCY + Requantise.LATENCY
        kept = requantise.o.valid & ~delay(m, command.clear, latency)
        m.d.comb += [
            memory.write.en.eq(kept | self.load.en),
            memory.write.address.eq(Cat(delay(m, command.word, latency), ~command.role)),
            memory.write.data.eq(requantise.o.payload.value),
            self.saturated.eq(kept & requantise.o.payload.saturated),
        ]
        with m.If(self.load.en):
            m.d.comb += [
                memory.write.address.eq(Cat(self.load.address, command.role)),
                memory.write.data.eq(self.load.data),
            ]

    def _scan(self, m: Module, memory: BlockRAM):
        config, command = self.config, self.command
        # One more column than fits in `column` can be counted past the limit.
        column, limit = Signal(config.column_width + 1), Signal(config.column_width)
        word, emit, active = Signal(config.word_width), Signal(), Signal()

        under_way = BlockRAM.LATENCY
        m.submodules.found = found = Queue(activation(config), depth=under_way + 3)
        wiring.connect(m, found.o, wiring.flipped(self.o))
        read = Signal()
        m.d.comb += [
            read.eq(active & (column < limit) & (found.level < 3)),
            memory.en.eq(1),
            memory.address.eq(Cat(word, command.role)),
        ]
        with m.If(command.scan):
            m.d.sync += [
                active.eq(1),
                column.eq(command.first + self.identity),
                limit.eq(command.limit),
                word.eq(command.source),
                emit.eq(command.emit),
            ]
        with m.Elif(read):
            m.d.sync += [column.eq(column + config.pes), word.eq(word + 1)]
        with m.Elif(column >= limit):
            m.d.sync += active.eq(0)

        valid = [read]
        for _ in range(under_way):
            valid.append(delay(m, valid[-1], 1))
        m.d.comb += [
            found.i.valid.eq(valid[-1] & (emit | (memory.data != 0))),
            found.i.payload.column.eq(delay(m, column, under_way)),
            found.i.payload.value.eq(memory.data),
            self.scanning.eq(active | Cat(valid[1:]).any() | found.o.valid),
        ]
