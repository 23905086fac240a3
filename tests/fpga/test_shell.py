"""The registered shell: what is shifted in reaches the inputs, all outputs reach the pin."""

import random

import pytest
from amaranth.hdl import Cat, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from zeroskip.fpga.shell import Shell
from zeroskip.hw.stream import Queue, flow

CYCLES = 300


class Sample(wiring.Component):
    """An input that leaves at once, one that leaves a cycle later, and the reset."""

    def __init__(self, width):
        super().__init__({"a": In(width), "b": In(3), "x": Out(width), "y": Out(3),
                          "reset": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.x.eq(self.a), self.reset.eq(ResetSignal())]
        m.d.sync += self.y.eq(self.b)
        return m


def ports(component, direction):
    return Cat(value for _, member, value in component.signature.flatten(component)
               if member.flow is direction and isinstance(Value.cast(value), Signal))


def observe(shell, *watched):
    """Random bits for the serial pin, and the values of ``watched`` in the cycle of each."""
    rng = random.Random(1)
    bits, log = [rng.getrandbits(1) for _ in range(CYCLES)], []

    async def bench(ctx):
        for bit in bits:
            ctx.set(shell.serial, bit)
            *_, values = await ctx.tick("shell").sample(Cat(watched))
            log.append(values)

    simulator = Simulator(shell)
    simulator.add_clock(1e-6, domain="shell")
    simulator.add_testbench(bench)
    simulator.run()
    lengths = [len(each) for each in watched]
    return bits, [[value >> sum(lengths[:k]) & (1 << length) - 1
                   for k, length in enumerate(lengths)] for value in log]


def test_inputs_and_reset_are_the_bits_of_one_shift_register():
    component = Sample(5)
    bits, log = observe(Shell(component), component.a, component.b, component.reset)
    for t in range(9, CYCLES):
        a, b, reset = log[t]
        assert [a >> k & 1 for k in range(5)] == bits[t - 5:t][::-1]
        assert [b >> k & 1 for k in range(3)] == bits[t - 8:t - 5][::-1]
        assert reset == bits[t - 9]


def test_the_component_runs_on_the_clock_and_the_reset_of_the_shell():
    component = Sample(2)
    _, log = observe(Shell(component), component.b, component.y, component.reset)
    assert {reset for *_, reset in log} == {0, 1}
    assert [y for _, y, _ in log[1:]] == [0 if reset else b for b, _, reset in log[:-1]]


class Flow(wiring.Component):
    """Streams whose ``ready`` is constant; that is no port."""

    i: In(flow(4))
    o: Out(flow(4))

    def elaborate(self, platform):
        m = Module()
        wiring.connect(m, wiring.flipped(self.i), wiring.flipped(self.o))
        return m


@pytest.mark.parametrize("component", [Sample(1), Sample(13), Queue(14, depth=3), Flow()],
                         ids=["5 bits", "17 bits", "a queue", "constant ready"])
def test_every_bit_of_the_outputs_is_in_the_parity_at_the_pin(component):
    shell, inputs = Shell(component), len(ports(component, In))
    bits, log = observe(shell, ports(component, Out), shell.parity)
    for t in range(inputs + 10, CYCLES):
        outputs, reset = log[t - shell.latency][0], bits[t - shell.latency - inputs]
        assert log[t][1] == (outputs.bit_count() + reset) % 2
