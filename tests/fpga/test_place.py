# amaranth: UnusedElaboratable=no
"""Place and route: real ones that take seconds, and the parts around nextpnr with a stand-in."""

import importlib.util
import shutil
import sys

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.fpga.families.ecp5 import ECP5
from zeroskip.fpga.family import Tool
from zeroskip.fpga.flow import BuildError, CriticalPath, DoesNotFit
from zeroskip.fpga.place import place
from zeroskip.sw.errors import ToolMissing

try:
    NEXTPNR = ECP5.nextpnr.command()
except ToolMissing as missing:
    NEXTPNR, WHY = None, str(missing)


class Register(wiring.Component):
    """Holds bits for a cycle, without a reset, just as the shell's registers do."""

    def __init__(self, width):
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform):
        m = Module()
        held = Signal.like(self.o, reset_less=True)
        m.d.sync += held.eq(self.i)
        m.d.comb += self.o.eq(held)
        return m


class Blocks(wiring.Component):
    """A product of 18 bits, 1,024 words of 16 bits in a block, 16 of 4 bits outside."""

    a: In(18)
    b: In(18)
    product: Out(36)
    large: Out(16)
    small: Out(4)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.product.eq(self.a * self.b)
        for out, depth, domain in ((self.large, 1024, "sync"), (self.small, 16, "comb")):
            m.submodules += (words := memory.Memory(shape=len(out), depth=depth, init=[]))
            write, read = words.write_port(), words.read_port(domain=domain)
            m.d.comb += [write.addr.eq(self.a), write.data.eq(self.b), write.en.eq(self.b[-1]),
                         read.addr.eq(self.a), out.eq(read.data)]
            if domain == "sync":
                m.d.comb += read.en.eq(~write.en)   # never of what is being written
        return m


class Sums(wiring.Component):
    """Eight additions, one behind the other; ``registered``, each in a cycle of its own."""

    def __init__(self, registered):
        self.domain = "sync" if registered else "comb"
        super().__init__({"a": In(8), "b": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        total = self.a
        for _ in range(8):
            before, total = total, Signal(8)
            m.d[self.domain] += total.eq((before ^ before[3:]) + self.b)
        m.d.comb += self.o.eq(total)
        return m


@pytest.mark.skipif(NEXTPNR is None, reason="" if NEXTPNR else WHY)
def test_place_and_route():
    """One test, so that the nextpnr from PyPI compiles itself once and not twice at a time."""
    steps = []
    held = place(Register(40), chip=ECP5("25k"), seeds=(7,),
                 progress=lambda *step: steps.append(step))
    assert held.lut <= 1            # for a constant that nextpnr drives
    assert (held.ff, held.bram, held.dsp) == (40, 0, 0)     # none became one with the shell's
    assert held.median == held.fmax[7] > 300
    assert [step[:2] for step in steps] == [(0, 2), (1, 2)]
    assert steps[0][2] == "synthesis"
    assert "seed 7" in steps[1][2]

    blocks = place(Blocks(), chip=ECP5("25k"), seeds=(1,))
    assert 4 + 2 <= blocks.lut <= 4 + 2 + 5     # the small memory, its write port; its enable
    assert (blocks.bram, blocks.dsp) == (1, 1)

    long, short = (place(Sums(registered), chip=ECP5("25k"), seeds=(1, 2))
                   for registered in (False, True))
    assert list(long.fmax) == list(long.paths) == [1, 2]
    assert long.ff == 0
    assert short.ff == 8 * 8
    assert max(long.fmax.values()) < min(short.fmax.values()) / 3
    assert all(path.levels >= 8 and path.through[-1] == "shell.o" for path in long.paths.values())
    assert all(path.levels <= 2 for path in short.paths.values())
    for seed, path in long.paths.items():
        assert path.logic + path.routing == pytest.approx(1000 / long.fmax[seed], abs=0.01)


def step(kind, cell, delay):
    return {"type": kind, "delay": delay, "from": {"cell": "-"}, "to": {"cell": cell}}


PATHS = [
    {"from": "<async>", "to": "posedge clk", "path": [step("source", "pin", 9.0)]},
    {"from": "posedge clk", "to": "posedge clk", "path": [
        step("clk-to-q", "component.pe_0.row_TRELLIS_FF_Q_3", 0.5),
        step("routing", "component.pe_0.row_TRELLIS_FF_Q_3_DI_CCU2C_S1$CCU2_COMB0", 1.0),
        step("logic", "component.pe_0.row_TRELLIS_FF_Q_3_DI_CCU2C_S1$CCU2_COMB0", 0.4),
        step("routing", "$nextpnr_CCU2C_2$CCU2_COMB0", 0.0),
        step("logic", "$nextpnr_CCU2C_2$CCU2_COMB0", 0.1),
        step("routing", "component.pe_0.full_LUT4_Z", 0.7),
        step("logic", "component.pe_0.full_LUT4_Z", 0.2),
        step("routing", "component.pe_0.words.0.6$DPRAM_COMB3", 0.5),
        step("logic", "component.pe_0.words.0.6$DPRAM_COMB3", 0.2),
        step("routing", "component.later$16_LUT4_Z", 0.1),
        step("logic", "component.later$16_LUT4_Z", 0.2),
        step("routing", "o_TRELLIS_FF_Q_1", 0.3),
        step("setup", "o_TRELLIS_FF_Q_1", 0.1),
    ]},
]


STAND_IN = """import json, sys
assert "--45k" in sys.argv and sys.argv[sys.argv.index("--speed") + 1] == "8"
seed = int(sys.argv[sys.argv.index("--seed") + 1])
used = {"TRELLIS_COMB": 100, "TRELLIS_RAMW": 3, "TRELLIS_FF": 50, "DP16KD": 4, "MULT18X18D": 5}
json.dump({"utilization": {kind: {"used": n, "available": 999} for kind, n in used.items()},
           "fmax": {"clk": {"achieved": 100 + seed * seed}},
           "critical_paths": PATHS}, open("nextpnr.json", "w"))
"""


@pytest.fixture
def stand_in(monkeypatch):
    """``stand_in(program)`` is run in place of nextpnr."""
    def replace(program):
        monkeypatch.setattr(Tool, "command", lambda _: [sys.executable, "-c", program])
    return replace


def test_counts_and_paths_are_those_of_the_report_without_the_shell(stand_in):
    """The shell of 3 bits in and out holds 3, and 4, 1 bits that it folds with a LUT."""
    stand_in(STAND_IN.replace("PATHS", repr(PATHS)))
    placed = place(Register(3), chip=ECP5("45k", speed=8), seeds=(1, 2, 5))
    assert (placed.lut, placed.ff) == (100 + 2 * 3 - 1, 50 - 3 - 4 - 1)
    assert (placed.bram, placed.dsp) == (4, 5)
    assert placed.fmax == {1: 101, 2: 104, 5: 125}
    assert placed.median == 104
    path = CriticalPath(("pe_0.row", "pe_0.full", "pe_0.words", "later$16", "shell.o"),
                        pytest.approx(1.7), pytest.approx(2.6), 4)
    assert placed.paths == dict.fromkeys((1, 2, 5), path)
    assert str(placed.paths[1]) == ("pe_0.row -> pe_0.full -> pe_0.words -> later$16 -> shell.o: "
                                    "4 levels, 1.7 ns of logic and 2.6 ns of routing")


def test_what_nextpnr_says_when_it_fails_is_in_the_error(stand_in):
    stand_in("raise SystemExit('no room')")
    with pytest.raises(BuildError, match="nextpnr failed:\nno room"):
        place(Register(1), chip=ECP5("85k"))


def test_too_large(stand_in):
    stand_in("print('Info:  DP16KD:  300/  208  144%\\nInfo: placing', flush=True)")
    with pytest.raises(DoesNotFit, match="^the component needs 300 block RAMs where the board has "
                                         "208; choose a smaller configuration$"):
        place(Register(1), chip=ECP5("85k"))


def test_a_missing_nextpnr_is_named_before_any_work(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    steps = []
    with pytest.raises(ToolMissing, match=r"no nextpnr-ecp5.*pip install 'zeroskip\[fpga\]'"):
        place(Register(1), chip=ECP5("85k"), progress=lambda *step: steps.append(step))
    assert steps == []
