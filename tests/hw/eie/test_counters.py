"""The order of the counters, which the host relies on."""

from zeroskip.hw.eie.counters import PECounter


def test_the_reasons_of_a_pe_come_before_its_other_counts():
    reasons = ["USEFUL", "PADDING", "EMPTY", "FILL", "FULL", "TAIL"]
    assert [member.name for member in PECounter][:6] == reasons
    assert [member.value for member in PECounter] == list(range(len(PECounter)))
