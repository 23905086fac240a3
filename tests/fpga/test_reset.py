"""Resets on global networks: flip-flops are reset by the buffer, all else by the net itself."""

import json
import subprocess

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from zeroskip.fpga.families.ecp5 import ECP5, FLIP_FLOP
from zeroskip.fpga.reset import promote
from zeroskip.hw.netlist.emit import rtlil, yosys
from zeroskip.sw.errors import ToolMissing

LEAST = ECP5.resets.least


class Chain(wiring.Component):
    """A word that is passed on from register to register."""

    i: In(32)
    o: Out(32)

    def __init__(self, length):
        self.length = length
        super().__init__()

    def elaborate(self, platform):
        m, word = Module(), self.i
        for number in range(self.length):
            later = Signal(32)
            m.d.sync += later.eq(word ^ number)
            word = later
        m.d.comb += self.o.eq(word)
        return m


def promoted(tmp_path, length):
    source, netlist = tmp_path / "design.il", tmp_path / "design.json"
    source.write_text(rtlil(Chain(length), "top"))
    yosys(f"read_rtlil {source}", "synth_ecp5 -top top", f"write_json {netlist}")
    before = json.loads(netlist.read_text())["modules"]["top"]
    count = promote(netlist, FLIP_FLOP, ECP5.resets)
    return count, before, json.loads(netlist.read_text())["modules"]["top"]


def test_a_reset_of_many_comes_from_a_buffer(tmp_path):
    count, before, after = promoted(tmp_path, -(-LEAST // 32) + 1)
    assert count == 1
    reset, buffer = before["ports"]["rst"]["bits"], after["cells"].pop("reset_0")
    assert buffer["type"] == "DCCA"
    assert buffer["connections"]["CLKI"] == reset
    assert buffer["connections"]["CE"] == ["1"]
    (made,) = buffer["connections"]["CLKO"]
    taken = {bit for cell in before["cells"].values() for bits in cell["connections"].values()
             for bit in bits}
    assert made not in taken
    for name, cell in before["cells"].items():
        pins = after["cells"][name]["connections"]
        resets = cell["type"] == "TRELLIS_FF" and cell["connections"]["LSR"] == reset
        assert pins == {**cell["connections"], **({"LSR": [made]} if resets else {})}


def test_a_reset_of_few_stays(tmp_path):
    count, before, after = promoted(tmp_path, 3)
    assert (count, after) == (0, before)


@pytest.mark.parametrize("registered", [True, False])
def test_logic_of_each_cluster_gets_a_copy_of_the_register(tmp_path, registered):
    def cell(kind, **pins):
        return {"type": kind, "connections": pins, "attributes": {},
                "parameters": {"REGSET": "SET"},
                "port_directions": {**dict.fromkeys(pins, "input"), "Q": "output"}}

    cells = {f"top.cluster_0.word_{k}": cell("TRELLIS_FF", LSR=[5], Q=[100 + k])
             for k in range(LEAST)}
    logic = {name: cell("LUT4", A=[5], B=[7]) for name in
             ("top.cluster_0.one", "top.cluster_0.two", "top.cluster_11.one", "top.control")}
    source = {"reset": cell("TRELLIS_FF", CLK=[2], DI=[3], LSR=["0"], Q=[5])} if registered else {}
    netlist = tmp_path / "design.json"
    netlist.write_text(json.dumps({"modules": {"top": {
        "cells": {**cells, **logic, **source}, "netnames": {}}}}))
    assert promote(netlist, FLIP_FLOP, ECP5.resets) == 1
    after = json.loads(netlist.read_text())["modules"]["top"]["cells"]
    reads = {name: after[name]["connections"]["A"] for name in logic}
    assert all(after[name]["connections"]["B"] == [7] for name in logic)
    assert reads["top.control"] == after["reset_0"]["connections"]["CLKI"] == [5]
    if not registered:
        assert set(map(tuple, reads.values())) == {(5,)}
        return
    for cluster, names in (("0", ["one", "two"]), ("11", ["one"])):
        copy = after[f"reset_0_cluster_{cluster}"]
        assert copy["connections"] == {**source["reset"]["connections"],
                                       "Q": copy["connections"]["Q"]}
        assert copy["parameters"] == source["reset"]["parameters"]
        for name in names:
            assert reads[f"top.cluster_{cluster}.{name}"] == copy["connections"]["Q"]
    assert len({bit for read in reads.values() for bit in read}) == 3


def test_nextpnr_takes_it_for_global(tmp_path):
    try:
        command = ECP5.nextpnr.command()
    except ToolMissing as missing:
        pytest.skip(str(missing))
    promoted(tmp_path, -(-LEAST // 32) + 1)
    done = subprocess.run([*command, "--25k", "--json", "design.json", "--pack-only"],
                          cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "promoting clock net reset_0 to global network" in done.stderr
