"""Activation read: ReLU, the sum over a cluster, and the search for non-zeros (paper, section
IV)."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import VALUE, activation_layout, command_layout
from zeroskip.hw.eie.registers import ActivationRegisters
from zeroskip.hw.memory import BlockRAM, WritePort
from zeroskip.hw.pipeline import RunAhead, Stages
from zeroskip.hw.stream import delay

OUTPUT = data.StructLayout({"value": VALUE, "saturated": 1, "zero": 1})
"""A finished output: its value, whether it had to be saturated to that, and whether it is 0."""


class Requantise(wiring.Component):
    """act(sat16((accumulator + bias) >> shift)); the stored bias contains 2^(shift - 1), so
    that a half rounds up.

    Latency is ``LATENCY`` cycles, throughput one a cycle.

    Members
    -------
    i, bias : In(signed(acc_width))
    enable : In(1)
        While it is low, all stages stall.
    shift, relu : In
        Constant during a layer.
    o : Out(``OUTPUT``)
        ``saturated`` tells of the value before ReLU.
    """

    LATENCY = 4

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "i": In(signed(config.acc_width)),
            "bias": In(signed(config.acc_width)),
            "enable": In(1),
            "shift": In(5),
            "relu": In(1),
            "o": Out(OUTPUT),
        })

    def elaborate(self, platform):
        m = Module()
        step = Stages(m, self.enable).step
        biased = step((self.i + self.bias)[:self.config.acc_width].as_signed())
        shifted = step(biased >> self.shift)

        # What decides, then the choice.
        bits = VALUE.width
        above, negative = shifted[bits - 1:], shifted[-1]
        fits, zero = step(above.all() | ~above.any()), step(~shifted[:bits].any())
        low, negative, off = step(shifted[:bits]), step(negative), step(self.relu & negative)
        most = Cat(~negative.replicate(bits - 1), negative)
        m.d.comb += [
            self.o.value.eq(step(Mux(off, 0, Mux(fits, low, most)))),
            self.o.saturated.eq(step(~fits)),
            self.o.zero.eq(step(off | (fits & zero))),
        ]
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
    command : In(``command_layout``)
    word : Out; values : In(signed(acc_width)), one per PE
        Reads the same word of the source in every PE.
    enable : Out(1)
        While it is low, the search and what was read for it stall.
    clear : Out(WritePort), one per PE
        Zeroes what was read.
    load_bias : In(WritePort)
    o : Out(stream of ``activation_layout``), one per group
    scanning : Out(1)
        Something is still to come from ``o``.
    saturated : Out(1)
        An output was saturated in this cycle, when it was read for the last time.
    """

    def __init__(self, config: EIEConfig):
        self.config = config
        super().__init__({
            "identity": In(config.identity_width),
            "command": In(command_layout(config)),
            "word": Out(config.word_width),
            "values": In(signed(config.acc_width)).array(config.groups),
            "enable": Out(1),
            "clear": Out(WritePort(address=config.word_width, data=config.acc_width)
                         ).array(config.groups),
            "load_bias": In(WritePort(address=config.bias_width, data=config.acc_width)),
            "o": Out(stream.Signature(activation_layout(config))).array(config.groups),
            "scanning": Out(1),
            "saturated": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config, command, latency = self.config, self.command, self.latency(self.config)
        group_bits = exact_log2(config.groups)
        queues = [RunAhead.queue(activation_layout(config), config.runahead) for _ in self.o]
        stages = RunAhead(m, queues, config.runahead)
        m.d.comb += self.enable.eq(stages.enable)
        # One more slot or index than there is can be counted past the limit.
        slot = Signal(config.slot_width + 1)
        index, following = (Signal(config.column_width + 1) for _ in range(2))
        active, limit, more = Signal(), Signal(config.column_width), Signal()
        emit, clears = Signal(), Signal()

        read, group = Signal(), slot[:group_bits]
        m.d.comb += read.eq(active & more & stages.enable)
        with m.If(command.scan):
            m.d.sync += [active.eq(1), limit.eq(command.limit), emit.eq(command.emit),
                         clears.eq(command.clear),
                         more.eq(Mux(command.begin, self.identity, index) < command.limit)]
            with m.If(command.begin):
                m.d.sync += [slot.eq(0), index.eq(self.identity),
                             following.eq(self.identity + config.clusters)]
        with m.Elif(command.wipe):
            m.d.sync += slot.eq(slot + 1)
        with m.Elif(read):
            m.d.sync += [slot.eq(slot + 1), index.eq(following), more.eq(following < limit),
                         following.eq(following + config.clusters)]
        with m.Elif(~more):
            m.d.sync += active.eq(0)

        whole = command.reading.summed | command.wipe
        m.d.comb += self.word.eq(Mux(whole, slot, slot >> group_bits))
        for k, port in enumerate(self.clear):
            m.d.comb += [port.en.eq(delay(m, read & clears & (whole | (group == k)), 1)),
                         port.address.eq(delay(m, self.word, 1))]

        output, in_flight = self._outputs(m, stages, slot), stages.taps(read, latency)
        then, valid = stages.step(group, latency), stages.leaves(in_flight[latency])
        item = self._number(m, valid, then)
        m.d.comb += [item.value.eq(output.value),
                     self.saturated.eq(valid & output.saturated & clears)]
        for k, (queue, port) in enumerate(zip(queues, self.o, strict=True)):
            m.submodules[f"found_{k}"] = queue
            m.d.comb += [queue.i.valid.eq(valid & (emit | ~output.zero) & (then == k)),
                         queue.i.payload.eq(item)]
            wiring.connect(m, queue.o, wiring.flipped(port))
        m.d.sync += self.scanning.eq(active | Cat(in_flight[1:]).any()
                                     | Cat(queue.o.valid for queue in queues).any())
        return m

    def _number(self, m: Module, valid: Value, group: Value) -> data.View:
        """The numbers of the slot that has come to the end of its way: they are counted there."""
        item, clusters = Signal(activation_layout(self.config)), self.config.clusters
        index, column = (Signal(self.config.column_width) for _ in range(2))
        with m.If(self.command.scan & self.command.begin):
            m.d.sync += [index.eq(self.identity), column.eq(self.identity)]
        with m.Elif(valid):
            m.d.sync += index.eq(index + clusters)
            with m.If(~self.command.grouped | (group == self.config.groups - 1)):
                m.d.sync += column.eq(column + clusters)
        m.d.comb += [item.index.eq(index), item.column.eq(column)]
        return item

    @staticmethod
    def sum(config: EIEConfig) -> int:
        """Cycles of the sum over a cluster."""
        return max(1, ceil_log2(config.groups))

    @classmethod
    def latency(cls, config: EIEConfig) -> int:
        """Cycles from a slot to its output."""
        return ActivationRegisters.LATENCY + cls.sum(config) + Requantise.LATENCY

    def _outputs(self, m: Module, stages: Stages, slot: Value) -> data.View:
        """The output of ``slot``, ``latency`` cycles later."""
        config, reading, step = self.config, self.command.reading, stages.step
        group = step(slot[:exact_log2(config.groups)], ActivationRegisters.LATENCY)
        words = [Mux(reading.summed | (group == k), value, 0)
                 for k, value in enumerate(self.values)]
        while len(words) > 1:
            words = [step((a + b)[:config.acc_width]).as_signed()
                     for a, b in zip(words[::2], words[1::2], strict=True)]
        if config.groups == 1:
            words = [step(words[0])]

        m.submodules.biases = biases = BlockRAM(signed(config.acc_width), depth=config.bias_depth)
        wiring.connect(m, wiring.flipped(self.load_bias), biases.write)
        m.submodules.requantise = requantise = Requantise(config)
        m.d.comb += [
            biases.en.eq(stages.enable),
            biases.hold.eq(~stages.enable),
            biases.address.eq(step(slot + reading.bias, self.sum(config) - 1)),
            requantise.enable.eq(stages.enable),
            requantise.bias.eq(step(Mux(reading.raw, 0, biases.data))),
            requantise.i.eq(words[0]),
            requantise.shift.eq(reading.shift),
            requantise.relu.eq(reading.relu),
        ]
        return requantise.o
