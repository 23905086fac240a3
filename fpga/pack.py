"""Moves registers into the block RAMs and multipliers that have room for them.

Yosys leaves the output register of a block RAM, and those of a multiplier, in flip-flops; on an
ECP5 that is 5.8 ns from the clock to a block RAM's output, 4.5 ns through a multiplier. nextpnr
times, places and writes the registers inside when the netlist asks for them.
"""

import json
from collections.abc import Callable
from pathlib import Path

from zeroskip.fpga.netlist import FlipFlop, Nets
from zeroskip.sw.files import write


def pack(netlist: Path, flip_flop: FlipFlop,
         packers: dict[str, Callable[[Nets, str], bool]]) -> int:
    """Rewrites the JSON of Yosys; returns how many cells took registers in.

    A flip-flop behind a cell is moved if nothing else reads the cell; one in front of it is copied
    if others read it too. None has a set or reset. All of a port move, or none.

    Parameters
    ----------
    packers : dict of callable
        By the type of a cell: moves what fits into the cell of that name, and says whether it did.
    """
    design, packed = json.loads(netlist.read_text()), 0
    for module in design["modules"].values():
        nets = Nets(module, flip_flop)
        for name, cell in list(module["cells"].items()):
            if cell["type"] in packers:
                packed += packers[cell["type"]](nets, name)
    write(netlist, json.dumps(design))
    return packed
