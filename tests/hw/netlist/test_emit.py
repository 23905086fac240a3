# amaranth: UnusedElaboratable=no
"""RTLIL and Verilog: shared modules, a clean lint, and the same bits in Icarus."""

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import INPUT, load_word_layout, output_layout
from zeroskip.hw.netlist.emit import YosysError, ports, rtlil, verilog, waivers, yosys
from zeroskip.hw.netlist.share import shared
from zeroskip.hw.tensorcore.config import CONFIGS, TensorCoreConfig
from zeroskip.hw.tensorcore.core import TensorCore
from zeroskip.hw.tensorcore.layouts import output_layout as tensorcore_output
from zeroskip.sim.cases import make_case, random_layers
from zeroskip.sw.engines.eie.records import load_words
from zeroskip.sw.engines.payload import pack_fields
from zeroskip.sw.engines.tensorcore.golden import gemm, requantise
from zeroskip.sw.engines.tensorcore.schedule import Schedule
from zeroskip.sw.engines.wire import streams
from zeroskip.sw.formats import nm

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


class Copies(Adder):
    """Adds a constant, which is its configuration."""

    elaborated = 0

    def __init__(self, amount):
        self.config = amount
        super().__init__(amount)

    @shared
    def elaborate(self, platform):
        Copies.elaborated += 1
        return super().elaborate(platform)


class Bank(wiring.Component):
    """Adders side by side; their sums are combined."""

    a: In(8)
    o: Out(8)

    def __init__(self, *amounts, kind=Adder):
        self.amounts, self.kind = amounts, kind
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        adders = [self.kind(amount) for amount in self.amounts]
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


def test_shared_components_are_elaborated_once(monkeypatch):
    monkeypatch.setattr(Copies, "elaborated", 0)
    assert modules(rtlil(Bank(3, 3, 3, kind=Copies), "top")) == ["top", "top.copies"]
    assert Copies.elaborated == 1


def test_shared_components_are_elaborated_once_a_configuration(monkeypatch):
    monkeypatch.setattr(Copies, "elaborated", 0)
    text = rtlil(Bank(3, 4, 5, 4, 3, kind=Copies), "top")
    assert modules(text) == ["top", "top.copies", "top.copies_1", "top.copies_2"]
    assert re.findall(r"^  cell \\top\.(\w+) ", text, re.MULTILINE) == [
        "copies", "copies_1", "copies_2", "copies_1", "copies"]
    assert Copies.elaborated == 3


def test_every_instance_names_a_module_that_exists():
    text = rtlil(EIE(EIEConfig(pes=5)), "eie")
    kinds = set(re.findall(r"^  cell \\(\S+) ", text, re.MULTILINE))
    assert kinds <= set(modules(text))


def test_all_pes_are_one_module():
    two, nine = (modules(rtlil(EIE(EIEConfig(pes=pes)), "eie")) for pes in (2, 9))
    assert len([name for name in nine if "pe" in name.split(".")]) \
        == len([name for name in two if "pe" in name.split(".")]) > 5


@pytest.mark.parametrize("make", [lambda: EIE(EIEConfig()), lambda: TensorCore(CONFIGS["tc-8"])],
                         ids=["eie", "tensor core"])
def test_ports_are_those_of_the_verilog(make):
    dut = make()
    text = verilog(dut, "top")
    head = re.search(r"^module top\((.*?)\s*\);", text, re.MULTILINE | re.DOTALL)[1]
    assert sorted(head.split(", ")) == sorted(port["name"] for port in ports(dut))


def test_ports_with_their_widths_and_fields():
    clock, reset, a, o = ports(Adder(1))
    assert (clock, reset) == tuple({"name": name, "direction": "in", "width": 1}
                                   for name in ("clk", "rst"))
    assert a == {"name": "a", "direction": "in", "width": 8}
    assert o == {"name": "o", "direction": "out", "width": 8}
    inputs = next(port for port in ports(EIE(EIEConfig())) if port["name"] == "inputs__payload")
    assert inputs["fields"] == [{"name": "value", "lsb": 0, "width": 16},
                                {"name": "last", "lsb": 16, "width": 1}]


def test_yosys_says_what_is_wrong():
    with pytest.raises(YosysError, match="Yosys failed"):
        yosys("read_rtlil /nonexistent.il")


ONE = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=2, activation_words=2)
SMALL = TensorCoreConfig(rows=3, columns=2, products=4, weight_words=4, activation_words=6,
                         patterns=("dense", "2:4", "1:4"), int4=True)


@needs_verilator
@pytest.mark.parametrize("make", [
    pytest.param(lambda: EIE(EIEConfig(pes=1)), id="eie, one PE"),
    pytest.param(lambda: EIE(EIEConfig(pes=4)), id="eie, four PEs"),
    pytest.param(lambda: TensorCore(CONFIGS["tc-8"]), id="tc-8"),
    pytest.param(lambda: TensorCore(ONE), id="tensor core, one accumulator"),
    pytest.param(lambda: TensorCore(SMALL), id="tensor core, every mode"),
    pytest.param(lambda: TensorCore(replace(CONFIGS["tc-8"], patterns=("dense",))),
                 id="tensor core, no select"),
])
def test_verilator_lints_without_a_warning(tmp_path, make):
    (tmp_path / "top.v").write_text(verilog(make(), "top"))
    (tmp_path / "top.vlt").write_text(waivers())
    done = subprocess.run(
        ["verilator", "--lint-only", "-Wall", "--top-module", "top", "top.vlt", "top.v"],
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


def icarus(folder, *sources):
    """The hexadecimal numbers that a bench writes, one a line."""
    for command in (["iverilog", "-g2012", "-o", "bench.vvp", *sources], ["vvp", "bench.vvp"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True,
                              timeout=120)
    return [int(line, 16) for line in re.findall(r"^[0-9a-f]+$", done.stdout, re.MULTILINE)]


@needs_icarus
def test_icarus_runs_a_program_through_the_verilog(tmp_path):
    rng = np.random.default_rng(7)
    case = make_case(random_layers(rng, (11, 9, 6), 0.5), rng.integers(-50, 50, (2, 11)), pes=3)
    config = case.image.config
    fields = zip(("target", "pe", "address", "data"), load_words(case.image).T, strict=True)
    loads = pack_fields(load_word_layout(config), dict(fields))
    items = pack_fields(INPUT, {
        "value": case.inputs.view(np.uint16).reshape(-1),
        "last": np.tile(np.arange(11) == 10, len(case.inputs))})
    wanted = len(case.inputs) * sum(layer.slots for layer in case.image.layers)
    (tmp_path / "eie.v").write_text(verilog(EIE(config), "eie"))
    (tmp_path / "loads.hex").write_text(hexadecimal(loads))
    (tmp_path / "items.hex").write_text(hexadecimal(items))
    (tmp_path / "bench.v").write_text(BENCH.format(
        load=load_word_layout(config).size, loads=len(loads), input=INPUT.size, inputs=len(items),
        output=output_layout(config).size, wanted=wanted))
    found = icarus(tmp_path, "bench.v", "eie.v")
    layout = output_layout(config)
    index, value = layout["index"], layout["value"]
    pairs = [(bits & (1 << index.width) - 1,
              (bits >> value.offset & 0xFFFF ^ 0x8000) - 0x8000) for bits in found]
    for image in range(len(case.inputs)):
        for number, (layer, expected) in enumerate(
                zip(case.image.layers, case.expected, strict=True)):
            mine, pairs = dict(pairs[:layer.slots]), pairs[layer.slots:]
            physical = np.array([[mine[place] for place in range(layer.slots)]])
            assert case.image.logical(number, physical)[0].tolist() == expected[image].tolist()


STREAM = """
  reg [{width}-1:0] {name}_items [0:{count}-1];
  reg [31:0] {name}_at = 0;
  wire {name}_ready;
  initial $readmemh("{name}.hex", {name}_items);
  always @(posedge clk) if (go && {name}_ready && {name}_at < {count}) {name}_at <= {name}_at + 1;
"""
CORE_BENCH = """
module bench;
  reg clk = 0, rst = 0, go = 0;
  reg [31:0] got = 0;
  wire outputs_valid;
  wire [{output}-1:0] outputs;
  {streams}
  tensorcore dut(.clk(clk), .rst(rst), {ports}
    .outputs__valid(outputs_valid), .outputs__ready(1'b1), .outputs__payload(outputs),
    .busy(), .stats__clear(1'b0), .stats__select(4'd0), .stats__count());
  always #1 clk = !clk;
  initial begin
    #2 rst = 1;
    #4 rst = 0;
    #2 go = 1;
    #1000000 $finish;
  end
  always @(posedge clk) if (outputs_valid) begin
    $display("%h", outputs);
    got <= got + 1;
    if (got == {wanted} - 1) $finish;
  end
endmodule
"""


@needs_icarus
@pytest.mark.parametrize("pattern", ["dense", "2:4", "1:4"])
def test_icarus_runs_a_gemm_through_the_verilog(tmp_path, pattern):
    rng = np.random.default_rng(8)
    schedule = Schedule.of(SMALL, pattern, 7, 40, 5)
    a, b = rng.integers(-128, 128, (7, 40), np.int8), rng.integers(-128, 128, (5, 40), np.int8)
    values, indices = a, np.zeros((7, 0), np.uint8)
    if pattern != "dense":
        a = np.where(nm.mask(a, pattern), a, 0).astype(np.int8)
        compressed = nm.compress(a, pattern)
        values, indices = compressed.values, compressed.indices
    bias = rng.integers(-9999, 9999, 7)
    multiplier = rng.integers(1 << 29, 1 << 30, 7).astype(np.int32)
    shift = rng.integers(38, 41, 7).astype(np.int32)
    dut = TensorCore(SMALL)
    widths = {port["name"]: port["width"] for port in ports(dut)}
    items, _ = streams(schedule.records(
        schedule.command(zero_point=3, relu=True), schedule.weights(values, indices),
        schedule.channels(bias, multiplier, shift), schedule.operands(b)))
    for name, payload in items.items():
        (tmp_path / f"{name}.hex").write_text(hexadecimal(payload))
    (tmp_path / "tensorcore.v").write_text(verilog(dut, "tensorcore"))
    (tmp_path / "bench.v").write_text(CORE_BENCH.format(
        output=tensorcore_output(SMALL).size, wanted=schedule.output_rows,
        streams="".join(STREAM.format(name=name, width=widths[f"{name}__payload"],
                                      count=len(payload)) for name, payload in items.items()),
        ports="\n    ".join(
            f".{name}__valid(go && {name}_at < {len(payload)}), .{name}__ready({name}_ready), "
            f".{name}__payload({name}_items[{name}_at])," for name, payload in items.items())))
    found = icarus(tmp_path, "bench.v", "tensorcore.v")
    size = -(-tensorcore_output(SMALL).size // 32) * 4
    outputs, saturated = schedule.outputs(np.frombuffer(
        b"".join(row.to_bytes(size, "little") for row in found), "<u4").reshape(-1, size // 4))
    sums = gemm(a, b.T.copy()).T + bias.astype(np.int32)
    expected, count = requantise(sums, multiplier, shift, 3, True)
    np.testing.assert_array_equal(outputs, expected.T)
    assert saturated.sum() == count > 0
