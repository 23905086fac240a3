"""Which engine computes a layer, and on which configuration."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.compiler import integer
from zeroskip.sw.compiler.targets import name_of, targets
from zeroskip.sw.engines import registry
from zeroskip.sw.engines.base import Engine, Estimate, Offer
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.graph import Graph, LayerNode, OperatorNode, RuleNode
from zeroskip.sw.graph.network import SMOOTHED, Layer, Linear

Wishes = Mapping[str, str]
"""Engines by the names of layers, in which ``*``, ``?`` and ``[`` stand for others as in file
names; of several that fit a layer the first counts."""


@dataclass(frozen=True)
class Place:
    """Where a layer runs.

    Attributes
    ----------
    config : CoreConfig
    offer : Offer
        What its engine makes of the layer.
    estimate : Estimate
    reason : str
        Why there, with the cycles there and elsewhere.
    """

    config: CoreConfig
    offer: Offer
    estimate: Estimate
    reason: str


def place(layer: Layer, configs: Sequence[CoreConfig], batch: int | None = None,
          wishes: Wishes | None = None) -> Place:
    """The configuration on which a layer takes the fewest cycles, by the engines' estimates; of
    equals that whose engine is registered first. A wish decides alone.

    ``BadInput`` where no engine takes the layer, with what each says, or the one that is wished
    for does not.
    """
    wish, found, refusals, order = _wish(layer.name, wishes), [], [], registry.names().index
    if wish is not None and wish not in map(_engine_of, configs):
        raise BadInput(f"layer {layer.name} is to be placed on {wish}, but the targets are "
                       f"{', '.join(map(_called, configs))}; name one of {wish} too")
    for config in sorted(configs, key=lambda each: order(_engine_of(each))):
        if wish is not None and _engine_of(config) != wish:
            continue
        engine = registry.of(config)
        try:
            found.append((config, engine.accepts(layer), engine.estimate(layer, config, batch)))
        except BadInput as error:
            refusals.append(str(error))
    if not found:
        raise BadInput("; ".join(refusals))
    config, offer, estimate = min(found, key=lambda each: each[2].cycles)
    reason = offer.reason if wish is None else f"It was placed there. {offer.reason}"
    counts = " against ".join(
        f"{own.cycles:,.0f} on {_called(each)} ({own.basis})"
        for each, _, own in sorted(found, key=lambda each: each[0] != config))
    return Place(config, offer, estimate, f"{reason} Cycles a sample: {counts}.")


def smallest(graph: Graph, engines: Sequence[Engine],
             wishes: Wishes | None = None) -> list[CoreConfig]:
    """Of each engine that takes a layer the smallest named configuration that holds all which it
    takes, or else the fastest of the largest; where none takes any, the first of each."""
    configs = []
    for engine in engines:
        layers = [node.layer for node in graph.layers if _takes(engine, node.layer, wishes)]
        if layers:
            ordered = sorted(engine.configs.values(), key=_size)
            held = (config for config in ordered if engine.holds(layers, config))
            configs.append(next(held, None) or _fastest(engine, layers, ordered))
    return configs or [next(iter(engine.configs.values())) for engine in engines]


def _fastest(engine: Engine, layers: Sequence[Layer],
             configs: Sequence[CoreConfig]) -> CoreConfig:
    """Of those with most multiplications a cycle."""
    def cycles(config: CoreConfig) -> float:
        try:
            return sum(engine.estimate(layer, config).cycles for layer in layers)
        except BadInput:    # more than one command; placing the layer says so
            return float("inf")
    most = max(config.rate for config in configs)
    return min((config for config in configs if config.rate == most), key=cycles)


def chosen(graph: Graph, engine: str | None, names: list[str],
           wishes: Wishes | None = None) -> list[CoreConfig]:
    """The configurations of these names, or else the :func:`smallest` of one engine, or of
    each."""
    if wishes:
        check_wishes(graph, wishes)
    if names:
        return targets(engine, names)
    return smallest(graph, [registry.engine(engine)] if engine else registry.engines(), wishes)


def read_wishes(path: Path) -> dict[str, str]:
    """The table ``[layers]`` of a TOML file, engines by the names of layers; ``BadInput`` with what
    is wrong in it."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: not a TOML file ({error}); write [layers] and lines such as "
                       f"{_example()}") from None
    layers = found.pop("layers", None)
    if found or not isinstance(layers, dict) or not layers:
        what = f"holds {', '.join(found)}" if found else "names no layer"
        raise BadInput(f"{path}: it {what}; give a table [layers] alone, with lines such as "
                       f"{_example()}")
    for name, engine in layers.items():
        if engine not in registry.names():
            raise BadInput(f"{path}: layer {name!r} is to be placed on {engine!r}, and there is no "
                           f"such engine; choose one of {', '.join(registry.names())}")
    return layers


def _example() -> str:
    return f'"fc*" = "{registry.names()[0]}"'


def check_wishes(graph: Graph, wishes: Wishes) -> None:
    """``BadInput`` for a name that no layer has."""
    names = list(dict.fromkeys(node.layer.name for node in graph.layers))
    for pattern in wishes:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        for node in graph.layers:
            if fnmatchcase(node.name, pattern):
                raise BadInput(f"{node.name!r} has the weights of layer {node.layer.name!r}, and "
                               "one engine computes both; name that layer")
        raise BadInput(f"no layer is called {pattern!r}; the layers are {_some(names)}")


def inspect(graph: Graph) -> list[dict]:
    """One row a layer and operator: name, kind, shape, density, pattern, engine, macs, cycles,
    bytes and reason.

    ``kind`` is ``"linear"``, ``"conv2d"`` or the operator, ``shape`` that of the weights,
    ``density`` the fraction of them that are not zero; ``engine`` is the one of all that
    :func:`place` chooses on the :func:`smallest` configurations, or ``"host"``, ``pattern`` what it
    sees in the weights, ``macs`` the multiplications of a sample, ``cycles`` an estimate of its
    cycles there, ``bytes`` what is stored of the layer, and ``reason`` why. All but ``name``,
    ``kind``, ``engine`` and ``reason`` are None of an operator.
    """
    configs, rows = smallest(graph, registry.engines()), []
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
    found = place(layer, configs)
    positions = layer.geometry.positions if layer.geometry else 1
    rows = graph.types[node.reads[0]].size // layer.inputs
    return {"name": node.name, "kind": "linear" if isinstance(layer, Linear) else "conv2d",
            "shape": list(layer.weight.shape),
            "density": float(np.count_nonzero(layer.weight) / layer.weight.size),
            "pattern": found.offer.pattern, "engine": _engine_of(found.config),
            "macs": rows * positions * layer.weight.size // graph.batch,
            "cycles": round(found.estimate.cycles * rows / graph.batch),
            "bytes": found.estimate.bytes, "reason": found.reason}


def _host_row(node: OperatorNode, where: str) -> dict:
    reason = f"It runs {where}: {node.reason}." if node.reason else f"It runs {where}."
    return {"name": node.name, "kind": node.operator, "shape": None, "density": None,
            "pattern": None, "engine": "host", "macs": None, "cycles": None, "bytes": None,
            "reason": reason}


def _takes(engine: Engine, layer: Layer, wishes: Wishes | None) -> bool:
    wish = _wish(layer.name, wishes)
    if wish not in (None, engine.name):
        return False
    try:
        engine.accepts(layer)
    except BadInput:
        if wish:
            raise
        return False
    return True


def _wish(name: str, wishes: Wishes | None) -> str | None:
    return next((engine for pattern, engine in (wishes or {}).items()
                 if fnmatchcase(name.removesuffix(SMOOTHED), pattern)), None)


def _size(config: CoreConfig) -> tuple[int, int]:
    """Multiplications a cycle, then bits of memory."""
    return config.rate, sum(config.memory_bits.values())


def _engine_of(config: CoreConfig) -> str:
    return registry.of(config).name


def _called(config: CoreConfig) -> str:
    """The configuration's name, or its engine's."""
    return name_of(config, _engine_of(config))


def _some(names: Sequence[str]) -> str:
    """A few names, for a message."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
