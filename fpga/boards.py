"""The boards, their pins and constraint files, and the named configurations of each."""

from dataclasses import dataclass

from zeroskip.hw.eie.config import CONFIGS as ARRAYS
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.tensorcore.config import CONFIGS as TENSORCORES
from zeroskip.sw.errors import BadInput


@dataclass(frozen=True)
class Pin:
    """A pin of the package.

    Attributes
    ----------
    name : str
        The package's name for it.
    standard : str
        What the constraint file says of its voltage.
    pull_up : bool
        A button or a line that may float.
    """

    name: str
    standard: str
    pull_up: bool = False


@dataclass(frozen=True)
class Board:
    """A board on which the whole flow is open.

    Attributes
    ----------
    name, title : str
        On the command line, and for people.
    family : str
        ``"ecp5"``, ``"ice40"`` or ``"gowin"``.
    device : str
        As nextpnr calls it.
    package : str
        As nextpnr calls it; empty where the device says it.
    speed : int
        Speed grade of an ECP5.
    clock_mhz : float
        Of the oscillator at the pin ``clk``.
    pins : dict
        ``clk``, ``rx`` and ``tx`` as seen from the FPGA, ``led``, and ``button``, which is low
        while it is pressed.
    led_low : bool
        The LED is lit by a low pin.
    programmer : str
        The command that loads a bitstream, with ``{}`` in its place.
    """

    name: str
    title: str
    family: str
    device: str
    clock_mhz: float
    pins: dict[str, Pin]
    programmer: str
    package: str = ""
    speed: int = 0
    led_low: bool = False

    def constraints(self) -> str:
        """The constraint file: LPF, PCF or CST."""
        return "".join(_LINES[self.family](port, pin, self) for port, pin in self.pins.items())


def _lpf(port: str, pin: Pin, board: Board) -> str:
    pull = " PULLMODE=UP" if pin.pull_up else ""
    clock = f'FREQUENCY PORT "{port}" {board.clock_mhz} MHZ;\n' if port == "clk" else ""
    return (f'LOCATE COMP "{port}" SITE "{pin.name}";\n'
            f'IOBUF PORT "{port}" IO_TYPE={pin.standard}{pull};\n{clock}')


def _pcf(port: str, pin: Pin, board: Board) -> str:
    pull = "-pullup yes " if pin.pull_up else ""
    clock = f"set_frequency {port} {board.clock_mhz}\n" if port == "clk" else ""
    return f"set_io {pull}{port} {pin.name}\n{clock}"


def _cst(port: str, pin: Pin, board: Board) -> str:     # noqa: ARG001 - takes no frequency
    pull = " PULL_MODE=UP" if pin.pull_up else ""
    return f'IO_LOC "{port}" {pin.name};\nIO_PORT "{port}" IO_TYPE={pin.standard}{pull};\n'


_LINES = {"ecp5": _lpf, "ice40": _pcf, "gowin": _cst}


def _ulx3s(size: int) -> Board:
    standard = "LVCMOS33"
    return Board(
        name=f"ulx3s-{size}f", title=f"ULX3S with LFE5U-{size}F", family="ecp5",
        device=f"{size}k", package="CABGA381", speed=6, clock_mhz=25,
        pins={"clk": Pin("G2", standard), "rx": Pin("M1", standard, pull_up=True),
              "tx": Pin("L4", standard), "led": Pin("B2", standard),
              "button": Pin("D6", standard, pull_up=True)},
        programmer="openFPGALoader -b ulx3s {}")


BOARDS = {board.name: board for board in (
    _ulx3s(85),
    _ulx3s(25),
    Board(
        name="icebreaker", title="iCEBreaker with iCE40UP5K", family="ice40",
        device="up5k", package="sg48", clock_mhz=12,
        pins={"clk": Pin("35", ""), "rx": Pin("6", "", pull_up=True), "tx": Pin("9", ""),
              "led": Pin("37", ""), "button": Pin("10", "", pull_up=True)},
        led_low=True, programmer="iceprog {}"),
    Board(
        name="tangnano9k", title="Tang Nano 9K with GW1NR-9C", family="gowin",
        device="GW1NR-LV9QN88PC6/I5", clock_mhz=27,
        pins={"clk": Pin("52", "LVCMOS33"), "rx": Pin("18", "LVCMOS33", pull_up=True),
              "tx": Pin("17", "LVCMOS33"),
              # The bank of the LEDs and the buttons is supplied with 1.8 V.
              "led": Pin("10", "LVCMOS18"), "button": Pin("4", "LVCMOS18", pull_up=True)},
        led_low=True, programmer="openFPGALoader -b tangnano9k {}"),
)}


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

    @property
    def pes(self) -> int:
        """Processing elements of the EIE arrays."""
        return sum(core.pes for core in self.system.cores if core.kind == "eie")

    @property
    def multipliers(self) -> int:
        """Multipliers of the tensor cores."""
        return sum(core.multipliers for core in self.system.cores if core.kind == "tensorcore")


DESIGNS = {
    "ulx3s-85f": {
        "eie-16": (SystemConfig((ARRAYS["eie-16"],)), 100),
        "tc-64": (SystemConfig((TENSORCORES["tc-64"],)), 100),
        "both": (SystemConfig((ARRAYS["eie-8"], TENSORCORES["tc-64"])), 100),
    },
    "ulx3s-25f": {
        "eie-4": (SystemConfig((ARRAYS["eie-4"],)), 100),
    },
    "icebreaker": {
        # The weights fill the four single-port RAMs.
        "eie-icebreaker": (SystemConfig((ARRAYS["eie-icebreaker"],)), 30),
    },
    "tangnano9k": {
        "eie-tangnano9k": (SystemConfig((ARRAYS["eie-tangnano9k"],)), 54),
    },
}
"""Board: configuration: its system and its clock in MHz. The first is the board's default."""


def systems() -> list[SystemConfig]:
    """Those of every design."""
    return [system for known in DESIGNS.values() for system, _ in known.values()]


def design(board: str, config: str | None = None) -> Design:
    """A named configuration of a board, or its default."""
    if board not in BOARDS:
        raise BadInput(f"there is no board '{board}'; choose one of {', '.join(BOARDS)}")
    known = DESIGNS[board]
    config = config or next(iter(known))
    if config not in known:
        raise BadInput(f"{board} has no configuration '{config}'; choose one of "
                       f"{', '.join(known)}")
    return Design(BOARDS[board], config, *known[config])
