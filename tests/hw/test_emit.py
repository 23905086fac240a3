"""RTLIL and Verilog: shared modules, a clean lint, and the same bits in Icarus."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.control import INPUT, output
from zeroskip.hw.eie.layouts import load_word
from zeroskip.hw.emit import YosysError, ports, rtlil, verilog, waivers, yosys
from zeroskip.sim.cases import make_case, random_layers
from zeroskip.sw.driver.eie import load_words
from zeroskip.sw.driver.payload import pack_fields

needs_verilator = pytest.mark.skipif(not shutil.which("verilator"), reason="verilator is missing")
needs_icarus = pytest.mark.skipif(not shutil.which("iverilog"), reason="iverilog is missing")


class Adder(wiring.Component):
    """Adds a constant."""

    a: In(8)
    o: Out(8)

    def __init__(self, amount):
        self.amount = amount
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.a + self.amount)
        return m


class Bank(wiring.Component):
    """Adders side by side; their sums are combined."""

    a: In(8)
    o: Out(8)

    def __init__(self, *amounts):
        self.amounts = amounts
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        adders = [Adder(amount) for amount in self.amounts]
        for at, adder in enumerate(adders):
            m.submodules[f"adder_{at}"] = adder
            m.d.comb += adder.a.eq(self.a)
        m.d.comb += self.o.eq(sum(adder.o for adder in adders))
        return m


def modules(text):
    return re.findall(r"^module \\(\S+)$", text, re.MULTILINE)


def test_equal_modules_become_one():
    assert modules(rtlil(Bank(3, 3, 3), "top")) == ["top", "top.adder"]


def test_different_modules_stay_apart():
    assert len(modules(rtlil(Bank(3, 4, 3), "top"))) == 3


def test_every_instance_names_a_module_that_exists():
    text = rtlil(EIE(EIEConfig(pes=5)), "eie")
    kinds = set(re.findall(r"^  cell \\(\S+) ", text, re.MULTILINE))
    assert kinds <= set(modules(text))


def test_all_pes_are_one_module():
    two, nine = (modules(rtlil(EIE(EIEConfig(pes=pes)), "eie")) for pes in (2, 9))
    assert len([name for name in nine if "pe" in name.split(".")]) \
        == len([name for name in two if "pe" in name.split(".")]) > 5


def test_ports_are_those_of_the_verilog():
    dut = EIE(EIEConfig())
    text = verilog(dut, "eie")
    head = re.search(r"^module eie\((.*?)\);", text, re.MULTILINE)[1]
    assert sorted(head.split(", ")) == sorted(port["name"] for port in ports(dut))


def test_yosys_says_what_is_wrong():
    with pytest.raises(YosysError, match="Yosys failed"):
        yosys("read_rtlil /nonexistent.il")


@needs_verilator
@pytest.mark.parametrize("pes", [1, 4])
def test_verilator_lints_without_a_warning(tmp_path, pes):
    (tmp_path / "eie.v").write_text(verilog(EIE(EIEConfig(pes=pes)), "eie"))
    (tmp_path / "eie.vlt").write_text(waivers())
    done = subprocess.run(
        ["verilator", "--lint-only", "-Wall", "--top-module", "eie", "eie.vlt", "eie.v"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


BENCH = """
module bench;
  reg clk = 0, rst = 0, go = 0;
  reg [{load}-1:0] loads [0:{loads}-1];
  reg [{input}-1:0] items [0:{inputs}-1];
  reg [31:0] at = 0, got = 0;
  wire load_ready, inputs_ready, outputs_valid;
  wire [{output}-1:0] outputs;
  eie dut(.clk(clk), .rst(rst), .load__valid(go && at < {loads}), .load__ready(load_ready),
          .load__payload(loads[at]), .inputs__valid(at >= {loads} && at < {loads} + {inputs}),
          .inputs__ready(inputs_ready), .inputs__payload(items[at - {loads}]),
          .outputs__valid(outputs_valid), .outputs__ready(1'b1), .outputs__payload(outputs),
          .busy(), .stats__pe(), .stats__select(), .stats__count());
  always #1 clk = !clk;
  initial begin
    $readmemh("loads.hex", loads);
    $readmemh("items.hex", items);
    #2 rst = 1;
    #4 rst = 0;
    #2 go = 1;
    #1000000 $finish;
  end
  always @(posedge clk) begin
    if (go && (at < {loads} ? load_ready : (at < {loads} + {inputs} && inputs_ready)))
      at <= at + 1;
    if (outputs_valid) begin
      $display("%h", outputs);
      got <= got + 1;
      if (got == {wanted} - 1) $finish;
    end
  end
endmodule
"""


def hexadecimal(payloads):
    """$readmemh lines of uint32 [n, words]."""
    return "\n".join("".join(f"{word:08x}" for word in row[::-1]) for row in payloads)


@needs_icarus
def test_icarus_runs_a_program_through_the_verilog(tmp_path):
    rng = np.random.default_rng(7)
    case = make_case(random_layers(rng, (11, 9, 6), 0.5), rng.integers(-50, 50, (2, 11)), pes=3)
    config = case.part.config
    fields = zip(("target", "pe", "address", "data"), load_words(case.part).T, strict=True)
    loads = pack_fields(load_word(config), dict(fields))
    items = pack_fields(INPUT, {
        "value": case.inputs.view(np.uint16).reshape(-1),
        "last": np.tile(np.arange(11) == 10, len(case.inputs))})
    wanted = sum(layer.size for layer in case.expected)
    (tmp_path / "eie.v").write_text(verilog(EIE(config), "eie"))
    (tmp_path / "loads.hex").write_text(hexadecimal(loads))
    (tmp_path / "items.hex").write_text(hexadecimal(items))
    (tmp_path / "bench.v").write_text(BENCH.format(
        load=load_word(config).size, loads=len(loads), input=INPUT.size, inputs=len(items),
        output=output(config).size, wanted=wanted))
    for command in (["iverilog", "-g2012", "-o", "bench.vvp", "bench.v", "eie.v"],
                    ["vvp", "bench.vvp"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True,
                              timeout=120)
    found = [int(line, 16) for line in re.findall(r"^[0-9a-f]+$", done.stdout, re.MULTILINE)]
    layout = output(config)
    index, value = layout["index"], layout["value"]
    pairs = [(bits & (1 << index.width) - 1,
              (bits >> value.offset & 0xFFFF ^ 0x8000) - 0x8000) for bits in found]
    for image in range(len(case.inputs)):
        for layer in case.expected:
            mine, pairs = pairs[:layer.shape[1]], pairs[layer.shape[1]:]
            assert dict(mine) == dict(enumerate(layer[image].tolist()))
