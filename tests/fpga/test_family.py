"""Families: their tools, and that nothing else knows anything of one."""

import re
from pathlib import Path

import pytest

from zeroskip.fpga import family as subject
from zeroskip.fpga.families import FAMILIES
from zeroskip.fpga.families.gowin import Gowin
from zeroskip.fpga.family import KINDS, count

FPGA = Path(subject.__file__).parent
PRIMITIVES = r"TRELLIS|DP16K|MULT18|MULT9|CCU2C|PFUMX|DCCA|EHXPLLL|SB_|ICESTORM|BSRAM|rPLL|synth_"


def test_native_tools_come_first(monkeypatch):
    monkeypatch.setattr(subject.shutil, "which", lambda name: f"/native/{name}")
    assert Gowin.packer.command() == ["/native/gowin_pack"]


@pytest.mark.parametrize("path", sorted({*FPGA.glob("*.py"), *FPGA.glob("boards/*.py")}),
                         ids=lambda path: path.name)
def test_only_the_families_know_of_cells_and_of_each_other(path):
    """What is true of one family stands in its file; nothing asks which family a chip is of."""
    text = path.read_text()
    assert not re.search(PRIMITIVES, text)
    assert not re.search(r"family(\.name)? ==|\.name ==|isinstance\(.*, (ECP5|ICE40|Gowin)", text)


def test_the_pattern_of_cells_finds_some():
    for name in FAMILIES:
        assert re.search(PRIMITIVES, (FPGA / f"families/{name}.py").read_text())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_what_is_counted_has_a_name(family):
    assert {"lut", "dsp", "bram"} <= family.placed.keys() <= KINDS.keys()
    assert "ff" in {*family.placed, *family.mapped}


def test_count():
    cells = {"SB_DFF": 3, "SB_DFFESR": 4, "SB_LUT4": 5, "other": 100}
    assert count({"SB_DFF*": 1, "SB_LUT4": 2}, cells) == 3 + 4 + 2 * 5
    assert count({}, cells) == 0
