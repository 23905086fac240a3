"""Puts resets on the global networks of an ECP5.

nextpnr sends clocks there, but a reset to each of its flip-flops on other wires: tens of thousands
in a large array, the first that it routes. A net from a ``DCCA`` buffer it takes for global.
"""

import json
from collections import Counter
from pathlib import Path

LEAST = 1000
"""Flip-flops from which on a net is worth a global network; there are 16."""


def promote(netlist: Path) -> int:
    """Rewrites the JSON of Yosys' ``synth_ecp5``; returns how many resets were promoted. Logic
    stays on the net itself, for a global network does not reach it."""
    design, promoted = json.loads(netlist.read_text()), 0
    for module in design["modules"].values():
        cells = module["cells"]
        resets = Counter(bit for cell in cells.values() if cell["type"] == "TRELLIS_FF"
                         for bit in cell["connections"].get("LSR", ()) if isinstance(bit, int))
        free = 1 + max((bit for cell in cells.values() for bits in cell["connections"].values()
                        for bit in bits if isinstance(bit, int)), default=0)
        for net, users in resets.items():
            if users < LEAST:
                continue
            name = f"reset_{promoted}"
            for cell in cells.values():
                if cell["type"] == "TRELLIS_FF" and cell["connections"].get("LSR") == [net]:
                    cell["connections"]["LSR"] = [free]
            cells[name] = {
                "hide_name": 0, "type": "DCCA", "parameters": {}, "attributes": {},
                "port_directions": {"CLKI": "input", "CE": "input", "CLKO": "output"},
                "connections": {"CLKI": [net], "CE": ["1"], "CLKO": [free]}}
            module["netnames"][name] = {"hide_name": 0, "bits": [free], "attributes": {}}
            free, promoted = free + 1, promoted + 1
    netlist.write_text(json.dumps(design))
    return promoted
