"""Which layer's integers cost how much of what a model is good for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.compiler.linking import is_patches
from zeroskip.sw.compiler.placement import Wishes, place
from zeroskip.sw.compiler.sections import Section
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Progress, ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph
from zeroskip.sw.graph.im2col import Geometry, columns, fold
from zeroskip.sw.graph.network import Layer, Network
from zeroskip.sw.quantize.calibration import ranges

Judge = Callable[[np.ndarray], dict[str, float | None]]
"""From outputs [samples, values] to metrics by name, the first of which matters."""


@dataclass(frozen=True, eq=False)
class _Golden:
    """A layer that computes in integers what it is given and gives in real values."""

    name: str
    inputs: int
    outputs: int
    reference: ReferenceLayer
    patches: Geometry | None
    quantised: None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Of float32 [rows, inputs]."""
        own = self.reference
        given, _ = own.input.to_integer(x)
        if self.patches:
            given = columns(given, self.patches, given.dtype.type(own.input.zero_point))
        y, _ = registry.engine(own.engine).golden(own, given)
        return fold(own.output.to_float(y).astype(np.float32), self.patches)


def sensitivity(graph: Graph, configs: Sequence[CoreConfig], calibration: Mapping[str, np.ndarray],
                given: Mapping[str, np.ndarray], samples: int, judge: Judge,
                progress: Progress | None = None, wishes: Wishes | None = None) -> list[dict]:
    """A row for each float layer, the worst first: ``layer``, ``engine``, the metrics with that
    layer alone in integers, ``loss`` of the first of them, and ``error``, the RMS by which the
    outputs move, over their own RMS.

    ``calibration`` and ``given`` are runs of the graph, and ``samples`` what ``judge`` sees of the
    latter. Ranges are from the least to the greatest value. ``wishes`` are engines by the names of
    layers.
    """
    layers = [node for node in graph.layers if not node.layer.quantised]
    if not layers:
        raise BadInput(f"{graph.source} has no float layer; give the model before it was quantised")
    name, = graph.outputs

    def outputs(changed: Graph) -> np.ndarray:
        found = changed.evaluate(given, [name])[name].astype(np.float64)
        return found.reshape(len(found) * graph.batch, -1)[:samples]

    reached = graph.evaluate(calibration, list({node.reads[0] for node in layers}))
    whole, rows = outputs(graph), []
    metric, before = next(iter(judge(whole).items()))
    for number, node in enumerate(layers):
        config, layer = place(node.layer, configs, wishes=wishes).config, node.layer
        engine, section = registry.of(config), Section(config, (node,), (node,))
        x = graph.real(node.reads[0], reached[node.reads[0]]).reshape(-1, layer.inputs)
        (quantised,), _ = engine.quantise(section.network, section.samples(x),
                                          ranges(Network((layer,)), x), config)
        golden = cast(Layer, _Golden(node.name, layer.inputs, layer.outputs, quantised,
                                     layer.geometry if is_patches(config, node) else None))
        found = outputs(replace(graph, nodes=tuple(
            replace(each, layer=golden) if each is node else each for each in graph.nodes)))
        after = judge(found)
        now = after[metric]
        rms = np.sqrt(np.mean(np.square(whole)))
        rows.append({
            "layer": node.name, "engine": engine.name, **after,
            "loss": None if before is None or now is None else before - now,
            "error": float(np.sqrt(np.mean(np.square(found - whole))) / (rms or 1))})
        if progress:
            progress(number + 1, len(layers))
    return sorted(rows, key=lambda row: (row["loss"] or 0, row["error"]), reverse=True)
