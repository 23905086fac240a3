"""The EIE array: quantise, lower, pack, image, golden, host protocol, cost."""
