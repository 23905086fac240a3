"""Where memories and multipliers of clusters are put: each in a site that exists, none in two."""

import json
import re
import subprocess

import pytest

from zeroskip.fpga.families.ecp5 import ECP5
from zeroskip.fpga.floorplan import arrange
from zeroskip.sw.errors import ToolMissing

try:
    NEXTPNR = ECP5.nextpnr.command()
except ToolMissing as missing:
    NEXTPNR, WHY = None, str(missing)

INPUTS = {"DP16KD": ("CLKA", "CLKB", "RSTA", "RSTB"), "MULT18X18D": ("CLK0", "RST0")}


@pytest.fixture
def netlist(tmp_path):
    """``netlist(clusters, memories)``: a design of clusters with so many memories and a multiplier
    each, and a memory and a register outside; ``arrange`` of it and its cells."""
    path = tmp_path / "design.json"

    def netlist(clusters, memories=9, core="top"):
        parts = [*(("DP16KD", f"memory_{number}") for number in range(memories)),
                 ("MULT18X18D", "product"), ("TRELLIS_FF", "register")]
        names = {f"{core}.cluster_{k}.pe_0.{part}": kind
                 for k in range(clusters) for kind, part in parts}
        cells = {name: {"type": kind, "parameters": {}, "attributes": {},
                        "port_directions": dict.fromkeys(INPUTS.get(kind, ()), "input"),
                        "connections": {port: ["0"] for port in INPUTS.get(kind, ())}}
                 for name, kind in {**names, "top.link.memory": "DP16KD"}.items()}
        path.write_text(json.dumps({"creator": "test", "modules": {"top": {
            "attributes": {"top": "1"}, "ports": {}, "netnames": {}, "cells": cells}}}))
        fixed = arrange(path, ECP5.plans["85k"])
        cells = json.loads(path.read_text())["modules"]["top"]["cells"]
        return fixed, {name: cell["attributes"].get("BEL") for name, cell in cells.items()}
    netlist.path = path
    return netlist


def place_of(site):
    return tuple(map(int, re.fullmatch(r"X(\d+)/Y(\d+)/\w+", site).groups()))


@pytest.mark.parametrize("clusters", [2, 3, 4, 8, 15, 16, 20])
def test_every_cluster_has_sites_of_its_own_side_by_side(netlist, clusters):
    fixed, sites = netlist(clusters)
    given = {name: site for name, site in sites.items() if site}
    assert fixed == len(given) == len(set(given.values())) == 10 * clusters
    assert sites["top.link.memory"] is None
    for cluster in range(clusters):
        mine = [place_of(site) for name, site in given.items()
                if f"cluster_{cluster}." in name and "memory" in name]
        assert len({row for _, row in mine}) == 1
        assert max(mine)[0] - min(mine)[0] <= 9 * 9 // 4 + 5


def test_the_children_of_a_node_lie_in_one_row(netlist):
    _, sites = netlist(16)
    rows = [place_of(sites[f"top.cluster_{k}.pe_0.memory_0"])[1] for k in range(16)]
    assert rows == [22] * 4 + [46] * 4 + [70] * 4 + [82] * 4


@pytest.mark.parametrize(("clusters", "memories"), [
    (0, 9), (1, 9), (16, 14), (52, 5),
], ids=["no cluster", "one cluster", "too many memories", "too many clusters"])
def test_else_none_is_fixed(netlist, clusters, memories):
    fixed, sites = netlist(clusters, memories)
    assert not fixed
    assert not any(sites.values())


@pytest.mark.skipif(NEXTPNR is None, reason=NEXTPNR is None and WHY)
def test_every_site_exists(netlist):
    """Every block RAM, so that one is left over, and multipliers."""
    fixed, _ = netlist(16, 13)
    assert fixed == 16 * 14
    done = subprocess.run(
        [*NEXTPNR, "--85k", "--package", "CABGA381", "--json", netlist.path.name, "--no-route",
         "--lpf-allow-unconstrained"], cwd=netlist.path.parent, capture_output=True, text=True,
        check=False)
    assert "Placed 224 cells based on constraints." in done.stderr


def test_two_arrays_have_clusters_of_their_own(netlist):
    """Of the same numbers; none shares the sites of another's."""
    netlist(2, 9, "top.eie")
    both = json.loads(netlist.path.read_text())
    netlist(2, 9, "top.eie_1")
    both["modules"]["top"]["cells"] |= json.loads(netlist.path.read_text())[
        "modules"]["top"]["cells"]
    netlist.path.write_text(json.dumps(both))
    assert arrange(netlist.path, ECP5.plans["85k"]) == 4 * 10
    cells = json.loads(netlist.path.read_text())["modules"]["top"]["cells"]
    rows = [{place_of(cell["attributes"]["BEL"])[1] for name, cell in cells.items()
             if f"{core}.cluster_{k}.pe_0.memory" in name}
            for core in ("top.eie", "top.eie_1") for k in range(2)]
    assert rows == [{22}, {46}, {70}, {82}]


@pytest.mark.parametrize(("device", "fixed"), [("85k", 2), ("45k", 0)])
def test_only_a_device_with_a_plan_is_arranged(tmp_path, device, fixed):
    cell = {"type": "MULT18X18D", "parameters": {}, "port_directions": {}, "connections": {}}
    path = tmp_path / "design.json"
    path.write_text(json.dumps({"modules": {"top": {"ports": {}, "cells": {
        f"top.cluster_{k}.product": cell | {"attributes": {}} for k in range(2)}}}}))
    ECP5(device).improve(path)
    cells = json.loads(path.read_text())["modules"]["top"]["cells"]
    assert sum("BEL" in each["attributes"] for each in cells.values()) == fixed
