"""What a board is, and what is built for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from zeroskip.fpga.family import Family, Pin
from zeroskip.fpga.pll import PLL
from zeroskip.hw.system.config import SystemConfig
from zeroskip.sw.errors import BadInput


@dataclass(frozen=True)
class Config:
    """What fits on a board: a system, and the clock in MHz that it has to reach there."""

    system: SystemConfig
    mhz: float


@dataclass(frozen=True)
class Board:
    """A board on which the whole flow is open.

    Attributes
    ----------
    name, title : str
        On the command line, and for people.
    chip : Family
    clock_mhz : float
        Of the oscillator at the pin ``clk``.
    pins : dict
        ``clk``, ``rx`` and ``tx`` as seen from the FPGA, ``led``, and ``button``, which is low
        while it is pressed.
    led_low : bool
        The LED is lit by a low pin.
    programmer : str
        The command that loads a bitstream, with ``{}`` in its place.
    configs : dict
        By name, what is known to fit; the first is what is built unless another is asked for.
    """

    name: str
    title: str
    chip: Family
    clock_mhz: float
    pins: Mapping[str, Pin]
    programmer: str
    configs: Mapping[str, Config]
    led_low: bool = False

    def constraints(self) -> str:
        """The constraint file."""
        return "".join(self.chip.pin(port, pin, self.clock_mhz if port == "clk" else None)
                       for port, pin in self.pins.items())

    def pll(self, mhz: float) -> PLL | None:
        """What makes a clock; None where the oscillator gives it itself."""
        if mhz == self.clock_mhz:
            return None
        found = next(self.chip.pll.settings(self.clock_mhz, mhz), None)
        if found is None:
            raise ValueError(f"the PLL of {self.name} makes no {mhz} MHz from {self.clock_mhz}")
        return found

    def design(self, config: str | None = None) -> "Design":
        """A named configuration, or the default."""
        name = config or next(iter(self.configs))
        if name not in self.configs:
            raise BadInput(f"{self.name} has no configuration '{name}'; choose one of "
                           f"{', '.join(self.configs)}")
        return Design(self, name, **vars(self.configs[name]))


@dataclass(frozen=True)
class Design:
    """What is built for a board.

    Attributes
    ----------
    board : Board
    name : str
        Of the configuration.
    system : SystemConfig
        The cores on it.
    mhz : float
        Clock of the cores, which the placed design has to reach.
    baud : int
        Bits a second on the serial line.
    """

    board: Board
    name: str
    system: SystemConfig
    mhz: float
    baud: int = 1_000_000

    @property
    def divisor(self) -> int:
        """Clock cycles of a bit on the line."""
        return round(self.mhz * 1e6 / self.baud)

    def total(self, what: str) -> int:
        """The sum over the cores of a number that some configurations have, ``"pes"`` say."""
        return sum(getattr(core, what, 0) for core in self.system.cores)
