"""From float to integers: shared weights, scales, and the proof against overflow."""
