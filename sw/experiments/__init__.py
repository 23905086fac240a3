"""Networks and data sets that are studied, and benchmarks."""
