"""Pruning and weight sharing, with training."""
