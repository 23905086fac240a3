"""The cores of a system behind one bus, with what tells the system from others."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.bus import BUS
from zeroskip.hw.system.address import PAGE, Decoder
from zeroskip.hw.system.config import MAGIC, VERSION, SystemConfig
from zeroskip.hw.system.corepage import CorePage, core_items
from zeroskip.hw.system.registers import Access, Field, Item, Page, Register, RegisterFile


def system_items(system: SystemConfig) -> tuple[Item, ...]:
    """What the host sees of the system itself; the last three have a bit for each core."""
    def constant(name, doc):
        return Register(name, Access.READ, [Field("value", 32, doc)], doc)

    each = [Field(name, 1, f"of the core {name}") for name in system.names]
    return (
        constant("magic", "ZSK1"),
        constant("version", "of the registers and windows"),
        constant("digest_low", "of the system's configuration"),
        constant("digest_high", "of the system's configuration"),
        Register("reset", Access.PULSE, each, "resets the core"),
        Register("done", Access.CLEAR, each, "the core has fallen idle"),
        Register("enable", Access.WRITE, each, "the interrupt is high while it is done"),
    )


def register_map(system: SystemConfig) -> dict[str, Page]:
    """What the host sees: the page ``system``, and one of each core, by its name. Where a page is
    depends on the cores before it, and where something is in it on its own core alone."""
    cores = zip(system.names, system.cores, strict=True)
    named = [("system", system_items(system)),
             *((name, core_items(core.component())) for name, core in cores)]
    return {name: Page(name, PAGE * k, items) for k, (name, items) in enumerate(named)}


class Accelerator(wiring.Component):
    """The cores of a system.

    Members
    -------
    bus : In(BUS)
        See :func:`register_map`.
    irq : Out(1)
        High while an enabled core is done.
    """

    def __init__(self, system: SystemConfig):
        self.system = system
        super().__init__({"bus": In(BUS), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        system = self.system
        m.submodules.decoder = decoder = Decoder(1 + len(system.cores))
        m.submodules.registers = registers = RegisterFile(system_items(system))
        wiring.connect(m, wiring.flipped(self.bus), decoder.bus)
        wiring.connect(m, decoder.pages[0], registers.bus)
        m.d.comb += [
            registers.magic.eq(int.from_bytes(MAGIC, "little")), registers.version.eq(VERSION),
            Cat(registers.digest_low, registers.digest_high).eq(system.digest()),
            self.irq.eq((registers.done & registers.enable).any()),
        ]
        for k, (name, core) in enumerate(zip(system.names, system.cores, strict=True)):
            m.submodules[name] = page = CorePage(core)
            wiring.connect(m, decoder.pages[1 + k], page.bus)
            m.d.comb += [page.reset.eq(registers.reset[k]), registers.done_set[k].eq(page.done)]
        return m
