"""The 2:4 sparse tensor core, one file per block: a tile of dot products whose multipliers
choose their operands by metadata (Mishra et al., "Accelerating Sparse Deep Neural Networks",
arXiv 2104.08378)."""
