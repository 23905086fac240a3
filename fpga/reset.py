"""Puts resets on the global networks of an ECP5.

nextpnr sends clocks there, but a reset to each of its flip-flops on other wires: tens of thousands
in a large array, the first that it routes. A net from a ``DCCA`` buffer it takes for global. Logic,
which a global network does not reach, gets a register of its own in each cluster.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from zeroskip.sw.files import write

LEAST = 1000
"""Flip-flops from which on a net is worth a global network; there are 16."""

CLUSTER = re.compile(r"\.cluster_(\d+)\.")
"""In the name of a cell: the cluster that it is part of."""


def promote(netlist: Path) -> int:
    """Rewrites the JSON of Yosys' ``synth_ecp5``; returns how many resets were promoted."""
    design, promoted = json.loads(netlist.read_text()), 0
    for module in design["modules"].values():
        cells = module["cells"]
        nets = count(1 + max((bit for cell in cells.values() for bits in
                              cell["connections"].values() for bit in bits
                              if isinstance(bit, int)), default=0))
        users = Counter(bit for cell in cells.values() if cell["type"] == "TRELLIS_FF"
                        for bit in cell["connections"].get("LSR", ()) if isinstance(bit, int))
        for reset in (bit for bit, number in users.items() if number >= LEAST):
            _copy(cells, reset, nets, promoted)
            made = next(nets)
            _buffer(cells, reset, made, f"reset_{promoted}")
            module["netnames"][f"reset_{promoted}"] = {
                "hide_name": 0, "bits": [made], "attributes": {}}
            promoted += 1
    write(netlist, json.dumps(design))
    return promoted


def _inputs(cells: dict, net: int) -> Iterator[tuple[str, dict, str]]:
    """Name, cell and port of all that a net goes to."""
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if net in bits and cell["port_directions"][port] == "input":
                yield name, cell, port


def _buffer(cells: dict, reset: int, made: int, name: str) -> None:
    """The flip-flops that a net resets are reset by a buffer behind it."""
    for _, cell, port in list(_inputs(cells, reset)):
        if cell["type"] == "TRELLIS_FF" and port == "LSR":
            cell["connections"][port] = [made]
    cells[name] = {"hide_name": 0, "type": "DCCA", "parameters": {}, "attributes": {},
                   "port_directions": {"CLKI": "input", "CE": "input", "CLKO": "output"},
                   "connections": {"CLKI": [reset], "CE": ["1"], "CLKO": [made]}}


def _copy(cells: dict, reset: int, nets: Iterator[int], number: int) -> None:
    """The logic of each cluster gets a copy of the register that the net comes from, if it does."""
    source = next((cell for cell in cells.values() if cell["type"] == "TRELLIS_FF"
                   and cell["connections"]["Q"] == [reset]), None)
    if source is None:
        return
    clusters = defaultdict(list)
    for name, cell, port in _inputs(cells, reset):
        if (found := CLUSTER.search(name)) and (cell["type"], port) != ("TRELLIS_FF", "LSR"):
            clusters[found[1]].append((cell, port))
    for cluster, logic in clusters.items():
        made = next(nets)
        cells[f"reset_{number}_cluster_{cluster}"] = {
            **source, "attributes": {}, "connections": {**source["connections"], "Q": [made]}}
        for cell, port in logic:
            cell["connections"][port] = [made if bit == reset else bit
                                         for bit in cell["connections"][port]]
