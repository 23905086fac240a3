"""The JSON netlist that Yosys writes: who drives and who reads what, and registers that move."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

Plain = tuple[tuple, tuple, bool]
"""The clock of a flip-flop, its enable, and whether that is inverted."""


@dataclass(frozen=True)
class FlipFlop:
    """The flip-flop of a family.

    Attributes
    ----------
    kind : str
        Its type.
    data : tuple of str
        The ports one of which is its input, the preferred first.
    output, reset : str
        Two more ports.
    plain : callable
        Of a cell: its clock and enable if it has neither set nor reset, else None.
    """

    kind: str
    data: tuple[str, ...]
    output: str
    reset: str
    plain: Callable[[dict], Plain | None]

    def resets(self, cell: dict, port: str) -> bool:
        """Whether that is the reset of a flip-flop."""
        return (cell["type"], port) == (self.kind, self.reset)


class Nets:
    """Who drives and who reads each net of a module.

    Attributes
    ----------
    cells : dict
        By name, as in the JSON.
    driver, readers : dict
        By net: the name of the cell that drives it; names and ports of those that read it, None
        for a port of the module.
    """

    def __init__(self, module: dict, flip_flop: FlipFlop):
        self.cells, self._flip_flop = module["cells"], flip_flop
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

    def used(self, cell: dict, ports) -> dict[str, int]:
        """Those of ``ports`` that have a net, and it."""
        return {port: bits[0] for port in ports if (bits := cell["connections"].get(port))
                and isinstance(bits[0], int)
                and (self.readers[bits[0]] or bits[0] in self.driver)}

    def read(self, cell: dict, ports) -> dict[str, int]:
        """Those of ``ports``, outputs, that something reads."""
        return {port: bit for port, bit in self.used(cell, ports).items() if self.readers[bit]}

    def behind(self, outputs: dict[str, int]) -> tuple[dict[str, str], Plain] | None:
        """The flip-flop behind each output, and what they have in common; None if there is not one
        behind each, alone and alike."""
        found = {}
        for port, bit in outputs.items():
            if len(self.readers[bit]) != 1:
                return None
            (name, pin), = self.readers[bit]
            if pin not in self._flip_flop.data or self._register(name) is None:
                return None
            found[port] = name
        return self._alike(found)

    def in_front(self, inputs: dict[str, int]) -> tuple[dict[str, str], Plain] | None:
        """The same for the flip-flops in front of inputs; others may read them too."""
        return self._alike({port: self.driver.get(bit) for port, bit in inputs.items()})

    def _alike(self, found):
        alike = {self._register(name) for name in found.values()}
        return (found, *alike) if len(alike) == 1 and None not in alike else None

    def _register(self, name: str | None) -> Plain | None:
        cell = self.cells.get(name)
        return (self._flip_flop.plain(cell) if cell and cell["type"] == self._flip_flop.kind
                else None)

    def reach_past(self, name: str, found: dict[str, str]) -> None:
        """The inputs of the cell ``name`` are now those of the flip-flops in front of them, which
        stay only for others."""
        data, output = self._flip_flop.data, self._flip_flop.output
        for port, register in found.items():
            pins = self.cells[register]["connections"]
            source = next(pins[each] for each in data if pins.get(each))
            bit, = self.cells[name]["connections"][port] = list(source)
            self.readers[bit].add((name, port))
            self.readers[pins[output][0]].discard((name, port))
        for register in set(found.values()):
            pins = self.cells[register]["connections"]
            if not self.readers[pins[output][0]]:
                for port in data:
                    for bit in pins.get(port, ()):
                        self.readers[bit].discard((register, port))
                del self.cells[register]

    def take_over(self, cell: dict, found: dict[str, str]) -> None:
        """The cell's outputs are now those of the flip-flops behind them."""
        for port, name in found.items():
            cell["connections"][port] = self.cells[name]["connections"][self._flip_flop.output]
        for name in set(found.values()):
            del self.cells[name]


def drive(cell: dict, **pins) -> None:
    """Connects inputs of a cell."""
    for port, bits in pins.items():
        cell["connections"][port] = list(bits)
        cell["port_directions"][port] = "input"
