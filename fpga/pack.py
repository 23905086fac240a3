"""Moves registers into the block RAMs and multipliers of an ECP5 that have room for them.

Yosys leaves the output register of a block RAM, and those of a multiplier, in flip-flops: 5.8 ns
from the clock to a block RAM's output, 4.5 ns through a multiplier. nextpnr times, places and
writes the registers inside when the netlist asks for them.
"""

import json
from collections import defaultdict
from pathlib import Path

from zeroskip.sw.files import write

_OUTPUTS = 18


def pack(netlist: Path) -> int:
    """Rewrites the JSON of Yosys' ``synth_ecp5``; returns how many cells took registers in.

    A flip-flop behind a cell is moved if nothing else reads the cell; one in front of a multiplier
    is copied if others read it too. None has a set or reset. All of a port move, or none; in a
    block RAM they may share an enable.
    """
    design, packed = json.loads(netlist.read_text()), 0
    for module in design["modules"].values():
        nets = _Nets(module)
        for name, cell in list(module["cells"].items()):
            if cell["type"] == "DP16KD":
                packed += _block_ram(nets, cell)
            elif cell["type"] == "MULT18X18D":
                packed += _multiplier(nets, name, cell)
    write(netlist, json.dumps(design))
    return packed


class _Nets:
    """Who drives and who reads each net of a module."""

    def __init__(self, module: dict):
        self.cells = module["cells"]
        self.driver, self.readers = {}, defaultdict(set)
        for name, cell in self.cells.items():
            for port, bits in cell["connections"].items():
                for bit in bits:
                    if cell["port_directions"][port] == "output":
                        self.driver[bit] = name
                    else:
                        self.readers[bit].add((name, port))
        for port in module["ports"].values():
            for bit in port["bits"]:
                self.readers[bit].add((None, ""))

    def register(self, name: str | None):
        """Clock and enable of a flip-flop without set and reset; None for anything else."""
        cell = self.cells.get(name)
        if cell is None or cell["type"] != "TRELLIS_FF":
            return None
        pins, options = cell["connections"], cell["parameters"]
        if pins.get("LSR", ["0"]) not in (["0"], []) or options.get("REGSET", "RESET") == "SET" \
                or options.get("CLKMUX", "CLK") != "CLK":
            return None
        mux = options.get("CEMUX", "1")
        enable = tuple(pins["CE"]) if mux in ("CE", "INV") and pins.get("CE") else ("1",)
        return tuple(pins["CLK"]), enable, mux == "INV"

    def behind(self, outputs: dict[str, int]):
        """The flip-flop behind each output, and what they have in common; None if there is not one
        behind each, alone and alike."""
        found = {}
        for port, bit in outputs.items():
            if len(self.readers[bit]) != 1:
                return None
            (name, pin), = self.readers[bit]
            if pin not in ("DI", "M") or self.register(name) is None:
                return None
            found[port] = name
        alike = {self.register(name) for name in found.values()}
        return (found, *alike) if len(alike) == 1 else None

    def in_front(self, inputs: dict[str, int]):
        """The same for the flip-flops in front of inputs; others may read them too."""
        found = {port: self.driver.get(bit) for port, bit in inputs.items()}
        alike = {self.register(driver) for driver in found.values()}
        return (found, *alike) if len(alike) == 1 and None not in alike else None

    def reach_past(self, name: str, found: dict[str, str]) -> None:
        """The inputs of the cell ``name`` are now those of the flip-flops in front of them, which
        stay only for others."""
        for port, register in found.items():
            pins = self.cells[register]["connections"]
            bit, = self.cells[name]["connections"][port] = list(pins.get("DI") or pins["M"])
            self.readers[bit].add((name, port))
            self.readers[pins["Q"][0]].discard((name, port))
        for register in set(found.values()):
            pins = self.cells[register]["connections"]
            if not self.readers[pins["Q"][0]]:
                for port in ("DI", "M"):
                    for bit in pins.get(port, ()):
                        self.readers[bit].discard((register, port))
                del self.cells[register]

    def take_over(self, cell: dict, found: dict[str, str]) -> None:
        """The cell's outputs are now those of the flip-flops behind them."""
        for port, name in found.items():
            cell["connections"][port] = self.cells[name]["connections"]["Q"]
        for name in set(found.values()):
            del self.cells[name]


def _used(nets: _Nets, cell: dict, ports) -> dict[str, int]:
    return {port: bits[0] for port in ports if (bits := cell["connections"].get(port))
            and isinstance(bits[0], int) and (nets.readers[bits[0]] or bits[0] in nets.driver)}


def _drive(cell: dict, **pins) -> None:
    for port, bits in pins.items():
        cell["connections"][port] = list(bits)
        cell["port_directions"][port] = "input"


def _block_ram(nets: _Nets, cell: dict) -> bool:
    """Each read port, by its sides; a word of 36 bits is read by both, at the clock of B."""
    wide = int(cell["parameters"]["DATA_WIDTH_B"], 2) == 36
    ports = [("AB", "B")] if wide else [("A", "A"), ("B", "B")]
    return sum(_read_port(nets, cell, *port) for port in ports) > 0


def _read_port(nets: _Nets, cell: dict, sides: str, clock: str) -> bool:
    options, pins = cell["parameters"], cell["connections"]
    outputs = {port: bit for port, bit in _used(
        nets, cell, (f"DO{side}{k}" for side in sides for k in range(_OUTPUTS))).items()
        if nets.readers[bit]}
    behind = nets.behind(outputs) if outputs else None
    if not behind or list(behind[1][0]) != pins[f"CLK{clock}"] \
            or options.get(f"CLK{clock}MUX", f"CLK{clock}") != f"CLK{clock}":
        return False
    found, (_, enable, inverted) = behind
    nets.take_over(cell, found)
    for side in sides:
        options[f"REGMODE_{side}"] = "OUTREG"
        if inverted:
            options[f"OCE{side}MUX"] = "INV"
        _drive(cell, **{f"OCE{side}": enable})
    return True


def _multiplier(nets: _Nets, name: str, cell: dict) -> bool:
    options, clock = cell["parameters"], None

    def fits(found) -> bool:
        """All registers of a multiplier have one clock here, and no enable."""
        return bool(found) and found[1][1:] == (("1",), False) and clock in (None, found[1][0])

    for side in "AB":
        inputs = _used(nets, cell, (f"{side}{k}" for k in range(_OUTPUTS)))
        front = nets.in_front(inputs) if inputs else None
        if not fits(front):
            continue
        nets.reach_past(name, front[0])
        options[f"REG_INPUT{side}_CLK"] = "CLK0"
        clock = front[1][0]
    # The first register behind it is the output's; if there is a second, that is.
    for option in ("REG_OUTPUT_CLK", "REG_PIPELINE_CLK"):
        outputs = {port: bit for port, bit in _used(
            nets, cell, (f"P{k}" for k in range(2 * _OUTPUTS))).items() if nets.readers[bit]}
        behind = nets.behind(outputs) if outputs else None
        if not fits(behind):
            break
        nets.take_over(cell, behind[0])
        options[option] = "CLK0"
        clock = behind[1][0]
    if clock is None:
        return False
    _drive(cell, CLK0=clock, CE0=("1",), RST0=("0",))
    return True
