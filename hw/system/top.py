"""What a board holds: a serial line to the host, and the machines behind it."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.fronts.frame import Endpoint
from zeroskip.hw.fronts.uart import Receiver, Transmitter
from zeroskip.hw.system.accelerator import Accelerator, digest
from zeroskip.hw.tensorcore.config import TensorCoreConfig

VERSION = 1
"""Of the registers and windows, as the host is told."""


class Top(wiring.Component):
    """An accelerator on a UART.

    Parameters
    ----------
    eie, tensorcore
        As of :class:`zeroskip.hw.system.accelerator.Accelerator`.
    divisor : int
        Clock cycles of a bit on the line.

    Members
    -------
    rx : In(1)
    tx : Out(1)
    irq : Out(1)
        See :class:`zeroskip.hw.system.accelerator.Accelerator`.
    """

    def __init__(self, eie: EIEConfig | None = None, tensorcore: TensorCoreConfig | None = None,
                 *, divisor: int):
        self.eie, self.tensorcore, self.divisor = eie, tensorcore, divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = Receiver(divisor=self.divisor)
        m.submodules.transmitter = transmitter = Transmitter(divisor=self.divisor)
        m.submodules.endpoint = endpoint = Endpoint(
            digest=digest(self.eie, self.tensorcore), version=VERSION)
        m.submodules.accelerator = accelerator = Accelerator(self.eie, self.tensorcore)
        wiring.connect(m, receiver.o, endpoint.i)
        wiring.connect(m, endpoint.o, transmitter.i)
        wiring.connect(m, endpoint.bus, accelerator.bus)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
                     self.irq.eq(accelerator.irq)]
        return m
