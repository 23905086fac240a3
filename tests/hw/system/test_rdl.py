"""SystemRDL of registers: its text, and what PeakRDL's compiler reads from it."""

import subprocess
import sys
from pathlib import Path

import pytest

from zeroskip.hw.eie.config import CONFIGS as ARRAYS
from zeroskip.hw.system.accelerator import components, register_map
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.system.rdl import systemrdl
from zeroskip.hw.system.registers import Access, Field, Register, Window
from zeroskip.hw.tensorcore.config import CONFIGS as TENSORCORES

DOCS = Path(__file__).resolve().parents[3] / "docs"

ITEMS = [
    Register("reg", Access.READ, [Field("field", 32, 'A "keyword", \\ too.')], "Read."),
    Register("mode", Access.WRITE, [Field("low", 3, "Low."), Field("high", 9, "High.")], "Set."),
    Register("events", Access.CLEAR, [Field("done", 1, "Done.")], "Cleared."),
    Register("start", Access.PULSE, [Field("go", 1, "Go."), Field("lanes", 4, "Lanes.")], "Go."),
    Window("words", "in", "To the machine."),
    Window("results", "out", "From the machine."),
]


def test_text_of_a_small_map():
    assert systemrdl("small", ITEMS[2:3]) == """addrmap \\small {
    default regwidth = 32;
    reg {
        desc = "Cleared.";
        field { desc = "Done."; sw = rw; onwrite = woclr; hw = r; hwset; reset = 0; } \\done[0:0];
    } \\events @ 0x0;
};
"""


def test_compiler_reads_what_was_described(tmp_path):
    compiler = pytest.importorskip("systemrdl").RDLCompiler()
    source = tmp_path / "map.rdl"
    source.write_text(systemrdl("signal", ITEMS))
    compiler.compile_file(str(source))
    top = compiler.elaborate().top
    assert top.inst_name == "signal"
    read = {each.inst_name: each for each in top.registers()}
    assert [(name, each.absolute_address) for name, each in read.items()] == [
        ("reg", 0), ("mode", 4), ("events", 8), ("start", 12), ("words", 16), ("results", 20)]
    fields = {name: [(f.inst_name, f.low, f.high, f.is_sw_readable, f.is_sw_writable)
                     for f in each.fields()] for name, each in read.items()}
    assert fields == {
        "reg": [("field", 0, 31, True, False)],
        "mode": [("low", 0, 2, True, True), ("high", 3, 11, True, True)],
        "events": [("done", 0, 0, True, True)],
        "start": [("go", 0, 0, False, True), ("lanes", 1, 4, False, True)],
        "words": [("word", 0, 31, False, True)],
        "results": [("word", 0, 31, True, False)],
    }
    assert read["reg"].get_child_by_name("field").get_property("desc") == 'A "keyword", \\ too.'
    assert read["events"].get_child_by_name("done").get_property("onwrite").name == "woclr"
    assert read["start"].get_child_by_name("go").get_property("singlepulse")


@pytest.fixture
def peakrdl(tmp_path):
    """``peakrdl(command, name)``: path of what PeakRDL makes of an accelerator's registers."""
    source = tmp_path / "accelerator.rdl"
    system = SystemConfig(tuple(next(iter(known.values())) for known in (ARRAYS, TENSORCORES)))
    source.write_text(systemrdl("accelerator", register_map(components(system))))

    def make(command, name):
        done = subprocess.run([sys.executable, "-m", "peakrdl", command, source, "-o",
                               tmp_path / name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return tmp_path / name
    return make


def test_header_is_that_of_todays_registers(peakrdl):
    """Where this fails, ``make docs``."""
    made = peakrdl("c-header", "accelerator.h")
    assert made.read_text() == (DOCS / "accelerator.h").read_text()


def test_documents(peakrdl):
    page = peakrdl("html", "registers")
    assert (page / "index.html").exists()
    assert "tensorcore_commands" in "".join(
        each.read_text() for each in (page / "data").iterdir())
