"""The 2:4 tensor core: quantise, lower, schedule, golden, host protocol."""
