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

OUTPUT = data.StructLayout({"value": signed(16), "saturated": 1, "zero": 1})
"""A finished output: its value, whether it had to be saturated to 16 bits, and whether it is 0."""

_SLOTS = 16
"""Slots of a queue of found activations."""


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

    LATENCY = 4

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

        # What decides, then the choice.
        above, negative = shifted[15:], shifted[-1]
        fits = delay(m, above.all() | ~above.any(), 1)
        zero, off = delay(m, ~shifted[:16].any(), 1), delay(m, self.relu & negative, 1)
        low, negative = delay(m, shifted[:16], 1), delay(m, negative, 1)
        m.d.sync += [
            self.o.payload.value.eq(Mux(off, 0, Mux(fits, low, Cat(~negative.replicate(15),
                                                                   negative)))),
            self.o.payload.saturated.eq(~fits),
            self.o.payload.zero.eq(off | (fits & zero)),
        ]
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
        queues = [Queue(activation(config), depth=_SLOTS) for _ in self.o]
        active, room = Signal(), Signal()
        m.d.sync += room.eq(Cat(queue.level < self.ahead(config) for queue in queues).all())
        # One more slot, index or column than there is can be counted past the limit.
        slot = Signal(config.slot_width + 1)
        index, following, column = (Signal(config.column_width + 1) for _ in range(3))
        limit, more, emit, clears = Signal(config.column_width), Signal(), Signal(), Signal()

        read, group = Signal(), slot[:group_bits]
        m.d.comb += read.eq(active & more & room)
        with m.If(command.scan):
            m.d.sync += [active.eq(1), limit.eq(command.limit), emit.eq(command.emit),
                         clears.eq(command.clear),
                         more.eq(Mux(command.begin, self.identity, index) < command.limit)]
            with m.If(command.begin):
                m.d.sync += [slot.eq(0), index.eq(self.identity), column.eq(self.identity),
                             following.eq(self.identity + config.clusters)]
        with m.Elif(command.wipe):
            m.d.sync += slot.eq(slot + 1)
        with m.Elif(read):
            m.d.sync += [slot.eq(slot + 1), index.eq(following), more.eq(following < limit),
                         following.eq(following + config.clusters)]
            with m.If(~command.grouped | (group == config.groups - 1)):
                m.d.sync += column.eq(column + config.clusters)
        with m.Elif(~more):
            m.d.sync += active.eq(0)

        whole = command.reading.summed | command.wipe
        m.d.comb += self.word.eq(Mux(whole, slot, slot >> group_bits))
        for k, port in enumerate(self.clear):
            m.d.comb += [port.en.eq(delay(m, read & clears & (whole | (group == k)), 1)),
                         port.address.eq(delay(m, self.word, 1))]
        output = self._outputs(m, slot, read)

        latency = self.latency(config)
        then, valid = delay(m, group, latency), delay(m, read, latency)
        m.d.comb += self.saturated.eq(valid & output.saturated & clears)
        for k, (queue, port) in enumerate(zip(queues, self.o, strict=True)):
            m.submodules[f"found_{k}"] = queue
            m.d.comb += [
                queue.i.valid.eq(valid & (emit | ~output.zero) & (then == k)),
                queue.i.payload.index.eq(delay(m, index, latency)),
                queue.i.payload.column.eq(delay(m, column, latency)),
                queue.i.payload.value.eq(output.value),
            ]
            wiring.connect(m, queue.o, wiring.flipped(port))
        under_way = [delay(m, read, k) for k in range(1, latency + 1)]
        m.d.sync += self.scanning.eq(active | Cat(under_way).any()
                                     | Cat(queue.o.valid for queue in queues).any())
        return m

    @staticmethod
    def latency(config: EIEConfig) -> int:
        """Cycles from a slot to its output."""
        return ActivationRegisters.LATENCY + ceil_log2(config.groups) + 1 + Requantise.LATENCY

    @classmethod
    def ahead(cls, config: EIEConfig) -> int:
        """Activations in a queue at which the walk stops; the rest may be under way, and one more
        for the decision."""
        return _SLOTS - cls.latency(config) - 1

    def _outputs(self, m: Module, slot: Value, read: Value) -> data.View:
        """The output of ``slot``, ``latency`` cycles later."""
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
            requantise.bias.eq(delay(m, Mux(reading.raw, 0, biases.data), 1)),
            requantise.i.payload.eq(delay(m, words[0], 1)),
            requantise.i.valid.eq(delay(m, read, ActivationRegisters.LATENCY + before + 1)),
            requantise.shift.eq(reading.shift),
            requantise.relu.eq(reading.relu),
        ]
        return requantise.o.payload
