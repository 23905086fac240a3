"""A core behind a page of the bus: a register for each control port, a window for each stream."""

from collections.abc import Iterator

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.bus import BUS
from zeroskip.hw.core import CoreConfig
from zeroskip.hw.netlist.share import resettable
from zeroskip.hw.stream import Downsizer, Upsizer
from zeroskip.hw.system.address import PAGE
from zeroskip.hw.system.registers import (
    WIDTH,
    Access,
    Field,
    Item,
    Register,
    RegisterFile,
    Window,
)


def control_ports(core: wiring.Component) -> Iterator[tuple[str, wiring.Flow, Value]]:
    """The control ports of a core, by their names in the Verilog."""
    for path, member, value in core.signature.flatten(core):
        if path[0] in core.signature.control:
            yield "__".join(map(str, path)), member.flow, value


def core_items(core: wiring.Component) -> tuple[Item, ...]:
    """What the host sees of a core: its control ports, and behind them its streams."""
    registers = [Register(name, Access.WRITE if flow is In else Access.READ,
                          [Field("value", len(value), "of the port")], "a port of the core")
                 for name, flow, value in control_ports(core)]
    windows = [Window(name, "in" if core.signature.members[name].flow is In else "out",
                      f"items of {_bits(core, name)} bits, {words} words each")
               for name, words in item_words(core).items()]
    if len(items := (*registers, *windows)) > PAGE // 4:
        raise ValueError(f"ports of a core must be at most {PAGE // 4}, not {len(items)}")
    return items


def item_words(core: wiring.Component) -> dict[str, int]:
    """Words of an item of each stream of a core."""
    return {name: -(-_bits(core, name) // WIDTH) for name in core.signature.streams}


def _bits(core: wiring.Component, stream: str) -> int:
    return len(Value.cast(getattr(core, stream).payload))


class CorePage(wiring.Component):
    """A core whose ports are registers and windows.

    The core leaves reset a cycle after the rest.

    Members
    -------
    bus : In(BUS)
        See :func:`core_items`; an item of a stream is whole words in its window, the lowest bits
        first.
    reset : In(1)
        Resets the core a cycle later, and drops what is in flight in its streams.
    done : Out(1)
        The core has fallen idle in this cycle.
    """

    def __init__(self, config: CoreConfig):
        self.core = config.component()
        super().__init__({"bus": In(BUS), "reset": In(1), "done": Out(1)})

    def elaborate(self, platform):
        m = Module()
        core, reset, busy = self.core, Signal(init=1, name="core_reset"), Signal()
        m.submodules.registers = registers = RegisterFile(core_items(core))
        m.submodules.core = resettable(core, reset, platform)
        wiring.connect(m, wiring.flipped(self.bus), registers.bus)
        m.d.sync += [reset.eq(self.reset), busy.eq(core.busy)]
        m.d.comb += self.done.eq(busy & ~core.busy)
        for name, flow, value in control_ports(core):
            register = getattr(registers, name)
            m.d.comb += value.eq(register) if flow is In else register.eq(value)
        for name in core.signature.streams:
            into = core.signature.members[name].flow is In
            port, window = getattr(core, name), getattr(registers, name)
            words = (Upsizer if into else Downsizer)(port.payload.shape())
            m.submodules[f"{name}_words"] = ResetInserter(reset)(words)
            if into:
                m.d.comb += [words.i.payload.eq(window.payload), words.i.valid.eq(window.valid),
                             window.ready.eq(words.i.ready | reset)]    # a reset drops the word
                wiring.connect(m, words.o, port)
            else:
                wiring.connect(m, port, words.i)
                wiring.connect(m, words.o, window)
        return m
