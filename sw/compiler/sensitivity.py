"""Which layer's integers cost how much of what a model is good for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.compiler.placement import place
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Progress, ReferenceLayer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph
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
    quantised: None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Of float32 [rows, inputs]."""
        own = self.reference
        y, _ = registry.engine(own.engine).golden(own, own.input.to_integer(x)[0])
        return own.output.to_float(y).astype(np.float32)


def sensitivity(graph: Graph, configs: Sequence[CoreConfig], calibration: Mapping[str, np.ndarray],
                given: Mapping[str, np.ndarray], samples: int, judge: Judge,
                progress: Progress | None = None) -> list[dict]:
    """A row for each float layer, the worst first: ``layer``, ``engine``, the metrics with that
    layer alone in integers, ``loss`` of the first of them, and ``error``, the RMS by which the
    outputs move, over their own RMS.

    ``calibration`` and ``given`` are runs of the graph, and ``samples`` what ``judge`` sees of the
    latter.
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
        config, _ = place(node.layer, configs)
        engine, alone = registry.of(config), Network((node.layer,))
        x = graph.real(node.reads[0], reached[node.reads[0]]).reshape(-1, alone.inputs)
        (quantised,), _ = engine.quantise(alone, x, ranges(alone, x), config)
        golden = cast(Layer, _Golden(node.name, alone.inputs, alone.outputs, quantised))
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
