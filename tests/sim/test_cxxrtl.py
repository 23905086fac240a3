"""Which modules CXXRTL keeps, and which it flattens."""

import re
from dataclasses import replace

import pytest

from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.emit import rtlil
from zeroskip.sim import cxxrtl


def kept(pes):
    text = cxxrtl._keep(rtlil(EIE(replace(EIEConfig(), pes=pes)), "eie"))
    return re.findall(r"^attribute \\keep_hierarchy 1\nmodule \\(\S+)$", text, re.MULTILINE)


def test_only_the_pes_of_an_array_stay_modules():
    assert kept(4) == ["eie.pe"]


def test_a_single_pe_is_flattened():
    assert kept(1) == []


def test_copies_inside_a_kept_module_count_for_themselves(monkeypatch):
    monkeypatch.setattr(cxxrtl, "LARGE", 150)
    assert {"eie.pe", "eie.pe.spmat.half"} <= set(kept(1 + 1))
    assert "eie.control" not in kept(2), "there is one"


@pytest.mark.parametrize("text", ["module \\a\n  cell \\b \\x\n  end\nend\nmodule \\b\nend\n"])
def test_modules_that_are_not_repeated_change_nothing(text):
    assert cxxrtl._keep(text) == text
