"""Module de-duplication and emission: from a component to RTLIL and Verilog."""
