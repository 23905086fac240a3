"""The host's way into a machine: a register file, the bus to it, and frames over a UART."""
