"""The compiled simulators against Amaranth's: the same bits in the same cycles."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import textwrap
from itertools import pairwise

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from zeroskip.hw.netlist.emit import rtlil
from zeroskip.sim import compiled, cxxrtl, verilator
from zeroskip.sim.amaranth_model import AmaranthModel
from zeroskip.sw.engines.eie import host as eie_host
from zeroskip.sw.errors import ToolMissing

WIDTH = 70
"""Bits of a payload: three words, the last not full."""

SIMULATORS = {"cxxrtl": cxxrtl, "verilator": verilator}

NEEDS_VERILATOR = pytest.mark.skipif(not shutil.which("verilator"),
                                     reason="verilator is not installed")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(params=["cxxrtl", pytest.param("verilator", marks=NEEDS_VERILATOR)])
def make_array(request):
    """Compiles a component as everybody does."""
    simulator = SIMULATORS[request.param]
    return lambda component: simulator.Model(simulator.build(component, "array", ""))


@pytest.fixture(params=[
    "cxxrtl", "cxxrtl-modules", pytest.param("verilator", marks=NEEDS_VERILATOR),
    pytest.param("verilator-modules", marks=NEEDS_VERILATOR)])
def make(request, monkeypatch):
    """Compiles a component, flattened or with all copies of modules kept."""
    name, *kept = request.param.split("-")
    if kept:
        monkeypatch.setattr(compiled, "LARGE", 0)
    simulator = SIMULATORS[name]
    return lambda component: simulator.Model(
        simulator.build(component, "chain", request.param))


class Stage(wiring.Component):
    """Holds one item, takes the next as the old one leaves, and mixes bits on the way."""

    i: In(stream.Signature(WIDTH))
    o: Out(stream.Signature(WIDTH))
    salt: In(8)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += [
                self.o.valid.eq(self.i.valid),
                self.o.payload.eq((self.i.payload.rotate_left(13) + self.salt) ^ self.i.payload),
            ]
        return m


class Chain(wiring.Component):
    """Stages from whose end ``ready`` goes to the front in the same cycle, a door in front of
    them that is shut now and then, and a memory at their end."""

    i: In(stream.Signature(WIDTH))
    o: Out(stream.Signature(WIDTH))
    salt: In(8)
    wide: In(40)
    seen: Out(40)
    sums: Out(41)

    def elaborate(self, platform):
        m = Module()
        stages = [Stage() for _ in range(6)]
        for k, stage in enumerate(stages):
            m.submodules[f"stage_{k}"] = stage
            m.d.comb += stage.salt.eq(self.salt ^ (k + 1))
        door = Signal(5, init=1)
        m.d.sync += door.eq(Cat(door[4] ^ door[1], door))
        m.d.comb += [
            stages[0].i.payload.eq(self.i.payload),
            stages[0].i.valid.eq(self.i.valid & door[0]),
            self.i.ready.eq(stages[0].i.ready & door[0]),
        ]
        for left, right in pairwise(stages):
            wiring.connect(m, left.o, right.i)
        last = stages[-1].o
        m.submodules.memory = memory = Memory(shape=WIDTH, depth=5, init=[7, 9])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        address = Signal(3)
        m.d.comb += [
            self.o.valid.eq(last.valid), last.ready.eq(self.o.ready),
            read.addr.eq(address), self.o.payload.eq(last.payload ^ read.data),
            write.addr.eq(address), write.data.eq(last.payload),
            write.en.eq(last.valid & last.ready),
            self.sums.eq(self.wide + self.seen),
        ]
        with m.If(last.valid & last.ready):
            m.d.sync += [self.seen.eq(self.seen + 1),
                         address.eq(address + 1)]
            with m.If(address == 4):
                m.d.sync += address.eq(0)
        return m


def test_the_chain_has_modules_to_keep(monkeypatch):
    assert "keep_hierarchy" not in cxxrtl._keep(rtlil(Chain(), "chain"), "chain")
    monkeypatch.setattr(compiled, "LARGE", 0)
    assert "keep_hierarchy" in cxxrtl._keep(rtlil(Chain(), "chain"), "chain")


def items(count, seed=0):
    payloads = np.random.default_rng(seed).integers(0, 1 << 32, (count, 3), dtype=np.uint32)
    payloads[:, 2] &= (1 << WIDTH - 64) - 1
    return payloads


def assert_same(found, expected):
    """Both gave the same items in the same cycles."""
    assert found.keys() == expected.keys()
    for name, arrays in found.items():
        for ours, theirs in zip(arrays, expected[name], strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def both(make):
    return make(Chain), AmaranthModel(Chain())


def test_wide_items_leave_in_the_same_cycles(make):
    for model in (models := both(make)):
        model.poke("salt", 77)
    ours, theirs = (model.run({"i": items(200)}, {"o": 200}) for model in models)
    assert_same(ours, theirs)
    assert len(set(np.diff(ours["o"][1].astype(int)))) > 2, "the door shuts now and then"


def test_items_wait_inside_while_nobody_takes_them(make):
    models = both(make)
    payloads = items(40)
    found = []
    for model in models:
        assert model.run({"i": payloads[:6]}, {}) == {}
        model.tick(9)
        assert (model.peek("o__valid"), model.peek("i__ready")) == (1, 0)
        found.append([model.run({}, {"o": 1}), model.run({"i": payloads[6:]}, {"o": 39})])
    for ours, theirs in zip(*found, strict=True):
        assert_same(ours, theirs)


def test_a_full_device_ends_in_a_timeout(make):
    for model in both(make):
        with pytest.raises(TimeoutError, match=r"'i' moved 6 of 20 items.*for 50 cycles"):
            model.run({"i": items(20)}, {}, patience=50)


def test_state_between_calls(make):
    """Poke, tick and peek at random points; the cycles count over all runs."""
    rng = np.random.default_rng(3)
    models = both(make)
    for step in range(30):
        salt, wide, count, cycles = (int(rng.integers(high)) for high in (256, 1 << 40, 5, 4))
        cycles += 1
        seen = []
        for model in models:
            model.poke("salt", salt)
            model.poke("wide", wide)
            before = model.peek("sums")
            moved = model.run({"i": items(count, step)}, {"o": count})
            model.tick(cycles)
            seen.append((moved, [before, *(model.peek(name) for name in (
                "seen", "sums", "o__valid", "i__ready"))]))
        assert_same(seen[0][0], seen[1][0])
        assert seen[0][1] == seen[1][1]


def test_peek_follows_a_poke_without_a_tick(make):
    model = make(Chain)
    model.poke("wide", (1 << 40) - 1)
    assert model.peek("sums") == (1 << 40) - 1


def test_two_models_of_one_library_are_independent(make):
    one, other = make(Chain), make(Chain)
    one.run({"i": items(5)}, {"o": 5})
    assert (one.peek("seen"), other.peek("seen")) == (5, 0)


def test_silence_ends_in_a_timeout(make):
    with pytest.raises(TimeoutError, match="'o' moved 0 of 1 items.*for 100 cycles"):
        make(Chain).run({}, {"o": 1}, patience=100)


def test_an_unknown_port_is_refused(make):
    with pytest.raises(KeyError, match="no object 'nothing'"):
        make(Chain).peek("nothing")


@pytest.mark.parametrize("value", [256, -1])
def test_a_value_too_wide_for_its_port_is_refused(make, value):
    with pytest.raises(OverflowError, match=f"'salt' has 8 bits, too few for {value}"):
        make(Chain).poke("salt", value)


def test_items_of_another_width_are_refused(make):
    with pytest.raises(ValueError, match="3 words wide"):
        make(Chain).run({"i": items(2)[:, :2]}, {})
    with pytest.raises(ValueError, match="70 bits wide"):
        make(Chain).run({"i": items(2) | np.uint32(1 << WIDTH - 64)}, {})


def test_the_array_gives_the_same_bits_in_the_same_cycles(make_array, digits_like):
    from zeroskip.hw.eie.array import EIE

    image = digits_like.image
    ours, theirs = (eie_host.run(model, image, digits_like.inputs) for model in (
        make_array(lambda: EIE(image.config)), AmaranthModel(EIE(image.config))))
    for found, expected, golden in zip(ours.outputs, theirs.outputs, digits_like.expected,
                                       strict=True):
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, golden)
    for found, expected in zip(ours.times, theirs.times, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert ours.statistics.as_json() == theirs.statistics.as_json()


@pytest.mark.parametrize("name", [
    "cxxrtl", pytest.param("verilator", marks=NEEDS_VERILATOR)])
def test_two_processes_may_build_the_same_model_at_once(name, tmp_path):
    script = textwrap.dedent(f"""
        from zeroskip.hw.stream import Queue
        from zeroskip.sim.{name} import Model, build
        model = Model(build(lambda: Queue(8, depth=4), "queue", ""))
        model.run({{"i": [[1], [2], [3]]}}, {{}})
        print(model.peek("level"))
    """)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    processes = [subprocess.Popen([sys.executable, "-c", script], env=environment,
                                  stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=240)[0] for process in processes] == ["3\n", "3\n"]
    assert {path.suffix for path in (tmp_path / "zeroskip" / name).iterdir()} == {".so", ".sum"}


def test_large_copies_and_only_they_stay_modules(monkeypatch):
    monkeypatch.setattr(compiled, "LARGE", 100)
    lines = {"top": 500, "control": 500, "pe": 20, "memory": 12, "bit": 1}
    cells = {"top": {"control": 1, "pe": 4, "bit": 50}, "control": {"memory": 2},
             "pe": {"memory": 9}, "memory": {}, "bit": {}}
    assert compiled.large_copies("top", lines, cells) == {"pe", "memory"}
    monkeypatch.setattr(compiled, "LARGE", 200)
    assert compiled.large_copies("top", lines, cells) == {"pe"}, "its memories count once"


def test_a_failing_compiler_is_reported_with_what_it_said(monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} -c 'raise SystemExit(\"out of letters\")'")
    with pytest.raises(ToolMissing, match="failed.*name one in CXX(.|\n)*out of letters"):
        cxxrtl.build(Chain, "chain", "failing")
    assert not list(compiled.cache("cxxrtl").glob("tmp*")), "nothing is left behind"



# --- the cache, with a model that takes no time to compile ---

def tiny(name="tiny"):
    """A library that is built; which is told by what ``generate`` appends to ``tiny.made``."""
    def generate(folder):
        tiny.made.append(name)
        (folder / "model.cc").write_text(
            'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }')
        return []
    return compiled.build_once("tiny", name, [], generate)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache of this test, below a folder that it gives."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny.made = []
    yield tmp_path
    compiled._instead.cache_clear()


def flip(library):
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 4
    library.write_bytes(content)


DAMAGE = {
    "truncated": lambda library: os.truncate(library, library.stat().st_size // 2),
    "empty": lambda library: library.write_bytes(b""),
    "a bit flipped": flip,
    "longer": lambda library: library.write_bytes(library.read_bytes() + b"\0"),
    "gone": lambda library: library.unlink(),
    "no sum": lambda library: library.with_suffix(".sum").unlink(),
    "sum of nothing": lambda library: library.with_suffix(".sum").write_bytes(b""),
    "sum of noise": lambda library: library.with_suffix(".sum").write_bytes(b"\xff 1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.usefixtures("empty_cache")
def test_damaged_library_is_built_again(damage):
    library = tiny()
    assert tiny() == library
    assert tiny.made == ["tiny"]
    content = library.read_bytes()
    DAMAGE[damage](library)
    assert tiny() == library
    assert tiny.made == ["tiny", "tiny"]
    assert ctypes.CDLL(str(library)).answer() == 42
    assert len(library.read_bytes()) == len(content)
    assert tiny() == library
    assert tiny.made == ["tiny", "tiny"]


def test_cache_that_cannot_be_written(empty_cache, monkeypatch, capsys):
    (empty_cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache / "file"))
    library = tiny()
    assert ctypes.CDLL(str(library)).answer() == 42
    assert tiny() == library
    other = tiny("other")
    assert tiny.made == ["tiny", "other"]
    assert other.parent == library.parent != empty_cache
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(rf"zeroskip: {empty_cache}/file/zeroskip/tiny: Not a directory; what is "
                        "compiled is kept for this run only, until XDG_CACHE_HOME names .*\n",
                        captured.err)


@pytest.mark.usefixtures("empty_cache")
def test_cache_that_cannot_be_written_but_holds_the_model(monkeypatch, capsys):
    library = tiny()
    monkeypatch.setattr(compiled, "_writable", None)
    assert tiny() == library
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["", "relative/path", None])
def test_cache_lies_in_the_home_folder(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert compiled.cache("x") == tmp_path / ".cache/zeroskip/x"


@pytest.mark.usefixtures("empty_cache")
def test_no_home_folder(monkeypatch, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert ctypes.CDLL(str(tiny())).answer() == 42
    assert "there is no home folder; what is compiled" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "message"), [
    ("g++ '", "CXX is .*, which is no command .*; name a C\\+\\+ compiler in it, or unset it"),
    ("/none/g++ -O1", "compiler '/none/g\\+\\+' cannot be run .*; install it, or name another"),
])
@pytest.mark.usefixtures("empty_cache")
def test_compiler_that_is_none(monkeypatch, command, message):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(ToolMissing, match=message):
        tiny()


def test_empty_name_of_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", " ")
    assert compiled.compiler() != []


def test_library_that_cannot_be_loaded(tmp_path):
    (tmp_path / "model.so").write_text("no library")
    with pytest.raises(ToolMissing, match="cannot be loaded .*model.so.*; name a folder"):
        compiled.Model(tmp_path / "model.so")
