"""What CXXRTL's part of the build does to the RTLIL; the models are in ``test_compiled.py``."""

import re

import pytest

from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.netlist.emit import rtlil
from zeroskip.sim import cxxrtl


@pytest.mark.parametrize(("pes", "expected"), [(1, []), (4, ["eie.cluster"])])
def test_only_the_clusters_of_an_array_stay_modules(pes, expected):
    text = rtlil(EIE(EIEConfig(pes=pes)), "eie")
    marked = cxxrtl._keep(text, "eie")
    assert re.findall(r"^attribute \\keep_hierarchy 1\nmodule \\(\S+)$", marked,
                      re.MULTILINE) == expected
    assert marked.replace("attribute \\keep_hierarchy 1\n", "") == text
