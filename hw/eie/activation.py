"""Activation read: ReLU, the sum over a cluster, and the search for non-zeros (paper, section
IV)."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import activation, command
from zeroskip.hw.eie.registers import ActivationRegisters
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.stream import Queue, delay, flow

OUTPUT = data.StructLayout({"value": signed(16), "saturated": 1})
"""A finished output: its value, and whether it had to be saturated to 16 bits."""

_UNDER_WAY = 8
"""At least as many words as are between the walk and the queues."""


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
    """Reads the source activations of one cluster in the order of their slots, one a cycle.

    An accumulator becomes an activation when it is read: the words of a grouped layer are added up
    over the cluster, then :class:`Requantise` adds the bias, shifts, saturates and applies ReLU.
    What is not exactly zero goes on to the queue of its group, slot mod G; with ``emit``
    everything does. So no cycle goes to writing outputs back.

    Members
    -------
    identity : In
        Number of this cluster.
    command : In(``command``)
    word : Out; values : In(signed(acc_width)), one per PE
        Reads the same word of the source in every PE.
    clear : Out(WritePort), one per PE
        Zeroes what was read.
    load_bias : In(WritePort)
    o : Out(stream of ``activation``), one per group
    scanning : Out(1)
        Something is still to come from ``o``.
    saturated : Out(1)
        An output was saturated in this cycle, when it was read for the last time.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "identity": In(config.identity_width),
            "command": In(command(config)),
            "word": Out(config.word_width),
            "values": In(signed(config.acc_width)).array(config.groups),
            "clear": Out(WritePort(address=config.word_width, data=config.acc_width)
                         ).array(config.groups),
            "load_bias": In(WritePort(address=config.bias_width, data=config.acc_width)),
            "o": Out(stream.Signature(activation(config))).array(config.groups),
            "scanning": Out(1),
            "saturated": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config, command = self.config, self.command
        group_bits = exact_log2(config.groups)
        queues = [Queue(activation(config), depth=2 * _UNDER_WAY) for _ in self.o]
        active, room = Signal(), Cat(queue.level < _UNDER_WAY for queue in queues).all()
        # One more slot, index or column than there is can be counted past the limit.
        slot = Signal(config.slot_width + 1)
        index, column = (Signal(config.column_width + 1) for _ in range(2))
        limit, emit, clears = Signal(config.column_width), Signal(), Signal()

        read, group = Signal(), slot[:group_bits]
        m.d.comb += read.eq(active & (index < limit) & room)
        with m.If(command.scan):
            m.d.sync += [active.eq(1), limit.eq(command.limit), emit.eq(command.emit),
                         clears.eq(command.clear)]
            with m.If(command.begin):
                m.d.sync += [slot.eq(0), index.eq(self.identity), column.eq(self.identity)]
        with m.Elif(command.wipe):
            m.d.sync += slot.eq(slot + 1)
        with m.Elif(read):
            m.d.sync += [slot.eq(slot + 1), index.eq(index + config.clusters)]
            with m.If(~command.grouped | (group == config.groups - 1)):
                m.d.sync += column.eq(column + config.clusters)
        with m.Elif(index >= limit):
            m.d.sync += active.eq(0)

        whole = command.reading.summed | command.wipe
        m.d.comb += self.word.eq(Mux(whole, slot, slot >> group_bits))
        for k, port in enumerate(self.clear):
            m.d.comb += [port.en.eq(delay(m, read & clears & (whole | (group == k)), 1)),
                         port.address.eq(delay(m, self.word, 1))]
        output = self._outputs(m, slot, read)

        latency = self._latency
        then, valid = delay(m, group, latency), delay(m, read, latency)
        m.d.comb += self.saturated.eq(valid & output.saturated & clears)
        for k, (queue, port) in enumerate(zip(queues, self.o, strict=True)):
            m.submodules[f"found_{k}"] = queue
            m.d.comb += [
                queue.i.valid.eq(valid & (emit | (output.value != 0)) & (then == k)),
                queue.i.payload.index.eq(delay(m, index, latency)),
                queue.i.payload.column.eq(delay(m, column, latency)),
                queue.i.payload.value.eq(output.value),
            ]
            wiring.connect(m, queue.o, wiring.flipped(port))
        under_way = [delay(m, read, k) for k in range(1, latency + 1)]
        m.d.comb += self.scanning.eq(active | Cat(under_way).any()
                                     | Cat(queue.o.valid for queue in queues).any())
        return m

    @property
    def _latency(self) -> int:
        """Cycles from a slot to its output."""
        return ActivationRegisters.LATENCY + ceil_log2(self.config.groups) + Requantise.LATENCY

    def _outputs(self, m: Module, slot: Value, read: Value) -> data.View:
        """The output of ``slot``, ``_latency`` cycles later."""
        config, reading = self.config, self.command.reading
        group = delay(m, slot[:exact_log2(config.groups)], ActivationRegisters.LATENCY)
        words = [Mux(reading.summed | (group == k), value, 0)
                 for k, value in enumerate(self.values)]
        while len(words) > 1:
            words = [delay(m, (a + b)[:config.acc_width], 1).as_signed()
                     for a, b in zip(words[::2], words[1::2], strict=True)]

        m.submodules.biases = biases = BlockRAM(signed(config.acc_width), depth=config.bias_depth)
        wiring.connect(m, wiring.flipped(self.load_bias), biases.write)
        before = ceil_log2(config.groups)
        m.submodules.requantise = requantise = Requantise(config)
        m.d.comb += [
            biases.en.eq(1),
            biases.address.eq(delay(m, slot + reading.bias, before)),
            requantise.bias.eq(Mux(reading.raw, 0, biases.data)),
            requantise.i.payload.eq(words[0]),
            requantise.i.valid.eq(delay(m, read, ActivationRegisters.LATENCY + before)),
            requantise.shift.eq(reading.shift),
            requantise.relu.eq(reading.relu),
        ]
        return requantise.o.payload
