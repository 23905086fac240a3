"""SystemRDL of registers: its text, and what PeakRDL's compiler reads from it."""

import subprocess
import sys
from pathlib import Path

import pytest

from zeroskip.hw.bus import Status
from zeroskip.hw.eie.config import CONFIGS as ARRAYS
from zeroskip.hw.eie.config import zeroskip
from zeroskip.hw.system.accelerator import Accelerator, register_map
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.system.rdl import systemrdl
from zeroskip.hw.system.registers import Access, Field, Page, Register, Window
from zeroskip.hw.tensorcore.config import CONFIGS as TENSORCORES
from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sim.bench import receive, send, simulate
from zeroskip.sim.cxxrtl import compiler

RESET = 0x10
DOCS = Path(__file__).resolve().parents[3] / "docs"

ITEMS = [
    Register("reg", Access.READ, [Field("field", 32, 'A "keyword", \\ too.')], "Read."),
    Register("mode", Access.WRITE, [Field("low", 3, "Low."), Field("high", 9, "High.")], "Set."),
    Register("events", Access.CLEAR, [Field("done", 1, "Done.")], "Cleared."),
    Register("start", Access.PULSE, [Field("go", 1, "Go."), Field("lanes", 4, "Lanes.")], "Go."),
    Window("words", "in", "To the core."),
    Window("results", "out", "From the core."),
]


def test_text_of_a_small_map():
    assert systemrdl("small", [Page("page", 0x3000, ITEMS[2:3])]).splitlines() == [
        "addrmap \\small {",
        "    default regwidth = 32;",
        "    regfile {",
        "        reg {",
        '            desc = "Cleared.";',
        '            field { desc = "Done."; sw = rw; onwrite = woclr; hw = r; hwset; reset = 0; } '
        "\\done[0:0];",
        "        } \\events @ 0x0;",
        "    } \\page @ 0x3000;",
        "};"]


def described(folder, name, pages):
    """The registers that SystemRDL's compiler finds in a description."""
    systemrdl_compiler = pytest.importorskip("systemrdl")
    compiler, source = systemrdl_compiler.RDLCompiler(), folder / "map.rdl"
    source.write_text(systemrdl(name, pages))
    compiler.compile_file(str(source))
    return [each for each in compiler.elaborate().top.descendants()
            if isinstance(each, systemrdl_compiler.node.RegNode)]


def test_compiler_reads_what_was_described(tmp_path):
    pages = [Page("reg", 0x1000, ITEMS), Page("other", 0x3000, ITEMS[1:2])]
    registers = {each.get_path(): each for each in described(tmp_path, "signal", pages)}
    assert {name: each.absolute_address for name, each in registers.items()} == {
        "signal.reg.reg": 0x1000, "signal.reg.mode": 0x1004, "signal.reg.events": 0x1008,
        "signal.reg.start": 0x100C, "signal.reg.words": 0x1010, "signal.reg.results": 0x1014,
        "signal.other.mode": 0x3000}
    read = {each.inst_name: each for name, each in registers.items() if ".reg." in name}
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


SYSTEM = SystemConfig(tuple(next(iter(known.values())) for known in (ARRAYS, TENSORCORES)))


@pytest.fixture
def peakrdl(tmp_path):
    """``peakrdl(command, name)``: path of what PeakRDL makes of an accelerator's registers."""
    source = tmp_path / "accelerator.rdl"
    source.write_text(systemrdl("accelerator", register_map(SYSTEM).values()))

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


def test_offsets_of_the_header_are_the_addresses(tmp_path):
    checks = [f"static_assert(offsetof(accelerator_t, {page.name}.{name}) == {address}, \"\");"
              for page in register_map(SYSTEM).values()
              for name, address in page.addresses.items()]
    (tmp_path / "offsets.cc").write_text("\n".join(
        ["#include <cstddef>", f'#include "{DOCS / "accelerator.h"}"', *checks, ""]))
    done = subprocess.run([*compiler(), "-std=c++17", "-fsyntax-only", tmp_path / "offsets.cc"],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(checks) == 7 + 7 + 9


def test_documents(peakrdl):
    page = peakrdl("html", "registers")
    assert (page / "index.html").exists()
    assert "commands" in "".join(each.read_text() for each in (page / "data").iterdir())


def test_each_address_of_the_description_works_on_the_bus(tmp_path):
    """A read is answered where the description has something to read, a write where it has
    something to write, and nothing is between or behind."""
    core = TensorCoreConfig(rows=1, columns=1, products=2, weight_words=2, activation_words=2)
    array = zeroskip(1, act_depth=4, bias_depth=4, weight_rows=4, pointers=32)
    dut = Accelerator(SystemConfig((array, core, core)))
    there = {each.absolute_address: (
        any(field.is_sw_readable for field in each.fields()),
        any(field.is_sw_writable for field in each.fields()))
        for each in described(tmp_path, "map", register_map(dut.system).values())}
    assert len(there) == 7 + 7 + 9 + 9
    near = {address + step for address in there for step in (-4, 1, 2, 3, 4)} | {0x4000, 0xFFFC}
    found, wanted = [], []

    async def ask(ctx, address, write):
        await send(ctx, dut.bus.request, [{"address": address, "write": write, "strobes": 15,
                                           "data": 0}])
        (response,) = await receive(ctx, dut.bus.response, 1)
        return Status(response["status"]) is not Status.RANGE

    async def bench(ctx):
        for address in sorted({*there, *near} - {-4}):
            found.append((address, [await ask(ctx, address, write) for write in (0, 1)]))
            readable, writable = there.get(address, (False, False))
            # A pulse reads as zero; what is written only has nothing to read in a description.
            wanted.append((address, [readable or address == RESET, writable]))

    simulate(dut, bench)
    assert found == wanted
