"""Verilator's part of the build; the models are in ``test_compiled.py``."""

import pytest

from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.netlist.emit import verilog
from zeroskip.hw.stream import Queue
from zeroskip.sim import verilator
from zeroskip.sw.errors import ToolMissing


def fake(folder, monkeypatch, says):
    """Puts a program called ``verilator`` alone on the path."""
    program = folder / "verilator"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_without_verilator_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissing, match="apt install verilator"):
        verilator.version()


@pytest.mark.parametrize("says", ["Verilator 4.038 2020-07-11 rev v4.036", "", "Icarus 12.0"])
def test_an_old_or_strange_verilator_is_refused(tmp_path, monkeypatch, says):
    fake(tmp_path, monkeypatch, says)
    with pytest.raises(ToolMissing, match=f"says '{says}'; install version 5 or newer"):
        verilator.version()


@pytest.mark.parametrize("says", ["Verilator 5.006 2023-01-22 rev (Debian 5.006-3)",
                                  "Verilator 12.1 2031-01-01"])
def test_a_good_version_is_named(tmp_path, monkeypatch, says):
    fake(tmp_path, monkeypatch, says)
    assert verilator.version() == says


def test_what_verilator_complains_of_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "c++")
    program = tmp_path / "verilator"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Verilator 5.1 && exit\n'
                       'echo "%Error: no such letter" >&2; exit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no such letter"):
        verilator.build(lambda: Queue(8, depth=4), "queue", "")


def test_only_the_clusters_of_an_array_stay_modules():
    text = verilog(EIE(EIEConfig(pes=8)), "eie")
    marked = verilator._keep(text, "eie")
    lines = [line for line in marked.splitlines() if "no_inline_module" in line]
    assert [line.split(" (")[0] for line in lines] == ["module \\eie.cluster"]
    assert marked.replace(" /*verilator no_inline_module*/", "") == text
