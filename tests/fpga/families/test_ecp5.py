"""ECP5: what its tools and its PLL are told."""

from zeroskip.fpga.boards import BOARDS

CHIP = BOARDS["ulx3s-25f"].chip


def test_arguments():
    assert CHIP.arguments() == ["--25k", "--package", "CABGA381", "--speed", "6",
                                "--lpf", "pins.lpf", "--textcfg", "routed.config"]
    assert CHIP.packing("x") == ["--compress", "routed.config", "x"]


def test_script_keeps_borders_until_all_is_mapped():
    set_, synthesis, unset, *flat = CHIP.script("top", "*.core")
    assert set_ == "setattr -mod -set keep_hierarchy 1 *.core"
    assert synthesis == "synth_ecp5 -top top"
    assert unset == "setattr -mod -unset keep_hierarchy *.core"
    assert flat == ["flatten", "clean"]


def test_pll(pll):
    """100 MHz are 25 MHz * 4; the oscillator runs at 100 MHz * 4."""
    kind, told = pll("ulx3s-25f", 100)
    assert kind == "EHXPLLL"
    assert (told["CLKI_DIV"], told["CLKFB_DIV"], told["CLKOP_DIV"]) == ("1", "4", "4")
    assert told["CLKOP_CPHASE"] == "2"
    assert told["FEEDBK_PATH"] == '"CLKOP"'
