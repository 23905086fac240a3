"""Which engine computes a layer."""

from collections.abc import Sequence

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.compiler import integer
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Offer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph, LayerNode, OperatorNode, RuleNode
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
    rows = []
    for node in integer.take(graph).nodes:
        if isinstance(node, LayerNode):
            rows.append(_layer_row(graph, node, configs))
        elif isinstance(node, RuleNode):
            rows += [_host_row(each, "on the host, in integers") for each in node.operators]
        elif isinstance(node, OperatorNode):
            rows.append(_host_row(node, "on the host"))
    return rows


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


def _host_row(node: OperatorNode, where: str) -> dict:
    reason = f"It runs {where}: {node.reason}." if node.reason else f"It runs {where}."
    return {"name": node.name, "kind": node.operator, "shape": None, "density": None,
            "pattern": None, "engine": "host", "macs": None, "reason": reason}
