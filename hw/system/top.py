"""What a board holds: a serial line to the host, and the cores behind it."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.fronts.endpoint import Endpoint
from zeroskip.hw.fronts.uart import Receiver, Transmitter
from zeroskip.hw.system.accelerator import Accelerator
from zeroskip.hw.system.config import SystemConfig


class Top(wiring.Component):
    """An accelerator on a UART.

    Parameters
    ----------
    system : SystemConfig
    divisor : int
        Clock cycles of a bit on the line.

    Members
    -------
    rx : In(1)
    tx : Out(1)
    irq : Out(1)
        See :class:`zeroskip.hw.system.accelerator.Accelerator`.
    """

    def __init__(self, system: SystemConfig, *, divisor: int):
        self.system, self.divisor = system, divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = Receiver(divisor=self.divisor)
        m.submodules.transmitter = transmitter = Transmitter(divisor=self.divisor)
        m.submodules.endpoint = endpoint = Endpoint()
        m.submodules.accelerator = accelerator = Accelerator(self.system)
        wiring.connect(m, receiver.o, endpoint.i)
        wiring.connect(m, endpoint.o, transmitter.i)
        wiring.connect(m, endpoint.bus, accelerator.bus)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
                     self.irq.eq(accelerator.irq)]
        return m
