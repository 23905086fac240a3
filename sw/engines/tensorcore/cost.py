"""What a layer costs on a tensor core, from its sizes and its zeros."""

from collections.abc import Sequence

from zeroskip.hw.tensorcore.config import GROUP, SPEEDUP, TensorCoreConfig
from zeroskip.sw.engines.base import Estimate
from zeroskip.sw.engines.tensorcore.image import BATCH, COLUMNS
from zeroskip.sw.engines.tensorcore.packed import kept_columns, side_by_side
from zeroskip.sw.engines.tensorcore.schedule import Schedule
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.network import Layer

LATENCY = 26
"""Cycles of a product in which the pipeline fills and empties (docs/tensorcore.md)."""


def estimate(layer: Layer, found: str, config: TensorCoreConfig, batch: int | None) -> Estimate:
    """Cycles of a sample in a batch, and bytes, of a layer whose zeros are of a pattern. Whatever
    is slowest counts: multipliers, rows that leave, weights or activations that are loaded, an item
    a cycle."""
    rows, side = len(layer.matrix), side_by_side(layer, config)
    columns = side * layer.matrix.shape[1]
    positions = layer.geometry.positions if layer.geometry else 1
    batch = batch or max(1, min(BATCH, COLUMNS // positions))
    # groups take turns along K
    pattern = _mode("1:4" if side >= GROUP else "2:4" if side > 1 else found, config)
    kept = rows * kept_columns(columns, pattern)
    stored = kept + (0 if pattern == "dense" else -(-kept // 4)) + 9 * rows
    apart = layer.geometry is not None and side < layer.geometry.groups
    own = Schedule.of(config, pattern, rows, columns, batch * positions, apart)
    tiles, panels = -(-own.n // config.columns), -(-rows // config.rows)
    work = panels * tiles * max(own.steps * own.chunks, config.rows)
    weights = own.loads * own.turns * own.steps
    activations = tiles * own.words * own.chunks * (panels if own.chunks > 1 else 1)
    cycles = LATENCY + max(work, weights, activations)
    return Estimate(cycles / batch, stored, f"{pattern}, {batch} samples together")


def holds(layers: Sequence[tuple[Layer, str]], config: TensorCoreConfig) -> bool:
    """Whether the buffers hold a whole row of each layer's weights and a column of its activations,
    and the core skips zeros where the layer's pattern lets it."""
    for layer, found in layers:
        pattern = _mode(found, config)
        if SPEEDUP.get(found, 1) > 1 and pattern == "dense":
            return False
        try:
            if Schedule.of(config, pattern, *layer.matrix.shape, 1).chunks > 1:
                return False
        except BadInput:
            return False
    return True


def _mode(found: str, config: TensorCoreConfig) -> str:
    """The fastest mode of a core for weights of a pattern: 1:4 is 2:4 too."""
    most = SPEEDUP.get(found, 1)
    return next(mode for mode in reversed(config.patterns) if SPEEDUP[mode] <= most)
