"""Steps of the flow: what nextpnr's report says of the critical path, for people."""

from zeroskip.fpga.families.ecp5 import ECP5
from zeroskip.fpga.flow import critical_path


def test_path_skips_those_from_pins():
    def step(kind, cell, delay):
        return {"type": kind, "delay": delay, "to": {"cell": cell}}
    placed = {"critical_paths": [
        {"from": "<async>", "to": "posedge clk", "path": [step("source", "rx", 9)]},
        {"from": "posedge clk", "to": "posedge clk", "path": [
            step("clk-skew", "top.b_LC", 0), step("clk-to-q", "top.a.words.0.1", 1),
            step("routing", "x", 1), step("setup", "top.b.$signal$4_TRELLIS_FF_Q", 1)]}]}
    assert critical_path(placed, ECP5("25k")).ends == \
        "top.a.words to top.b, 2.0 ns of logic and 1.0 ns of routing"
