"""Simulation: engines, the bench kit, verify between engines, benchmarks."""
