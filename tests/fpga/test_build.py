# amaranth: UnusedElaboratable=no
"""Builds of boards: a real one of a small design, and the flow around stand-ins for the tools."""

import json
import sys

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.fpga import build as subject
from zeroskip.fpga.boards import BOARDS, Design
from zeroskip.fpga.build import FAMILIES, BuildError, DoesNotFit, TimingMissed, Tool, build, path
from zeroskip.fpga.floor import blocks, floor
from zeroskip.hw.fronts.uart import Receiver, Transmitter
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.errors import ToolMissing

KEYS = {"board", "config", "pes", "fmax_mhz", "target_mhz", "lut", "ff", "dsp", "bram", "bitstream",
        "seconds", "available", "seed"}

DESIGN = Design(BOARDS["icebreaker"], "echo", SystemConfig((TensorCoreConfig(),)), 12)


class Echo(wiring.Component):
    """Every byte comes back."""

    def __init__(self):
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = Receiver(divisor=12)
        m.submodules.transmitter = transmitter = Transmitter(divisor=12)
        wiring.connect(m, receiver.o, transmitter.i)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        return m


NEXTPNR = """
import json, pathlib, sys
seed = sys.argv[sys.argv.index("--seed") + 1]
with open("seeds", "a") as seeds:
    seeds.write(seed + "\\n")
print("Info: Device utilisation:")
print("Info: \\t   ICESTORM_LC:    {used}/   5280    1%")
print("Info: \\t  ICESTORM_RAM:    {blocks}/     30    1%")
print("Info: placing", flush=True)
step = lambda kind, cell, delay: dict(type=kind, delay=delay, to=dict(cell=cell))
pathlib.Path("nextpnr.json").write_text(json.dumps(dict(
    fmax=dict(clk=dict(achieved={fmax}[seed], constraint=12)),
    utilization={{kind: dict(used=7, available=9) for kind in
                 ("ICESTORM_LC", "ICESTORM_DSP", "ICESTORM_RAM", "ICESTORM_SPRAM")}},
    critical_paths=[{{"from": "posedge clk", "to": "posedge clk", "path": [
        step("clk-to-q", "top.receiver.timer_SB_DFF_Q_1", 1.0), step("routing", "a", 2.0),
        step("setup", "top.transmitter.tx_SB_DFFE_Q", 0.5)]}}])))
sys.exit({code})
"""

PACK = "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_bytes(b'bits')"


@pytest.fixture
def stub(monkeypatch):
    """``stub(fmax={seed: MHz}, used=cells, blocks=RAMs, code=exit)`` replaces both tools."""
    def replace(fmax=None, used=100, blocks=2, code=0):
        fmax = {str(seed): mhz for seed, mhz in (fmax or {1: 20}).items()}
        place = NEXTPNR.format(fmax=fmax, used=used, blocks=blocks, code=code)
        scripts = {FAMILIES["ice40"].nextpnr: place, FAMILIES["ice40"].pack: PACK}
        monkeypatch.setattr(Tool, "command",
                            lambda tool: [sys.executable, "-c", scripts[tool]])
    return replace


def seeds(folder):
    return [int(line) for line in (folder / "seeds").read_text().split()]


def test_report(stub, tmp_path):
    stub()
    steps = []
    report = build(DESIGN, tmp_path, component=Echo(),
                   progress=lambda *step: steps.append(step))
    assert set(report) >= KEYS
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (report["board"], report["config"], report["pes"]) == ("icebreaker", "echo", 0)
    assert (report["fmax_mhz"], report["target_mhz"], report["seed"]) == (20, 12, 1)
    assert (report["lut"], report["spram"], report["available"]["lut"]) == (7, 7, 9)
    assert 40 < report["ff"] < 120      # counted in the netlist
    assert (tmp_path / report["bitstream"]).read_bytes() == b"bits"
    assert report["critical_path"] == \
        "top.receiver.timer to top.transmitter.tx, 1.5 ns of logic and 2.0 ns of routing"
    assert [step[2].split(",")[0] for step in steps] == ["synthesis", "place and route",
                                                         "bitstream"]


def test_seeds_until_one_meets_the_clock(stub, tmp_path):
    stub({4: 11.9, 5: 12.0, 6: 50})
    report = build(DESIGN, tmp_path, component=Echo(), seed=4)
    assert (seeds(tmp_path), report["seed"], report["fmax_mhz"]) == ([4, 5], 5, 12)


def test_no_bitstream_without_the_clock(stub, tmp_path):
    """Not even that of an earlier build."""
    stub()
    build(DESIGN, tmp_path, component=Echo())
    stub({1: 10, 2: 11.94, 3: 11})
    with pytest.raises(TimingMissed, match=r"echo on icebreaker reaches 11\.9 MHz of its 12 MHz "
                                           r"with seeds 1, 2, 3, so there is no bitstream; the "
                                           r"path is top\.receiver\.timer to"):
        build(DESIGN, tmp_path, component=Echo())
    assert not (tmp_path / "design.bin").exists()
    assert not (tmp_path / "report.json").exists()


def test_too_large(stub, tmp_path):
    stub(used=5281, blocks=74)
    with pytest.raises(DoesNotFit, match="^echo needs 5281 LUTs where the board has 5280, "
                                         "74 block RAMs where the board has 30; choose a smaller "
                                         "configuration"):
        build(DESIGN, tmp_path, component=Echo())
    assert seeds(tmp_path) == [1]


def test_nextpnr_fails(stub, tmp_path):
    stub(code=1)
    with pytest.raises(BuildError, match="nextpnr failed:\n(.*\n)*Info: placing"):
        build(DESIGN, tmp_path, component=Echo())


def test_tool_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(subject.shutil, "which", lambda _: None)
    monkeypatch.setattr(subject.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolMissing, match=r"there is no nextpnr-ice40; install it with pip install "
                                          r"'zeroskip\[fpga\]'"):
        build(DESIGN, tmp_path, component=Echo())
    assert list(tmp_path.iterdir()) == []


def test_native_tools_come_first(monkeypatch):
    monkeypatch.setattr(subject.shutil, "which", lambda name: f"/native/{name}")
    assert FAMILIES["gowin"].pack.command() == ["/native/gowin_pack"]


def test_path_skips_those_from_pins():
    def step(kind, cell, delay):
        return {"type": kind, "delay": delay, "to": {"cell": cell}}
    placed = {"critical_paths": [
        {"from": "<async>", "to": "posedge clk", "path": [step("source", "rx", 9)]},
        {"from": "posedge clk", "to": "posedge clk", "path": [
            step("clk-skew", "top.b_LC", 0), step("clk-to-q", "top.a.words.0.1", 1),
            step("routing", "x", 1), step("setup", "top.b.$signal$4_TRELLIS_FF_Q", 1)]}]}
    assert path(placed) == "top.a.words to top.b, 2.0 ns of logic and 1.0 ns of routing"


def test_blocks():
    """The largest is split, down to where nothing is inside."""
    scopes = [("top",)] * 2 + [("top", "eie", "pe_0", "queue")] * 9 + \
        [("top", "eie", "pe_1")] * 5 + [("top", "link")] * 4 + [()]
    def sizes(most):
        shown = [blocks(scopes, most)[scope] for scope in scopes]
        return {block: shown.count(block) for block in shown}
    assert sizes(2) == {"top": 20, "board": 1}
    assert sizes(4) == {"top": 2, "eie": 14, "link": 4, "board": 1}
    assert sizes(20) == {"top": 2, "eie.pe_0.queue": 9, "eie.pe_1": 5, "link": 4, "board": 1}


def missing():
    """Why the real build cannot run, or nothing."""
    try:
        FAMILIES["ice40"].nextpnr.command()
    except ToolMissing as error:
        return str(error)
    return ""


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_real_build(tmp_path):
    report = build(DESIGN, tmp_path, component=Echo())
    assert report["fmax_mhz"] > 12
    assert 40 < report["lut"] < 200
    assert (report["dsp"], report["bram"], report["spram"]) == (0, 0, 0)
    assert report["available"] == {"lut": 5280, "ff": 5280, "dsp": 8, "bram": 30, "spram": 4}
    assert (tmp_path / report["bitstream"]).stat().st_size > 50_000
    cells = floor(tmp_path)
    assert {"receiver", "transmitter"} <= {block for *_, block in cells}
    assert all(0 <= x <= 25 and 0 <= y <= 31 for x, y, _ in cells)
