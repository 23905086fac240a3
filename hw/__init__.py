"""Gateware: the machines, their shared bricks, and the way out to RTLIL and Verilog."""
