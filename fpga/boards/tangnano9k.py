"""Tang Nano 9K of Sipeed."""

from zeroskip.fpga.board import Board, Config
from zeroskip.fpga.families.gowin import Gowin
from zeroskip.fpga.family import Pin
from zeroskip.hw.eie.config import CONFIGS as EIE
from zeroskip.hw.system.config import SystemConfig

TANGNANO9K = Board(
    name="tangnano9k",
    title="Tang Nano 9K with GW1NR-9C",
    chip=Gowin("GW1NR-LV9QN88PC6/I5", series="GW1NR-9C", die="GW1N-9C"),
    clock_mhz=27,
    pins={"clk": Pin("52", "LVCMOS33"), "rx": Pin("18", "LVCMOS33", pull_up=True),
          "tx": Pin("17", "LVCMOS33"),
          # The bank of the LEDs and the buttons is supplied with 1.8 V.
          "led": Pin("10", "LVCMOS18"), "button": Pin("4", "LVCMOS18", pull_up=True)},
    led_low=True,
    programmer="openFPGALoader -b tangnano9k {}",
    configs={"eie-tangnano9k": Config(SystemConfig((EIE["eie-tangnano9k"],)), mhz=54)})
