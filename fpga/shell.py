"""A registered shell around a component, so that its clock can be measured with few pins."""

from functools import reduce
from operator import xor

from amaranth.hdl import Cat, ClockDomain, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Shell(wiring.Component):
    """A component between registers: every input comes from one, every output enters one.

    The inputs and the component's reset are the bits of one shift register. The outputs are
    held as they are; then a tree of registers, each the parity of four, folds them and the end
    of the shift register to one pin. So no input is constant, no output is unused, and no path
    of the shell has more than one LUT between two registers.

    Members
    -------
    clk : In(1)
        Clock of the shell and of the component. The shell's registers have no reset.
    serial : In(1)
        Shifted in, a bit a cycle: bit k of the inputs, in the order of the signature and lowest
        first, is what ``serial`` was k + 1 cycles ago. The reset stands behind the last bit.
    parity : Out(1)
        Parity of the outputs ``latency`` cycles ago and of the reset a cycle later.

    Attributes
    ----------
    component : wiring.Component
        What is inside. It has no clock domain but ``sync``.
    """

    def __init__(self, component: wiring.Component):
        self.component = component
        super().__init__({"clk": In(1), "serial": In(1), "parity": Out(1)})

    def _ports(self, flow: wiring.Flow) -> list[Signal]:
        """Ports of the component in one direction; ``ready`` of some streams is a constant."""
        values = [Value.cast(value) for _, member, value
                  in self.component.signature.flatten(self.component) if member.flow is flow]
        return [value for value in values if isinstance(value, Signal)]

    @property
    def _levels(self) -> list[int]:
        """Bits that are folded in each level, from the outputs and the reset to the pin."""
        levels = [len(Cat(self._ports(Out))) + 1]
        while levels[-1] > 1:
            levels.append(-(-levels[-1] // 4))
        return levels

    @property
    def latency(self) -> int:
        """Cycles from the outputs to their parity at the pin."""
        return len(self._levels)

    @property
    def flip_flops(self) -> int:
        """Flip-flops of the shell alone: the bits of the inputs and of the levels."""
        return len(Cat(self._ports(In))) + sum(self._levels)

    @property
    def luts(self) -> int:
        """LUTs of the shell alone: one for four bits, or for two or three that are left."""
        return sum((bits + 2) // 4 for bits in self._levels)

    def elaborate(self, platform):
        m = Module()
        m.domains.shell = shell = ClockDomain(reset_less=True)
        m.domains.sync = sync = ClockDomain()
        shell.clk = sync.clk = self.clk
        m.submodules.component = self.component
        chain = Cat(self._ports(In), sync.rst)
        m.d.shell += chain.eq(Cat(self.serial, chain))

        held = []
        for port in self._ports(Out):
            held.append(register := Signal(len(port), name=port.name))
            m.d.shell += register.eq(port)
        bits = Cat(held, sync.rst)
        for width in self._levels[1:]:
            parity = Signal(width)
            m.d.shell += parity.eq(Cat(reduce(xor, bits[4 * k:4 * k + 4]) for k in range(width)))
            bits = parity
        m.d.comb += self.parity.eq(bits)
        return m
