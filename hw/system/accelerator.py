# amaranth: UnusedElaboratable=no
# A host makes machines for their ports alone.
"""The machines behind the link's bus: a window for each stream, a register for each other port."""

import hashlib
from collections.abc import Iterator

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.bus import BUS
from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.netlist.share import resettable
from zeroskip.hw.stream import Gather, Scatter
from zeroskip.hw.system.registers import Access, Field, Item, Register, RegisterFile, Window
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.core import TensorCore

MACHINES = {"eie": EIE, "tensorcore": TensorCore}
"""By the name that the ports of a machine have in front; each has a port ``busy``."""


def machines(eie: EIEConfig | None, tensorcore: TensorCoreConfig | None
             ) -> dict[str, wiring.Component]:
    """The machines that have a configuration, by name; ``ValueError`` where none has."""
    configs = {"eie": eie, "tensorcore": tensorcore}
    found = {name: MACHINES[name](config) for name, config in configs.items() if config}
    if not found:
        raise ValueError("an accelerator needs the configuration of a machine")
    return found


def digest(eie: EIEConfig | None, tensorcore: TensorCoreConfig | None) -> int:
    """64 bits that tell an accelerator from those of other configurations."""
    names = [config.digest() if config else "" for config in (eie, tensorcore)]
    return int.from_bytes(hashlib.sha256(" ".join(names).encode()).digest()[:8], "little")


def register_map(machines: dict[str, wiring.Component]) -> list[Item]:
    """What the host sees, in the order of the addresses.

    ``reset``, ``done`` and ``enable`` have a bit for each machine. Behind them come the ports of
    the machines, ``eie_busy`` for example; an item of a stream is whole words in its window, the
    lowest bits first.
    """
    each = [Field(name, 1, f"of the machine {name}") for name in machines]
    items = [
        Register("reset", Access.PULSE, each, "resets the machine"),
        Register("done", Access.CLEAR, each, "the machine has fallen idle"),
        Register("enable", Access.WRITE, each, "the interrupt is high while it is done"),
    ]
    for name, machine in machines.items():
        items += [_item(f"{name}_{port}", kind, value) for port, kind, value in _ports(machine)]
    return items


def item_words(machine: wiring.Component) -> dict[str, int]:
    """Words of an item of each stream of a machine."""
    return {name: _words(value) for name, kind, value in _ports(machine)
            if kind in ("source", "sink")}


class Accelerator(wiring.Component):
    """An EIE array, a tensor core, or both.

    Members
    -------
    bus : In(BUS)
        See :func:`register_map`.
    irq : Out(1)
        High while an enabled machine is done.

    The machines leave reset a cycle after the rest, as they do after the register ``reset``.
    """

    def __init__(self, eie: EIEConfig | None = None, tensorcore: TensorCoreConfig | None = None):
        self.machines = machines(eie, tensorcore)
        super().__init__({"bus": In(BUS), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = RegisterFile(register_map(self.machines))
        wiring.connect(m, wiring.flipped(self.bus), registers.bus)
        for bit, (name, machine) in enumerate(self.machines.items()):
            reset = Signal(init=1, name=f"{name}_reset")
            busy = Signal(name=f"{name}_was_busy")
            m.submodules[name] = resettable(machine, reset, platform)
            m.d.sync += [reset.eq(registers.reset[bit]), busy.eq(machine.busy)]
            m.d.comb += registers.done_set[bit].eq(busy & ~machine.busy)
            for port, kind, value in _ports(machine):
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
            gather = Gather(value.payload.shape())
            m.submodules[f"{name}_words"] = ResetInserter(reset)(gather)
            m.d.comb += [gather.i.payload.eq(register.payload), gather.i.valid.eq(register.valid),
                         register.ready.eq(gather.i.ready | reset)]     # a reset drops the word
            wiring.connect(m, gather.o, value)
        else:
            scatter = Scatter(value.payload.shape())
            m.submodules[f"{name}_words"] = ResetInserter(reset)(scatter)
            wiring.connect(m, value, scatter.i)
            wiring.connect(m, scatter.o, register)


def _ports(machine: wiring.Component) -> Iterator[tuple[str, str, object]]:
    """Ports of a machine, named as in the Verilog: ``"source"`` or ``"sink"`` is a stream that the
    host feeds or takes from, ``"in"`` or ``"out"`` a signal that it sets or sees."""
    streams = {name for name, member in machine.signature.members.items()
               if member.is_signature and isinstance(member.signature, stream.Signature)}
    for name in machine.signature.members:
        if name in streams:
            flow = machine.signature.members[name].flow
            yield name, "source" if flow is In else "sink", getattr(machine, name)
    for path, member, signal in machine.signature.flatten(machine):
        if path[0] not in streams:
            yield "__".join(map(str, path)), "in" if member.flow is In else "out", signal


def _item(name: str, kind: str, value) -> Item:
    if kind in ("source", "sink"):
        return Window(name, "in" if kind == "source" else "out",
                      f"items of {_bits(value)} bits, {_words(value)} words each")
    access = Access.WRITE if kind == "in" else Access.READ
    return Register(name, access, [Field("value", len(value), "of the port")],
                    "a port of the machine")


def _bits(port) -> int:
    return len(Value.cast(port.payload))


def _words(port) -> int:
    return -(-_bits(port) // 32)
