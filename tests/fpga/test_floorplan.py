"""Where memories and multipliers of clusters are put: each in a site that exists, none in two."""

import json
import re
import subprocess

import pytest

from zeroskip.fpga.floorplan import arrange
from zeroskip.fpga.place import nextpnr
from zeroskip.sw.errors import ToolMissing

try:
    NEXTPNR = nextpnr()
except ToolMissing as missing:
    NEXTPNR, WHY = None, str(missing)

INPUTS = {"DP16KD": ("CLKA", "CLKB", "RSTA", "RSTB"), "MULT18X18D": ("CLK0", "RST0")}


@pytest.fixture
def netlist(tmp_path):
    """``netlist(clusters, memories)``: a design of clusters with so many memories and a multiplier
    each, and a memory and a register outside; ``arrange`` of it and its cells."""
    path = tmp_path / "design.json"

    def netlist(clusters, memories=9, device="85k"):
        names = {f"top.cluster_{k}.pe_0.{part}": kind for k in range(clusters) for kind, part in [
            *(("DP16KD", f"memory_{number}") for number in range(memories)),
            ("MULT18X18D", "product"), ("TRELLIS_FF", "register")]}
        cells = {name: {"type": kind, "parameters": {}, "attributes": {},
                        "port_directions": dict.fromkeys(INPUTS.get(kind, ()), "input"),
                        "connections": {port: ["0"] for port in INPUTS.get(kind, ())}}
                 for name, kind in {**names, "top.link.memory": "DP16KD"}.items()}
        path.write_text(json.dumps({"creator": "test", "modules": {"top": {
            "attributes": {"top": "1"}, "ports": {}, "netnames": {}, "cells": cells}}}))
        fixed = arrange(path, device)
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


@pytest.mark.parametrize(("clusters", "memories", "device"), [
    (0, 9, "85k"), (1, 9, "85k"), (16, 14, "85k"), (52, 5, "85k"), (16, 9, "45k"),
], ids=["no cluster", "one cluster", "too many memories", "too many clusters", "another device"])
def test_else_none_is_fixed(netlist, clusters, memories, device):
    fixed, sites = netlist(clusters, memories, device)
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
