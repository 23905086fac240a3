"""Registers that move into block RAMs and multipliers: the bits stay, the flip-flops go."""

import importlib.util
import json
import random
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from zeroskip.fpga.families.ecp5 import FLIP_FLOP, PACKERS
from zeroskip.fpga.pack import pack
from zeroskip.hw.memory import BlockRAM
from zeroskip.hw.netlist.emit import rtlil, yosys
from zeroskip.hw.stream import delay
from zeroskip.sim.bench import simulate

LIBRARY = Path(importlib.util.find_spec("pyosys").origin).parent / "share" / "ecp5"
CYCLES = 400


class Circuit(wiring.Component):
    """What ``build`` makes of the inputs; all circuits have the same, and most leave some alone."""

    a: In(signed(16))
    b: In(signed(16))
    go: In(1)
    hold: In(1)
    write: In(1)
    at: In(9)
    word: In(32)
    address: In(9)
    o: Out(64)

    def __init__(self, build):
        self.build = build
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(Value.cast(self.build(m, self)).as_unsigned())
        return m


def block_ram(m, io, width):
    m.submodules += (ram := BlockRAM(width, depth=512))
    m.d.comb += [ram.write.en.eq(io.write), ram.write.address.eq(io.at), ram.en.eq(io.go),
                 ram.write.data.eq(io.word), ram.hold.eq(io.hold), ram.address.eq(io.address)]
    return ram.data


def bare_ram(m, io, width):
    """A block RAM without an output register."""
    m.submodules += (ram := Memory(shape=width, depth=512, init=[], attrs={"no_rw_check": 1}))
    write, read = ram.write_port(), ram.read_port(domain="comb")
    m.d.comb += [write.en.eq(io.write), write.addr.eq(io.at), write.data.eq(io.word),
                 read.addr.eq(io.address)]
    return register(m, read.data, io.go)


def register(m, value, go=1):
    later = Signal.like(Value.cast(value), reset_less=True)
    with m.If(go):
        m.d.sync += later.eq(value)
    return later


def and_bare(m, value):
    return Cat(register(m, value), value)


def and_logic(m, value):
    return Cat(register(m, value), value.xor())


def enables(m, io):
    word = bare_ram(m, io, 16)
    return Cat(register(m, word[:8], io.go), register(m, word[8:], io.hold))


def product(m, io, *, behind):
    return delay(m, register(m, io.a) * register(m, io.b), behind, reset_less=True)


def shared_input(m, io):
    a = register(m, io.a)
    return Cat(register(m, a * register(m, io.b)), (a + 1)[:16])


def square(m, io):
    a = register(m, io.a)
    return register(m, a * a)


INPUTS = ["REG_INPUTA_CLK", "REG_INPUTB_CLK"]
BEHIND = [*INPUTS, "REG_OUTPUT_CLK"]
CASES = {
    # name: circuit, flip-flops that go, what is inside instead
    "block RAM of 32 bits": (lambda m, io: block_ram(m, io, 32), 32, ["REGMODE_A", "REGMODE_B"]),
    "block RAM of 16 bits": (lambda m, io: block_ram(m, io, 16), 16, ["REGMODE_B"]),
    "block RAM, no enable": (lambda m, io: register(m, bare_ram(m, io, 16)), 16, ["REGMODE_B"]),
    "block RAM, register with reset": (lambda m, io: delay(m, bare_ram(m, io, 16), 1), 0, []),
    "block RAM, register and logic": (lambda m, io: and_logic(m, bare_ram(m, io, 16)), 0, []),
    "block RAM, register and port": (lambda m, io: and_bare(m, bare_ram(m, io, 16)), 0, []),
    "block RAM, two enables": (enables, 0, []),
    "block RAM, only a port": (lambda m, io: bare_ram(m, io, 16), 0, []),
    "product, only a port": (lambda m, io: product(m, io, behind=0), 32, INPUTS),
    "product, one register": (lambda m, io: product(m, io, behind=1), 64, BEHIND),
    "product, two registers":
        (lambda m, io: product(m, io, behind=2), 96, [*BEHIND, "REG_PIPELINE_CLK"]),
    "product, three registers":
        (lambda m, io: product(m, io, behind=3), 96, [*BEHIND, "REG_PIPELINE_CLK"]),
    "product, shared input": (shared_input, 48, BEHIND),
    "product, square": (square, 48, BEHIND),
    "product, registers with reset":
        (lambda m, io: delay(m, delay(m, io.a, 1) * io.b, 1), 0, []),
    "product, registers with enable":
        (lambda m, io: register(m, register(m, io.a, io.go) * io.b, io.go), 0, []),
    "product, register and logic": (lambda m, io: and_logic(m, io.a * io.b), 0, []),
    "product, register and port": (lambda m, io: and_bare(m, io.a * io.b), 0, []),
}


def bus(name, width=18):
    return "{" + ", ".join(f"{name}{k}" for k in reversed(range(width))) + "}"


# What is in the device, behind Yosys' own declarations. Bytes have 9 bits. A word of 36 is read
# through port B, its lower half comes out at A's pins; whose options and enable count there is not
# known, so that they must agree.
MODELS = {"DP16KD": f"""
  localparam WIDE = DATA_WIDTH_B == 36, IN_A = REGMODE_A == "OUTREG", IN_B = REGMODE_B == "OUTREG";
  localparam [10:0] LANES_A = DATA_WIDTH_A / 9, LANES_B = DATA_WIDTH_B / 9;
  wire [13:0] at_a = {bus("ADA", 14)}, at_b = {bus("ADB", 14)};
  wire [10:0] from_a = at_a[13:3] & -LANES_A, from_b = at_b[13:3] & -LANES_B;
  wire [35:0] in = {{{bus("DIB")}, {bus("DIA")}}};
  wire on_a = OCEAMUX == "INV" ? ~OCEA : OCEA, on_b = OCEBMUX == "INV" ? ~OCEB : OCEB;
  wire unclear = WIDE && (IN_A != IN_B || (IN_A && on_a !== on_b));
  reg [17:0] read_a = 0, read_b = 0, held_a = 0, held_b = 0;
  reg [8:0] bytes [0:2047];
  integer k;
  initial for (k = 0; k < 2048; k = k + 1) bytes[k] = 0;
  function [35:0] word(input [10:0] from);
    word = {{bytes[from | 3], bytes[from | 2], bytes[from | 1], bytes[from]}};
  endfunction
  always @(posedge CLKA) begin
    if (CEA && WEA)
      for (k = 0; k < LANES_A; k = k + 1)
        if (LANES_A == 1 || at_a[k]) bytes[from_a + k] <= in[9 * k +: 9];
    if (CEA && !WEA && !WIDE) read_a <= word(from_a);
    if (on_a) held_a <= read_a;
  end
  always @(posedge CLKB) begin
    if (CEB && WIDE) {{read_b, read_a}} <= word(from_b);
    if (CEB && !WIDE) read_b <= word(from_b);
    if (on_b) held_b <= read_b;
  end
  assign {bus("DOA")} = unclear ? 18'bx : IN_A ? held_a : read_a;
  assign {bus("DOB")} = unclear || WEB ? 18'bx : IN_B ? held_b : read_b;
""", "MULT18X18D": f"""
  wire [17:0] a = {bus("A")}, b = {bus("B")};
  reg [17:0] held_a = 0, held_b = 0;
  reg [35:0] pipeline = 0, last = 0;
  wire [17:0] x = REG_INPUTA_CLK == "CLK0" ? held_a : a, y = REG_INPUTB_CLK == "CLK0" ? held_b : b;
  wire signed [18:0] left = {{SIGNEDA & x[17], x}}, right = {{SIGNEDB & y[17], y}};
  wire [35:0] product = left * right, between = REG_PIPELINE_CLK == "CLK0" ? pipeline : product;
  always @(posedge CLK0)
    if (RST0) {{held_a, held_b, pipeline, last}} <= 0;
    else if (CE0) {{held_a, held_b, pipeline, last}} <= {{a, b, product, between}};
  assign {bus("P", 36)} = REG_OUTPUT_CLK == "CLK0" ? last : between;
"""}


def cells(module):
    """Verilog of a netlist's cells: Yosys' own, with :data:`MODELS` in those it only declares."""
    text = "".join((LIBRARY / name).read_text() for name in (
        "common_sim.vh", "ccu2c_sim.vh", "cells_sim.v", "cells_bb.v"))
    library = {found[1]: found[0] for found in re.finditer(
        r"^module (\w+).*?^(?=endmodule)", text, re.MULTILINE | re.DOTALL)}
    used = {"LUT2", "LUT4"} | {cell["type"] for cell in module["cells"].values()}
    return "".join(library[name] + MODELS.get(name, "") + "endmodule\n"
                   for name in sorted(used - {"$scopeinfo"}))


def expected(build, stimuli):
    """Output in each cycle, in Amaranth's simulator."""
    circuit, outputs = Circuit(build), []

    async def bench(ctx):
        for row in stimuli:
            for name, value in row.items():
                ctx.set(getattr(circuit, name), value)
            outputs.append((await ctx.tick().sample(circuit.o))[-1])
    simulate(circuit, bench, deadline=CYCLES + 1, quiet=0)
    return outputs


def found(module, stimuli, folder):
    """The same of a netlist, in Icarus."""
    (folder / "top.json").write_text(json.dumps({"modules": {"top": module}}))
    yosys(f"read_json {folder / 'top.json'}", f"write_verilog -noattr {folder / 'top.v'}")
    rows = "".join("    " + " ".join(f"{name} = {value};" for name, value in row.items())
                   + ' #1 $display("%h", o); clk = 1; #1 clk = 0; #1;\n' for row in stimuli)
    (folder / "bench.v").write_text(
        cells(module) + "module bench;\n  reg clk = 0, rst = 0, go, hold, write;\n"
        "  reg [8:0] at, address; reg [31:0] word; reg signed [15:0] a, b; wire [63:0] o;\n"
        f"  top top (.*);\n  initial begin\n{rows}  end\nendmodule\n")
    for command in (["iverilog", "-g2012", "-gno-specify", "-s", "bench", "-o", "bench",
                     "top.v", "bench.v"], ["vvp", "bench"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout + done.stderr
    return [int(line, 16) for line in done.stdout.split()]


@pytest.mark.parametrize("name", CASES)
def test_registers_move_and_bits_stay(name, tmp_path):
    build, gone, inside = CASES[name]
    netlist = tmp_path / "design.json"
    (tmp_path / "design.il").write_text(rtlil(Circuit(build), "top"))
    yosys(f"read_rtlil {tmp_path / 'design.il'}", "synth_ecp5 -top top", f"write_json {netlist}")
    before = json.loads(netlist.read_text())["modules"]["top"]
    packed = pack(netlist, FLIP_FLOP, PACKERS)
    after = json.loads(netlist.read_text())["modules"]["top"]
    count = [Counter(cell["type"] for cell in module["cells"].values())
             for module in (before, after)]
    assert count[0] - count[1] == Counter(TRELLIS_FF=gone)
    assert not count[1] - count[0]
    assert packed == bool(inside)
    assert sorted(option for cell in after["cells"].values()
                  for option, value in cell["parameters"].items()
                  if value in ("OUTREG", "CLK0")) == inside

    if not shutil.which("iverilog"):
        pytest.skip("iverilog is missing; only what has moved is checked")
    rng = random.Random(1)
    stimuli = []
    for _ in range(CYCLES):
        at, address = rng.sample(range(0, 512, 37), 2)      # never of what is being written
        stimuli.append({"at": at, "address": address, "word": rng.getrandbits(32)}
                       | {side: rng.choice((-2**15, -1, 2**15 - 1, rng.randrange(-2**15, 2**15)))
                          for side in "ab"}
                       | {bit: rng.getrandbits(1) for bit in ("go", "hold", "write")})
    assert found(after, stimuli, tmp_path) == expected(build, stimuli)
