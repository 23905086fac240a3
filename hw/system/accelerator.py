"""The cores of a system behind a bus: a window for each stream, a register for each other port."""

from collections.abc import Iterator

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.bus import BUS
from zeroskip.hw.netlist.share import resettable
from zeroskip.hw.stream import Downsizer, Upsizer
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.system.registers import Access, Field, Item, Register, RegisterFile, Window


def components(system: SystemConfig) -> dict[str, wiring.Component]:
    """The cores by name."""
    return {name: core.component() for name, core in zip(system.names, system.cores, strict=True)}


def register_map(cores: dict[str, wiring.Component]) -> list[Item]:
    """What the host sees, in the order of the addresses.

    ``reset``, ``done`` and ``enable`` have a bit for each core. Behind them come the ports of
    the cores, ``eie_busy`` for example; an item of a stream is whole words in its window, the
    lowest bits first.
    """
    each = [Field(name, 1, f"of the core {name}") for name in cores]
    items = [
        Register("reset", Access.PULSE, each, "resets the core"),
        Register("done", Access.CLEAR, each, "the core has fallen idle"),
        Register("enable", Access.WRITE, each, "the interrupt is high while it is done"),
    ]
    for name, core in cores.items():
        items += [_item(f"{name}_{port}", kind, value) for port, kind, value in _ports(core)]
    return items


def item_words(core: wiring.Component) -> dict[str, int]:
    """Words of an item of each stream of a core."""
    return {name: _words(getattr(core, name)) for name in core.signature.streams}


def ports(core: wiring.Component) -> list[str]:
    """The ports of a core that the host sees, by name."""
    return [name for name, _, _ in _ports(core)]


class Accelerator(wiring.Component):
    """The cores of a system.

    Members
    -------
    bus : In(BUS)
        See :func:`register_map`.
    irq : Out(1)
        High while an enabled core is done.

    The cores leave reset a cycle after the rest, as they do after the register ``reset``.
    """

    def __init__(self, system: SystemConfig):
        self.system, self.cores = system, components(system)
        super().__init__({"bus": In(BUS), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = RegisterFile(register_map(self.cores))
        wiring.connect(m, wiring.flipped(self.bus), registers.bus)
        for bit, (name, core) in enumerate(self.cores.items()):
            reset = Signal(init=1, name=f"{name}_reset")
            busy = Signal(name=f"{name}_was_busy")
            m.submodules[name] = resettable(core, reset, platform)
            m.d.sync += [reset.eq(registers.reset[bit]), busy.eq(core.busy)]
            m.d.comb += registers.done_set[bit].eq(busy & ~core.busy)
            for port, kind, value in _ports(core):
                self._connect(m, reset, f"{name}_{port}", kind, value, registers)
        m.d.comb += self.irq.eq((registers.done & registers.enable).any())
        return m

    def _connect(self, m, reset, name, kind, value, registers):
        register = getattr(registers, name)
        if kind == "in":
            m.d.comb += value.eq(register)
        elif kind == "out":
            m.d.comb += register.eq(value)
        elif kind == "source":
            upsizer = Upsizer(value.payload.shape())
            m.submodules[f"{name}_words"] = ResetInserter(reset)(upsizer)
            m.d.comb += [upsizer.i.payload.eq(register.payload), upsizer.i.valid.eq(register.valid),
                         register.ready.eq(upsizer.i.ready | reset)]     # a reset drops the word
            wiring.connect(m, upsizer.o, value)
        else:
            downsizer = Downsizer(value.payload.shape())
            m.submodules[f"{name}_words"] = ResetInserter(reset)(downsizer)
            wiring.connect(m, value, downsizer.i)
            wiring.connect(m, downsizer.o, register)


def _ports(core: wiring.Component) -> Iterator[tuple[str, str, object]]:
    """Ports of a core, named as in the Verilog: ``"in"`` or ``"out"`` is a signal that the host
    sets or sees, ``"source"`` or ``"sink"`` a stream that it feeds or takes from."""
    for path, member, signal in core.signature.flatten(core):
        if path[0] in core.signature.control:
            yield "__".join(map(str, path)), "in" if member.flow is In else "out", signal
    for name in core.signature.streams:
        flow = core.signature.members[name].flow
        yield name, "source" if flow is In else "sink", getattr(core, name)


def _item(name: str, kind: str, value) -> Item:
    if kind in ("source", "sink"):
        return Window(name, "in" if kind == "source" else "out",
                      f"items of {_bits(value)} bits, {_words(value)} words each")
    access = Access.WRITE if kind == "in" else Access.READ
    return Register(name, access, [Field("value", len(value), "of the port")],
                    "a port of the core")


def _bits(port) -> int:
    return len(Value.cast(port.payload))


def _words(port) -> int:
    return -(-_bits(port) // 32)
