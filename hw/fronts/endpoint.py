"""The endpoint of the link: from bytes of the line to the bus, and back."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from zeroskip.hw.bus import BUS
from zeroskip.hw.fronts.executor import Executor, checked
from zeroskip.hw.fronts.frame import WORDS
from zeroskip.hw.fronts.receiver import FrameReceiver
from zeroskip.hw.fronts.sender import FrameSender
from zeroskip.hw.memory import BlockRAM


class Endpoint(wiring.Component):
    """Executes the requests of a host on a bus, and replies; see :mod:`zeroskip.hw.fronts.frame`.

    A request is buffered whole, and executed only once its CRC held; while it is executed and its
    reply is formed, no byte is taken. So one CRC and one memory serve all three::

        i -> receiver -> executor -> sender -> o
                 |          |  ^        ^
                 v          v  |        |
               words of request, words of reply

    Parameters
    ----------
    patience : int
        Of the :class:`Executor`.

    Members
    -------
    i, o : stream of 8
        Bytes from the host, and to it.
    bus : Out(BUS)
    """

    def __init__(self, *, patience: int = 256):
        self.patience = checked(patience)
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)),
                          "bus": Out(BUS)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = FrameReceiver()
        m.submodules.executor = executor = Executor(patience=self.patience)
        m.submodules.sender = sender = FrameSender()
        for a, b in ((wiring.flipped(self.i), receiver.i), (receiver.o, executor.i),
                     (executor.o, sender.i), (sender.o, wiring.flipped(self.o)),
                     (executor.bus, wiring.flipped(self.bus))):
            wiring.connect(m, a, b)

        # The CRC takes what either of them gives a cycle later.
        a, b, clear = receiver.checksum, sender.checksum, Signal()
        m.submodules.crc = ResetInserter(clear)(crc := CRC32_ISO_HDLC(4).create())
        m.d.sync += [crc.data.eq(a.half | b.half), crc.valid.eq(a.valid | b.valid)]
        m.d.comb += [
            clear.eq(a.clear | b.clear), Cat(a.crc, b.crc).eq(crc.crc.replicate(2)),
            Cat(a.match, b.match).eq(crc.match_detected.replicate(2)),
        ]

        # The words of the request, then those of the reply.
        m.submodules.words = words = BlockRAM(32, depth=2 * WORDS)
        executing, sending = receiver.o.valid, executor.o.valid
        m.d.comb += [
            words.en.eq(1), executor.word.eq(words.data), sender.word.eq(words.data),
            words.address.eq(Cat(Mux(sending, sender.address, executor.address), sending)),
            words.write.en.eq(Mux(executing, executor.words.en, receiver.words.en)),
            words.write.address.eq(Cat(
                Mux(executing, executor.words.address, receiver.words.address), executing)),
            words.write.data.eq(Mux(executing, executor.words.data, receiver.words.data)),
        ]
        return m
