"""Puts resets on global networks.

nextpnr sends the clocks of an ECP5 there, but a reset to each of its flip-flops on other wires:
tens of thousands in a large array, the first that it routes. A net from a global buffer it takes
for global. Logic, which a global network does not reach, gets a register of its own in each
cluster.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from zeroskip.fpga.blocks import CLUSTER
from zeroskip.fpga.netlist import FlipFlop
from zeroskip.sw.files import write


@dataclass(frozen=True)
class Buffer:
    """What drives a global network.

    Attributes
    ----------
    kind, i, o : str
        Type of the cell, and its ports.
    tied : dict
        Further inputs, and what they are.
    least : int
        Flip-flops from which on a reset is worth a network, of which there are few.
    """

    kind: str
    i: str
    o: str
    tied: dict[str, str]
    least: int


def promote(netlist: Path, flip_flop: FlipFlop, buffer: Buffer) -> int:
    """Rewrites the JSON of Yosys; returns how many resets were promoted."""
    design, promoted = json.loads(netlist.read_text()), 0
    for module in design["modules"].values():
        cells = module["cells"]
        nets = count(1 + max((bit for cell in cells.values() for bits in
                              cell["connections"].values() for bit in bits
                              if isinstance(bit, int)), default=0))
        users = Counter(bit for cell in cells.values() if cell["type"] == flip_flop.kind
                        for bit in cell["connections"].get(flip_flop.reset, ())
                        if isinstance(bit, int))
        for reset in (bit for bit, number in users.items() if number >= buffer.least):
            _copy(cells, flip_flop, reset, nets, promoted)
            made = next(nets)
            _move(cells, flip_flop, reset, made)
            cells[f"reset_{promoted}"] = _cell(buffer, reset, made)
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


def _move(cells: dict, flip_flop: FlipFlop, reset: int, made: int) -> None:
    """The flip-flops that a net resets are reset by another."""
    for _, cell, port in list(_inputs(cells, reset)):
        if flip_flop.resets(cell, port):
            cell["connections"][port] = [made]


def _cell(buffer: Buffer, reset: int, made: int) -> dict:
    inputs = {buffer.i: [reset], **{port: [bit] for port, bit in buffer.tied.items()}}
    return {"hide_name": 0, "type": buffer.kind, "parameters": {}, "attributes": {},
            "port_directions": {**dict.fromkeys(inputs, "input"), buffer.o: "output"},
            "connections": {**inputs, buffer.o: [made]}}


def _copy(cells: dict, flip_flop: FlipFlop, reset: int, nets: Iterator[int],
          number: int) -> None:
    """The logic of each cluster gets a copy of the register that the net comes from, if it does."""
    source = next((cell for cell in cells.values() if cell["type"] == flip_flop.kind
                   and cell["connections"][flip_flop.output] == [reset]), None)
    if source is None:
        return
    clusters = defaultdict(list)
    for name, cell, port in _inputs(cells, reset):
        if (found := CLUSTER.search(name)) and not flip_flop.resets(cell, port):
            clusters[found[2]].append((cell, port))
    for cluster, logic in clusters.items():
        made = next(nets)
        cells[f"reset_{number}_cluster_{cluster}"] = {
            **source, "attributes": {},
            "connections": {**source["connections"], flip_flop.output: [made]}}
        for cell, port in logic:
            cell["connections"][port] = [made if bit == reset else bit
                                         for bit in cell["connections"][port]]
