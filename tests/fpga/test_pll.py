"""Settings of PLLs: each gives the clock, within the limits of its family's datasheet."""

import pytest

from zeroskip.fpga.families import FAMILIES

OSCILLATOR = {"ecp5": (400, 800), "ice40": (533, 1066), "gowin": (400, 1200)}


@pytest.mark.parametrize(("family", "reference", "mhz"), [
    ("ecp5", 25, 100), ("ecp5", 25, 62.5), ("ice40", 12, 30), ("ice40", 48, 24),
    ("gowin", 27, 54), ("gowin", 27, 40.5)])
def test_every_setting_gives_the_clock(family, reference, mhz):
    found = list(FAMILIES[family].pll.settings(reference, mhz))
    assert found
    for pll in found:
        inside = mhz * pll.post
        feedback = inside if family == "ice40" else mhz
        assert feedback / pll.multiply == pytest.approx(reference / pll.divide)
        low, high = OSCILLATOR[family]
        assert low <= inside <= high
    assert [pll.divide for pll in found] == sorted(pll.divide for pll in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_setting(family):
    assert list(FAMILIES[family].pll.settings(12, 12.34567)) == []
