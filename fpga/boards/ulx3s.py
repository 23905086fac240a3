"""ULX3S of Radiona, with two sizes of its ECP5."""

from zeroskip.fpga.board import Board, Config
from zeroskip.fpga.families.ecp5 import ECP5
from zeroskip.fpga.family import Pin
from zeroskip.hw.eie.config import CONFIGS as EIE
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.tensorcore.config import CONFIGS as TENSORCORE


def _ulx3s(size: int, configs: dict[str, Config]) -> Board:
    standard = "LVCMOS33"
    return Board(
        name=f"ulx3s-{size}f",
        title=f"ULX3S with LFE5U-{size}F",
        chip=ECP5(f"{size}k", package="CABGA381", speed=6),
        clock_mhz=25,
        pins={"clk": Pin("G2", standard), "rx": Pin("M1", standard, pull_up=True),
              "tx": Pin("L4", standard), "led": Pin("B2", standard),
              "button": Pin("D6", standard, pull_up=True)},
        programmer="openFPGALoader -b ulx3s {}",
        configs=configs)


ULX3S_85F = _ulx3s(85, {
    "eie-16": Config(SystemConfig((EIE["eie-16"],)), mhz=100),
    "tc-64": Config(SystemConfig((TENSORCORE["tc-64"],)), mhz=100),
    "both": Config(SystemConfig((EIE["eie-8"], TENSORCORE["tc-64"])), mhz=100)})
ULX3S_25F = _ulx3s(25, {"eie-4": Config(SystemConfig((EIE["eie-4"],)), mhz=100)})
