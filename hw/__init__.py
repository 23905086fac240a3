"""Gateware: the engines, their shared bricks, and the way out to RTLIL and Verilog."""
