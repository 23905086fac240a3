"""iCEBreaker of 1BitSquared."""

from zeroskip.fpga.board import Board, Config
from zeroskip.fpga.families.ice40 import ICE40
from zeroskip.fpga.family import Pin
from zeroskip.hw.eie.config import CONFIGS as EIE
from zeroskip.hw.system.config import SystemConfig

ICEBREAKER = Board(
    name="icebreaker",
    title="iCEBreaker with iCE40UP5K",
    chip=ICE40("up5k", package="sg48"),
    clock_mhz=12,
    pins={"clk": Pin("35"), "rx": Pin("6", pull_up=True), "tx": Pin("9"),
          "led": Pin("37"), "button": Pin("10", pull_up=True)},
    led_low=True,
    programmer="iceprog {}",
    # The weights fill the four single-port RAMs.
    configs={"eie-icebreaker": Config(SystemConfig((EIE["eie-icebreaker"],)), mhz=30)})
