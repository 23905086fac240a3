"""Gowin: what its tools and its PLL are told."""

from zeroskip.fpga.boards import BOARDS

CHIP = BOARDS["tangnano9k"].chip


def test_arguments():
    assert CHIP.arguments() == ["--device", "GW1NR-LV9QN88PC6/I5", "--vopt", "family=GW1N-9C",
                                "--vopt", "cst=pins.cst"]
    assert CHIP.packing("x") == ["-d", "GW1N-9C", "-o", "x", "placed.json"]


def test_pll(pll):
    """54 MHz are 27 MHz * 2; the oscillator runs at 54 MHz * 8. Divisors count from 0."""
    kind, told = pll("tangnano9k", 54)
    assert kind == "rPLL"
    assert told == {"DEVICE": '"GW1NR-9C"', "FCLKIN": '"27"', "IDIV_SEL": "0", "FBDIV_SEL": "1",
                    "ODIV_SEL": "8"}
