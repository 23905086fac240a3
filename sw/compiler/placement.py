"""Which engine computes a layer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Offer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.frontends.chain import Unsupported
from zeroskip.sw.frontends.load import survey
from zeroskip.sw.graph.network import Layer, Linear, Network


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


def inspect(model: Network | str | Path) -> list[dict]:
    """One row a layer: name, kind, shape, density, pattern, engine and reason.

    ``kind`` is ``"linear"`` or ``"conv2d"``, ``shape`` that of the weights, ``density`` the
    fraction of them that are not zero; ``engine`` is the one of all that :func:`place` chooses,
    ``pattern`` what it sees in the weights and ``reason`` why. Of a file, the nodes that cannot
    run are rows too: their ``kind`` is the operator, and ``shape``, ``density``, ``pattern`` and
    ``engine`` are None.
    """
    rows = model.layers if isinstance(model, Network) else survey(model).rows
    configs = [next(iter(engine.configs.values())) for engine in registry.engines()]
    return [_unsupported_row(row) if isinstance(row, Unsupported) else _layer_row(row, configs)
            for row in rows]


def _layer_row(layer: Layer, configs: Sequence[CoreConfig]) -> dict:
    config, offer = place(layer, configs)
    return {"name": layer.name, "kind": "linear" if isinstance(layer, Linear) else "conv2d",
            "shape": list(layer.weight.shape),
            "density": float(np.count_nonzero(layer.weight) / layer.weight.size),
            "pattern": offer.pattern, "engine": registry.of(config).name, "reason": offer.reason}


def _unsupported_row(node: Unsupported) -> dict:
    return {"name": node.name, "kind": node.operator, "shape": None, "density": None,
            "pattern": None, "engine": None, "reason": node.reason}
