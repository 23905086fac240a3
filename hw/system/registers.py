"""Registers and windows, from one description."""

import keyword
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from zeroskip.hw.bus import BUS, Status

WIDTH = 32
"""Bits of a word on the bus, the most that a register has."""


class Access(Enum):
    """What a host can do with a register."""

    READ = "read"
    """The host reads what the hardware drives."""
    WRITE = "write"
    """The host writes, and reads back what it wrote; zero after reset."""
    CLEAR = "clear"
    """The hardware sets bits, the host reads them and clears those where it writes 1. A bit that
    is set and cleared in the same cycle is set."""
    PULSE = "pulse"
    """A bit where the host writes 1 is high for one cycle; it reads as zero."""


@dataclass(frozen=True)
class Field:
    """Some bits of a register; the first field of a register begins at bit 0."""

    name: str
    width: int
    doc: str

    def __post_init__(self):
        _check_name("a field", self.name)
        if self.width < 1:
            raise ValueError(f"width of field '{self.name}' must be at least 1, "
                             f"not {self.width}")


@dataclass(frozen=True)
class Register:
    """A word of up to 32 bits with one way of access."""

    name: str
    access: Access
    fields: tuple[Field, ...]
    doc: str

    def __post_init__(self):
        object.__setattr__(self, "fields", tuple(self.fields))
        _check_name("a register", self.name)
        _check_unique(f"fields of register '{self.name}'", [each.name for each in self.fields])
        if not 1 <= self.width <= WIDTH:
            raise ValueError(f"register '{self.name}' must have 1 to {WIDTH} bits, "
                             f"not {self.width}")

    @property
    def width(self) -> int:
        """Bits of all fields."""
        return sum(field.width for field in self.fields)

    @property
    def members(self) -> dict[str, wiring.Member]:
        """Ports of a :class:`RegisterFile`."""
        match self.access:
            case Access.READ:
                return {self.name: In(self.width)}
            case Access.CLEAR:
                return {self.name: Out(self.width), f"{self.name}_set": In(self.width)}
            case _:
                return {self.name: Out(self.width)}


@dataclass(frozen=True)
class Window:
    """One address behind which a stream of words lies.

    The host writes the words of one of direction ``"in"``, and reads those of one ``"out"``.
    """

    name: str
    direction: str
    doc: str

    def __post_init__(self):
        _check_name("a window", self.name)
        if self.direction not in ("in", "out"):
            raise ValueError(f"direction of window '{self.name}' must be 'in' or 'out', "
                             f"not {self.direction!r}")

    @property
    def members(self) -> dict[str, wiring.Member]:
        """Ports of a :class:`RegisterFile`."""
        flow = Out if self.direction == "in" else In
        return {self.name: flow(stream.Signature(WIDTH))}


Item = Register | Window


@dataclass(frozen=True)
class Page:
    """Registers and windows side by side, in their order, from the byte address ``base`` on."""

    name: str
    base: int
    items: tuple[Item, ...]

    @property
    def addresses(self) -> dict[str, int]:
        """Name of each item: its byte address."""
        return {item.name: self.base + WIDTH // 8 * k for k, item in enumerate(self.items)}


class RegisterFile(wiring.Component):
    """Registers and windows, at addresses from 0 in the order given, four bytes each.

    A response comes one cycle after its request; a request is taken every second cycle. A
    register changes, and a pulse is high, in the cycle of the response. A window to be written
    holds one word, and one to be read none: a write to one that still holds a word, and a read
    while none is offered, answer :attr:`~zeroskip.hw.bus.Status.BUSY`. A window takes whole words,
    a register whichever bytes are written.

    Members
    -------
    bus : In(BUS)
    *one by the name of each register* : In or Out
        The value: from the hardware for ``READ``, otherwise to it.
    *name*\\ ``_set`` : In
        Of a ``CLEAR`` register: the bits to set.
    *one by the name of each window* : stream of 32
        From the component for ``"in"``, into it for ``"out"``.
    """

    def __init__(self, items: Sequence[Item]):
        self.items = tuple(items)
        if len(self.items) > 1 << 14:
            raise ValueError(f"items must be at most {1 << 14}, not {len(self.items)}")
        names = [name for item in self.items for name in item.members]
        _check_unique("ports of the registers", names)
        for name in names:
            if name in ("bus", "items") or hasattr(RegisterFile, name):
                raise ValueError(f"'{name}' must not be the name of a register or window, "
                                 "because the register file uses it itself")
        super().__init__({"bus": In(BUS)} | {name: member for item in self.items
                                             for name, member in item.members.items()})

    def elaborate(self, platform):
        m = Module()
        request, response = self.bus.request, self.bus.response
        place, width = request.p.address[2:], bits_for(max(1, len(self.items)) - 1)
        m.d.comb += request.ready.eq(~response.valid)
        with m.If(response.valid & response.ready):
            m.d.sync += [response.valid.eq(0), response.payload.eq(0)]
        for item in self.items:
            self._rest(m, item)
        with m.If(request.valid & request.ready):
            m.d.sync += response.valid.eq(1)
            self._answer(m, Status.RANGE)
            # What lies above the places is compared once.
            with m.If(~request.p.address[:2].any() & ~place[width:].any()), \
                    m.Switch(place[:width]):
                for number, item in enumerate(self.items):
                    with m.Case(number):
                        self._access(m, item)
        return m

    def _answer(self, m, status, word=0):
        """Sets the response, in the cycle of the request."""
        response = self.bus.response.p
        m.d.sync += [response.status.eq(status), response.data.eq(word)]

    def _rest(self, m, item):
        """What happens without a request too."""
        value = getattr(self, item.name)
        match item:
            case Register(access=Access.PULSE):
                m.d.sync += value.eq(0)
            case Register(access=Access.CLEAR):
                m.d.sync += value.eq(value | getattr(self, f"{item.name}_set"))
            case Window(direction="in"):
                with m.If(value.valid & value.ready):
                    m.d.sync += value.valid.eq(0)

    def _access(self, m, item):
        """What a request for the item does, and its answer."""
        read, write = (self._read, self._write) if isinstance(item, Register) else (
            self._take, self._give)
        with m.If(~self.bus.request.p.write):
            read(m, item)
        with m.Else():
            write(m, item)

    def _read(self, m, item):
        self._answer(m, Status.OK, 0 if item.access is Access.PULSE else getattr(self, item.name))

    def _write(self, m, item):
        if item.access is Access.READ:
            return
        value, request = getattr(self, item.name), self.bus.request.p
        mask = Cat(strobe.replicate(8) for strobe in request.strobes)
        self._answer(m, Status.OK)
        match item.access:
            case Access.WRITE:
                m.d.sync += value.eq(value & ~mask | request.data & mask)
            case Access.CLEAR:
                events = getattr(self, f"{item.name}_set")
                m.d.sync += value.eq(value & ~(request.data & mask) | events)
            case Access.PULSE:
                m.d.sync += value.eq(request.data & mask)

    def _take(self, m, item):
        """Reads a window."""
        port = getattr(self, item.name)
        if item.direction == "out":
            m.d.comb += port.ready.eq(1)
            self._answer(m, Mux(port.valid, Status.OK, Status.BUSY),
                         Mux(port.valid, port.payload, 0))

    def _give(self, m, item):
        """Writes a window."""
        port, request = getattr(self, item.name), self.bus.request.p
        if item.direction == "in":
            with m.If(request.strobes.all()):
                self._answer(m, Mux(port.valid, Status.BUSY, Status.OK))
                with m.If(~port.valid):
                    m.d.sync += [port.valid.eq(1), port.payload.eq(request.data)]


def _check_name(what: str, name: str):
    """Names become members of a component, ports of the Verilog and names in SystemRDL."""
    if not (name.isidentifier() and name.isascii()) or name[0] == "_" or keyword.iskeyword(name):
        raise ValueError(f"name of {what} must be an identifier, not {name!r}")


def _check_unique(what: str, names: Sequence[str]):
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} must have different names, not '{name}' twice")
