"""Which engine computes a layer."""

from collections.abc import Sequence

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Offer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph, LayerNode, OperatorNode, ViewNode
from zeroskip.sw.graph.network import Layer, Linear


def place(layer: Layer, configs: Sequence[CoreConfig]) -> tuple[CoreConfig, Offer]:
    """The configuration whose engine makes most of a layer, of equals that which is registered
    first, and the engine's offer.

    ``BadInput`` where no engine takes the layer, with what each says.
    """
    best, refusals, order = None, [], registry.names().index
    for config in sorted(configs, key=lambda each: order(registry.of(each).name)):
        try:
            offer = registry.of(config).accepts(layer)
        except BadInput as error:
            refusals.append(str(error))
            continue
        if best is None or offer.worth > best[1].worth:
            best = config, offer
    if best is None:
        raise BadInput("; ".join(refusals))
    return best


def inspect(graph: Graph) -> list[dict]:
    """One row a layer and operator: name, kind, shape, density, pattern, engine, macs and reason.

    ``kind`` is ``"linear"``, ``"conv2d"`` or the operator, ``shape`` that of the weights,
    ``density`` the fraction of them that are not zero; ``engine`` is the one of all that
    :func:`place` chooses, or ``"host"``, ``pattern`` what it sees in the weights, ``macs`` the
    multiplications of a sample and ``reason`` why. ``shape``, ``density``, ``pattern`` and
    ``macs`` of an operator are None.
    """
    configs = [next(iter(engine.configs.values())) for engine in registry.engines()]
    return [_layer_row(graph, node, configs) if isinstance(node, LayerNode)
            else _operator_row(node)
            for node in graph.nodes if not isinstance(node, ViewNode)]


def _layer_row(graph: Graph, node: LayerNode, configs: Sequence[CoreConfig]) -> dict:
    layer = node.layer
    config, offer = place(layer, configs)
    positions = layer.geometry.positions if layer.geometry else 1
    rows = graph.types[node.reads[0]].size // layer.inputs
    return {"name": node.name, "kind": "linear" if isinstance(layer, Linear) else "conv2d",
            "shape": list(layer.weight.shape),
            "density": float(np.count_nonzero(layer.weight) / layer.weight.size),
            "pattern": offer.pattern, "engine": registry.of(config).name,
            "macs": rows * positions * layer.weight.size // graph.batch, "reason": offer.reason}


def _operator_row(node: OperatorNode) -> dict:
    reason = f"It runs on the host: {node.reason}." if node.reason else "It runs on the host."
    return {"name": node.name, "kind": node.operator, "shape": None, "density": None,
            "pattern": None, "engine": "host", "macs": None, "reason": reason}
